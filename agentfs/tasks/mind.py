"""The mind: says which worker a task had best go to, by /etc/mind.yaml.

It only puts those in order who fit and have room: the kernel looks at each name again, and goes by
the load where there is no answer. So a program or a model can delay a task by its timeout, and give
it to another of the workers that could have had it anyway.
"""

from __future__ import annotations

import errno
import json
import logging
import re
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import trio

from agentfs.base.errors import KernelError
from agentfs.catalog.catalog import Catalog
from agentfs.chats.asking import Asking
from agentfs.chats.model_request import Said, of_text
from agentfs.executors.replying import read_reply
from agentfs.store.ground import Ground
from agentfs.store.live_document import LiveDocument
from agentfs.store.part import Part
from agentfs.tasks.errands import TaskErrands
from agentfs.tasks.mind_document import MindDocument
from agentfs.tasks.model import Task, TaskState, TaskWorker
from agentfs.tasks.policy import LEAST_LOADED
from agentfs.tasks.programs import PolicyPrograms
from agentfs.tasks.tasks import Tasks
from agentfs.tasks.view import SeenTask

__all__ = ["Mind", "names_in"]

log = logging.getLogger(__name__)

Candidates = Sequence[tuple[TaskWorker, int]]

MOST = 64 * 1024
"""Bytes of a model's answer."""

MOST_TOKENS = 256
"""Tokens of it: a few names."""

MOST_TURNS = 10_000
"""Workers whose last turn is remembered."""

WORK = "Chooses workers by /etc/mind.yaml."

ASKED = (
    "You choose the worker for a task. Each worker below fits it and has room. Answer with a JSON"
    " list of the names of workers, the best first, and nothing else."
)


class Mind(Part):
    """`document` is /etc/mind.yaml."""

    def __init__(
        self,
        ground: Ground,
        tasks: Tasks,
        document: LiveDocument[MindDocument],
        programs: PolicyPrograms,
        catalog: Catalog,
        asking: Asking,
    ) -> None:
        self._tasks = tasks
        self._document = document
        self._programs = programs
        self._catalog = catalog
        self._asking = asking
        self._errands = TaskErrands(ground)
        self._turns: dict[str, int] = {}  # of each worker, when it was proposed last
        self._turn = 0
        tasks.route_by(self)

    async def run(self) -> None:
        """Have programs and models asked, until cancelled."""
        await self._errands.run()

    def complaint(self) -> str:
        return self._errands.trouble

    def order(self, task: Task, candidates: Candidates) -> Sequence[str] | None:
        """The names of workers for a task, the best first. `candidates` all fit and have room; with
        each is how many tasks it has. None: the answer comes later, at the latest when the time of
        the document is over."""
        match self._document.now.policy:
            case "first-fit":
                return [worker.name for worker, _ in candidates]
            case "round-robin":
                return self._in_turn([worker.name for worker, _ in candidates])
            case "program" | "model":
                if task.id not in self._errands:
                    self._errands.begin(task.id, partial(self._ask, task.id, tuple(candidates)))
                return None
        return LEAST_LOADED.order(task, candidates)

    def _in_turn(self, names: Sequence[str]) -> list[str]:
        found = sorted(names, key=lambda name: self._turns.get(name, 0))
        if found:
            if len(self._turns) >= MOST_TURNS:
                self._turns.clear()
            self._turn += 1
            self._turns[found[0]] = self._turn
        return found

    # -- asking ------------------------------------------------------------------------------------

    async def _ask(self, number: int, candidates: Candidates) -> None:
        """Whatever happens, the tasks are told once; unless the daemon ends."""
        names: Sequence[str] = ()
        try:
            task = self._tasks.find(number)
            if task is not None and task.state is TaskState.VALIDATED:
                names = await self._proposal(task, candidates)
        except KernelError as failure:
            self._errands.complain(f"mind: {failure.reason}")
        except Exception as fault:
            log.exception("a fault of ours, about task %d", number)
            self._errands.complain(f"mind: a fault of the daemon: {type(fault).__name__}")
        self._tasks.proposed(number, names)

    async def _proposal(self, task: Task, candidates: Candidates) -> Sequence[str]:
        document = self._document.now
        workers = [
            {
                "name": worker.name,
                "kind": worker.kind.value,
                "capabilities": worker.capabilities,
                "capacity": worker.capacity,
                "tasks": load,
            }
            for worker, load in candidates
        ]
        about = SeenTask(task, self._tasks.table, result=False).json()
        known = {worker.name for worker, _ in candidates}
        given = f'{{"task": {about}, "workers": {json.dumps(workers, ensure_ascii=False)}}}\n'
        if document.policy == "program" and document.program:
            agent = document.agent("mind", WORK)
            said = await self._programs.run(agent, document.program, given, document.timeout)
            self._errands.complain("" if said.well else f"mind: {said.reason}")
            return names_in(said.text, known) if said.well else ()
        text = await self._asked_model(document, given)
        found = names_in(text, known)
        self._errands.complain("" if found else f"mind: {document.model} named no worker")
        return found

    async def _asked_model(self, document: MindDocument, about: str) -> str:
        name = str(document.model)
        model = self._catalog.find(name)
        tier = None if model is None else model.tier.value
        agent = document.agent("mind", WORK, tier)
        answer = b""
        with trio.move_on_after(document.timeout) as clock:
            process = await self._programs.process_of(agent)
            request = of_text(name, ASKED, [Said("user", about)], MOST_TOKENS)
            answer = await read_reply(
                lambda reply: self._asking.begin(process.pid, request, reply), MOST
            )
        if clock.cancelled_caught:
            words = f"{name} did not answer within {document.timeout:g} s"
            raise KernelError(errno.ETIMEDOUT, words)
        return answer.decode("utf-8", "replace")


def names_in(text: str, known: Collection[str]) -> list[str]:
    """The names of workers in an answer, in its order, each once: those of a JSON list, else its
    words."""
    found: list[Any] = []
    listed = re.search(r"\[[^\[\]]*\]", text)
    if listed is not None:
        try:
            found = json.loads(listed[0])
        except (ValueError, RecursionError):
            found = []
    if not found:
        words = re.findall(r"[A-Za-z0-9._-]+", text)
        found = [word if word in known else word.rstrip(".-") for word in words]
    return list(dict.fromkeys(name for name in found if isinstance(name, str) and name in known))
