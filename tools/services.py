"""Services that start programs for any program of the same user. Such a program descends from no
agent; where agents run as the operator's own user, it is the operator."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["ROOT", "starters"]

ROOT = Path("/")
"""Where they are looked for."""


def starters(uid: int, root: Path | None = None) -> list[str]:
    """The services that start programs as `uid`, by name: what listens there, and what is
    installed. Looks at names only and connects to nothing."""
    return list(dict.fromkeys(_found(uid, root or ROOT)))


def _found(uid: int, root: Path) -> Iterator[str]:
    name = str(uid)
    with suppress(KeyError):
        name = pwd.getpwuid(uid).pw_name
    if any(_sockets(root / f"tmp/tmux-{uid}")):
        yield "tmux"
    if any(_sockets(root / f"run/screen/S-{name}")):
        yield "screen"
    runtime = root / f"run/user/{uid}"
    manager = [runtime / "systemd/private", *([root / "run/systemd/private"] if uid == 0 else [])]
    if any(map(_is_socket, manager)):
        yield "systemd-run" if uid == 0 else "systemd-run --user"
    if _is_socket(runtime / "bus"):
        yield "D-Bus"
    for command, spool in (("crontab", "var/spool/cron"), ("at", "var/spool/cron/atjobs")):
        if shutil.which(command, path=_path(root)) and (root / spool).is_dir():
            yield "cron" if command == "crontab" else command


def _path(root: Path) -> str:
    return os.pathsep.join(str(root / place) for place in ("usr/bin", "bin", "usr/local/bin"))


def _sockets(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from filter(_is_socket, folder.iterdir())


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
