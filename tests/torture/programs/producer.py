"""Sends payloads: `producer.py NOTES STOP KIND TARGET COUNT`. Every payload is tried once: one
that was interrupted may have been accepted, and to send it again would make it another message.
Ends when it has sent them all, or when the file STOP is there."""

import errno
import os
import sys
import time

from notes import Notes

path, stop, kind, target, count = sys.argv[1:]
tree, me = os.environ["AGENTFS"], os.environ["AGENT_NAME"]
notes = Notes(path)
number = sum(line[0] == "try" for line in notes.lines())  # where the life before this one ended
ways = {
    "inbox": (f"{tree}/agents/{me}/send", f"{tree}/agents/{me}/outbox/{target}"),
    "queue": (f"{tree}/dev/queues/{target}/send",),
    "topic": (f"{tree}/dev/topics/{target}",),
}[kind]


def open_patiently(path: str) -> int:
    """Nothing is sent by opening, so it may be tried again while the daemon is away."""
    while True:
        try:
            return os.open(path, os.O_WRONLY)
        except OSError:
            time.sleep(0.01)


while number < int(count) and not os.path.exists(stop):
    way = ways[number % len(ways)]
    file = open_patiently(way)
    payload = f"{target}:{me}-{number}"
    content = f"To: {target}\n\n{payload}" if way.endswith("/send") else payload
    notes.write("try", payload)
    number += 1
    try:
        try:
            os.write(file, content.encode())
        finally:
            os.close(file)  # for outbox, the close is what sends
    except OSError as failure:
        notes.write("cut", payload, failure.errno)
        if failure.errno in (errno.ENOSPC, errno.EDQUOT):
            time.sleep(0.1)  # the inbox, or the disk, is full
    else:
        notes.write("ok", payload)
