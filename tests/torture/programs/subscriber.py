"""Subscribes to a topic: `subscriber.py NOTES TOPIC`. Goes on after the last record that it noted,
through crashes of the daemon and its own ends; each connection is a life."""

import json
import os
import sys
import time

from notes import Notes

path, topic = sys.argv[1:]
notes = Notes(path)


def follow() -> None:
    seen = [int(line[2]) for line in notes.lines() if line[0] in ("sub", "lost")]
    since = seen[-1] if seen else 0
    file = os.open(topic, os.O_RDWR)
    try:
        os.write(file, f"since {since}".encode())
        notes.write("life", since)
        rest = b""
        while piece := os.read(file, 65536):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                record = json.loads(line)
                if record.get("type") == "lost":
                    notes.write("lost", record["seq"], record["count"])
                else:
                    notes.write("sub", record["seq"], record["data"])
    finally:
        os.close(file)


while True:
    try:
        follow()
    except OSError:
        time.sleep(0.02)
