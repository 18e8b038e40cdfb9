"""`python -m agentfs.runner.step JSON`: a step of a run that a model does with its tools. Its
standard input says the task, and its output is the answer.

JSON is what the kernel says of the step: model, dialect, small (it knows no tools), context,
system, tools, steps, timeout, schema. With a schema the answer is a JSON value that fits it: one
that does not is told to the model, at most twice.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

import jsonschema_rs

from agentfs.runner.agent import Assistant, KeptConversation
from agentfs.runner.errands import note
from agentfs.runner.hands import Hands
from agentfs.runner.talk import ModelError, ModelFile

__all__ = ["answered", "main"]

REPAIRS = 2
FAILED, MISFIT = 1, 65
"""Exit codes: the model gave no answer; it gave none that fits (EX_DATAERR of sysexits(3))."""

FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```", re.S | re.I)


class _Conversation(KeptConversation):
    """It ends with the step."""

    def keep(self, since: int, *, rewritten: bool) -> None:
        pass


def _why(tree: str) -> str:
    """The kernel's words for the last refusal."""
    with open(f"{tree}/proc/self/error", encoding="utf-8") as file:
        return file.read()


def _assistant(task: dict[str, Any], tree: str) -> Assistant:
    model = ModelFile(
        f"{tree}/dev/llm/{task['model']}",
        lambda: _why(tree),
        dialect=task["dialect"],
        schema=task["small"],
        context=task["context"],
    )
    room = {} if task["context"] is None else {"room": max(1000, task["context"])}
    hands = Hands(tree, task["tools"], lambda: _why(tree), **room)
    return Assistant(model, hands, _Conversation("", again=True), task)


def answered(assistant: Assistant, prompt: str, schema: dict[str, Any] | None) -> tuple[str, str]:
    """The answer, and what is wrong with it ("" if nothing is). Raises ModelError."""
    if schema is None:
        return assistant.work(prompt), ""
    how = f"Answer with one JSON value that fits this JSON Schema:\n{json.dumps(schema)}"
    said, words = prompt, ""
    for _ in range(REPAIRS + 1):
        text = assistant.work(f"{said}\n\n{how}")
        value, words = _fitting(text, schema)
        if not words:
            return json.dumps(value, ensure_ascii=False), ""
        note(f"the answer does not fit: {words}")
        said = f"That does not fit: {words}"
    return text, words


def _fitting(text: str, schema: dict[str, Any]) -> tuple[Any, str]:
    fenced = FENCE.search(text)
    for candidate in (text, fenced[1] if fenced else ""):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        error = next(jsonschema_rs.iter_errors(schema, value, retriever=_refuse), None)
        if error is None:
            return value, ""
        place = "".join(f".{each}" for each in error.instance_path)
        return value, f"${place}: {error.message}"[:2000]
    return None, "$: it is no JSON"


def _refuse(uri: str) -> Any:
    """Nothing is fetched for a schema."""
    raise ValueError(uri)


def main() -> int:
    """The exit code."""
    task = json.loads(sys.argv[1])
    prompt = sys.stdin.buffer.read().decode("utf-8", "replace").strip()
    try:
        assistant = _assistant(task, os.environ["AGENTFS"])
        text, words = answered(assistant, prompt, task["schema"])
    except ModelError as failed:
        note(str(failed))
        return FAILED
    if words:
        note(f"{task['model']} answered {REPAIRS + 1} times what does not fit: {words}")
        return MISFIT
    print(text.strip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
