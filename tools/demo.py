"""`./run demo [--quick] [DIR]`: the wordcount example on real files, watched from outside, with an
accident; then a team with a model (`demo_team`), unless it is to be quick.

A lead and three workers count the words of a folder. One worker is killed with -9 in the middle of
its piece; it is started again, the piece comes back to it, and the total is what wc says.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from inotify_simple import INotify, flags

from agentfs.tools.demo_team import show_team
from agentfs.tools.tree import Tree

__all__ = ["main"]

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "wordcount"
DEFAULT = "/usr/share/common-licenses"
COMMAND = [sys.executable, "-m", "agentfs.tools.cli"]
VICTIM = "worker-2"

PAUSE = "0.15"
"""Seconds that a worker takes for a piece at least, so that a person can watch."""

TABLE = 20
"""Lines of the table that are shown."""

SHOWN = 12
"""Changes of state that are shown of each process."""

PATIENCE = 120.0
"""Seconds without anything happening after which the demo has failed."""


class DemoError(Exception):
    """It did not show what it is to show."""


def main() -> int:
    words = sys.argv[1:]
    quick = "--quick" in words
    folder = next((os.path.abspath(word) for word in words if word != "--quick"), DEFAULT)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        if not os.path.isdir(folder):
            raise DemoError(f"{folder}: a folder of text files was expected")
        with tempfile.TemporaryDirectory(prefix="agentfs-demo-") as place:
            _demo(Path(place), folder, quick=quick)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except (DemoError, OSError) as failed:
        print(f"demo: {failed}", file=sys.stderr)
        return 1
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def say(text: str) -> None:
    print(text, flush=True)


def agentfs(*words: str, quiet: bool = False) -> str:
    """Run the command as a user would, and show it."""
    if not quiet:
        say(f"\n$ agentfs {' '.join(words)}")
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(f"agentfs {words[0]} failed: {done.stderr.strip()}")
    if done.stdout and not quiet:
        say(done.stdout.rstrip())
    return done.stdout


def _demo(place: Path, folder: str, *, quick: bool) -> None:
    mnt = place / "mnt"
    mnt.mkdir()
    agentfs("mount", str(mnt), "--state", str(place / "state"))
    os.environ["AGENTFS"] = str(mnt)
    try:
        with open(mnt / "dev/events", "rb", buffering=0) as events:
            os.set_blocking(events.fileno(), False)
            _start(folder)
            agentfs("tree")
            watch = _Watch(Tree(str(mnt)), events.fileno())
            try:
                watch.run()
            finally:
                watch.close()
        agentfs("ps")
        _compare(mnt, folder, watch)
        if not quick and (failed := show_team(mnt, agentfs, say)):
            raise DemoError(failed)
    finally:
        agentfs("umount", str(mnt))
    say("\nunmounted; nothing is left behind")


def _start(folder: str) -> None:
    settings = {
        "WORDCOUNT_DIR": folder,
        "WORDCOUNT_PAUSE": PAUSE,
        "WORDCOUNT_WORD": "[!-~]" if _count(b"\x80") == 0 else ".",
    }
    words = [f"--env={name}={value}" for name, value in settings.items()]
    manifest = str(EXAMPLE / "system.yaml")
    say(f"\n$ agentfs up --detach --env WORDCOUNT_DIR={folder} {manifest}")
    agentfs("up", "--detach", *words, manifest, os.environ["AGENTFS"], quiet=True)


def _count(text: bytes) -> int:
    """The count of wc; whether bytes beyond ASCII alone are a word depends on its version."""
    wc = ["wc", "-w"]
    done = subprocess.run(
        wc, input=text, capture_output=True, check=True, env=os.environ | {"LC_ALL": "C"}
    )
    return int(done.stdout)


def _compare(mnt: Path, folder: str, watch: _Watch) -> None:
    table = (mnt / "shared/wordcount.txt").read_text(errors="replace")
    say("\n$ cat $AGENTFS/shared/wordcount.txt")
    say("\n".join(table.splitlines()[-TABLE:]))
    counted = int(table.splitlines()[-1].split()[0])
    say(f"\n$ cat {folder}/* | wc -w")
    done = subprocess.run(
        ["sh", "-c", 'cat "$1"/* 2>/dev/null | wc -w', "sh", folder],
        env=os.environ | {"LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = int(done.stdout)
    say(str(expected))
    if counted != expected:
        raise DemoError(f"the agents counted {counted} words, wc counts {expected}")
    again = "attempt 2" in (mnt / f"agents/{VICTIM}/log").read_text()
    if expected and not (watch.proved and again):
        raise DemoError(f"{VICTIM} was to be killed, started again, and given its piece again")
    say("\nThe totals agree: no piece was lost, and none was counted twice.")


@dataclass
class _Seen:
    """The fate of the victim so far."""

    killed: bool = False
    restarted: bool = False
    returned: bool = False


class _Watch:
    """Shows states as inotify tells of them, and events; causes the accident; sees the end."""

    def __init__(self, tree: Tree, events: int) -> None:
        self._tree = tree
        self._events = events
        self._held = b""
        self._started = time.monotonic()
        self._inotify = INotify()
        self._watches: dict[int, tuple[str, str]] = {}
        self._states: dict[str, str] = {}
        self._changes: dict[str, int] = {}
        self._seen = _Seen()
        self._pids = {status["Name"]: status["Pid"] for status in tree.processes()}
        for name, pid in self._pids.items():
            path = tree.path(f"proc/{pid}/state")
            self._watches[self._inotify.add_watch(path, flags.MODIFY)] = (name, pid)
        say("\nstates, as inotify tells of a change of /proc/PID/state:\n")

    @property
    def proved(self) -> bool:
        """Whether the victim was killed, started again, and got its piece once more."""
        return bool(self._seen.killed and self._seen.restarted and self._seen.returned)

    def close(self) -> None:
        self._inotify.close()

    def _show(self, text: str) -> None:
        say(f"  {time.monotonic() - self._started:6.2f} s  {text}")

    def _count(self, name: str, change: str) -> None:
        """Show a change of state; of a process that changes all the time, the first ones."""
        self._changes[name] = self._changes.get(name, 0) + 1
        if self._changes[name] <= SHOWN:
            self._show(change)
        elif self._changes[name] == SHOWN + 1:
            self._show(f"{name:9} … and so on")

    def run(self) -> None:
        """Until the lead has ended."""
        for name, pid in self._pids.items():
            self._changed(name, pid)
        waiting = select.poll()
        waiting.register(self._inotify.fileno(), select.POLLIN)
        waiting.register(self._events, select.POLLIN)
        while not self._lead_ended():
            ready = dict(waiting.poll(PATIENCE * 1000))
            if not ready:
                raise DemoError(f"nothing happened for {PATIENCE:.0f} s")
            if self._events in ready:
                for event in self._new_events():
                    self._happened(event)
            if self._inotify.fileno() in ready:
                for change in self._inotify.read(timeout=0):
                    if change.wd in self._watches:
                        self._changed(*self._watches[change.wd])

    def _lead_ended(self) -> bool:
        code = self._tree.read(f"proc/{self._pids['lead']}/exit")
        if code not in ("", "0"):
            log = self._tree.read("agents/lead/log")
            raise DemoError(f"the lead ended with code {code}: {log[-2000:]}")
        return code == "0"

    def _changed(self, name: str, pid: str) -> None:
        with suppress(FileNotFoundError):  # it ended and was reaped
            with open(self._tree.path(f"proc/{pid}/state"), encoding="ascii") as file:
                state = file.read().strip()
            before = self._states.get(name)
            if state != before:
                self._states[name] = state
                self._count(name, f"{name:9} {before or '…':8} -> {state}")
            if name == VICTIM and state == "running" and not self._seen.killed:
                self._accident(pid)

    def _accident(self, pid: str) -> None:
        """kill -9, while the worker has a piece that it has begun and not answered."""
        piece = self._begun()
        ospid = self._tree.read(f"proc/{pid}/ospid")
        os.kill(int(ospid), signal.SIGKILL)
        self._seen.killed = True
        self._show(f"$ kill -9 {ospid}: {VICTIM} dies, {piece} half counted")

    def _begun(self) -> str:
        """The last piece that the victim says it has begun. Its claim is announced a moment
        before it has the text, and what it has not got cannot be half done."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            lines = self._tree.read(f"agents/{VICTIM}/log").splitlines()
            if lines:
                return lines[-1]
            time.sleep(0.005)
        raise DemoError(f"{VICTIM} has not begun its piece")

    def _new_events(self) -> Iterator[dict[str, object]]:
        data = self._held + (os.read(self._events, 1 << 20) or b"")
        *lines, self._held = data.split(b"\n")
        for line in lines:
            yield json.loads(line)

    def _happened(self, event: dict[str, object]) -> None:
        kind = event["type"]
        if kind == "process_restarted" and event["agent"] == VICTIM:
            self._seen.restarted = True
            self._show(f"{VICTIM} is started again: restart {event['restarts']}")
        elif kind == "message_returned" and event["agent"] == VICTIM and self._seen.killed:
            self._seen.returned = event["attempt"] == 2
            self._show(f"{event['file']} is back: Delivery-Attempt: {event['attempt']}")
        elif kind == "lost":
            raise DemoError(f"events were lost: {event}")


if __name__ == "__main__":
    sys.exit(main())
