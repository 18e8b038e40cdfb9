"""What is done to the daemon, its programs, its disk and its clock."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import select
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hatchery import Hatchery, QuickTree
from tests.torture.aftermath import faults_of
from tests.torture.cast import Cast
from tests.torture.failpoints import SITES, Panel
from tests.tree import PATIENCE

__all__ = ["HANDLES", "Hazards"]

WEIGHTS = {
    "kill a consumer": 30,
    "kill a producer": 24,
    "kill a spender": 6,
    "kill the fork server": 4,
    "kill the daemon": 12,
    "stop a program": 12,
    "stop the daemon": 4,
    "step the clock": 6,
    "fill the disk": 4,
    "unmount": 4,
    "unmount lazily": 2,
    "open many files": 2,
}
"""What happens next, and how often. In between the daemon falls at failpoints by itself."""

LATE = 15
"""After so many the daemon is killed, if that was not among them: one short run in a hundred had no
death of a daemon, and was not torture."""

ARMED = 0.6  # of all daemons
FARTHEST = 400  # the last hit at which one may fall: beyond, most daemons are killed before
STOPPED = (0.05, 1.5)  # seconds that a program stands still
STEP = 2 * 86400.0  # seconds by which the clock is wrong at most
HANDLES = 10_000
OPENING = 4.0  # seconds
STATE_MIB = 512  # of the disk that can be full: the log of five busy seconds has 100 at most


class Hazards:
    """Chooses and does. `counts` says what was done how often, `faults` what must not be,
    `most_open` how many files of the tree were open at once."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._chance = chance
        self._hatchery = Hatchery("tests.torture.failpoints")
        self.tree = QuickTree(folder / "tree", hatchery=self._hatchery)
        self.tree.may_hold = True  # it is stopped now and then
        self._panel = Panel(folder / "panel")
        self._stopped: list[tuple[float, int]] = []  # when it goes on, its OS pid
        self._open: list[int] = []
        self.most_open = 0
        self._pidfd = -1
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.cast: Cast | None = None
        self.own_disk = self._mount_disk()

    def _mount_disk(self) -> bool:
        """A small disk of its own for the state directory; only root can have one."""
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={STATE_MIB}m", "torture", self.tree.state],
            capture_output=True,
        )
        return done.returncode == 0

    # -- the daemon's lives ------------------------------------------------------------------------

    def mount(self, *, armed: bool = True) -> None:
        """Start a daemon, one that may fall by itself if it is `armed`; again if it does so before
        the tree is there."""
        while True:
            self._panel.clear()
            self.tree.words = ("--panel", self._panel.path)
            if armed and self._chance.random() < ARMED:
                count = round(FARTHEST ** self._chance.random())  # early ones more often
                site = self._chance.choice(list(SITES))
                self.tree.words += ("--failpoint", f"{site}:{count}")
            try:
                self.tree.mount()
            except AssertionError as failed:
                if not self._panel.fell:
                    raise AssertionError(f"{failed}\n{self.tree.log()[-3000:]}") from None
                self._note_fall()
                self._look_at_the_store()
                continue
            assert self.tree.daemon is not None
            self._pidfd = os.pidfd_open(self.tree.daemon)
            return

    def fallen(self, within: float = 0.0) -> bool:
        """Whether the daemon has ended, or does so `within` seconds."""
        return bool(select.select([self._pidfd], [], [], within)[0])

    def _signal_daemon(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it fell this moment
            signal.pidfd_send_signal(self._pidfd, number)

    def see(self) -> None:
        """Let go on what has stood still for long enough, and bring back a daemon that fell."""
        now = time.monotonic()
        for when, ospid in tuple(self._stopped):
            if when <= now:
                self._stopped.remove((when, ospid))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(ospid, signal.SIGCONT)
        if self.fallen():
            self._recover()

    def _recover(self) -> None:
        """The daemon is gone, whatever ended it: look at what it left, and start another."""
        os.close(self._pidfd)
        self._note_fall()
        self.tree.daemon = None
        self._close_all()
        self._look_at_the_store()
        self.mount()

    def _note_fall(self) -> None:
        if self._panel.fell:
            self.counts[f"fell: {self._panel.fell}"] += 1

    def _look_at_the_store(self) -> None:
        new = "mounted" not in self.tree.log()
        self.faults += faults_of(self.tree.state, after_crash=True, new=new)

    # -- what happens next -------------------------------------------------------------------------

    def strike(self) -> None:
        """One hazard, by chance."""
        table: dict[str, Callable[[], object]] = {
            "kill a consumer": lambda: self._kill("consumer"),
            "kill a producer": lambda: self._kill("producer"),
            "kill a spender": lambda: self._kill("spender"),
            "kill the fork server": self._kill_fork_server,
            "kill the daemon": self._kill_daemon,
            "stop a program": self._stop,
            "stop the daemon": self._stop_daemon,
            "step the clock": self._step,
            "fill the disk": self._fill,
            "unmount": self._unmount,
            "unmount lazily": self._unmount_lazily,
            "open many files": self._open_many,
        }
        (what,) = self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        if sum(self.counts.values()) >= LATE and not self.counts["kill the daemon"]:
            what = "kill the daemon"
        if what == "fill the disk" and not self.own_disk:
            return
        self.counts[what] += 1
        table[what]()

    def _ospid(self, role: str) -> int | None:
        """The program of somebody of that role; None if there is none this moment."""
        assert self.cast is not None
        victim = self._chance.choice(self.cast.of(role))
        with contextlib.suppress(OSError, ValueError):  # it ended, or is being started again
            return int(self.tree.read(f"proc/{victim.pid}/ospid"))
        return None

    def _kill(self, role: str) -> None:
        whole, ospid = self._chance.random() < 0.5, self._ospid(role)
        if ospid:
            with contextlib.suppress(OSError):
                (os.killpg if whole else os.kill)(ospid, signal.SIGKILL)

    def _kill_fork_server(self) -> None:
        """The process beside the daemon that forks the programs is gone: there is to be another,
        and those that were forked are to be as they were."""
        for children in Path("/proc").glob(f"{self.tree.daemon}/task/*/children"):
            with contextlib.suppress(OSError):  # the thread has ended, or the child has
                for child in children.read_text().split():
                    if b"fork_server" in Path(f"/proc/{child}/cmdline").read_bytes():
                        os.kill(int(child), signal.SIGKILL)

    def _kill_daemon(self) -> None:
        self._signal_daemon(signal.SIGKILL)
        self._wait_for_the_end("killed")

    def _wait_for_the_end(self, why: str) -> None:
        if not self.fallen(PATIENCE):
            self.faults.append(f"the daemon was {why}, and has not ended in {PATIENCE:.0f} s")
            self._signal_daemon(signal.SIGKILL)
            self.fallen(PATIENCE)
        self._recover()

    def _stop(self) -> None:
        role = self._chance.choice(("consumer", "producer", "spender"))
        seconds, ospid = self._chance.uniform(*STOPPED), self._ospid(role)
        if ospid:
            with contextlib.suppress(OSError):
                os.kill(ospid, signal.SIGSTOP)
                self._stopped.append((time.monotonic() + seconds, ospid))

    def _stop_daemon(self) -> None:
        self._signal_daemon(signal.SIGSTOP)
        time.sleep(self._chance.uniform(*STOPPED) / 2)
        self._signal_daemon(signal.SIGCONT)

    def _step(self) -> None:
        self._panel.offset = self._chance.uniform(-STEP, STEP)

    def _fill(self) -> None:
        """Nothing can be written for a while."""
        ballast = self.tree.state / "ballast"
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while file.write(bytes(1 << 20)):
                pass
        try:
            until = time.monotonic() + self._chance.uniform(0.1, 0.8)
            while time.monotonic() < until:
                time.sleep(0.02)
        finally:
            ballast.unlink()

    def _go_on(self) -> None:
        """Nobody stands still any more: what is stopped cannot mind a request to end."""
        for _, ospid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(ospid, signal.SIGCONT)
        self._stopped.clear()

    def _unmount(self) -> None:
        self._go_on()
        self._signal_daemon(signal.SIGTERM)  # what `agentfs umount` does
        self._wait_for_the_end("asked to end")

    def _unmount_lazily(self) -> None:
        self._go_on()
        subprocess.run(["umount", "-l", self.tree.path], capture_output=True)
        self._wait_for_the_end("unmounted lazily")

    def _open_many(self) -> None:
        """Ten thousand files stay open until the daemon ends, or as many as can be opened in some
        seconds; now and then some are read."""
        until = time.monotonic() + OPENING
        try:
            for path in _cycle(self.tree.path):
                if len(self._open) >= HANDLES or time.monotonic() > until:
                    break
                self._open.append(os.open(path, os.O_RDONLY))
        except OSError as failure:
            self._may_fail(failure, "opened")
        self.most_open = max(self.most_open, len(self._open))
        for descriptor in self._chance.sample(self._open, min(20, len(self._open))):
            try:
                os.pread(descriptor, 4096, 0)
            except OSError as failure:
                self._may_fail(failure, "read")

    def _may_fail(self, failure: OSError, doing: str) -> None:
        """A daemon that fell meanwhile is an excuse, and so is a process that is gone."""
        excused = failure.errno in (errno.ENOENT, errno.ESRCH) or self.fallen(0.5)
        if not excused:
            self.faults.append(f"one of {len(self._open)} files could not be {doing}: {failure}")

    def _close_all(self) -> None:
        for descriptor in self._open:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._open.clear()

    # -- the end -----------------------------------------------------------------------------------

    def cease(self) -> None:
        """Nothing happens any more: the clock is right, and the daemon does not fall."""
        self._go_on()
        self._panel.offset = 0.0
        if not self.fallen():
            self._signal_daemon(signal.SIGKILL)
            self.fallen(PATIENCE)
        os.close(self._pidfd)
        self._note_fall()
        self.tree.daemon = None
        self._close_all()
        self._look_at_the_store()
        self.mount(armed=False)

    def close(self) -> None:
        self._go_on()
        self._close_all()
        try:
            self.tree.clean_up()
        finally:
            self._hatchery.close()
            if self.own_disk:
                subprocess.run(["umount", self.tree.state], check=True, capture_output=True)


def _cycle(root: Path) -> Iterator[Path]:
    """Files of the tree, again and again."""
    names = [name for name in os.listdir(root / "proc") if name.isdigit()]
    files = [root / f"proc/{name}/{part}" for name in names for part in ("status", "state", "info")]
    files += [root / path for path in ("etc/agentfs.yaml", "sys/health", "sys/stats/system")]
    while True:
        yield from files
