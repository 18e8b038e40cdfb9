"""Groups and the books over random histories: spawns, moves, calls, ends, crashes of the daemon.

What must hold after each step: a process is in one group, a group counts the living processes in it
and below it and nobody else, what it has used and holds is what was used and is held in it, a limit
lets through what fits and nothing more, and every view of the books adds up to the total.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentfs.base.errors import KernelError
from agentfs.model.principal import INIT
from agentfs.model.process import Process
from tests.process.world import OPERATOR
from tests.quota.books_world import POOL, Books

NAMES = ("a", "b")
PATHS = ("", "a", "b", "a/a", "a/b", "a/a/b")
LIMIT = st.sampled_from([None, 0, 1, 2, 60, 200])
TOKENS = st.sampled_from([1, 7, 40, 90])


@dataclass
class Expected:
    """What the model knows of a group."""

    limits: dict[str, int | None] = field(default_factory=lambda: {"tokens": None, "pids": None})
    used: int = 0
    hits: Counter[str] = field(default_factory=Counter)


@dataclass
class OpenCall:
    pid: int
    number: int
    path: str
    tokens: int


def line(path: str) -> list[str]:
    """A path and those above it."""
    parts = path.split("/") if path else []
    return ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]


class GroupMachine(RuleBasedStateMachine):
    """Processes below init, at most six; a few groups, at most three deep."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = Books(Path(self.folder.name) / "state", POOL)
        self.groups: dict[str, Expected] = {}
        self.where: dict[int, str] = {}
        self.open: list[OpenCall] = []
        self.used: Counter[str] = Counter()  # by agent
        self.names = 0

    def teardown(self) -> None:
        self.everything_is_as_expected()
        for pid in list(self.where):
            self.end_of(self.world.table.get(pid))
        for path in sorted(self.groups, reverse=True):
            self.world.groups.remove(OPERATOR, path)
        assert self.world.sizes() == self.world.base
        self.world.agree()
        self.world.close()
        self.folder.cleanup()

    # -- short words -------------------------------------------------------------------------------

    def full(self, path: str) -> str | None:
        """The innermost group on the line of `path` that has no seat left."""
        for each in line(path):
            most = self.groups[each].limits["pids"]
            if most is not None and self.count(each) >= most:
                return each
        return None

    def count(self, path: str) -> int:
        return sum(path in line(where) for where in self.where.values())

    def current(self, path: str) -> int:
        held = sum(call.tokens for call in self.open if path in line(call.path))
        return self.groups[path].used + held

    def hit(self, path: str, limit: str) -> None:
        for each in line(path):
            self.groups[each].hits[limit] += 1

    def charge(self, path: str, name: str, tokens: int) -> None:
        self.used[name] += tokens
        for each in line(path):
            self.groups[each].used += tokens

    def pick(self, data: st.DataObject) -> Process:
        return self.world.table.get(data.draw(st.sampled_from(sorted(self.where))))

    def end_of(self, process: Process) -> None:
        for call in [each for each in self.open if each.pid == process.pid]:
            self.open.remove(call)
            self.charge(call.path, process.name, call.tokens)
        self.world.end(process)
        del self.where[process.pid]

    # -- what happens ------------------------------------------------------------------------------

    @rule(parent=st.sampled_from(("", "a", "b", "a/a")), name=st.sampled_from(NAMES))
    def make(self, parent: str, name: str) -> None:
        path = f"{parent}/{name}" if parent else name
        possible = path not in self.groups and (not parent or parent in self.groups)
        try:
            self.world.groups.create(OPERATOR, parent, name)
        except KernelError as no:
            assert not possible
            assert no.code in ("ENOENT", "EEXIST")
        else:
            assert possible
            self.groups[path] = Expected()

    @precondition(lambda self: self.groups)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(sorted(self.groups)))
        taken = self.count(path) or any(each.startswith(f"{path}/") for each in self.groups)
        try:
            self.world.groups.remove(OPERATOR, path)
        except KernelError as no:
            assert taken
            assert no.code == "EBUSY"
            return
        assert not taken
        del self.groups[path]
        for call in self.open:
            if call.path == path:
                call.path = path.rpartition("/")[0]

    @precondition(lambda self: self.groups)
    @rule(data=st.data(), limit=st.sampled_from(("tokens", "pids")), value=LIMIT)
    def set_limit(self, data: st.DataObject, limit: str, value: int | None) -> None:
        path = data.draw(st.sampled_from(sorted(self.groups)))
        self.world.groups.set_limit(OPERATOR, path, limit, value)
        self.groups[path].limits[limit] = value

    @precondition(lambda self: len(self.where) < 6)
    @rule(data=st.data(), group=st.sampled_from((None, *PATHS)))
    def spawn(self, data: st.DataObject, group: str | None) -> None:
        parent = data.draw(st.sampled_from([INIT, *sorted(self.where)]))
        path = self.where.get(parent, "") if group is None else group
        known = not path or path in self.groups
        full = self.full(path) if known else None
        self.names += 1
        name = f"p{self.names}"
        given = {} if group is None else {"group": group}
        above = self.world.table.get(parent)
        try:
            process = self.world.child(name, parent, tier="operational", **given)
        except KernelError as no:
            if no.code == "EACCES":  # no manage_tree, and another group than its own
                assert parent != INIT
                assert path != above.group
                return
            assert no.code == ("EAGAIN" if known else "ENOENT")
            if known:
                assert full is not None
                self.hit(full, "pids")
            return
        assert known
        assert full is None
        self.where[process.pid] = path

    @precondition(lambda self: self.where)
    @rule(data=st.data(), path=st.sampled_from(PATHS))
    def move(self, data: st.DataObject, path: str) -> None:
        process = self.pick(data)
        try:
            self.world.move(process, path)
        except KernelError as no:
            assert no.code == "ENOENT"
            assert path not in self.groups
            return
        self.where[process.pid] = path

    @precondition(lambda self: self.where)
    @rule(data=st.data(), tokens=TOKENS)
    def call(self, data: st.DataObject, tokens: int) -> None:
        process = self.pick(data)
        path = self.where[process.pid]
        over = [
            each
            for each in line(path)
            if (most := self.groups[each].limits["tokens"]) is not None
            and self.current(each) + tokens > most
        ]
        try:
            number = self.world.llm(process, "mini", tokens)
        except KernelError as no:
            assert no.code == "EDQUOT"
            assert over
            self.hit(over[0], "tokens")
            return
        assert not over
        if path:
            self.open.append(OpenCall(process.pid, number, path, tokens))
        else:
            self.world.settle(process, number, 0, tokens)
            self.charge("", process.name, tokens)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), used=st.sampled_from([None, 0, 3, 150]))
    def settle(self, data: st.DataObject, used: int | None) -> None:
        call = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        process = self.world.table.get(call.pid)
        # Of two holds that are alike, either may be the one that is settled.
        alike = [each for each in self.open if (each.pid, each.tokens) == (call.pid, call.tokens)]
        for other in alike:
            if other.number < call.number:
                other.path, call.path = call.path, other.path
        if used is None:
            self.world.calls.cancel(OPERATOR, process.pid, call.number)
        else:
            self.world.settle(process, call.number, 0, used)
            self.charge(call.path, process.name, used)

    @precondition(lambda self: self.where)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.end_of(self.pick(data))

    @rule(hours=st.sampled_from([1, 30, 24 * 95]))
    def pass_time(self, hours: int) -> None:
        self.world.clock.advance(hours * 3600.0)
        self.world.accounting.tidy()

    @rule()
    def crash(self) -> None:
        base = self.world.base
        self.world = self.world.restarted()
        self.world.base = base

    # -- what holds --------------------------------------------------------------------------------

    @invariant()
    def everything_is_as_expected(self) -> None:
        groups = self.world.groups
        for path, expected in self.groups.items():
            group = groups.groups.get(path)
            assert (group.tokens_max, group.pids_max) == tuple(expected.limits.values())
            assert groups.count(group) == self.count(path)
            assert group.tokens == self.current(path)
            assert (group.tokens_hits, group.pids_hits) == (
                expected.hits["tokens"],
                expected.hits["pids"],
            )
        assert len(groups.groups) == len(self.groups)
        for path in ("", *self.groups):
            there = [pid for pid, where in sorted(self.where.items()) if where == path]
            assert self.world.pids(path) == ([INIT] if not path else []) + there
        for name, used in self.used.items():
            assert self.world.tokens("agent", name) == used
        assert self.world.tokens("total") == sum(self.used.values())

    @invariant()
    def every_view_agrees(self) -> None:
        self.world.agree()


GroupMachine.TestCase.settings = settings(
    max_examples=10, stateful_step_count=30, deadline=None, print_blob=True
)
TestGroups = GroupMachine.TestCase
