"""Nodes of kind `program`: real programs below a run, through the real engine."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.executors.program_output import LONGEST_VALUE, read_output
from agentfs.manifests.plan import Retry
from agentfs.process.events import ProcessExited
from agentfs.process.step_files import artifacts_of, step_files
from agentfs.workflow.model import NodeState, RunState
from tests.executors.lab import Lab, laboratory, program
from tests.process.world import OPERATOR, collect, eventually, gone

NASTY = "x{{ nodes.b }}${HOME}\"'\\\n$(id) `id` ; | & ünïcödé"


CONNECT = """
import socket
try:
    socket.create_connection(("127.0.0.1", 9), timeout=2)
except ConnectionRefusedError:
    print("out")
except OSError:
    print("kept")
"""


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with laboratory(tmp_path / "state") as made:
        yield made
        assert check(tmp_path / "state" / "store.db") == []


# -- what goes in and comes out --------------------------------------------------------------------


async def test_a_program_reads_its_input_as_json_and_its_output_is_json_if_it_parses(
    lab: Lab,
) -> None:
    run = await lab.run(
        program("copy", ["cat"]),
        program("text", ["echo", "not json"]),
        program("number", "echo 5", spec_output="text"),
        given={"a": [1, None, 2**70], "items": "ü"},
    )
    assert run.state is RunState.COMPLETED
    assert lab.output(run, "copy") == {"a": [1, None, 2**70], "items": "ü"}
    assert lab.output(run, "text") == "not json"
    assert lab.output(run, "number") == "5"


async def test_no_json_where_json_was_to_be_is_a_failure_that_is_not_repeated(lab: Lab) -> None:
    run = await lab.run(
        program("a", "echo '{\"a\": NaN}'", spec_output="json", retry=Retry(3, 0.0))
    )
    row = lab.node(run, "a")
    assert (row.state, row.attempt, row.kind) == (NodeState.FAILED, 1, "schema")
    assert "the output is no JSON" in row.error


async def test_values_arrive_as_they_are_and_never_become_shell_text(lab: Lab) -> None:
    run = await lab.run(
        program("words", ["printf", "%s"], spec_args=["{{ input.v }}"], spec_output="text"),
        program("shell", 'printf %s "$1"', spec_args=["{{ input.v }}"], spec_output="text"),
        program("env", 'printf %s "$V"', spec_env={"V": "{{ input.v }}"}, spec_output="text"),
        program("stdin", ["cat"], input={"v": "input.v"}),
        program("raw", ["printf", "%s", "{{ input.v }}"], spec_output="text"),
        given={"v": NASTY},
    )
    assert run.state is RunState.COMPLETED, run.error
    for path in ("words", "shell", "env"):
        assert lab.output(run, path) == NASTY, path
    assert lab.output(run, "stdin")["v"] == NASTY
    assert lab.output(run, "raw") == "{{ input.v }}"  # the command is no template


async def test_values_that_are_no_texts_are_given_as_json(lab: Lab) -> None:
    run = await lab.run(
        program("a", ["printf", "%s|"], spec_args=[{"a": [1]}, None, True, 2**70]),
    )
    assert lab.output(run, "a") == '{"a": [1]}|null|true|1180591620717411303424|'


async def test_a_program_knows_its_run_node_attempt_and_key(lab: Lab) -> None:
    run = await lab.run(
        program("a", 'echo "$RUN $NODE $ATTEMPT $STEP_KEY"; echo hi > "$STEP/artifacts/x"; pwd')
    )
    first, place = lab.output(run, "a").split("\n")
    assert first == f"{run.id} a 1 {run.id}/a"
    assert place == os.fspath(artifacts_of(lab.state, run.id))
    assert (artifacts_of(lab.state, run.id) / "x").read_text() == "hi\n"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"command": ["/nowhere/at/all"]}, "not found"),
        ({"command": ["printf", "%s"], "spec_args": ["a\0b"]}, "args: 'a\\x00b' cannot be given"),
        ({"command": ["env"], "spec_env": {"A=B": "x"}}, "'A=B' cannot name a variable"),
        ({"command": ["pwd"], "spec_cwd": "/nowhere/at/all"}, "cannot enter /nowhere/at/all"),
        ({"command": ["true"], "spec_args": ["x" * 200_000]}, "rgument list too long"),
    ],
)
async def test_a_program_that_cannot_be_started_fails_its_node_with_words(
    lab: Lab, fields: dict[str, Any], words: str
) -> None:
    run = await lab.run(program("a", fields.pop("command"), **fields))
    row = lab.node(run, "a")
    assert run.state is RunState.FAILED
    assert (row.state, row.attempt) == (NodeState.FAILED, 1)
    assert words in row.error
    assert len(lab.programs) == 0


# -- sizes -----------------------------------------------------------------------------------------


async def test_300_kb_pass_and_more_than_the_most_fails_once_and_leaves_nothing(lab: Lab) -> None:
    lab.system.settings.replace("workflows:\n  max_output: 3000000\n")
    run = await lab.run(
        program("some", "head -c 300000 /dev/zero | tr '\\0' x"),
        program("length", ["wc", "-c"], "some", spec_stdin="text"),
        program("much", "head -c 2000000 /dev/zero | tr '\\0' y"),
    )
    assert run.state is RunState.COMPLETED, run.error
    kept = lab.output(run, "some")
    assert kept["size"] == 300_002  # as JSON
    much = lab.output(run, "much")
    assert (artifacts_of(lab.state, run.id) / much["$artifact"].split("/")[-1]).read_bytes() == (
        b"y" * 2_000_000
    )
    endless = program("endless", "cat /dev/zero", retry=Retry(3, 0.0))
    run = await lab.run(endless, program("long", "head -c 4000000 /dev/zero", retry=Retry(3, 0.0)))
    for path in ("endless", "long"):
        row = lab.node(run, path)
        assert (row.state, row.attempt, row.kind) == (NodeState.FAILED, 1, "size"), row.error
        assert "3,000,000 bytes" in row.error
    files = [path for path in (lab.state / "runs" / str(run.id)).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100_000


async def test_the_end_of_what_a_program_said_is_in_the_error_and_cut(lab: Lab) -> None:
    run = await lab.run(program("a", "yes long | head -c 1000000 >&2; echo last >&2; exit 3"))
    row = lab.node(run, "a")
    assert row.error.startswith("exit code 3: long\n")
    assert row.error.endswith("\nlast")
    assert len(row.error.encode()) <= 64 * 1024
    assert step_files(lab.state, run.id, "a", 1).log.stat().st_size == 1_000_005


# -- attempts --------------------------------------------------------------------------------------


async def test_attempts_are_as_many_as_the_policy_says_and_a_delay_of_0_is_0(lab: Lab) -> None:
    run = await lab.run(program("fails", 'echo "$ATTEMPT" >&2; exit 1', retry=Retry(3, 0.0)))
    row = lab.node(run, "fails")
    assert (row.state, row.attempt, row.error) == (NodeState.FAILED, 3, "exit code 1: 3")
    # In a run of its own: once a node of it has failed, a run tries no other again.
    run = await lab.run(
        program("later", '[ "$ATTEMPT" = 3 ] || exit 75; echo "$STEP_KEY"', retry=Retry(4, 0.0)),
    )
    assert lab.node(run, "later").attempt == 3
    assert lab.output(run, "later") == f"{run.id}/later"


async def test_a_signal_is_named(lab: Lab) -> None:
    run = await lab.run(program("a", "kill -9 $$"))
    assert lab.node(run, "a").error.startswith("exit code 137 (SIGKILL)")


async def test_a_timeout_kills_grandchildren_and_the_next_attempt_waits_for_that(lab: Lab) -> None:
    lab.system.configure(grace_period=0.2)
    script = 'trap "" TERM; [ "$ATTEMPT" = 2 ] && exit; setsid sleep 1000 & echo $!; sleep 1000'
    run = lab.start(program("a", script, timeout=0.5, retry=Retry(2, 0.0)))
    left = int(await lab.said(run, "a"))
    run = await lab.ended(run)
    assert run.state is RunState.COMPLETED
    assert lab.node(run, "a").attempt == 2
    await gone(left)
    ends = [event.code for event in lab.system.of(ProcessExited) if event.agent.endswith(":a")]
    assert ends == [137, 0]


async def test_slots_are_as_many_as_the_settings_say_and_none_leaks(lab: Lab) -> None:
    lab.system.settings.replace("workflows:\n  max_programs: 2\n")
    count = 'echo "$(ls busy* 2>/dev/null | wc -l)" >> count; : > busy$$; sleep 0.02; rm busy$$'
    run = await lab.run(*(program(f"n{i}", count) for i in range(6)))
    assert run.state is RunState.COMPLETED, run.error
    others = (artifacts_of(lab.state, run.id) / "count").read_text().split()
    assert len(others) == 6
    assert {*others} <= {"0", "1"}
    assert len(lab.programs) == 0
    assert lab.programs.room(program("x", "true")) == 2


# -- ends from outside -----------------------------------------------------------------------------


async def test_cancel_ends_all_that_a_program_has_started(lab: Lab) -> None:
    lab.system.configure(grace_period=0.1)
    run = lab.start(program("a", "trap '' TERM; setsid sleep 1000 & echo $!; sleep 1000"))
    left = int(await lab.said(run, "a"))
    process = lab.process(run, "a")
    lab.runs.cancel(OPERATOR, run.id, "no more")
    run = await lab.ended(run)
    assert (run.state, lab.node(run, "a").state) == (RunState.CANCELLED, NodeState.CANCELLED)
    await lab.system.until(lambda: not len(lab.programs))
    await gone(left)
    assert lab.system.table.find(process.pid) is None


SLEEPS = "setsid sleep 1000 & echo $! >> {file}; echo $$ >> {file}; wait"


async def test_cancel_ends_sub_runs_loops_and_back_offs_and_nothing_comes_after_it(
    lab: Lab, tmp_path: Path
) -> None:
    lab.system.configure(grace_period=0.1)
    sleeps = SLEEPS.format(file=tmp_path / "pids")
    later = f"echo x >> {tmp_path}/later"
    await lab.put("below", f"- {{name: deep, program: '{sleeps}'}}")
    await lab.put(
        "all",
        f"""
        - {{name: sub, pipeline: below, dependencies: []}}
        - {{name: tries, program: 'exit 1', retry: {{attempts: 9, delay: 300}}, dependencies: []}}
        - name: each
          for-each: "[1, 2, 3]"
          concurrency: 2
          dependencies: []
          body: [{{name: item, program: '{sleeps}'}}]
        - {{name: after, program: '{later}', dependencies: [sub, tries, each]}}
        """,
    )
    run = lab.begin("all")
    pids = tmp_path / "pids"
    await eventually(lambda: pids.exists() and len(pids.read_text().split()) == 6)
    await lab.system.until(lambda: lab.node(run, "tries").state is NodeState.BACKOFF)
    sub = next(p for p in lab.system.table.descendants(run.id) if p.name.startswith("below@"))
    lab.system.kernel.runs.cancel(OPERATOR, run.id, "no more")
    run = await lab.ended(run)
    assert run.state is RunState.CANCELLED
    assert lab.runs.get(sub.pid).state is RunState.CANCELLED
    for ospid in map(int, pids.read_text().split()):
        await gone(ospid)
    await lab.system.until(lambda: not len(lab.programs))
    assert not (tmp_path / "later").exists()
    assert not [process for process in lab.system.table if process.light]


async def test_slots_are_as_many_as_programs_run_after_many_kills(tmp_path: Path) -> None:
    state = tmp_path / "state"
    nodes = [program(f"n{i}", "echo $ATTEMPT; exec sleep 1000") for i in range(3)]
    ospids: list[int] = []
    async with laboratory(state, keep=True) as lab:
        run = lab.start(*nodes)
        for node in nodes:
            await lab.said(run, node.name)
    for round_ in range(4):
        async with laboratory(state, keep=True) as lab:
            await eventually(lambda lab=lab: len(lab.at_work_now()) == len(lab.programs) == 3)
            if round_ % 2:  # one dies while there is no daemon, and is done again
                ospids.append(lab.at_work_now()[0])
        for ospid in ospids:
            with suppress(ProcessLookupError):
                os.killpg(ospid, signal.SIGKILL)
            collect(ospid)
    async with laboratory(state) as lab:
        await eventually(lambda: len(lab.at_work_now()) == len(lab.programs) == 3)
        attempts = {node.name: lab.node(run, node.name).attempt for node in nodes}
        assert sum(attempts.values()) == 3 + len(ospids)
        lab.runs.cancel(OPERATOR, run.id, "enough")
        await lab.ended(run)
        await lab.system.until(lambda: not len(lab.programs))


async def test_term_for_a_run_gives_its_programs_the_grace_that_it_names(lab: Lab) -> None:
    lab.system.configure(grace_period=1000)
    run = lab.start(program("a", "trap '' TERM; echo $$; sleep 1000"))
    ospid = int(await lab.said(run, "a"))
    lab.system.processes.signal(OPERATOR, run.id, "TERM", 0.1)
    assert (await lab.ended(run)).state is RunState.CANCELLED
    await gone(ospid)
    lab.system.configure(grace_period=0.1)


async def test_kill_of_the_run_s_branch_ends_it_for_good(lab: Lab) -> None:
    run = lab.start(program("a", "echo $$; exec sleep 1000", retry=Retry(5, 0.0)))
    ospid = int(await lab.said(run, "a"))
    lab.system.processes.kill_branch(OPERATOR, run.id)
    run = await lab.ended(run)
    assert run.state is RunState.CANCELLED
    await gone(ospid)
    assert lab.node(run, "a").state is NodeState.CANCELLED
    assert not lab.system.table.children(1)
    assert len(lab.programs) == 0


async def test_a_step_that_somebody_kills_is_an_attempt_that_failed(lab: Lab) -> None:
    run = lab.start(program("a", "echo $$; [ $ATTEMPT = 2 ] || exec sleep 1000", retry=Retry(2, 0)))
    await lab.said(run, "a")
    lab.system.processes.signal(OPERATOR, lab.process(run, "a").pid, "KILL")
    run = await lab.ended(run)
    assert (run.state, lab.node(run, "a").attempt) == (RunState.COMPLETED, 2)


# -- what holds for a run --------------------------------------------------------------------------


async def test_a_starter_without_shell_exec_starts_nothing_but_its_own_program(lab: Lab) -> None:
    alice = await lab.system.spawn("alice", exec=["/bin/sleep", "1000"], role="agent")
    lab.system.kernel.capabilities.drop(OPERATOR, alice.pid, "shell_exec")
    run = await lab.run(program("a", ["true"]), by=alice)
    assert "shell_exec" in lab.node(run, "a").error
    run = await lab.run(program("a", ["/bin/sleep", "0"]), by=alice)
    assert run.state is RunState.COMPLETED, run.error


async def test_caps_of_a_run_hold_for_its_programs(lab: Lab) -> None:
    command = [sys.executable, "-c", CONNECT]
    run = await lab.run(program("a", command), name="free")
    assert lab.output(run, "a") == "out", run.error
    run = await lab.run(program("a", command), name="held", caps=("shell_exec",))
    assert run.state is RunState.COMPLETED, run.error
    assert lab.output(run, "a") == "kept"
    run = await lab.run(
        program("a", [sys.executable, "-c", "import os; os.execv('/bin/true', ['true'])"]),
        name="alone",
        caps=(),
    )
    assert "Function not implemented" in lab.node(run, "a").error


async def test_limits_of_a_run_hold_for_its_programs(lab: Lab) -> None:
    run = await lab.run(
        program("a", "python3 -c 'while True: pass'", retry=Retry(3, 0.0)),
        limits={"max_cpu_seconds": 1},
    )
    row = lab.node(run, "a")
    assert (row.state, row.attempt) == (NodeState.FAILED, 1), row.error


# -- without a daemon ------------------------------------------------------------------------------


async def test_a_program_that_ends_while_no_daemon_runs_is_completed_by_the_next_one(
    tmp_path: Path,
) -> None:
    state, go = tmp_path / "state", tmp_path / "go"
    wait = f"until [ -e {go} ]; do sleep 0.01; done;"
    nodes = (
        program("good", f"echo $$; {wait} echo x >> {tmp_path}/done"),
        program("bad", f"echo $$; {wait} echo no >&2; exit 4"),
        program("big", f"echo $$; {wait} head -c 200000 /dev/zero | tr '\\0' x"),
        program("on", f"echo $$; until [ -e {go}.on ]; do sleep 0.01; done"),
    )
    async with laboratory(state, keep=True) as lab:
        run = lab.start(*nodes)
        for node in nodes:
            await lab.said(run, node.name)
        steps = {node.name: lab.process(run, node.name).ospid for node in nodes}
    go.touch()
    for name in ("good", "bad", "big"):
        collect(steps[name] or 0)
    async with laboratory(state) as lab:
        Path(f"{go}.on").touch()
        run = await lab.ended(run)
        assert {n.name: lab.node(run, n.name).state.value for n in nodes} == {
            "good": "completed",
            "bad": "failed",
            "big": "completed",
            "on": "completed",
        }
        assert {lab.node(run, node.name).attempt for node in nodes} == {1}
        assert lab.node(run, "bad").error == "exit code 4: no"
        assert (tmp_path / "done").read_text() == "x\n"
        assert check(state / "store.db") == []


async def test_a_program_that_was_lost_is_done_again_unless_once(tmp_path: Path) -> None:
    state = tmp_path / "state"
    nodes = (
        program("again", 'echo $$; [ "$ATTEMPT" = 2 ] || exec sleep 1000'),
        program("once", "echo $$; exec sleep 1000", once=True),
    )
    async with laboratory(state, keep=True) as lab:
        runs = [lab.start(node, name=node.name) for node in nodes]
        for run, node in zip(runs, nodes, strict=True):
            await lab.said(run, node.name)
        steps = [lab.process(*one).ospid or 0 for one in zip(runs, ("again", "once"), strict=True)]
    for ospid in steps:
        os.killpg(ospid, signal.SIGKILL)
        collect(ospid)
    async with laboratory(state) as lab:
        again, once = [
            lab.node(await lab.ended(run), node.name) for run, node in zip(runs, nodes, strict=True)
        ]
        assert (again.state, again.attempt) == (NodeState.COMPLETED, 2)
        assert (once.state, once.attempt, once.kind) == (NodeState.FAILED, 1, "lost")


async def test_a_daemon_that_ends_in_order_ends_its_programs_and_the_next_does_them_again(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    nodes = (
        program("again", 'echo $$; [ "$ATTEMPT" = 2 ] || exec sleep 1000'),
        program("once", "echo $$; exec sleep 1000", once=True),
    )
    async with laboratory(state) as lab:
        runs = [lab.start(node, name=node.name) for node in nodes]
        for run, node in zip(runs, nodes, strict=True):
            await lab.said(run, node.name)
    async with laboratory(state) as lab:
        again, once = [
            lab.node(await lab.ended(run), node.name) for run, node in zip(runs, nodes, strict=True)
        ]
        assert (again.state, again.attempt) == (NodeState.COMPLETED, 2)
        assert (once.state, once.attempt, once.kind) == (NodeState.FAILED, 1, "lost")


async def test_a_program_that_may_use_no_tree_but_the_old_one_is_done_again(tmp_path: Path) -> None:
    state = tmp_path / "state"
    script = (
        "import os, time; print(1, flush=True); os.environ['ATTEMPT'] == '2' or time.sleep(1000)"
    )
    node = program("a", [sys.executable, "-c", script])
    async with laboratory(state, keep=True) as lab:
        run = lab.start(node, caps=())
        await lab.said(run, "a")
        ospid = lab.process(run, "a").ospid or 0
        assert "write" in lab.process(run, "a").confined
    async with laboratory(state) as lab:
        run = await lab.ended(run)
        assert (run.state, lab.node(run, "a").attempt) == (RunState.COMPLETED, 2)
        await gone(ospid)


def test_a_long_output_that_was_moved_before_a_daemon_died_is_found(tmp_path: Path) -> None:
    output, kept = tmp_path / "output", tmp_path / "a.output"
    output.write_bytes(b"x" * (LONGEST_VALUE + 1))
    first = read_output(output, "auto", kept, "/proc/runs/2/artifacts/a.output")
    assert not output.exists()
    assert read_output(output, "auto", kept, "/proc/runs/2/artifacts/a.output") == first
    assert first["size"] == LONGEST_VALUE + 1
    kept.unlink()
    secret = tmp_path / "secret"
    secret.write_text("mine")
    for place in (None, secret):
        if place is not None:
            kept.symlink_to(place)  # by a program of the run, which may write there
        with pytest.raises(KernelError):
            read_output(output, "auto", kept, "")
