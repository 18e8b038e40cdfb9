"""A fuzzer that knows the formats: it takes what a file says, or a request as the documents show
it, spoils it a little, and writes it; and it makes every other call that a file system has.

What must hold: no fault (EIO, a traceback), no call that never returns, and nothing that holds the
daemon's event loop for 100 ms. A seed makes the same choices again; what they meet depends on what
the daemon has done by then.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import select
import signal
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

from tests.tree import Tree

__all__ = ["Fuzz", "Report"]

WALK_EVERY = 1500
"""Calls after which it looks again at what there is."""

PATIENCE = 30.0
"""Seconds after which a call that did not return never will."""

MOST_FAULTS = 20

BOUNDS = [b"0", b"-1", b"1", b"255", b"256", b"65536", b"2147483648", b"9223372036854775807",
          b"18446744073709551616", b"1e309", b"nan", b"max", b"0x10", b"007", b"1_000", b"\xd9\xa1",
          b"9" * 400]  # fmt: skip

SPOILERS = [b"", b"\0", b"\n", b"\r", b" ", b"\t", b": ", b"- ", b"{", b"[", b"]", b"&a ", b"*a",
            b"<<: ", b"!!python/none ", b"'", b'"', b"#", b"%", b"/", b"..", b"~", b"*",
            b"\xff\xfe", b"\xed\xa0\x80", "é".encode(), "e\u0301".encode(), "\u202e".encode(),
            "😀".encode(), b"\x1b[2J", b"init", b"operator", b"self", b"agent-1"]  # fmt: skip

REQUESTS = [
    b"TERM", b"STOP", b"CONT", b"idle", b"running", b"done 0 bye", b"kill-branch", b"restart",
    b"reparent 3", b"heartbeat", b"ready", b"start", b"since 7", b"allocate 3 100", b"release",
    b"report 800 mini", b"llm sonnet 4000", b"tool search", b"settle 1 10 10", b"cancel 1",
    b"messages 600", b"branch 3", b"approve", b"deny no", b"ack", b"return", b"revive", b"purge",
    b"agent-1 send /agents/agent-2/inbox", b"max", b"+llm", b"-memory", b"drop llm",
    b"{name: child, role: worker}", b"name: child\nexec: ['true']\nlimits: {max_children: 1}\n",
    b"name: child\nenv: {A: b}\ntier: tactical\nbudget: {tactical: 5}\n",
    b"To: agent-1\nPriority: high\nExpires: 1m\n\nhello", b"To: *\n\nall",
    b"To: agent-2\nReply-To: 000000000001\nReply-Expected: yes\nType: ask\n\nwhat?",
    b"At: 2030-01-01T00:00:00Z\n\nlater", b"Every: 5m\n\nagain", b"Cron: 0 9 * * 1\n\nmonday",
    b"rules:\n- {allow: agent-1, send: /agents/agent-2/inbox}\n",
    b"models:\n  m: {tier: tactical, input: 3, output: 15, context: 1000}\n",
]  # fmt: skip
"""Nothing here takes a program of the machine that is not its own."""

NAMES = ["x", "X", ".x", "x.tmp", "x" * 255, "x" * 256, "a b", "a\nb", "a\x1bb", "\udcff", "é",
         "e\u0301", "-rf", "~", "#", "%", "1", "operator", "init", "self", "new", "cur", "dead",
         "ctl", "a:2,S", "000000000001", "*", "…", "con"]  # fmt: skip


@dataclass
class Report:
    """`faults` are what must not be, in words."""

    seed: int
    calls: int = 0
    accepted: int = 0
    files: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        refusals = sorted(self.refused.items(), key=lambda item: -item[1])
        told = ", ".join(f"{name} {count}" for name, count in refusals)
        return (
            f"fuzz, seed {self.seed}: {self.calls} calls on {self.files} files and folders,"
            f" {self.accepted} accepted; refused: {told}; {len(self.faults)} faults"
        )


class _TooLongError(Exception):
    """A call did not return."""


class Fuzz:
    """Calls on a mounted tree, with the choices of `seed`."""

    def __init__(self, tree: Tree, seed: int) -> None:
        self._tree = tree
        self._chance = random.Random(seed)
        self.report = Report(seed)
        self._files: list[str] = []
        self._folders: list[str] = []
        self._calls: list[Callable[[], object]] = [
            *[self._write] * 24, *[self._edit] * 12, *[self._read] * 4, self._create, self._mkdir,
            self._rename, self._rename, self._unlink, self._rmdir, self._truncate, self._chmod,
            self._utime, self._setxattr, self._getxattr, self._removexattr, self._link,
            self._symlink, self._poll, self._map, self._list,
        ]  # fmt: skip

    def run(self, *, seconds: float = float("inf"), calls: float = float("inf")) -> Report:
        """So long, or so many."""
        ends = time.monotonic() + seconds
        before = signal.signal(signal.SIGALRM, _too_long)
        try:
            while self.report.calls < calls and time.monotonic() < ends:
                if self.report.calls % WALK_EVERY == 0:
                    self._look()
                self._one()
                if len(self.report.faults) >= MOST_FAULTS:
                    break
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        self._judge()
        return self.report

    def _one(self) -> None:
        call = self._chance.choice(self._calls)
        self.report.calls += 1
        self._last = ""
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            call()
            self.report.accepted += 1
        except OSError as refusal:
            name = errno.errorcode.get(refusal.errno or 0, str(refusal.errno))
            self.report.refused[name] = self.report.refused.get(name, 0) + 1
            if refusal.errno in (errno.EIO, errno.ENOTCONN, errno.ENOSYS):
                self.report.faults.append(f"{name}: {call.__name__} {self._last}")
        except ValueError:
            pass  # Python refuses such a name itself
        except _TooLongError:
            self.report.faults.append(f"no answer: {call.__name__} {self._last}")

    def _judge(self) -> None:
        self.report.faults += [f"held the loop: {hold}" for hold in self._tree.holds(0.1)]
        log = self._tree.log()
        if "Traceback" in log:
            self.report.faults.append(log[log.index("Traceback") - 300 :][:3000])

    # -- what there is ---------------------------------------------------------------------------

    def _look(self) -> None:
        with contextlib.suppress(OSError):
            agents = os.listdir(self._tree / "agents")
            for number in range(1, 4):
                if f"agent-{number}" not in agents:
                    with contextlib.suppress(OSError):
                        self._tree.spawn(f"agent-{number}")
        self._files, self._folders = [], []
        for folder, folders, files in os.walk(self._tree.path):
            self._folders.append(folder)
            folders.sort()
            self._files += [os.path.join(folder, name) for name in sorted(files)]
        self.report.files = max(self.report.files, len(self._files) + len(self._folders))

    def _file(self) -> str:
        self._last = self._chance.choice(self._files)
        return self._last

    def _folder(self) -> str:
        self._last = self._chance.choice(self._folders)
        return self._last

    def _new(self) -> str:
        chance = self._chance
        name = chance.choice(NAMES) if chance.random() < 0.7 else f"n{chance.randrange(50)}"
        self._last = os.path.join(self._folder(), name)
        return self._last

    # -- what is written -------------------------------------------------------------------------

    def _spoiled(self, data: bytes) -> bytes:
        """It with a few changes."""
        chance = self._chance
        for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
            at = chance.randrange(len(data) + 1)
            to = min(len(data), at + chance.choice((0, 1, 4, 40)))
            match chance.randrange(6):
                case 0:
                    data = data[:at] + chance.choice(SPOILERS) + data[to:]
                case 1:
                    data = data[:at] + data[to:]
                case 2:
                    data = data[:to] + data[at:to] * chance.choice((1, 2, 50)) + data[to:]
                case 3:
                    words = data.split(b" ")
                    words[chance.randrange(len(words))] = chance.choice(BOUNDS)
                    data = b" ".join(words)
                case 4:
                    lines = data.split(b"\n")
                    chance.shuffle(lines)
                    data = b"\n".join(lines)
                case _:
                    data = data[:at] + chance.randbytes(chance.randrange(8)) + data[to:]
        if chance.random() < 0.01:
            data = (data or b"x") * (chance.choice((65_536, 1_000_000)) // max(1, len(data)) + 1)
        return data

    def _written(self) -> bytes:
        chance = self._chance
        return self._spoiled(chance.choice(BOUNDS if chance.random() < 0.3 else REQUESTS))

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int, mode: int = 0o666) -> Iterator[int]:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW, mode)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    # -- calls -----------------------------------------------------------------------------------

    def _write(self) -> None:
        flags = self._chance.choice((os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC,
                                     os.O_WRONLY | os.O_APPEND))  # fmt: skip
        data = self._written()
        path = self._file()
        with self._opened(path, flags) as file:
            self._last = f"{path} {data[:300]!r}"
            os.write(file, data)
            if flags == os.O_RDWR:
                os.read(file, 65536)

    def _edit(self) -> None:
        """What it says, changed a little."""
        path = self._file()
        if not os.lstat(path).st_mode & 0o222:
            return
        try:
            with self._opened(path, os.O_RDONLY) as file:
                data = os.read(file, 65536)
        except PermissionError:
            data = b""
        data = self._spoiled(data)
        with self._opened(path, os.O_WRONLY | os.O_TRUNC) as file:
            self._last = f"{path} {data[:300]!r}"
            os.write(file, data)

    def _read(self) -> None:
        with self._opened(self._file(), os.O_RDONLY) as file:
            os.pread(
                file, self._chance.choice((1, 4096, 1 << 20)), self._chance.choice((0, 1, 2**40))
            )

    def _create(self) -> None:
        data = self._written()
        with self._opened(self._new(), os.O_CREAT | os.O_RDWR | os.O_EXCL) as file:
            os.write(file, data)

    def _mkdir(self) -> None:
        os.mkdir(self._new())

    def _rename(self) -> None:
        source = self._file() if self._chance.random() < 0.8 else self._folder()
        target = self._new() if self._chance.random() < 0.6 else self._file()
        self._last = f"{source} {target!r}"
        os.rename(source, target)

    def _unlink(self) -> None:
        os.unlink(self._file())

    def _rmdir(self) -> None:
        os.rmdir(self._folder())

    def _truncate(self) -> None:
        os.truncate(self._file(), self._chance.choice((0, 1, 4096, 2**20)))

    def _chmod(self) -> None:
        os.chmod(self._file(), self._chance.choice((0o600, 0o644, 0o755, 0o666)))

    def _utime(self) -> None:
        os.utime(self._file(), ns=(self._chance.randrange(2**62), self._chance.randrange(2**62)))

    def _setxattr(self) -> None:
        name = self._chance.choice(
            ["user.x", "user.agentfs.kind", "user." + "x" * 200, "trusted.x"]
        )
        os.setxattr(self._file(), name, self._written()[:60_000])

    def _getxattr(self) -> None:
        path = self._file()
        for name in os.listxattr(path):
            os.getxattr(path, name)

    def _removexattr(self) -> None:
        os.removexattr(self._file(), self._chance.choice(["user.x", "user.agentfs.kind"]))

    def _link(self) -> None:
        os.link(self._file(), self._new())

    def _symlink(self) -> None:
        """To what is in the tree, so that nothing leads out of it."""
        os.symlink(self._chance.choice(["x", "../x", ".", "loop"]), self._new())

    def _poll(self) -> None:
        with self._opened(self._file(), os.O_RDONLY) as file:
            poller = select.poll()
            poller.register(file, select.POLLIN | select.POLLOUT | select.POLLPRI)
            poller.poll(0)

    def _map(self) -> None:
        """Its pages are asked for, and not touched: what cannot be read is an error so."""
        with self._opened(self._file(), os.O_RDONLY) as file:
            size = os.fstat(file).st_size
            if stat.S_ISREG(os.fstat(file).st_mode) and 0 < size < 1 << 24:
                with mmap.mmap(file, size, prot=mmap.PROT_READ) as pages:
                    pages.madvise(22)  # MADV_POPULATE_READ

    def _list(self) -> None:
        for entry in os.scandir(self._folder()):
            entry.stat(follow_symlinks=False)


def _too_long(_: int, __: FrameType | None) -> None:
    raise _TooLongError
