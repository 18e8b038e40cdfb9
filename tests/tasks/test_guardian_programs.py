"""Programs that judge tasks: what they are given, what counts as a yes, and what they may not."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from agentfs.kernel import Kernel
from agentfs.model.principal import INIT
from agentfs.model.spec import ProcessSpec
from agentfs.tasks.model import TaskRequest, WorkerRequest
from tests.executors.test_task_nodes import until
from tests.tasks.office import guardian_of
from tests.world import OPERATOR


class Court:
    """A kernel at work whose guardian asks a program of Python; `given` is what that gets."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def program(self, code: str, **rule: Any) -> None:
        code = f"import json, os, sys, time\ngiven = json.load(sys.stdin)\n{code}"
        command = [sys.executable, "-c", code]
        rule.setdefault("timeout", "10m")  # the machine may be busy
        own = {key: rule.pop(key) for key in ("caps", "deny", "user") if key in rule}
        rules = [{"name": "check", "action": "program", "program": command, **rule}]
        self.kernel.guardian_rules.replace(json.dumps({"rules": rules, **own}))

    def submit(self, text: str = "count", **more: Any) -> int:
        return self.kernel.tasks.submit(OPERATOR, TaskRequest(description=text, **more)).id

    def state(self, number: int) -> str:
        return self.kernel.tasks.get(number).state.value

    async def verdict(self, number: int) -> tuple[bool, str]:
        """Passed, and why not, once it is judged."""
        await until(lambda: self.state(number) != "pending")
        said = self.kernel.tasks.get(number).verdict
        assert said is not None
        assert said["by"] == f"check ({sys.executable})"
        return said["passed"], said["reason"]


@pytest.fixture
async def court(tmp_path: Path) -> AsyncIterator[Court]:
    kernel = Kernel(tmp_path / "state", "/run/agents")
    async with kernel.running():
        yield Court(kernel)


async def test_exit_code_0_is_yes_and_what_it_prints_else_is_the_reason(
    court: Court, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    court.program(
        f"open({str(seen)!r}, 'w').write(json.dumps(given))\n"
        "print('too\\nbig') if given['task']['input'] > 1 else None\n"
        "sys.exit(given['task']['input'] > 1)"
    )
    small = court.submit("count", input=1, requirements={"cpu": 2})
    assert await court.verdict(small) == (True, "")
    asked = json.loads(seen.read_text())
    assert asked["when"] == "submit"
    assert asked["task"]["description"] == "count"
    assert (asked["task"]["input"], asked["task"]["result"]) == (1, None)
    assert asked["task"]["requirements"] == {"cpu": 2}
    assert await court.verdict(court.submit(input=2)) == (False, "too big")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("time.sleep(600)", "did not answer within 0.3 s"),
        ("os.close(1); os.close(2); time.sleep(600)", "did not answer within 0.3 s"),
        ("sys.exit('no room')", "no room (it ended with exit code 1)"),
        ("os.kill(os.getpid(), 9)", "it was ended by SIGKILL"),
        ("print('x' * 100_000)", "printed more than 65,536 bytes"),
    ],
)
async def test_whatever_else_it_does_is_a_no(court: Court, code: str, reason: str) -> None:
    court.program(code, timeout="300ms" if "sleep" in code else "30s")
    passed, said = await court.verdict(court.submit())
    assert not passed
    assert reason in said


async def test_a_program_that_cannot_be_started_is_a_no_and_a_complaint(court: Court) -> None:
    rules = [{"name": "check", "action": "program", "program": ["/nowhere/check"]}]
    court.kernel.guardian_rules.replace(json.dumps({"rules": rules}))
    number = court.submit()
    await until(lambda: court.state(number) == "rejected")
    assert "there is no /nowhere/check" in court.kernel.tasks.get(number).reason
    assert "/nowhere/check" in guardian_of(court.kernel).complaint()
    court.kernel.guardian_rules.replace("rules: []\n")
    assert guardian_of(court.kernel).complaint() == ""


async def test_a_program_cannot_pass_what_a_rule_rejects_and_is_not_asked(
    court: Court, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    code = f"open({str(asked)!r}, 'w')"
    rules = [
        {"name": "check", "action": "program", "program": [sys.executable, "-c", code]},
        {"name": "never", "match": "task.priority == 9", "action": "reject"},
    ]
    court.kernel.guardian_rules.replace(json.dumps({"rules": rules}))
    assert court.state(court.submit(priority=9)) == "rejected"
    assert not asked.exists()


async def test_a_program_judges_a_result(court: Court) -> None:
    court.program("sys.exit(given['task']['result'] != 4)", when="result")
    kernel = court.kernel
    kernel.workers.register(OPERATOR, WorkerRequest(name="w1"))
    for result, state in ((4, "completed"), (5, "failed")):
        number = court.submit()
        kernel.mail.receiving.claim_next(OPERATOR, "workers/w1")
        kernel.tasks.complete(OPERATOR, number, result)
        await until(lambda n=number: kernel.tasks.get(n).state.final)  # type: ignore[misc]
        assert court.state(number) == state


async def test_many_tasks_start_few_programs_at_a_time(court: Court, tmp_path: Path) -> None:
    log = tmp_path / "log"
    court.program(
        f"log = os.open({str(log)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "os.write(log, b'+'); time.sleep(0.05); os.write(log, b'-')"
    )
    numbers = [court.submit() for _ in range(10)]
    for number in numbers:
        assert await court.verdict(number) == (True, "")
    at_once = most = 0
    for sign in log.read_text():
        at_once += 1 if sign == "+" else -1
        most = max(most, at_once)
    assert 1 <= most <= 4


async def test_the_program_of_a_cancelled_task_is_ended(court: Court, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    court.program(f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    number = court.submit()
    await until(lambda: pid.exists() and bool(pid.read_text()))
    court.kernel.tasks.cancel(OPERATOR, number)
    await until(lambda: not os.path.exists(f"/proc/{pid.read_text()}/stat"))
    assert court.state(number) == "cancelled"


async def test_it_runs_as_an_agent_of_its_own_which_has_what_the_document_says(
    court: Court,
) -> None:
    court.program("print(os.environ['AGENT_NAME']); sys.exit(1)", deny=["llm"])
    number = court.kernel.tasks.submit(OPERATOR, TaskRequest(description="count")).id
    assert await court.verdict(number) == (False, "guardian")
    process = court.kernel.table.by_name("guardian")
    assert process is not None
    assert (process.ppid, process.denied) == (INIT, ("llm",))
    court.program("sys.exit(0)", deny=["memory"])
    assert (await court.verdict(court.submit()))[0]
    after = court.kernel.table.by_name("guardian")
    assert after is not None
    assert after.pid != process.pid, "with other terms it is another one"


async def test_an_agent_that_calls_itself_guardian_judges_nothing(
    court: Court, tmp_path: Path
) -> None:
    await court.kernel.processes.spawn(OPERATOR, INIT, ProcessSpec(name="guardian"))
    court.program("sys.exit(0)")
    passed, reason = await court.verdict(court.submit())
    assert not passed
    assert "there is another of that name" in reason


async def test_a_program_that_ends_with_the_daemon_has_said_nothing_and_is_asked_again(
    tmp_path: Path,
) -> None:
    asked = tmp_path / "asked"
    code = (
        f"with open({str(asked)!r}, 'a') as log: log.write('x')\n"
        f"while len(open({str(asked)!r}).read()) < 2: time.sleep(0.01)"
    )
    kernel = Kernel(tmp_path / "state", "/run/agents")
    async with kernel.running():
        court = Court(kernel)
        kernel.settings.replace("processes:\n  grace_period: 1s\n")
        stubborn = ProcessSpec(name="slow", exec=["/bin/sh", "-c", "trap '' TERM; sleep 600"])
        await kernel.processes.spawn(OPERATOR, INIT, stubborn)  # the daemon takes its time to end
        court.program(code)
        number = court.submit()
        await until(asked.exists)
    later = Kernel(tmp_path / "state", "/run/agents")
    async with later.running():
        with trio.fail_after(60):
            assert await Court(later).verdict(number) == (True, "")
    assert asked.read_text() == "xx"
