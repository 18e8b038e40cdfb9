"""Mounting: the daemon is started in a session of its own and says when it is ready. Standard
library only.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from agentfs.store.layout import StateError, lay_out
from agentfs.tools.foreground import in_front_of
from agentfs.tools.mounts import condition, mounts, resolved
from agentfs.tools.silent import SilentError, silence
from agentfs.tools.tree import ToolError
from agentfs.tools.unmounting import live_daemon, take_away

__all__ = [
    "mount_tree",
    "start",
    "state_base",
    "state_dir",
]

DAEMON = [sys.executable, "-P", "-m", "agentfs.tools.daemon"]
"""-P: what lies in the working directory is not imported."""


def state_dir(path: str) -> str:
    """Where the tree at `path` keeps everything unless told otherwise.

    One folder for each mount point: its path with `-` for `/`, a `-` in it as `%2D`.
    """
    name = re.sub("[%-]", lambda match: f"%{ord(match[0]):02X}", path.strip("/")).replace("/", "-")
    if len(os.fsencode(name)) > 200:
        name = hashlib.sha256(os.fsencode(path)).hexdigest()
    return os.path.join(state_base(), name or "root")


def state_base() -> str:
    """The directory of all those folders of this user."""
    if os.geteuid() == 0:
        base = "/var/lib"
    else:
        base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "agentfs")


def _mountpoint(directory: str, *, over: bool) -> str:
    """The directory to mount on, as an absolute path; what a crashed daemon left is taken away. It
    is empty unless the tree may lie `over` what is in it."""
    path = resolved(directory)
    while path in mounts():
        how = condition(path)
        if how == "live":
            raise ToolError(f"{directory}: a tree is mounted there already")
        if how == "hung":
            raise SilentError(f"{silence(path)}; agentfs umount {shlex.quote(directory)} ends it")
        take_away(path)
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        raise ToolError(
            f"{directory}: there is no such directory: mkdir -p {shlex.quote(directory)}"
        ) from None
    except OSError as failed:
        raise ToolError(
            f"{directory}: {failed.strerror}; a tree is mounted on a directory"
        ) from None
    if names and not over:
        some = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
        raise ToolError(
            f"{directory}: it is not empty ({some}), and the tree would hide what is in it; --over"
            " mounts it all the same"
        )
    return path


def _state(state: str | None, path: str) -> str:
    """The state directory, made if need be. It may not lie inside the mount."""
    folder = os.path.realpath(state) if state is not None else state_dir(path)
    if os.path.commonpath([folder, path]) == path:
        raise ToolError(f"{folder}: the state directory cannot lie inside the mount")
    try:
        lay_out(Path(folder))
    except StateError as wrong:
        raise ToolError(str(wrong)) from None
    return folder


def _words(path: str, state: str, options: list[str], audit_key: str | None) -> list[str]:
    """The daemon's arguments."""
    words = [path, "--state", state, *(f"-o{option}" for option in options)]
    if audit_key is not None:
        if os.path.commonpath([os.path.realpath(audit_key), path]) == path:
            raise ToolError(f"{audit_key}: the key of the audit cannot lie inside the mount")
        words += ["--audit-key", audit_key]
    return words


def mount_tree(
    directory: str,
    state: str | None,
    options: list[str],
    *,
    foreground: bool,
    audit_key: str | None = None,
    over: bool = False,
) -> int:
    """Mount a tree at `directory`; return 0 when it can be used. In the foreground: serve it
    until it is unmounted, and return the daemon's exit code. Raises ToolError."""
    if not foreground:
        os.close(start(directory, state, options, audit_key, over=over))
        return 0
    path = _mountpoint(directory, over=over)
    words = _words(path, _state(state, path), options, audit_key)

    def serve(front: int) -> int:
        from agentfs.tools import daemon

        return daemon.main([*words, "--foreground"], behind_reaper=True, front=front)

    return in_front_of(serve)


def start(
    directory: str,
    state: str | None,
    options: list[str],
    audit_key: str | None = None,
    *,
    over: bool = False,
) -> int:
    """Start the daemon for `directory` and wait until the tree can be used; a pidfd of it. Raises
    ToolError."""
    path = _mountpoint(directory, over=over)
    folder = _state(state, path)
    words = _words(path, folder, options, audit_key)
    reader, writer = os.pipe()
    try:
        with open(os.path.join(folder, "kernel.log"), "ab") as log:
            log_from = log.tell()
            reaper = subprocess.Popen(
                [*DAEMON, *words, "--ready", str(writer)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                pass_fds=(writer,),
            )
    except OSError as failed:
        os.close(reader)
        raise ToolError(f"{failed.filename}: {failed.strerror}") from None
    finally:
        os.close(writer)
    try:
        with open(reader, encoding="utf-8", errors="replace") as pipe:
            answer = pipe.readline().strip()
    except KeyboardInterrupt:
        reaper.terminate()
        raise
    if answer == "ok":
        return live_daemon(path)[1]
    reaper.wait()
    lines = _lines(os.path.join(folder, "kernel.log"), log_from)
    if not answer:
        end = lines[-1] if lines else "it said nothing"
        raise ToolError(f"the daemon ended before it was ready: {end} ({folder}/kernel.log)")
    said = [line for line in lines if line.startswith(("fuse: ", "fusermount3: "))]
    raise ToolError("; ".join([answer.removeprefix("error: "), *said]))


def _lines(path: str, start: int) -> list[str]:
    """The lines that were logged since `start`."""
    with open(path, encoding="utf-8", errors="replace") as file:
        file.seek(start)
        return [line.strip() for line in file if line.strip()]
