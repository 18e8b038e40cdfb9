"""Consumes with a plain loop over `recv`: `recv.py NOTES RECV`. Ends with an error as soon as the
daemon is away, and is started again by the supervisor."""

import os
import sys

from notes import Notes

from agentfs.agent import Message

path, recv = sys.argv[1:]
notes = Notes(path)
notes.write("life")
file = os.open(recv, os.O_RDONLY)
before = ""
while True:
    content = b""
    notes.asks()
    while piece := os.read(file, 65536):
        content += piece
    os.lseek(file, 0, os.SEEK_SET)  # the end of the message is that of the file: more is asked for
    message = Message(content)
    if before and before != message.id:
        notes.write("ack", before)  # asking for this one acknowledged it
    before = message.id
    if not message.type:  # else it is a notice of the kernel
        notes.got(message.id, message.attempt, message.text)
