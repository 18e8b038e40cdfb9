"""Spends its budget: `spender.py NOTES STOP`. Sets 10 tokens aside, uses 7, and says so; some calls
it cancels. Notes `asked` before a call, `held` when it was let through, `spent` when what it used
is counted for certain. With nothing left it asks again and again, and must get nothing."""

import errno
import os
import sys
import time

from notes import Notes

path, stop = sys.argv[1:]
call = os.environ["AGENTFS"] + "/proc/self/call"
notes = Notes(path)


def ask(words: str) -> str:
    file = os.open(call, os.O_RDWR)
    try:
        os.write(file, words.encode())
        return os.read(file, 4096).decode().strip()
    finally:
        os.close(file)


number = 0
while True:
    number += 1
    time.sleep(0.03)
    try:
        notes.write("asked")
        held = ask("llm 10\n")
        notes.write("held", held)
        if number % 5:
            ask(f"settle {held} 4 3\n")
            notes.write("spent", held)
        else:
            ask(f"cancel {held}\n")
            notes.write("cancelled", held)
    except OSError as failure:
        if failure.errno == errno.EDQUOT:
            notes.write("full")
        time.sleep(0.05)
