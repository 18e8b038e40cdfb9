"""The process table and the transition matrix. No program runs here."""

from __future__ import annotations

import errno
import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from agentfs.base.clock import ManualClock
from agentfs.base.errors import KernelError
from agentfs.model.process import Limits, Process, Restart, Role, State, Tier, check_transition
from agentfs.process.events import ChildrenChanged, ProcessReparented, StateChanged
from agentfs.process.table import ProcessTable
from agentfs.sections import SECTIONS
from agentfs.store.event import Event
from agentfs.store.ground import Ground
from agentfs.store.store import PROCESSES


class Table:
    """A table with its store, events and clock."""

    def __init__(self, state: Path) -> None:
        self.clock = ManualClock()
        self.ground = Ground.open(state, SECTIONS, self.clock)
        self.store, self.events = self.ground.store, self.ground.events
        self.heard: list[Event] = []
        self.events.listen(lambda record: self.heard.append(record.event))
        self.table = ProcessTable(self.ground)

    def add(self, ppid: int = 0, name: str = "", state: State = State.IDLE) -> Process:
        pid = self.table.next_pid()
        process = Process(
            pid=pid,
            ppid=ppid,
            name=name or f"p{pid}",
            role=Role.AGENT,
            tier=Tier.TACTICAL,
            model="sonnet",
            uid=0,
            gid=0,
            user="root",
            node="here",
            restart=Restart.NEVER,
            started=self.clock.now(),
            state=state,
        )
        self.table.add(process)
        return process


@pytest.fixture
def made(tmp_path: Path) -> Table:
    return Table(tmp_path)


def test_the_whole_life_of_a_process_in_the_table(made: Table, tmp_path: Path) -> None:
    table = made.table
    assert len(table) == 0
    assert table.find(1) is None
    with pytest.raises(KernelError, match="there is no process 1") as refused:
        table.get(1)
    assert refused.value.errno == errno.ESRCH

    root = made.add(name="root")
    child = made.add(root.pid, "child")
    assert [process.pid for process in table] == [1, 2]
    assert table.by_name("child") is child
    assert table.children(1) == [child]
    assert table.live_children(1) == [child]
    assert table.count_live_children(1) == 1

    table.set_state(child, State.RUNNING)
    table.update(child, ospid=4711, os_start=5)
    assert table.by_ospid(4711) is child
    assert made.heard == [StateChanged(2, "child", "idle", "running")]

    table.set_state(child, State.ZOMBIE, exit_code=3)
    assert table.by_name("child") is None
    assert table.by_ospid(4711) is None
    assert table.children(1) == [child]
    assert table.live_children(1) == []
    assert table.count_live_children(1) == 0

    table.remove(child.pid)
    assert table.find(2) is None
    assert table.children(1) == []
    assert table.sizes() == {
        "processes": 1,
        "parents": 1,
        "live parents": 1,
        "alive": 1,
        "programs": 0,
        "groups": 1,
    }
    assert made.add().pid == 3, "a pid is never used again"


PAIRS = list(itertools.product(State, State))

LEGAL = {
    # from each state to those that it may become, written out a second time
    "idle": {"running", "blocked", "sleeping", "zombie", "dead"},
    "running": {"idle", "blocked", "sleeping", "zombie", "dead"},
    "blocked": {"running", "sleeping", "zombie", "dead"},
    "sleeping": {"idle", "running", "blocked", "zombie", "dead"},
    "zombie": set(),
    "dead": set(),
}


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_every_pair_of_states_is_legal_or_eperm(made: Table, old: State, new: State) -> None:
    process = made.add(state=old)
    before = process.record()
    if new.value in LEGAL[old.value]:
        check_transition(old, new)
        made.table.set_state(process, new)
        assert process.state is new
        return
    with pytest.raises(KernelError) as refused:
        made.table.set_state(process, new)
    assert refused.value.errno == errno.EPERM
    assert process.record() == before
    assert made.heard == []


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_a_state_follows_between_idle_and_running_and_never_complains(
    made: Table, old: State, new: State
) -> None:
    process = made.add(state=old)
    made.table.follow(process.pid, new)
    working = {State.IDLE, State.RUNNING}
    assert process.state is (new if old in working and new.alive else old)
    made.table.follow(None, new)
    made.table.follow(99, new)


def test_the_table_is_the_same_after_it_was_read_again(made: Table, tmp_path: Path) -> None:
    root = made.add(name="root")
    for _ in range(3):
        made.add(root.pid)
    made.table.set_state(made.table.get(3), State.ZOMBIE, exit_code=1, output="oh\n")
    made.table.update(made.table.get(4), ospid=9, exec=("sleep", "1"), env={"A": "ä"})
    made.store.close()

    again = Table(tmp_path)
    assert list(again.table) == list(made.table)
    assert again.table.sizes() == made.table.sizes()
    assert again.table.next_pid() == 5


FIRST_RELEASE = {
    "pid": 7, "ppid": 1, "name": "bob", "role": "worker", "tier": "tactical", "model": "sonnet",
    "uid": 5, "gid": 6, "user": "games", "node": "here", "restart": "on-failure", "started": 1.5,
    "state": "idle", "exec": [], "env": {}, "cwd": "", "heartbeat": 0.0,
    "limits": {
        "max_children": 10, "max_concurrent_tasks": 5, "timeout_seconds": 300,
        "max_tokens_per_hour": 100_000, "max_tokens_total": 1_000_000,
        "max_context_tokens": 128_000, "max_llm_calls": None, "max_tool_calls": None,
        "max_cost_usd": None, "messages_per_minute": None, "max_memory_mb": None,
        "max_cpu_seconds": None,
    },
    "ospid": None, "os_start": 0, "attached": False, "restarts": 0, "exit_code": None,
    "output": "", "ended": 0.0, "stopping": False, "reason": "", "tokens": 0, "on_limit": "raise",
    "allowed": None, "denied": [], "ceiling": None, "group": "", "confined": [], "changed": 9,
}  # fmt: skip
"""The record of a process that has everything by default, with everything in it."""

LEFT_OUT = {
    "pid": 7, "ppid": 1, "name": "bob", "role": "worker", "tier": "tactical", "model": "sonnet",
    "uid": 5, "gid": 6, "user": "games", "node": "here", "restart": "on-failure", "started": 1.5,
    "changed": 9,
}  # fmt: skip

OTHERWISE: dict[str, Any] = {
    "state": "blocked", "exec": ["sleep", "1"], "env": {"A": "ä"},
    "cwd": "/tmp", "restart_notice": False,
    "heartbeat": 2.5,
    "limits": {"max_children": None, "max_cost_usd": 0.5, "max_tokens_total": 0}, "ospid": 9,
    "os_start": 4, "attached": True, "restarts": 1, "exit_code": 0, "output": "oh\n", "ended": 3.5,
    "stopping": True, "reason": "limit: x", "tokens": 8, "on_limit": "stop", "allowed": [],
    "denied": ["llm"], "ceiling": {"roles": ["kernel"], "names": [], "denied": ["tool:a"]},
    "group": "team/a", "groups": ["night"], "metadata": {"team": "ä"}, "confined": ["network"],
    "reads": ["/opt"], "own_files": [], "kind": "run", "behalf": "alice",
}  # fmt: skip
"""Nothing by default."""


def test_a_record_leaves_out_what_has_its_default_and_means_the_same() -> None:
    process = Process.from_record(FIRST_RELEASE)
    assert process.record() == LEFT_OUT
    assert Process.from_record(LEFT_OUT) == process, "the defaults are part of the format"


def test_everything_that_differs_from_its_default_is_in_the_record() -> None:
    assert {*LEFT_OUT, *OTHERWISE} == {*Process.__slots__}
    for more in ({key: value} for key, value in OTHERWISE.items()):
        process = Process.from_record(FIRST_RELEASE | more)
        assert process.record() == LEFT_OUT | more
        assert Process.from_record(process.record()) == process
    none = Process.from_record(LEFT_OUT | {"limits": dict.fromkeys(Limits.__slots__)})
    assert none.limits == Limits.none_but()
    assert Process.from_record(none.record()) == none


def test_pids_only_grow_across_a_restart_even_if_the_newest_is_gone(
    made: Table, tmp_path: Path
) -> None:
    made.add()
    made.table.remove(made.add().pid)
    made.store.close()
    assert Table(tmp_path).table.next_pid() == 3


def test_a_change_that_is_rolled_back_never_happened(made: Table) -> None:
    root, other = made.add(name="root"), made.add(name="other")
    child = made.add(root.pid, "child")
    before = [process.record() | {"changed": 0} for process in made.table]
    sizes = made.table.sizes()

    def fail() -> None:
        with made.store.transaction():
            made.table.set_state(child, State.DEAD, exit_code=1)
            made.table.move(child, other.pid)
            made.add(child.pid, "new")
            made.table.remove(other.pid)
            raise KernelError(errno.EIO, "the disk is gone")

    with pytest.raises(KernelError):
        fail()
    after = [process.record() | {"changed": 0} for process in made.table]
    assert sorted(after, key=lambda record: record["pid"]) == before
    assert made.table.sizes() == sizes
    assert made.table.children(root.pid) == [child]
    assert made.heard == []
    assert [record | {"changed": 0} for _, record in made.store.records(PROCESSES)] == [
        record | {"changed": 0} for record in before
    ]


def test_changed_moves_strictly_forward_even_if_the_clock_stands_or_goes_back(made: Table) -> None:
    process = made.add()
    seen = [process.changed]
    for step in (0.0, 0.0, -3600.0, 5.0):
        made.clock.step(step)
        made.table.update(process, restarts=process.restarts + 1)
        seen.append(process.changed)
    assert seen == sorted(set(seen))


def test_ancestors_and_descendants(made: Table) -> None:
    #       1
    #      / \
    #     2   3
    #    / \   \
    #   4   5   6 - 7
    for parent in (0, 1, 1, 2, 2, 3, 6):
        made.add(parent)
    table = made.table

    assert [p.pid for p in table.ancestors(7)] == [6, 3, 1]
    assert [p.pid for p in table.ancestors(1)] == []
    assert [p.pid for p in table.descendants(1)] == [2, 3, 4, 5, 6, 7]
    assert [p.pid for p in table.descendants(3)] == [6, 7]


def test_an_orphan_has_a_parent_that_is_gone_or_has_ended(made: Table) -> None:
    for parent in (0, 1, 1, 2, 3, 3):
        made.add(parent)
    table = made.table
    assert table.orphans() == []
    table.remove(2)
    table.set_state(table.get(3), State.ZOMBIE)
    assert {process.pid for process in table.orphans()} == {4, 5, 6}
    table.remove(1)
    assert {process.pid for process in table.orphans()} == {3, 4, 5, 6}


def test_moving_a_process_tells_both_parents(made: Table) -> None:
    first, second = made.add(), made.add()
    child = made.add(first.pid)
    changed = first.changed, second.changed
    made.table.move(child, second.pid)
    assert made.heard == [
        ProcessReparented(3, "p3", 1, 2),
        ChildrenChanged(1, 3, added=False),
        ChildrenChanged(2, 3, added=True),
    ]
    assert first.changed > changed[0]
    assert second.changed > changed[1]
    assert made.table.children(1) == []
    assert made.table.children(2) == [child]


def test_process_1_is_not_found_by_the_daemons_pid(made: Table) -> None:
    init = made.add()
    made.table.update(init, role=Role.KERNEL)
    made.table.update(init, ospid=77)
    assert made.table.by_ospid(77) is None


def test_a_hundred_thousand_processes_cost_at_most_5_kb_each(made: Table) -> None:
    count = 100_000
    root = made.add()
    tracemalloc.start()
    try:
        for _ in range(count // 400):
            with made.store.transaction():  # one each takes twice as long
                for _ in range(400):
                    made.add(root.pid)
        made.store.fold()  # the store's own side is the disk's: what is asked for is the table
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{used / count:.0f} bytes a process")
    assert used / count <= 5 * 1024
    assert len(made.table.children(root.pid)) == count
