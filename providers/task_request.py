"""What is written to /dev/tasks/new, /dev/workers/new, and to the `recv` of a worker."""

from __future__ import annotations

import errno
import re
from typing import TypeVar

from pydantic import BaseModel

from agentfs.base.errors import KernelError
from agentfs.base.models import read_model, validated
from agentfs.model.spec import NAME
from agentfs.providers.start_request import IN_A_THREAD, json_at_once, json_value
from agentfs.tasks.model import TaskAnswer, TaskRequest, WorkerRequest
from agentfs.vfs.handles import as_text

__all__ = ["read_answer", "read_task", "read_worker"]

M = TypeVar("M", bound=BaseModel)

KEYED = re.compile(r"\s*(\{|---|#|[a-z_]+:(\s|$))")
"""A text that begins so says its fields by name; any other is a description."""


async def read_task(request: bytes) -> TaskRequest:
    """A task as somebody asks for it: fields in YAML or JSON, or its description. Raises EINVAL
    with every fault."""
    text = as_text(request)
    if text.strip() and not KEYED.match(text):
        return validated({"description": text.strip()}, TaskRequest, "task")
    try:
        return await _read(text, TaskRequest, "task")
    except KernelError as bad:
        word = text.partition(":")[0].strip()
        if not word.isidentifier() or word in TaskRequest.model_fields:
            raise
        raise KernelError(
            errno.EINVAL,
            f"{bad.reason}; what begins with a word and a colon is read as fields: a text is"
            " `description: TEXT`",
        ) from None


async def read_worker(request: bytes) -> WorkerRequest:
    """A worker as it registers: fields in YAML or JSON, or its name. Raises EINVAL with every
    fault."""
    text = as_text(request)
    if NAME.fullmatch(text.strip()):
        return WorkerRequest(name=text.strip())
    return await _read(text, WorkerRequest, "worker")


def read_answer(line: str) -> TaskAnswer:
    """A line that a worker writes. Raises EINVAL; EMSGSIZE if it is too long to be read at once."""
    if len(line) > IN_A_THREAD:
        raise KernelError(
            errno.EMSGSIZE,
            f"an answer has at most {IN_A_THREAD} characters here; write what is longer to"
            " /dev/tasks/ID/result",
        )
    return validated(json_at_once(line), TaskAnswer, "answer")


async def _read(text: str, form: type[M], whole: str) -> M:
    if text.lstrip().startswith("{"):
        try:
            given = await json_value(text)
        except KernelError:
            pass  # YAML has maps in braces, too
        else:
            return validated(given, form, whole)
    found = read_model(text, form, whole)
    if found is None:
        raise KernelError(errno.EINVAL, f"a {whole} was expected, and not an empty text")
    return found
