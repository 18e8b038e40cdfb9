"""Consumes by renaming and deleting: `maildir.py NOTES FOLDER`, FOLDER with new/ and cur/ in it.
Goes on through crashes of the daemon."""

import os
import sys
import time

from notes import Notes

from agentfs.agent import Message

path, folder = sys.argv[1:]
notes = Notes(path)
notes.write("life")
claimed: list[str] = []  # what may be claimed: a call that was cut may have come through
noted: dict[str, str] = {}  # file -> id


def turn() -> None:
    for name in sorted(os.listdir(f"{folder}/new"))[:20]:
        file = f"{name}:2,S"
        claimed.append(file)
        try:
            os.rename(f"{folder}/new/{name}", f"{folder}/cur/{file}")
        except FileNotFoundError:
            claimed.remove(file)  # another consumer was first
        except BlockingIOError:
            claimed.remove(file)  # as many as it may have at once: max_concurrent_tasks
            break
    for file in tuple(claimed):
        finish(file)
        claimed.remove(file)


def finish(file: str) -> None:
    try:
        if file not in noted:
            notes.asks()
            with open(f"{folder}/cur/{file}", "rb") as source:
                message = Message(source.read())
            if not message.type:  # else it is a notice of the kernel
                notes.got(message.id, message.attempt, message.text)
            noted[file] = message.id
        os.unlink(f"{folder}/cur/{file}")
    except FileNotFoundError:
        return  # not claimed after all, or acknowledged by the call that was cut
    notes.write("ack", noted[file])


while True:
    try:
        turn()
    except OSError:
        time.sleep(0.02)
    time.sleep(0.005)
