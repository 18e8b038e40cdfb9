"""Nodes that an agent does: it gets a letter, and its reply is the output.

    - {name: review, agent: carol, prompt: "Read {{ draft.text }}", patience: 1h}

The letter is a question (see `agentfs.asks`), sent in the name of the agent that started the run,
in the commit that begins the attempt. So it survives the daemon and the agent's program; the first
reply of that agent answers it, and nothing else does. Which question belongs to which attempt is a
record of its own, because an answer may come between the death of a daemon and the next start.
"""

from __future__ import annotations

import errno
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from agentfs.asks.ask import Ask, AskState
from agentfs.asks.asks import Asks
from agentfs.asks.events import AskAnswered, AskCancelled, AskDropped, AskExpired, AskFailed
from agentfs.base.errors import KernelError
from agentfs.executors.ends import beginning, end, fail
from agentfs.executors.messages import as_body, step_headers
from agentfs.executors.replies import REPAIRS, asked_for, complaint, plain_value, read_value
from agentfs.executors.spec import duration
from agentfs.executors.starters import starter_of
from agentfs.mail.mail import Mail
from agentfs.mail.message import Draft
from agentfs.mail.notices import KERNEL
from agentfs.mail.settings import MessageSettings
from agentfs.model.principal import Kind, Principal
from agentfs.model.process import Process
from agentfs.process.agents import Agents
from agentfs.process.table import ProcessTable
from agentfs.store.event_log import Record
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import Records
from agentfs.workflow.engine import Engine
from agentfs.workflow.model import Step, StepRef

__all__ = ["KIND", "AgentNodes", "StepAsk"]

KIND = "step_ask"
"""The records in the store: the open question of an attempt, by the question's number."""


@dataclass(slots=True)
class StepAsk:
    """The attempt that waits for the answer to a question. `pid` is the process of its run, and
    `schema` what the answer has to fit, after so many `repairs`."""

    run: int
    path: str
    attempt: int
    agent: str
    starter: str
    pid: int
    uid: int
    gid: int
    key: str
    deadline: float
    schema: dict[str, Any] | None = None
    repairs: int = 0

    @property
    def ref(self) -> StepRef:
        return StepRef(self.run, self.path, self.attempt)

    @property
    def principal(self) -> Principal:
        """As `starter_of` gave it."""
        return Principal(Kind.AGENT, self.pid, self.starter, self.uid, self.gid)


class AgentNodes(Part):
    """An answer that does not fit `output_schema` is sent back with words, at most twice. Nobody
    answers in time: ETIMEDOUT. There is no such agent, nobody works for it, or it ends for good:
    EHOSTUNREACH."""

    def __init__(
        self,
        ground: Ground,
        engine: Engine,
        table: ProcessTable,
        mail: Mail,
        asks: Asks,
        agents: Agents,
    ) -> None:
        self._store, self._clock, self._settings = ground.store, ground.clock, ground.settings
        self._engine = engine
        self._table = table
        self._mail = mail
        self._asks = asks
        self._agents = agents
        self._asked = Records(
            ground.store, KIND, lambda key, record: (int(key), StepAsk(**record)), asdict
        )
        self._of_agent = self._asked.index(lambda asked: asked.agent, "agent")
        self._of_step = self._asked.index(lambda asked: (asked.run, asked.path), "run")
        ended = (AskAnswered, AskExpired, AskFailed, AskCancelled, AskDropped)
        ground.events.listen(self._heard, *ended)

    def load(self) -> None:
        self._asked.load()

    # -- for the executor --------------------------------------------------------------------------

    def begin(self, step: Step) -> None:
        """Send the question, in the commit that begins the attempt; it waits from then on."""
        with beginning(self._engine, step):
            self._ask_agent(step)
            self._engine.wait(step.ref)

    def cancel(self, step: Step) -> None:
        """Withdraw the question, inside the transaction in which the attempt is over."""
        for number in tuple(self._of_step.of((step.ref.run, step.ref.path))):
            self._withdraw(number)

    # -- asking ------------------------------------------------------------------------------------

    def _ask_agent(self, step: Step) -> None:
        spec, agent = step.spec, str(step.spec["agent"])
        if self._table.by_name(agent) is None:
            raise KernelError(errno.EHOSTUNREACH, f"nobody works for agent {agent!r}")
        principal = starter_of(step.process, self._agents)
        now = self._clock.now()
        usual = self._settings.of(MessageSettings).reply_timeout
        deadline = now + duration(spec, "patience", usual)
        asked = StepAsk(
            **asdict(step.ref),
            agent=agent,
            starter=principal.name,
            pid=principal.pid or 0,
            uid=principal.uid,
            gid=principal.gid,
            key=step.key,
            deadline=min(filter(None, (deadline, step.deadline))),
            schema=step.node.output_schema,
        )
        body = as_body(spec.get("prompt", step.input))
        if asked.schema is not None:
            body += f"\n{asked_for(asked.schema)}".encode()
        self._put_question(asked, body)

    def _put_question(self, asked: StepAsk, body: bytes, answered: str = "") -> None:
        """Send one, inside the transaction under way. `answered`: it goes back with this reply."""
        self._asks.check_room(asked.starter)
        self._mail.check(asked.principal, asked.starter, asked.agent, len(body))
        draft = Draft(
            asked.agent,
            body,
            [
                ("Type", "step"),
                *step_headers(asked.ref),
                ("Step-Key", asked.key),
                *([("Repair", str(asked.repairs))] if asked.repairs else []),
            ],
            in_reply_to=answered,
            reply_by=asked.deadline,
            answer_apart=True,
        )
        message = self._mail.send(asked.principal, asked.starter, draft)
        self._asked.put(message.seq, asked)

    def _withdraw(self, number: int) -> None:
        """Nobody waits for the answer any more; the agent is told."""
        asked = self._asked.drop(number)
        ask = self._asks.find(number)
        if asked is not None and ask is not None:
            self._asks.cancel(KERNEL, ask.asker, number)

    # -- answers -----------------------------------------------------------------------------------

    def take_up(self) -> None:
        """Of what was answered, or failed, before the last daemon could say so."""
        for number, asked in tuple(self._asked.items()):
            ask = self._asks.find(number)
            if ask is None or not ask.open:
                self._over(number)
            elif self._table.by_name(asked.agent) is None:
                self._gone(number)

    def _heard(self, record: Record) -> None:
        self._over(int(record.event.id))  # type: ignore[attr-defined]  # all of them have one

    def _over(self, number: int) -> None:
        """The question is answered, or nobody will answer it. The step ends first: a daemon that
        dies before the record is dropped finds that out."""
        asked = self._asked.get(number)
        if asked is None:
            return
        ask = self._asks.find(number)
        try:
            if ask is None:
                raise KernelError(errno.ECANCELED, "the question was dropped")
            ask.check()
            self._answered(number, asked, ask)
        except KernelError as failure:
            fail(self._engine, asked.ref, failure)
        self._asked.drop(number)

    def _answered(self, number: int, asked: StepAsk, ask: Ask) -> None:
        assert ask.state is AskState.ANSWERED
        text = self._asks.answer(ask).partition(b"\n\n")[2].decode(errors="replace")
        if asked.schema is None:
            end(lambda: self._engine.succeed(asked.ref, plain_value(text)))
            return
        value, words = read_value(text, asked.schema)
        if not words:
            end(lambda: self._engine.succeed(asked.ref, value))
        elif asked.repairs < REPAIRS and asked.deadline > self._clock.now():
            body = complaint(words, asked.schema).encode()
            back = self._mail.threads.name(ask.answer)
            with self._store.transaction():
                self._asked.drop(number)
                self._put_question(replace(asked, repairs=asked.repairs + 1), body, back)
        else:
            error = f"{asked.agent} answered {asked.repairs + 1} times what does not fit: {words}"
            end(lambda: self._engine.fail(asked.ref, error, again=False, kind="schema"))

    # -- ends --------------------------------------------------------------------------------------

    def process_ended(self, process: Process) -> None:
        """Nobody works for the agent any more: whoever waits for it is told at once."""
        if self._table.by_name(process.name) in (process, None):
            for number in self._of_agent.of(process.name):
                self._store.on_commit(partial(self._gone, number))

    def _gone(self, number: int) -> None:
        """Nobody works for the agent that was asked."""
        asked = self._asked.get(number)
        if asked is not None:
            words = f"{asked.agent} has ended, and nobody works for it"
            fail(self._engine, asked.ref, KernelError(errno.EHOSTUNREACH, words))
            with self._store.transaction():
                self._withdraw(number)
