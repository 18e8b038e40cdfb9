"""Consumes whole batches: `batch.py NOTES RECV_BATCH`. Ends with an error as soon as the daemon is
away, and is started again by the supervisor."""

import os
import re
import sys

from notes import Notes

from agentfs.agent import Message

path, recv = sys.argv[1:]
notes = Notes(path)
notes.write("life")
file = os.open(recv, os.O_RDWR)
os.write(file, b"15")
before: set[str] = set()
while True:
    content = b""
    notes.asks()
    while piece := os.read(file, 65536):
        content += piece
    os.lseek(file, 0, os.SEEK_SET)  # the end of the batch is that of the file: more is asked for
    batch = [
        Message(text) for text in re.split(rb"^From \S+ .*\n", content, flags=re.MULTILINE)[1:]
    ]
    for number in before - {message.id for message in batch}:
        notes.write("ack", number)  # asking for this batch acknowledged the one before
    for message in batch:
        if not message.type:  # else it is a notice of the kernel
            notes.got(message.id, message.attempt, message.text.strip())
    before = {message.id for message in batch}
