"""`python -m agentfs.runner.door SOCKET N COMMAND…`: the program of an agent whose input and output
are those of whoever started it.

Programs of agents write to their log. This one connects to SOCKET, is handed three descriptors
there (a terminal, files, pipes), and becomes COMMAND with them, in whose first N words after the
program {url} is the address of the models. So COMMAND is the agent, for
identity, budget and confinement, and knows nothing of it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import termios

__all__ = ["main"]

HAS_TERMINAL = b"t"
"""The byte that comes with the descriptors if one is a terminal to be controlled by."""

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""The exit codes of shells."""


def main() -> None:
    path, options, *command = sys.argv[1:]
    for at in range(1, int(options) + 1):
        command[at] = command[at].replace("{url}", os.environ.get("OPENAI_BASE_URL", ""))
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(path)
        kind, given, _, _ = socket.recv_fds(door, 1, 3)
    if len(given) != 3:
        sys.exit(f"agentfs: nobody gave this program its input and output ({path})")
    if kind == HAS_TERMINAL:
        # Its session has no terminal yet. From now on Ctrl-C is a signal for it.
        terminal = next(descriptor for descriptor in given if os.isatty(descriptor))
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for number, descriptor in enumerate(given):
        os.dup2(descriptor, number)
    for descriptor in given:
        if descriptor > 2:
            os.close(descriptor)
    try:
        os.execvp(command[0], command)  # noqa: S606  # it is what this program is for
    except OSError as failed:
        print(f"agentfs: {command[0]}: {failed.strerror}", file=sys.stderr)
        sys.exit(NOT_FOUND if isinstance(failed, FileNotFoundError) else NOT_EXECUTABLE)


if __name__ == "__main__":
    main()
