"""The suites' own sources: fetched once with git, and built, outside of the project."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["CACHE", "built_once", "fetched", "step"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentfs-suites"


def fetched(name: str, source: str) -> Path:
    """A clone of `source` in the cache: an address, or the path of a repository. It is fetched
    once; remove it for a newer one, or name another source."""
    folder = CACHE / name
    mark = folder / ".agentfs-source"
    if folder.exists() and not (mark.exists() and mark.read_text() == source):
        step(["rm", "-rf", str(folder)], CACHE)
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        print(f"fetching {source} (once)", flush=True)
        address = f"file://{os.path.abspath(source)}" if os.path.isdir(source) else source
        try:
            step(["git", "clone", "-q", "--depth", "1", address, str(folder)], CACHE)
        except SystemExit as failed:
            raise SystemExit(
                f"{failed}\nget a checkout of it, then: ./run suites --{name} CHECKOUT"
            ) from None
        mark.write_text(source)
    return folder


def built_once(folder: Path, steps: list[list[str]]) -> None:
    """Run `steps` in a clone, unless that was done."""
    mark = folder / ".agentfs-built"
    wanted = repr(steps)
    if mark.exists() and mark.read_text() == wanted:
        return
    print(f"building {folder} (once)", flush=True)
    for words in steps:
        step(words, folder)
    mark.write_text(wanted)


def step(words: list[str], folder: Path) -> None:
    """Run a command; SystemExit with what it said if it fails."""
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-10:]
        raise SystemExit("\n".join([f"suites: {' '.join(words)} failed:", *said]))
