"""What the programs of the torture note, on files outside of the tree: one write for each line, so
that a program that is killed leaves whole lines only."""

import os
import time


def now() -> float:
    """What /proc/uptime says to shells."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Notes:
    def __init__(self, path: str) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

        self._asked = now()

    def write(self, word: str, *more: object) -> None:
        os.write(self._file, f"{word} {now():.6f} {' '.join(map(str, more))}\n".encode())

    def asks(self) -> None:
        """The program is about to ask for what it notes as got next."""
        self._asked = now()

    def got(self, number: str, attempt: int, payload: str) -> None:
        """It got a message, some time between the last `asks` and now."""
        self.write("got", f"{self._asked:.6f}", number, attempt, payload)

    def lines(self) -> list[list[str]]:
        with open(self.path, encoding="utf-8") as file:
            return [line.split() for line in file]
