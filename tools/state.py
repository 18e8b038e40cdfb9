"""`agentfs state`: the state directories of this user, and how to be rid of one."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from agentfs.tools.tree import ToolError

__all__ = ["state"]

STORE = "store.db"


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """One state directory. `mountpoint`: where it was mounted last; empty if that cannot be read.
    `used`: when its store changed last, seconds since 1970; `bytes` of the whole directory. `pid`:
    the daemon that has it now, 0 if none has."""

    path: str
    mountpoint: str
    used: float
    bytes: int
    pid: int


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
@click.pass_context
def state(context: click.Context, as_json: bool) -> None:
    """List the state directories of this user.

    Directories that were chosen with --state are not listed.
    """
    if context.invoked_subcommand is not None:
        return
    found = list(_all())
    if as_json:
        for each in found:
            click.echo(json.dumps(asdict(each), ensure_ascii=False))
        return
    if not found:
        click.echo(f"there are no state directories in {_base()}", err=True)
    for each in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.used))
        use = f"in use by {each.pid}" if each.pid else "not in use"
        click.echo(f"{each.path}  {_size(each.bytes)}  {when}  {use}  {each.mountpoint or '?'}")


@state.command()
@click.argument("directory", metavar="DIR")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
def rm(directory: str, yes: bool) -> None:
    """Remove a state directory, with all agents, mail and memories in it.

    DIR is the state directory, or the directory that the tree was mounted at.
    """
    path = _named(directory)
    if not (path / STORE).exists() and not (path / "audit.key").exists():
        raise ToolError(f"{path}: this is no state directory")
    pid = _holder(path)
    if pid:
        raise ToolError(f"{path}: in use by daemon {pid}: agentfs umount {_mountpoint(path)}")
    agents = len(os.listdir(path / "agents")) if (path / "agents").is_dir() else 0
    if not yes:
        click.confirm(
            f"Remove {path}, {_size(_bytes(path))} with {agents} agents, for ever?", abort=True
        )
    from shutil import rmtree

    rmtree(path)
    click.echo(f"removed {path}")


def _base() -> str:
    from agentfs.tools.mounting import state_base  # imports what other commands do without

    return state_base()


def _named(directory: str) -> Path:
    """The state directory that was meant."""
    path = Path(os.path.realpath(directory))
    if (path / STORE).exists():
        return path
    for each in _all():
        if each.mountpoint and Path(each.mountpoint) == path:
            return Path(each.path)
    return path


def _all() -> Iterator[StateDirectory]:
    base = Path(_base())
    with suppress(FileNotFoundError):
        for path in sorted(base.iterdir()):
            store = path / STORE
            if not store.exists():
                continue
            files = [store, *(path / f"{STORE}{log}" for log in ("-wal", "-log0", "-log1"))]
            used = max(file.stat().st_mtime for file in files if file.exists())
            yield StateDirectory(str(path), _mountpoint(path), used, _bytes(path), _holder(path))


def _mountpoint(path: Path) -> str:
    """Where it was mounted last, as its store says."""
    import sqlite3  # slow to import

    from agentfs.store.replay import reading

    try:
        with reading(path / STORE) as store:
            row = store.execute("SELECT value FROM meta WHERE key = 'mountpoint'").fetchone()
    except sqlite3.Error:
        return ""
    return "" if row is None else str(row[0])


def _holder(path: Path) -> int:
    """The daemon that has the lock; 0 if none has."""
    try:
        with open(path / "lock", encoding="ascii", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return int(file.read(32) or 1)
    except (OSError, ValueError):
        return 0
    return 0


def _bytes(path: Path) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def _size(number: int) -> str:
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
