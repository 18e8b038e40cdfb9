"""What the tests of the zoo share: running a program that nobody here wrote, and what it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["needs", "run", "waiting"]

MINUTES = 2


def needs(*programs: str) -> pytest.MarkDecorator:
    """`./run test` installs what is needed here, but for npm and node."""
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {' '.join(missing)}")


def run(
    *command: str | Path,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    codes: tuple[int, ...] = (0,),
) -> str:
    """What a command printed, errors included; it must end, with one of these exit codes."""
    words = [str(part) for part in command]
    # script(1) types an end of file when its input ends, which is a command for what runs in it.
    stays, end = os.pipe()
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=os.environ | (env or {}),
            stdin=stays if words[0] == "script" else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=60 * MINUTES,
            check=False,
        )
    except subprocess.TimeoutExpired as hung:
        pytest.fail(f"{words} did not end; it printed {hung.stdout!r:.4000}")
    finally:
        os.close(stays)
        os.close(end)
    assert done.returncode in codes, f"{words} ended with {done.returncode}: {done.stdout}"
    return done.stdout


def waiting(agent: Path) -> list[str]:
    """The bodies of the messages that wait for an agent, in order."""
    new = agent / "inbox/new"
    return [(new / name).read_text().partition("\n\n")[2] for name in sorted(os.listdir(new))]
