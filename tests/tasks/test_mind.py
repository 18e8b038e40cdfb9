"""The mind: which worker gets a task of those that fit, and that a wrong proposal does nothing."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from agentfs.base.errors import KernelError
from agentfs.kernel import Kernel
from agentfs.tasks.mind import names_in
from agentfs.tasks.mind_document import DEFAULT, parse
from agentfs.tasks.model import TaskRequest, WorkerRequest
from tests.chats.conftest import gateway
from tests.chats.conftest import world as talking
from tests.chats.gateway import Gateway, Heard
from tests.executors.test_task_nodes import until
from tests.providers.world import World
from tests.tasks.office import Office, mind_of
from tests.world import OPERATOR

__all__ = ["gateway", "talking"]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path / "state")
    made.settings.replace("tasks:\n  max_concurrent: 100\n")
    yield made
    made.close()


# -- the document ----------------------------------------------------------------------------------


def test_without_a_document_it_is_the_load_that_counts() -> None:
    for text in (DEFAULT, ""):
        assert parse(text).policy == "least-loaded"


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ("policy: best\n", "line 1: policy: "),
        ("policy: program\n", "line 1: policy: `policy: program` needs `program`"),
        ("model: sonnet\n", "line 1: model: `model` is for `policy: model`, and the policy is"),
        ("policy: model\nmodel: ''\n", "line 2: model: "),
        ("policy: program\nprogram: [bin/x]\n", "line 2: program: the program: an absolute path"),
        ("timeout: 1s\n", "line 1: timeout: nobody is asked by `policy: least-loaded`"),
        ("policy: model\nmodel: m\ntimeout: 1m\n", "line 3: timeout: "),
        ("polcy: x\n", "line 1: polcy: there is no such key"),
    ],
)
def test_every_fault_is_told_with_its_place(document: str, fault: str) -> None:
    with pytest.raises(KernelError) as refused:
        parse(document)
    assert refused.value.errno == errno.EINVAL
    assert fault in refused.value.reason


# -- policies that know the answer -----------------------------------------------------------------


def assigned(office: Office, count: int) -> list[str]:
    """The workers of so many tasks, in their order."""
    return [office.task(office.submit()).worker for _ in range(count)]


def test_the_one_with_the_least_to_do_for_its_capacity_gets_the_next_task(office: Office) -> None:
    office.register("big", capacity=6)
    office.register("small", capacity=2)
    workers = assigned(office, 8)
    assert workers[:4].count("big") == 3
    assert (workers.count("big"), workers.count("small")) == (6, 2)
    assert assigned(office, 1) == [""], "both are full"


def test_the_first_that_fits_is_filled_first(office: Office) -> None:
    office.mind("policy: first-fit\n")
    office.register("b", capacity=2)
    office.register("a", capacity=2)
    assert assigned(office, 4) == ["a", "a", "b", "b"]


def test_each_has_its_turn(office: Office) -> None:
    office.mind("policy: round-robin\n")
    for name in ("c", "a", "b"):
        office.register(name, capacity=4)
    assert assigned(office, 6) == ["a", "b", "c"] * 2
    office.register("d", capacity=4)
    assert assigned(office, 1) == ["d"], "it has had none"


@pytest.mark.parametrize("policy", ["least-loaded", "first-fit", "round-robin"])
def test_no_policy_gives_a_worker_what_it_is_not_capable_of(office: Office, policy: str) -> None:
    office.mind(f"policy: {policy}\n")
    office.register("a", capabilities={"gpu": 1})
    office.register("b", capabilities={"gpu": 4})
    numbers = [office.submit(requirements={"gpu": 2}) for _ in range(3)]
    assert {office.task(number).worker for number in numbers} == {"b"}


def test_names_are_found_in_whatever_a_program_or_a_model_says() -> None:
    known = {"w1", "w2", "w3"}
    assert names_in('["w2", "w1", "w2", "nobody", 5]', known) == ["w2", "w1"]
    assert names_in("w3\nw1\n", known) == ["w3", "w1"]
    assert names_in('I would take ["w2"] for this.', known) == ["w2"]
    assert names_in("Best: `w1`, then w3.", known) == ["w1", "w3"]
    for nothing in ("", "[]", "[[[[", "w4", '{"w": 1}', "\0"):
        assert names_in(nothing, known) == []


# -- policies that ask -----------------------------------------------------------------------------


class Colony:
    """A kernel at work, with workers and tasks of the operator."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        for name in ("w1", "w2"):
            request = WorkerRequest(name=name, capacity=2, capabilities={"gpu": 1})
            kernel.workers.register(OPERATOR, request)
        kernel.workers.register(OPERATOR, WorkerRequest(name="weak"))

    def program(self, code: str, timeout: str = "10s") -> None:
        """A program of Python that has the question as `given`."""
        code = f"import json, sys, time\ngiven = json.load(sys.stdin)\n{code}"
        command = [sys.executable, "-c", code]
        document = {"policy": "program", "program": command, "timeout": timeout}
        self.kernel.mind_policy.replace(json.dumps(document))

    async def worker_of(self, **more: Any) -> str:
        """Who gets a new task."""
        request = TaskRequest(description="count", requirements={"gpu": 1}, **more)
        number = self.kernel.tasks.submit(OPERATOR, request).id
        await until(lambda: self.kernel.tasks.get(number).state.value == "assigned")
        return self.kernel.tasks.get(number).worker


@pytest.fixture
async def colony(tmp_path: Path) -> AsyncIterator[Colony]:
    kernel = Kernel(tmp_path / "state", "/run/agents")
    async with kernel.running():
        yield Colony(kernel)


async def test_a_program_chooses_among_those_that_fit(colony: Colony, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    colony.program(f"open({str(seen)!r}, 'w').write(json.dumps(given)); print('w2')")
    assert await colony.worker_of(input={"a": 1}) == "w2"
    assert await colony.worker_of() == "w2"
    asked = json.loads(seen.read_text())
    assert [(each["name"], each["tasks"]) for each in asked["workers"]] == [("w1", 0), ("w2", 1)]
    assert asked["task"]["description"] == "count"
    assert asked["workers"][0]["capabilities"] == {"gpu": 1}
    assert await colony.worker_of() == "w1", "w2 is full, and not among those that are asked about"
    assert mind_of(colony.kernel).complaint() == ""


@pytest.mark.parametrize(
    ("code", "trouble"),
    [
        ("print('weak')", ""),  # it does not fit
        ("print('root\\n../w9\\n')", ""),  # there is none
        ("sys.exit('no idea')", "no idea (it ended with exit code 1)"),
        ("print('w2'); sys.exit(3)", "w2"),  # it has failed, whatever it printed
        ("print('w2\\n' * 100_000)", "printed more than 65,536 bytes"),
    ],
)
async def test_a_wrong_proposal_leaves_it_to_the_load(
    colony: Colony, code: str, trouble: str
) -> None:
    colony.program(code)
    assert await colony.worker_of() == "w1"
    assert trouble in mind_of(colony.kernel).complaint()


async def test_a_program_that_does_not_answer_delays_its_task_only(colony: Colony) -> None:
    colony.program("time.sleep(600)", timeout="200ms")
    assert await colony.worker_of() == "w1"
    assert "did not answer within 0.2 s" in mind_of(colony.kernel).complaint()
    colony.kernel.mind_policy.replace("policy: first-fit\n")
    assert mind_of(colony.kernel).complaint() == ""


async def test_a_task_that_is_cancelled_while_it_is_thought_about_goes_to_nobody(
    colony: Colony, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    code = f"import os\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nprint('w2')"
    colony.program(code)
    kernel = colony.kernel
    number = kernel.tasks.submit(OPERATOR, TaskRequest(description="x", requirements={"gpu": 1})).id
    await until(lambda: kernel.table.by_name("mind") is not None)
    kernel.tasks.cancel(OPERATOR, number)
    go.touch()
    assert await colony.worker_of() == "w2"
    assert kernel.tasks.get(number).state.value == "cancelled"
    assert not kernel.tasks.get(number).worker


async def test_the_program_runs_as_an_agent_of_its_own(colony: Colony, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    colony.program(f"import os; open({str(seen)!r}, 'w').write(os.environ['AGENT_NAME'])")
    await colony.worker_of()
    assert seen.read_text() == "mind"
    process = colony.kernel.table.by_name("mind")
    assert process is not None
    assert process.ppid == 1


async def test_a_model_chooses_and_is_not_believed_either(talking: World, gateway: Gateway) -> None:
    colony = Colony(talking.kernel)
    talking.kernel.mind_policy.replace("policy: model\nmodel: big\n")

    def says(text: str) -> Any:
        async def answer(heard: Heard) -> None:
            await heard.answer(text)

        return answer

    gateway.then(says('Certainly! ["w2", "w1"]'))
    assert await colony.worker_of(input={"secret": "42"}) == "w2"
    [heard] = gateway.heard
    assert heard.pid == talking.pid("mind")
    assert heard.asked["model"] == "big"
    assert '"secret":"42"' in heard.asked["messages"][0]["content"]
    process = talking.kernel.table.get(heard.pid)
    assert process.tier.value == "strategic", "as the model is"
    gateway.then(says("weak, of course"))
    assert await colony.worker_of() == "w1"
    assert mind_of(talking.kernel).complaint() == "mind: big named no worker"


async def test_a_model_that_is_silent_leaves_it_to_the_load(
    talking: World, gateway: Gateway
) -> None:
    colony = Colony(talking.kernel)
    talking.kernel.mind_policy.replace("policy: model\nmodel: small\ntimeout: 200ms\n")

    async def silent(heard: Heard) -> None:
        await trio.sleep_forever()

    gateway.then(silent)
    assert await colony.worker_of() == "w1"
    assert "small did not answer within 0.2 s" in mind_of(talking.kernel).complaint()
