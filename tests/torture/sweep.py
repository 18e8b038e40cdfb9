"""The sweep: the same calls again and again, and each time the daemon dies one moment later.

A scenario of system calls of every kind is run once, and what the tree shows after each is kept.
Then it is run with a daemon that kills itself at hit 1, 2, 3 … of its failpoints. After the restart
the tree must show what it showed before the call that was under way, or what it showed after it:
every call is whole or not there, and none that had returned is undone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentfs.agent import Message
from tests.hatchery import Hatchery, QuickTree
from tests.torture.aftermath import faults_of, strays_of
from tests.torture.failpoints import ANY, Panel
from tests.tree import PATIENCE, Tree, eventually

__all__ = [
    "STEPS",
    "Sweep",
    "SweepReport",
    "View",
    "die_at_each",
    "is_free",
    "observe",
]

ENDED = ("zombie", "dead")

View = dict[str, str]
"""What the tree shows: a path, or what is meant, and what is there."""


def _rename(tree: Tree, box: str, body: str) -> None:
    """Claim the message that says `body`."""
    for path in (tree / box / "new").iterdir():
        if path.read_text().endswith(f"\n\n{body}"):
            path.rename(tree / box / "cur" / f"{path.name}:2,S")
            return
    raise AssertionError(f"{body} is not in {box}")


def _put(tree: Tree, path: str, text: str) -> None:
    (tree / path).write_text(text)


def is_free(state: Path) -> bool:
    """Whether no daemon has the state directory: the last thread of a killed one is gone."""
    try:
        with open(state / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def chosen(hits: int, moments: int, seed: int) -> list[int]:
    """So many moments of all, by the seed; 0: each."""
    every = range(1, hits + 1)
    if not moments or moments >= len(every):
        return list(every)
    return sorted(random.Random(seed).sample(every, moments))


@contextlib.contextmanager
def dying_tree(hatchery: Hatchery, failpoint: str = "") -> Iterator[tuple[QuickTree, Panel]]:
    """A tree that is not mounted yet, whose first daemon dies at `failpoint`."""
    with tempfile.TemporaryDirectory(prefix="agentfs-sweep-") as folder:
        tree = QuickTree(Path(folder) / "tree", hatchery=hatchery)
        panel = Panel(Path(folder) / "panel")
        tree.words = ("--panel", panel.path, *(("--failpoint", failpoint) if failpoint else ()))
        try:
            yield tree, panel
        finally:
            tree.clean_up()


def _end(tree: Tree, pid: int, command: str) -> None:
    tree.write(f"proc/{pid}/ctl", command)
    eventually(lambda: tree.read(f"proc/{pid}/state").strip() in ENDED)


LEAD: dict[str, Any] = {"role": "lead", "tier": "tactical", "budget": {"tactical": 50_000}}

STEPS: dict[str, Callable[[Tree], object]] = {
    "spawn": lambda tree: tree.spawn("lead", **LEAD),
    "spawn a child": lambda tree: tree.spawn("bob", 2, role="worker", tier="tactical"),
    "spawn a program": lambda tree: tree.spawn("runs", 2, exec=["sleep", "600"]),
    "send": lambda tree: tree.write("agents/init/send", "To: bob\n\none"),
    "send by outbox": lambda tree: tree.write("agents/init/outbox/bob", "two"),
    "send what is long": lambda tree: tree.write("agents/init/outbox/bob", "long" * 5000),
    "broadcast": lambda tree: tree.write("dev/broadcast", "to all"),
    "claim": lambda tree: _rename(tree, "agents/bob/inbox", "one"),
    "acknowledge": lambda tree: next((tree / "agents/bob/inbox/cur").iterdir()).unlink(),
    "make a queue": lambda tree: (tree / "dev/queues/jobs").mkdir(),
    "put": lambda tree: tree.write("dev/queues/jobs/send", "job"),
    "put another": lambda tree: _put(tree, "dev/queues/jobs/new/x", "job 2"),
    "take": lambda tree: _rename(tree, "dev/queues/jobs", "job"),
    "make a topic": lambda tree: (tree / "dev/topics/news").touch(),
    "publish": lambda tree: tree.write("dev/topics/news", "first"),
    "store an artifact": lambda tree: _put(tree, "dev/shm/global/plan", "a" * 100_000),
    "replace it": lambda tree: _put(tree, "dev/shm/global/plan", "b" * 200_000),
    "rename it": lambda tree: (tree / "dev/shm/global/plan").rename(tree / "dev/shm/global/new"),
    "allocate": lambda tree: tree.write("proc/2/budget/ctl", "allocate 3 20000\n"),
    "begin a call": lambda tree: tree.ask("proc/2/call", "llm sonnet 500\n"),
    "settle it": lambda tree: tree.ask("proc/2/call", "settle 1 100 50\n"),
    "begin another": lambda tree: tree.ask("proc/2/call", "llm sonnet 700\n"),
    "cancel it": lambda tree: tree.ask("proc/2/call", "cancel 2\n"),
    "set a limit": lambda tree: tree.write("proc/3/limits/max_tool_calls", "7\n"),
    "make a group": lambda tree: (tree / "sys/cgroup/team").mkdir(),
    "bound it": lambda tree: tree.write("sys/cgroup/team/tokens.max", "9000\n"),
    "join it": lambda tree: tree.write("sys/cgroup/team/cgroup.procs", "3\n"),
    "drop a capability": lambda tree: tree.write("proc/3/caps/ctl", "-network_access\n"),
    "remind": lambda tree: tree.write("agents/bob/reminders/new", "in 7d tea"),
    "ask": lambda tree: tree.write("agents/init/asks/new", "To: bob\n\nwhy?"),
    "configure": lambda tree: tree.write("etc/agentfs.yaml", "messages: {max_sent: 77}\n"),
    "change a rule": lambda tree: tree.write("etc/acl.yaml", "rules: [{effect: deny, agent: x}]\n"),
    "stop": lambda tree: tree.write("proc/4/ctl", "STOP\n"),
    "go on": lambda tree: tree.write("proc/4/ctl", "CONT\n"),
    "kill": lambda tree: _end(tree, 4, "KILL\n"),
    "reap": lambda tree: tree.read("proc/4/wait"),
    "remove the artifact": lambda tree: (tree / "dev/shm/global/new").unlink(),
    "purge the queue": lambda tree: tree.write("dev/queues/jobs/ctl", "purge\n"),
    "end a branch": lambda tree: _end(tree, 2, "kill-branch\n"),
    "reap it": lambda tree: tree.read("proc/2/wait"),
}
"""Process 2 is lead, 3 bob, 4 runs."""


def observe(tree: Tree) -> View:
    """What a person sees of all that the steps change, without what differs from run to run."""
    view: View = {}
    boxes = [f"agents/{name}/inbox" for name in os.listdir(tree / "agents") if name != "self"]
    boxes += [f"dev/queues/{name}" for name in os.listdir(tree / "dev/queues")]
    for box in boxes:
        for folder in ("new", "cur"):
            said = [Message(path.read_bytes()) for path in (tree / box / folder).iterdir()]
            view[f"{box}/{folder}"] = str(
                sorted((each.type or "", each.attempt, each.text) for each in said)
            )
    for pid in (name for name in os.listdir(tree / "proc") if name.isdigit()):
        for part in ("name", "exit", "caps/effective", "limits/max_tool_calls", "cgroup"):
            with contextlib.suppress(FileNotFoundError):
                view[f"proc/{pid}/{part}"] = tree.read(f"proc/{pid}/{part}")
        state = tree.read(f"proc/{pid}/state").strip()
        view[f"proc/{pid}/state"] = state if state in ("stopped", *ENDED) else "alive"
        for part in ("allocated", "consumed", "reserved", "remaining"):
            with contextlib.suppress(FileNotFoundError):
                view[f"proc/{pid}/{part}"] = tree.read(f"proc/{pid}/budget/tactical/{part}")
    for path in (tree / "dev/shm/global").iterdir():
        content = path.read_text()
        view[f"artifact {path.name}"] = f"{content[:1]} {len(content)} {len(set(content))}"
    for topic in (tree / "dev/topics").iterdir():
        view[f"topic {topic.name}"] = str(_records(topic))
    for name in ("cgroup.procs", "tokens.max", "tokens.current"):
        with contextlib.suppress(FileNotFoundError):
            view[f"team {name}"] = tree.read(f"sys/cgroup/team/{name}")
    for name in ("agentfs", "acl"):
        view[f"etc {name}"] = tree.read(f"etc/{name}.yaml")
    with contextlib.suppress(FileNotFoundError):
        view["reminders"] = str(
            [name for name in os.listdir(tree / "agents/bob/reminders") if name.isdigit()]
        )
    for name in os.listdir(tree / "agents/init/asks"):
        if name.isdigit():
            status = tree.read(f"agents/init/asks/{name}/status").splitlines()
            view[f"ask {name}"] = next(line for line in status if line.startswith("State"))
    return view


def _records(topic: Path) -> int:
    """How many records it has: the number of the next one tells, so the newest is asked for."""
    descriptor = os.open(topic, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(descriptor, b"since 0")
        with contextlib.suppress(BlockingIOError):
            return os.read(descriptor, 65536).count(b"\n")
        return 0
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class SweepReport:
    """`fell` counts the sites where the daemon died, `steps` the calls that it died in."""

    seed: int
    scenario: str = "calls"
    hits: int = 0
    fell: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        sites = ", ".join(f"{site} {count}" for site, count in self.fell.most_common())
        return (
            f"sweep of {self.scenario}: {self.fell.total()} deaths at {self.hits} moments, in"
            f" {len(self.steps)} steps ({sites}); {self.seconds:.0f} s"
        )


def die_at_each(
    report: SweepReport,
    moments: Iterable[int] | int,
    learn: Callable[[QuickTree, Panel], object],
    fall: Callable[[QuickTree, Panel, int], object],
    hatchery: Hatchery | None,
) -> SweepReport:
    """`learn` in a tree whose daemon does not die, which says how many hits there are; then `fall`
    in one that dies at each of the moments: those that are named, or so many of all by the seed
    (0: each). A `hatchery` of one's own is left open."""
    began = time.monotonic()
    own = None if hatchery else Hatchery("tests.torture.failpoints")
    mortals = hatchery or own
    assert mortals is not None
    try:
        with dying_tree(mortals) as (tree, panel):
            learn(tree, panel)
        if isinstance(moments, int):
            moments = chosen(report.hits, moments, report.seed)
        for moment in moments:
            with dying_tree(mortals, f"{ANY}:{moment}") as (tree, panel):
                fall(tree, panel, moment)
    finally:
        if own is not None:
            own.close()
    report.seconds = time.monotonic() - began
    return report


class Sweep:
    """Runs the scenario. `moments` is how many of all hits are tried, by the seed; 0: each."""

    def __init__(self, seed: int, moments: int = 0, *, say: Callable[[str], object] = str) -> None:
        self.report = SweepReport(seed)
        self._moments = moments
        self._say = say
        self._views: list[View] = [{}]  # after 0, 1, 2 … steps

    def run(self, only: Iterable[int] = (), hatchery: Hatchery | None = None) -> SweepReport:
        """Die at the chosen moments, or `only` at these. A `hatchery` of one's own is left open."""
        moments = only or self._moments
        return die_at_each(self.report, moments, self._learn, self._fall, hatchery)

    def _learn(self, tree: QuickTree, panel: Panel) -> None:
        """What the tree shows after each step, and how many hits there are."""
        tree.mount()
        self.report.hits = panel.hits
        self._views = [observe(tree)]
        for step in STEPS.values():
            before = panel.hits  # observing has hits, too
            step(tree)
            self.report.hits += panel.hits - before
            self._views.append(observe(tree))

    def _fall(self, tree: QuickTree, panel: Panel, moment: int) -> None:
        """Run until the daemon dies, start it again, and compare."""
        done = self._run_until_death(tree, panel)
        name = [*STEPS, "the end"][done]
        what = f"moment {moment} ({panel.fell or 'no failpoint'}, in: {name})"
        if not panel.fell:
            if done < len(STEPS):
                self._fault(f"{what}: failed without a crash: {tree.log()[-500:]}")
            return  # threads make the number of hits differ a little: this time there were less
        self.report.fell[panel.fell] += 1
        self.report.steps[name] += 1
        eventually(lambda: is_free(tree.state), f"{what}: the dead daemon keeps its lock")
        if done or (tree.state / "store.db").exists():
            for fault in faults_of(tree.state, after_crash=True, new=not done):
                self._fault(f"{what}: {fault}")
        tree.daemon = None
        tree.words = ("--panel", panel.path)
        tree.mount()
        self._compare(tree, self._views[done : done + 2], what)
        for fault in faults_of(tree.state):
            self._fault(f"{what}: later: {fault}")

    @staticmethod
    def _run_until_death(tree: QuickTree, panel: Panel) -> int:
        """How many steps were done, each of which had returned."""
        done = 0
        try:
            tree.mount()
            for step in STEPS.values():
                step(tree)
                done += 1
        except (OSError, ValueError, AssertionError):  # a mount or a step that was cut, if it fell
            if not panel.fell and not done:
                raise
        return done

    def _compare(self, tree: Tree, allowed: list[View], what: str) -> None:
        deadline = time.monotonic() + PATIENCE / 4
        found: View = {}
        while True:
            try:
                found = observe(tree)
            except OSError as failure:  # something of it ended this moment
                found = {"the tree": f"cannot be read: {failure}"}
            strays = strays_of(tree)
            if found in allowed and not strays:
                return
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        for stray in strays:
            self._fault(f"{what}: {stray}")
        if found in allowed:
            return
        for word, view in zip(("before", "after"), allowed, strict=False):
            keys = sorted(view.keys() | found.keys())
            odd = [
                f"{key} is {found.get(key)!r}, not {view.get(key)!r}"
                for key in keys
                if found.get(key) != view.get(key)
            ]
            self._fault(f"{what}: not as {word} the call: {'; '.join(odd)}")

    def _fault(self, words: str) -> None:
        self.report.faults.append(words)
        self._say(words)
