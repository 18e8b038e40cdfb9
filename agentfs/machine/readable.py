"""What a program may read of the machine where it may not read all of it: what it needs to run.

Its own program and the files among its arguments, the libraries beside it, and what every program
of Linux looks at. Neither homes, nor data, nor `/tmp`: a definition names those (`read`).
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence

from agentfs.machine.own_program import first_line

__all__ = ["SYSTEM", "covers", "named_files", "of_program"]

SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"),
    *("/nix/store", "/gnu/store", "/run/current-system"),  # where others keep all of /usr
    *("/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/alternatives"),
    *("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/shells"),
    *("/etc/localtime", "/etc/timezone", "/etc/locale.alias", "/etc/locale.conf"),
    *("/etc/default/locale", "/etc/os-release", "/etc/debian_version", "/etc/hostname"),
    *("/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/ssl/cert.pem", "/etc/ca-certificates"),
    *("/etc/pki/tls/certs", "/etc/pki/tls/cert.pem", "/etc/pki/tls/openssl.cnf"),
    *("/etc/pki/ca-trust", "/etc/crypto-policies"),
    *("/etc/hosts", "/etc/host.conf", "/etc/resolv.conf", "/etc/gai.conf"),
    *("/run/systemd/resolve", "/run/resolvconf"),
    *("/etc/services", "/etc/protocols", "/etc/mime.types", "/etc/magic", "/etc/terminfo"),
    *("/etc/fonts", "/etc/perl", "/etc/inputrc", "/etc/bash.bashrc", "/etc/profile"),
    *("/proc", "/sys/devices/system/cpu", "/sys/devices/system/node"),
    *("/sys/kernel/mm/transparent_hugepage", "/dev/pts"),
)
"""What anybody's programs read: libraries, names of users and hosts, time zones, certificates (and
none of the private keys beside them), the machine's size. /proc, because each child has a folder of
its own in there; what is private in those of others (`environ`, `mem`, `fd`) Landlock keeps."""

INTERPRETERS = 4
"""How many scripts may interpret one another: Linux stops there as well."""

FOR_PROGRAMS = ("bin", "sbin")


def covers(path: str, others: Iterable[str]) -> bool:
    """Whether `path`, absolute and without `..`, is one of these or below one."""
    return any(path == other or path.startswith(other.rstrip("/") + "/") for other in others)


def named_files(command: Sequence[str], folder: str) -> tuple[str, ...]:
    """What the words of a command name, if they name files: absolute paths, nothing looked up.
    Words relative to a `folder` that is not absolute are in its memory."""
    paths = (os.path.join(folder, word) for word in command if "\0" not in word)
    return tuple(dict.fromkeys(os.path.normpath(each) for each in paths if each.startswith("/")))


def of_program(file: str, path: str, is_outside: Callable[[str], bool]) -> Iterator[str]:
    """What it takes to execute `file`, looked up in `path`: the file, what interprets it, and the
    libraries beside both. Not the interpreter of a script that is not `is_outside`: the agent wrote
    that script. For a thread: it looks at the disk."""
    for _ in range(INTERPRETERS + 1):
        found = file if "/" in file else shutil.which(file, path=path)
        if found is None or not is_outside(found):
            return
        yield found
        for each in dict.fromkeys((found, os.path.realpath(found))):
            yield from _beside(each)
        file = _interpreter(found)
        if not file:
            return


def _beside(file: str) -> Iterator[str]:
    """`lib` beside the `bin` that it lies in; of a virtual environment of Python all."""
    folder = os.path.dirname(file)
    above = os.path.dirname(folder)
    if os.path.basename(folder) not in FOR_PROGRAMS or above == "/":
        return
    if os.path.isfile(f"{above}/pyvenv.cfg"):
        yield above
    else:
        yield from (f"{above}/lib", f"{above}/lib64")


def _interpreter(file: str) -> str:
    try:
        line = first_line(file)
    except OSError:
        return ""  # the exec says what is wrong with it
    if not line.startswith(b"#!"):
        return ""
    interpreter, _, argument = os.fsdecode(line[2:].strip()).partition(" ")
    if os.path.basename(interpreter) != "env":
        return interpreter
    try:
        words = shlex.split(argument)
    except ValueError:
        return ""
    return next((word for word in words if not word.startswith("-") and "=" not in word), "")
