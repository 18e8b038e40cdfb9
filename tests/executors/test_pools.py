"""Pools: steps are taken by workers, and answered; here without a mount."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.manifests.plan import Graph, PlanNode, Retry
from agentfs.model.principal import Principal
from agentfs.model.process import Role
from agentfs.providers.pools import Work
from agentfs.workflow.model import Run, Start
from tests.workflow.lab import Lab, data, node
from tests.world import OPERATOR


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "state", kinds="program wait")
    made.world.kernel.pools.create(OPERATOR, "sums", 0o777)
    yield made
    made.close()


class Hand:
    """A worker, whose calls do not wait. `tid`: a thread of its program."""

    def __init__(
        self,
        lab: Lab,
        take: int = 0,
        pool: str = "sums",
        principal: Principal = OPERATOR,
        tid: int = 0,
    ) -> None:
        self.lab = lab
        kernel = lab.world.kernel
        found = kernel.pools.find(pool)
        kernel.pools.check_work(principal, found)
        self.file = Work(kernel, found.line, principal, tid or os.getpid())
        self.at = 0
        self.parked = False
        if take:
            self.write(f"take {take}\n".encode())

    def read(self, size: int = 65536) -> list[dict[str, Any]]:
        """The steps of one read; none: it waits from now on."""
        if not self.parked:
            self.file.begin_read(self.at, lambda: None)
        said = self.file.try_read(size)
        if said is None:
            if not self.parked:
                self.file.parked()
                self.parked = True
            return []
        if self.parked:
            self.file.unparked()
            self.parked = False
        self.at += len(said)
        return [json.loads(line) for line in said.splitlines()]

    def write(self, data: bytes) -> int:
        """All of it, however much there is time for in one write; how many writes that took."""
        writes = 0
        while data:
            taken = self.file.try_write(data)
            self.at += taken
            data, writes = data[taken:], writes + 1
        self.lab.settle()
        return writes

    def answer(self, step: dict[str, Any], **outcome: Any) -> int:
        about = {"step": step["step"], "attempt": step["attempt"]}
        return self.write((json.dumps(about | outcome) + "\n").encode())

    def close(self) -> None:
        if self.parked:
            self.file.unparked()
        self.file.release()
        self.lab.settle()


def function(name: str, needs: str = "", pool: str = "sums", **fields: Any) -> PlanNode:
    return node(name, "function", needs, spec={"fn": f"m:{name}", "pool": pool}, **fields)


def refused(number: int) -> Any:
    return pytest.raises(KernelError, check=lambda no: no.errno == number)


def test_a_step_is_taken_and_answered(lab: Lab) -> None:
    run = lab.run(data("v", {"a": 1, "b": 2}), function("add", "v"))
    assert lab.state(run, "add") == "running", lab.error(run)
    assert lab.runs.node(run.id, "add").holder == ""
    hand = Hand(lab)
    [step] = hand.read()
    assert step == {
        "step": f"{run.id}/add",
        "attempt": 1,
        "run": run.id,
        "node": "add",
        "kind": "function",
        "fn": "m:add",
        "input": {"a": 1, "b": 2},
        "key": f"{run.id}/add",
        "deadline": None,
    }
    assert lab.runs.node(run.id, "add").holder.split(":")[:2] == ["1", str(os.getpid())]
    hand.answer(step, ok={"sum": 3})
    assert (lab.state(run), lab.output(run, "add")) == ("completed", {"sum": 3})
    assert hand.read() == []
    hand.close()


def test_the_next_step_is_there_in_the_commit_of_the_answer(lab: Lab) -> None:
    hand = Hand(lab)
    run = lab.run(*(function(f"n{i}", f"n{i - 1}" if i else "") for i in range(5)))
    for number in range(5):
        before = lab.world.store.commits
        [step] = hand.read()
        assert lab.world.store.commits == before + (number == 0)
        hand.answer(step, ok=number)
        assert lab.world.store.commits == before + 1 + (number == 0)
    assert lab.state(run) == "completed"
    hand.close()


def items(count: int, concurrency: int, **fields: Any) -> PlanNode:
    """A loop over `count` numbers, each squared by a worker."""
    body = Graph((function("square", input={"x": "item"}, **fields),))
    return node(
        "all",
        "for-each",
        spec={"items": "range(count)", "concurrency": concurrency, "collect": "list"},
        bodies=(("body", body),),
    )


def test_twenty_at_once_are_one_read_one_write_and_one_commit(lab: Lab) -> None:
    hand = Hand(lab, take=20)
    run = lab.run(items(60, 20), given={"count": 60}, max_concurrent_nodes=100)
    for _ in range(3):
        steps = hand.read()
        assert len(steps) == 20
        before = lab.world.store.commits
        lines = [
            json.dumps({"step": s["step"], "attempt": s["attempt"], "ok": s["input"]["x"] ** 2})
            for s in steps
        ]
        writes = hand.write(("\n".join(lines) + "\n").encode())
        assert lab.world.store.commits - before <= writes
    assert lab.output(run, "all")["result"] == [x * x for x in range(60)]
    hand.close()


def test_a_loop_gives_workers_no_more_than_its_concurrency(lab: Lab) -> None:
    hands = [Hand(lab, take=20) for _ in range(2)]
    run = lab.run(items(1000, 10), given={"count": 1000}, max_concurrent_nodes=100)
    seen, most = [], 0
    while lab.state(run) == "running":
        steps = [step for hand in hands for step in hand.read()]
        most = max(most, len(steps))
        seen += [step["input"]["x"] for step in steps]
        for step in reversed(steps):
            hands[0].answer(step, ok=step["input"]["x"])
    assert (most, sorted(seen)) == (10, list(range(1000)))
    assert lab.output(run, "all")["result"] == list(range(1000))


BAD = {
    b"hello\n": "one line of JSON",
    b"[]\n": "a JSON object",
    b"null\n": "a JSON object",
    b'{"attempt": 1, "ok": 1}\n': "`step` is",
    b'{"step": "STEP", "ok": 1}\n': "`attempt` is",
    b'{"step": "STEP", "attempt": true, "ok": 1}\n': "`attempt` is",
    b'{"step": "STEP", "attempt": 1}\n': "not 0",
    b'{"step": "STEP", "attempt": 1, "ok": 1, "error": "x"}\n': "not 2",
    b'{"step": "STEP", "attempt": 1, "okay": 1}\n': "no 'okay'",
    b'{"step": "STEP", "attempt": 1, "ok": NaN}\n': "NaN",
    b'{"step": "STEP", "attempt": 1, "error": "x", "again": 1}\n': "`again`",
    b'{"step": "STEP", "attempt": 1, "error": "x", "kind": "odd"}\n': "`kind`",
    b'{"step": "../x", "attempt": 1, "ok": 1}\n': "`step` is",
    b"\xff\xfe\n": "one line of JSON",
    b"take\n": "one line of JSON",
    b"take 0\n": "1 to 1000",
    b"take many\n": "`take N`",
    b"[" * 100_000 + b"\n": "one line of JSON",
}


def test_garbage_is_refused_and_changes_nothing(lab: Lab) -> None:
    run = lab.run(function("add"))
    hand = Hand(lab)
    [step] = hand.read()
    for line, words in BAD.items():
        with refused(errno.EINVAL) as no:
            hand.write(line.replace(b"STEP", step["step"].encode()))
        assert words in no.value.reason
    with refused(errno.EMSGSIZE):
        hand.write(b"x" * (2**20 + 1))
    hand.answer(step, ok=None)
    assert lab.state(run) == "completed"


def test_good_answers_beside_a_bad_one_are_taken(lab: Lab) -> None:
    run = lab.run(function("a"), function("b"))
    hand = Hand(lab, take=5)
    steps = {step["node"]: step for step in hand.read()}
    lines = [{"step": steps[name]["step"], "attempt": 1, "ok": name} for name in "ab"]
    with refused(errno.EINVAL):
        hand.write("\n".join([json.dumps(lines[0]), "what?", json.dumps(lines[1])]).encode())
    assert (lab.state(run), lab.output(run, "b")) == ("completed", "b")


def test_an_answer_that_comes_twice_or_too_late_is_stale(lab: Lab) -> None:
    run = lab.run(function("add", retry=Retry(attempts=2, delay=0.0)))
    hand = Hand(lab)
    [first] = hand.read()
    hand.answer(first, error="no luck")
    with refused(errno.ESTALE) as no:
        hand.answer(first, ok=1)
    assert "attempt 2 is under way" in no.value.reason
    [second] = hand.read()
    assert (second["attempt"], second["key"]) == (2, first["key"])
    hand.answer(second, ok=2)
    with refused(errno.ESTALE):
        hand.answer(second, ok=3)
    assert lab.output(run, "add") == 2


def test_an_answer_to_anothers_step_is_refused(lab: Lab) -> None:
    lab.world.process("alice")
    alice = lab.world.principal("alice")
    run = lab.run(function("add"))
    theirs, mine = Hand(lab, principal=alice), Hand(lab)
    [step] = mine.read()
    with refused(errno.EACCES):
        theirs.answer(step, ok="mine!")
    with refused(errno.ESTALE):
        theirs.answer({"step": "99/add", "attempt": 1}, ok=1)
    mine.answer(step, ok=1)
    assert lab.state(run) == "completed"


def test_a_step_that_was_claimed_and_not_read_cannot_be_answered_and_goes_back(lab: Lab) -> None:
    hand = Hand(lab)
    assert hand.read() == []
    run = lab.run(function("add"))
    assert lab.runs.node(run.id, "add").holder
    with refused(errno.EACCES):
        hand.answer({"step": f"{run.id}/add", "attempt": 1}, ok=1)
    hand.close()
    assert lab.runs.node(run.id, "add").holder == ""
    [step] = Hand(lab).read()
    assert step["attempt"] == 1


def test_an_error_is_tried_again_unless_the_worker_says_not_to(lab: Lab) -> None:
    hand = Hand(lab)
    retry = Retry(attempts=3, delay=0.0)
    run = lab.run(function("a", retry=retry))
    for attempt in (1, 2, 3):
        [step] = hand.read()
        assert step["attempt"] == attempt
        hand.answer(step, error={"what": "odd"})
    assert (lab.state(run), lab.error(run, "a")) == ("failed", '{"what": "odd"}')
    run = lab.run(function("a", retry=retry))
    [step] = hand.read()
    hand.answer(step, error="never", again=False)
    assert lab.error(run, "a") == "never"
    run = lab.run(function("a", retry=retry))
    [step] = hand.read()
    hand.answer(step, error="$.x: a number", kind="schema")
    assert lab.runs.node(run.id, "a").kind == "schema"
    assert lab.runs.node(run.id, "a").attempt == 1


def test_an_error_of_a_megabyte_is_cut_and_an_output_of_300_kb_passes(lab: Lab) -> None:
    hand = Hand(lab)
    run = lab.run(function("a"))
    [step] = hand.read()
    hand.answer(step, error="x" * 1_000_000)
    assert len(lab.error(run, "a")) <= 64 * 1024
    run = lab.run(function("a"), function("b", "a"))
    [step] = hand.read()
    text = json.dumps({"step": step["step"], "attempt": 1, "ok": "y" * 300_000}).encode() + b"\n"
    for at in range(0, len(text), 4096):  # as programs write that buffer
        hand.write(text[at : at + 4096])
    assert lab.state(run, "a") == "completed"
    [step] = hand.read()
    hand.answer(step, ok=1)
    assert lab.state(run) == "completed"


def test_a_step_that_is_put_back_is_the_same_attempt(lab: Lab) -> None:
    run = lab.run(function("a"))
    hand = Hand(lab, take=2)
    [step] = hand.read()
    hand.answer(step, back=True)
    assert lab.runs.node(run.id, "a").holder == ""
    [again] = hand.read()
    assert again == step


def test_who_reads_on_without_an_answer_gives_the_step_up(lab: Lab) -> None:
    run = lab.run(function("a"), function("b"))
    hand = Hand(lab)
    [first] = hand.read()
    [second] = hand.read()
    assert {first["node"], second["node"]} == {"a", "b"}
    assert "without an answer" in lab.error(run, first["node"])


def test_the_time_of_an_attempt_begins_when_a_worker_has_it(lab: Lab) -> None:
    run = lab.run(function("a", timeout=4.0, retry=Retry(attempts=2, delay=0.0)))
    lab.advance(1000)
    hand = Hand(lab)
    [step] = hand.read()
    assert step["deadline"] == lab.world.clock.now() + 4
    lab.advance(7)
    assert (lab.state(run, "a"), lab.runs.node(run.id, "a").attempt) == ("running", 2)
    with refused(errno.ESTALE):
        hand.answer(step, ok="late")
    [step] = hand.read()
    hand.answer(step, ok="in time")
    assert lab.output(run, "a") == "in time"


def test_a_step_that_is_over_still_takes_its_place_until_the_worker_is_done_with_it(
    lab: Lab,
) -> None:
    lab.run(function("a", timeout=1.0), function("b", timeout=1.0))
    hand = Hand(lab, take=2)
    old = hand.read()
    lab.advance(2)
    run = lab.run(function("c"))
    assert (len(old), hand.read()) == (2, [])
    with refused(errno.ESTALE):
        hand.answer(old[0], ok=1)
    [step] = hand.read()
    hand.answer(step, ok=1)
    assert lab.state(run) == "completed"


def test_a_cancelled_run_takes_its_steps_back(lab: Lab) -> None:
    run = lab.run(function("a"), function("b"))
    hand = Hand(lab)
    [step] = hand.read()
    lab.runs.cancel(OPERATOR, run.id, "enough")
    lab.settle()
    with refused(errno.ESTALE):
        hand.answer(step, ok=1)
    line = lab.world.kernel.pools.get("sums").line
    assert (len(line), line.claims, lab.state(run)) == (0, {}, "cancelled")


def test_a_worker_that_is_slow_to_come_back_leaves_its_next_step_to_another(lab: Lab) -> None:
    slow, idle = Hand(lab), Hand(lab, tid=1)
    run = lab.run(function("a"), function("b", "a"))
    [step] = slow.read()
    assert idle.read() == []
    slow.answer(step, ok=1)
    assert idle.read() == []
    lab.advance(0.05)
    [step] = idle.read()
    idle.answer(step, ok=2)
    assert lab.output(run, "b") == 2
    assert slow.read() == []


def test_runs_take_turns(lab: Lab) -> None:
    long = lab.run(items(50, 50), given={"count": 50}, max_concurrent_nodes=100)
    short = lab.run(function("a"))
    hand = Hand(lab)
    [first], [second] = hand.read(), hand.read()
    assert {first["run"], second["run"]} == {long.id, short.id}


def test_reads_of_any_size_give_whole_lines_in_the_end(lab: Lab) -> None:
    lab.run(function("a"), given={"text": "ä" * 1000})
    hand = Hand(lab)
    said = b""
    while not said.endswith(b"\n"):
        hand.file.begin_read(hand.at, lambda: None)
        piece = hand.file.try_read(100)
        said += piece
        hand.at += len(piece)
    assert json.loads(said)["node"] == "a"
    hand.at -= 10  # a shell that read too far goes back
    hand.file.begin_read(hand.at, lambda: None)
    assert hand.file.try_read(100) == said[-10:]


# -- who may ---------------------------------------------------------------------------------------


def test_a_pool_that_is_not_there_or_may_not_be_used_fails_the_node(lab: Lab) -> None:
    run = lab.run(function("a", pool="none"))
    assert "no pool 'none'" in lab.error(run, "a")
    run = lab.run(node("a", "function", spec={"fn": "m:f"}))
    assert "no `pool`" in lab.error(run, "a")
    pools = lab.world.kernel.pools
    lab.world.process("alice")
    alice = lab.world.principal("alice")
    pools.create(alice, "hers", 0o700)
    run = lab.run(function("a", pool="hers"))
    assert lab.state(run, "a") == "running"  # the operator may use all
    pools.create(OPERATOR, "closed", 0o700)
    lab.pipeline(function("a", pool="closed"))
    run = lab.runs.start(alice, Start("p"))
    lab.settle()
    assert "may not write to pool closed" in lab.error(run, "a")
    with refused(errno.EACCES):
        Hand(lab, pool="closed", principal=alice)


def test_a_worker_reads_the_runs_whose_steps_it_has_and_no_others(lab: Lab) -> None:
    lab.world.process("alice", role=Role.TASK)  # it may read no process but its own
    alice = lab.world.principal("alice")
    first, second = lab.run(function("a")), lab.run(function("a"))
    hand = Hand(lab, principal=alice)
    with refused(errno.EACCES):
        lab.runs.may_read(alice, first)
    [step] = hand.read()
    lab.runs.may_read(alice, first)
    with refused(errno.EACCES):
        lab.runs.may_read(alice, second)
    hand.answer(step, ok=1)
    with refused(errno.EACCES):
        lab.runs.may_read(alice, first)


def test_a_run_uses_no_pool_that_may_more_and_no_worker_may_more_than_its_pool(lab: Lab) -> None:
    pools = lab.world.kernel.pools
    lab.world.process("alice")
    alice = lab.world.principal("alice")
    lab.pipeline(function("a"), caps=("llm", "memory"))
    run = lab.runs.start(alice, Start("p"))
    lab.settle()
    assert "network_access" in lab.error(run, "a")
    assert "pool_refused" in {event.type for event in lab.world.seen}
    pools.narrow(OPERATOR, "sums", ["llm"])
    run = lab.runs.start(alice, Start("p"))
    lab.settle()
    assert lab.state(run, "a") == "running"
    with refused(errno.EPERM) as no:
        Hand(lab, principal=alice)
    assert "network_access" in no.value.reason
    [step] = Hand(lab).read()  # the operator knows what he does
    assert step["run"] == run.id
    with refused(errno.EPERM):
        pools.narrow(alice, "sums", ["llm"])
    with refused(errno.EINVAL):
        pools.narrow(OPERATOR, "sums", ["flying"])


def test_a_pool_goes_when_nothing_is_in_it_or_by_force(lab: Lab) -> None:
    pools = lab.world.kernel.pools
    waiting = lab.run(function("a"), function("b"))
    hand = Hand(lab)
    hand.read()
    with refused(errno.ENOTEMPTY):
        pools.remove(OPERATOR, "sums")
    pools.remove(OPERATOR, "sums", force=True)
    lab.settle()
    assert lab.state(waiting) == "failed"
    assert "pool sums was removed" in lab.error(waiting, "a")
    assert hand.file.try_read(100) == b""
    with refused(errno.ESTALE):
        hand.answer({"step": f"{waiting.id}/a", "attempt": 1}, ok=1)
    pools.create(OPERATOR, "sums", 0o777)
    pools.remove(OPERATOR, "sums")
    lab.restart()
    assert lab.world.kernel.pools.find("sums") is None


# -- workers that go -------------------------------------------------------------------------------


@pytest.fixture
def program() -> Iterator[subprocess.Popen[bytes]]:
    """A program that works, as far as the kernel can tell: it only sleeps."""
    with subprocess.Popen(["sleep", "1000"]) as made:
        yield made
        made.kill()


async def settled(lab: Lab, run: Run, path: str, state: str, attempt: int) -> None:
    """Wait until the watch of the desk has seen to a node."""
    with trio.fail_after(60):
        while (row := lab.runs.node(run.id, path)) is None or (
            row.state.value,
            row.attempt,
        ) != (state, attempt):
            await trio.sleep(0.01)
            lab.settle()


async def test_steps_of_a_worker_that_ends_get_another_attempt(
    lab: Lab, program: subprocess.Popen[bytes], nursery: trio.Nursery
) -> None:
    nursery.start_soon(lab.world.kernel.desk.run)
    run = lab.run(function("a"), function("only", once=True))
    hand = Hand(lab, take=2, tid=program.pid)
    assert len(hand.read()) == 2
    hand.close()
    await trio.testing.wait_all_tasks_blocked()
    assert lab.state(run, "a") == "running"  # it has closed its file, and may open it again
    program.kill()
    await settled(lab, run, "only", "failed", 1)
    await settled(lab, run, "a", "running", 2)
    assert lab.runs.node(run.id, "only").kind == "lost"
    [step] = Hand(lab, take=2).read()
    assert (step["node"], step["attempt"]) == ("a", 2)


async def test_a_worker_that_opens_its_pool_again_has_its_claims_again(lab: Lab) -> None:
    run = lab.run(function("a"), function("b"))
    hand = Hand(lab, take=1)
    [step] = hand.read()
    hand.close()
    hand = Hand(lab, take=2)
    again = hand.read()
    assert again[0] == step
    assert {each["node"] for each in again} == {"a", "b"}
    hand.answer(step, ok=1)
    assert lab.state(run, step["node"]) == "completed"


async def test_claims_outlive_the_daemon_with_their_worker(
    lab: Lab, program: subprocess.Popen[bytes], nursery: trio.Nursery
) -> None:
    run = lab.run(*(function(name) for name in "abcd"))
    hand, gone = Hand(lab, take=1), Hand(lab, take=1, tid=program.pid)
    [step], [lost] = hand.read(), gone.read()
    program.kill()
    program.wait()
    lab.restart()
    nursery.start_soon(lab.world.kernel.desk.run)
    hand = Hand(lab, take=9)
    await settled(lab, run, lost["node"], "running", 2)
    hand.answer(step, ok="done")
    assert lab.output(run, step["node"]) == "done"
    attempts = {each["node"]: each["attempt"] for each in hand.read()}
    others = [name for name in "abcd" if name != step["node"]]
    assert attempts == {name: 2 if name == lost["node"] else 1 for name in others}


async def test_claims_are_the_rows_after_any_number_of_deaths(
    lab: Lab, nursery: trio.Nursery
) -> None:
    run = lab.run(*(function(name) for name in "abc"))
    for _ in range(10):
        hand = Hand(lab, take=2)
        held = {step["step"] for step in hand.read()}
        assert len(held) == 2
        rows = [row for row in lab.runs.nodes(run.id) if row.holder]
        assert {f"{row.run}/{row.path}" for row in rows} == held
        line = lab.world.kernel.pools.get("sums").line
        assert (len(line), len(line.claims)) == (1, 2)
        lab.restart()
    hand = Hand(lab, take=3)
    for step in hand.read():
        assert step["attempt"] == 1
        hand.answer(step, ok=1)
    assert lab.state(run) == "completed"


def lent(lab: Lab) -> list[str]:
    """The pools of the kernel's own."""
    return [name for name in lab.world.kernel.pools if "@" in name]


def test_runs_of_one_plan_starter_and_set_of_capabilities_share_workers(lab: Lab) -> None:
    lab.world.process("alice")
    alice = lab.world.principal("alice")
    coded = node("a", "function", spec={"fn": "m:a"})
    lab.run(coded, code="/nowhere")
    lab.start()
    [first] = lent(lab)
    assert len(lab.world.kernel.pools.find(first).line) == 2
    with refused(errno.EACCES):
        Hand(lab, pool=first, principal=alice)
    with refused(errno.EPERM):
        lab.world.kernel.pools.remove(OPERATOR, first)
    run = lab.run(node("a", "function", spec={"fn": "m:a", "pool": first}))
    assert "is the kernel's" in lab.error(run, "a")
    lab.run(coded, code="/nowhere", caps=("llm",))
    lab.run(coded, code="/elsewhere")
    lab.pipeline(coded, code="/nowhere")
    lab.runs.start(alice, Start("p"))
    lab.settle()
    assert len(lent(lab)) == 4
    run = lab.run(coded, code="here")
    assert "a folder from the root" in lab.error(run, "a")


def test_steps_for_workers_that_are_all_killed_go_to_others(lab: Lab) -> None:
    run = lab.run(node("a", "function", spec={"fn": "m:a"}), code="/nowhere")
    [first] = lent(lab)
    kernel = lab.world.kernel
    kernel.light.end_run(kernel.table.get(int(first.partition("@")[2])), 137)
    lab.settle()
    [second] = lent(lab)
    assert second != first
    assert (lab.state(run, "a"), lab.runs.node(run.id, "a").attempt) == ("running", 2)
    lab.restart()
    assert lent(lab) == [second]
    assert len(lab.world.kernel.pools.find(second).line) == 1


def test_the_doctor_finds_a_pool_that_does_not_hold_together(lab: Lab) -> None:
    store = lab.world.store
    with store.transaction():
        store.put_record("pool", "odd", {"owner": "nobody"})
        owned = {"owner": "init", "uid": 0, "gid": 0, "mode": 0o777, "changed": 1}
        store.put_record("pool", "bad", owned | {"caps": {"names": 3}})
    faults = check(lab.world.state / "store.db")
    assert [fault.partition(":")[0] for fault in faults] == ["pool bad", "pool odd", "pool odd"]
    with store.transaction():
        store.delete_record("pool", "odd")
        store.delete_record("pool", "bad")
