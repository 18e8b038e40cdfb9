"""Cuts a folder of text files into pieces, mails them to its workers, and adds up the answers.

Everything is a file: it reads `recv`, it writes to `outbox/NAME`, the table goes to `/shared`.
A message can come more than once (a worker that died gets its piece again), so every piece has a
number and is counted once.
"""

import os
import sys
from collections.abc import Iterator

TREE = os.environ["AGENTFS"]
ME = f"{TREE}/agents/{os.environ['AGENT_NAME']}"
FOLDER = os.environ.get("WORDCOUNT_DIR", "/usr/share/common-licenses")
TABLE = f"{TREE}/shared/wordcount.txt"

BLANK = b" \t\n\v\f\r"  # what ends a word for wc and awk in the C locale
AT_ONCE = 2  # pieces that a worker has: one to count, one that waits
LONGEST = 64 * 1024  # bytes of one word that are sent; the rest of it counts for nothing


def files() -> list[str]:
    """The files of `cat FOLDER/*`, in its order: no hidden files, no folders, links followed."""
    names = sorted(name for name in os.listdir(os.fsencode(FOLDER)) if not name.startswith(b"."))
    paths = [os.fsdecode(os.path.join(os.fsencode(FOLDER), name)) for name in names]
    return [path for path in paths if os.path.isfile(path) and os.access(path, os.R_OK)]


def cut_of(text: bytes) -> int:
    """Where the last word of `text` begins; 0 if there is one word only."""
    return max(text.rfind(bytes([blank])) for blank in BLANK) + 1


def pieces(paths: list[str], size: int) -> Iterator[tuple[str, bytes]]:
    """(file, text) of about `size` bytes each, cut between words only.

    A file that does not end in a blank runs on into the next one, as with cat: the word between
    them is one, and belongs to the file it begins in.
    """
    path, text = "", b""
    for now in paths:
        with open(now, "rb") as file:
            while chunk := file.read(size):
                if path != now:  # what is whole goes; a word that is not runs on
                    whole = cut_of(text)
                    if whole:
                        yield path, text[:whole]
                    text = text[whole:]
                    if not text:
                        path = now
                text += chunk
                if path != now:  # the word goes on: its end belongs to the file before
                    end = len(text) - len(chunk)
                    while end < len(text) and text[end] not in BLANK:
                        end += 1
                    if end == len(text):
                        text = text[:LONGEST]
                        continue
                    yield path, text[:end]
                    path, text = now, text[end:]
                cut = cut_of(text)
                if cut and len(text) >= size:
                    yield path, text[:cut]
                    text = text[cut:]
                elif not cut:
                    text = text[:LONGEST]
    if text:
        yield path, text


def send(name: str, number: int, text: bytes) -> None:
    """One message: what is written between open and close."""
    with open(f"{ME}/outbox/{name}", "wb") as outbox:
        outbox.write(b"To: %b\nPiece: %d\n\n%b" % (name.encode(), number, text))


def receive() -> tuple[str, list[str]]:
    """The sender and the words of the next message; waits for it."""
    with open(f"{ME}/recv", encoding="utf-8", errors="replace") as recv:
        head, _, body = recv.read().partition("\n\n")
    headers = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
    return headers["From"], body.split()


def main() -> int:
    paths = files()
    size = max(4096, min(256 * 1024, sum(map(os.path.getsize, paths)) // 40))
    todo = enumerate(pieces(paths, size), start=1)
    words = dict.fromkeys(paths, 0)
    waiting: dict[int, str] = {}  # number of a piece that is with a worker -> its file
    count = 0
    exhausted = not paths

    while waiting or not exhausted:
        sender, answer = receive()
        if answer == ["ready"]:
            free = AT_ONCE
        elif len(answer) == 2 and (path := waiting.pop(int(answer[0]), None)) is not None:
            words[path] += int(answer[1])
            free = 1
        else:
            print(f"piece {answer[0]} of {sender} is counted already", flush=True)
            free = 0
        for _ in range(free):
            number, (path, text) = next(todo, (0, ("", b"")))
            exhausted = number == 0
            if exhausted:
                break
            waiting[number] = path
            send(sender, number, text)
            count = number

    with open(f"{TABLE}.new", "w", encoding="utf-8", errors="surrogateescape") as table:
        for path, number in words.items():
            table.write(f"{number:8} {os.path.basename(path)}\n")
        table.write(f"{sum(words.values()):8} total\n")
    os.replace(f"{TABLE}.new", TABLE)
    print(f"{sum(words.values())} words in {len(paths)} files, {count} pieces", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
