"""Nodes that a model does: `llm: "Say it in {{ language }}: {{ text }}"`.

The run's process asks the gateway, over a connection in its name, as a program of it would: so the
call is reserved and settled for the run, and its limits, its budget and its capabilities hold.
The text is in the log of the node while it comes.
"""

from __future__ import annotations

import errno
import logging
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Any

import trio

from agentfs.base.errors import KernelError
from agentfs.chats.asking import Asking
from agentfs.chats.model_request import ModelRequest, Said, of_text
from agentfs.executors.behind import Adapter
from agentfs.executors.model_choice import ModelChoice
from agentfs.executors.ports import Ports
from agentfs.executors.replies import REPAIRS, asked_for, complaint, read_value
from agentfs.executors.replying import read_reply
from agentfs.executors.tasks import StepTasks
from agentfs.process.step_files import step_files
from agentfs.store.ground import Ground
from agentfs.workflow.engine import Engine
from agentfs.workflow.model import Step

__all__ = ["ModelNodes"]

log = logging.getLogger(__name__)

MOST = 16 * 1024 * 1024
"""Bytes of an answer: more than any model writes."""

PORT = "llm"

PATIENCE = 60.0
"""Seconds that a call waits at most for a rate to let it through: nothing was asked by then, so
that is no attempt."""


class ModelNodes:
    """The output is the text of the answer, or the value that fits `output_schema`: an answer that
    does not is told to the model, at most twice, each time as a call more."""

    def __init__(
        self,
        ground: Ground,
        engine: Engine,
        models: ModelChoice,
        asking: Asking,
        ports: Ports,
    ) -> None:
        self._state_dir = ground.state_dir
        self._models = models
        self._asking = asking
        self._ports = ports
        self.nodes = StepTasks(ground.store, engine, "llm", self._answer)

    async def _answer(self, step: Step) -> Any:
        """By the port that the node names, or the port `llm` if its pipeline has one; else by a
        model of /dev/llm."""
        port = str(step.spec.get("port") or (PORT if PORT in step.plan.ports else ""))
        if not port:
            return await self._told_by(step, {})
        behind = step.plan.ports.get(port)
        if behind is None:
            raise KernelError(errno.EINVAL, f"the pipeline has no port {port!r}")
        return await self._ports.first(port, behind, lambda adapter: self._told_by(step, adapter))

    async def _told_by(self, step: Step, adapter: Adapter) -> Any:
        """The output, as a model says it, or whatever else is behind an adapter."""
        spec, schema = step.spec, step.node.output_schema
        config = adapter.get("config") or {}
        system = str(spec.get("system_message") or config.get("system_message") or "")
        if schema is not None:
            system = f"{system}\n\n{asked_for(schema)}".lstrip()
        said = [Said("user", _text(spec.get("prompt", step.input)))]
        most = spec.get("max_output") or config.get("max_output")
        by_model = not adapter or "model" in adapter
        named = adapter["model"] if "model" in adapter else spec.get("model")
        model = self._models.of(step.process, named).name if by_model else str(adapter["adapter"])
        with _Log(step_files(self._state_dir, *_place(step)).log) as written:
            for _ in range(REPAIRS + 1):
                if by_model:
                    asked = of_text(model, system, said, None if most is None else int(most))
                    text = await self._ask(step, asked, written)
                else:
                    request = "\n\n".join([*filter(None, [system]), *(s.content for s in said)])
                    answer = await self._ports.ask(step.process, "", adapter, request.encode())
                    text = answer.decode("utf-8", "replace").removesuffix("\n")
                if schema is None:
                    return text
                value, words = read_value(text, schema)
                if not words:
                    return value
                said += [Said("assistant", text), Said("user", complaint(words, schema))]
        raise KernelError(
            errno.EBADMSG, f"{model} answered {REPAIRS + 1} times what does not fit: {words}"
        )

    async def _ask(self, step: Step, request: ModelRequest, written: _Log) -> str:
        deadline = trio.current_time() + PATIENCE
        while True:
            try:
                answer = await read_reply(
                    lambda reply: self._asking.begin(step.process.pid, request, reply),
                    MOST,
                    written.heard,
                )
                return answer.decode("utf-8", "replace")
            except KernelError as refusal:
                wait = refusal.retry_after or 1.0
                if refusal.errno != errno.EAGAIN or trio.current_time() + wait > deadline:
                    raise
            await trio.sleep(wait)


def _place(step: Step) -> tuple[int, str, int]:
    return step.ref.run, step.ref.path, step.ref.attempt


def _text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else str(prompt)


class _Log:
    """What a model says, in a file while it comes. A disk that is full is no reason to ask
    again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError), closing(self._file):
                pass

    def heard(self, piece: bytes) -> None:
        """Add to it."""
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115  # until `__exit__`
            self._file.write(piece)
        except OSError as failure:
            log.warning("the log of a step: %s", failure)
