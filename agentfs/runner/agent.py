"""`python -m agentfs.runner.agent JSON`: an agent of our own. A model of /dev/llm is asked; what it
wants to do with files and tools is done; and it is asked again, until it gives an answer.

One piece of work (the prompt of its definition, or what its standard input says), or with `serve`
one for each message. JSON is what `agentfs run` was told: model, dialect, schema, context, system,
tools, steps, timeout, json, continue, stdin, serve.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from agentfs.agent import Agent
from agentfs.runner.errands import Errands, Letters, TurnFailedError, note, write_line
from agentfs.runner.hands import Hands
from agentfs.runner.talk import (
    ModelError,
    ModelFile,
    ModelSaid,
    OfferedTool,
    OverflowedError,
    Utterance,
    WantedCall,
)

__all__ = ["Assistant", "KeptConversation", "main"]

INTERRUPTED, REFUSED, USAGE = 130, 1, 2

SYSTEM = (
    "You are an agent. Do what you are asked with your tools, then answer in plain text."
    " A path that begins with / is of the agents' tree: /agents, /proc, /dev, /shared."
)
SHORTENED = 400
"""Characters of an older result that are left when a conversation is compacted."""

MOST_KEPT = 4 << 20
"""Bytes of a conversation that are read again."""


class KeptConversation:
    """What was said, in a file of the agent's memory, one entry a line."""

    def __init__(self, path: str, *, again: bool) -> None:
        self._path = path
        self.entries: list[Utterance] = []
        if again:
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - MOST_KEPT))
                for line in file.read().splitlines():
                    with contextlib.suppress(ValueError, LookupError, TypeError):
                        self.entries.append(Utterance.read(json.loads(line)))
            while self.entries and self.entries[0].role != "user":  # the beginning was cut off
                del self.entries[0]
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def keep(self, since: int, *, rewritten: bool) -> None:
        """A turn has ended: write what came since; all of it if it was compacted."""
        with open(self._path, "w" if rewritten else "a", encoding="utf-8") as file:
            for entry in self.entries if rewritten else self.entries[since:]:
                file.write(json.dumps(entry.record(), ensure_ascii=False) + "\n")

    def compact(self, since: int) -> int:
        """Make it half as long: older results are shortened, then older turns are left out. `since`
        is where the turn begins that is under way; returns where it begins now. Nothing is asked of
        a model for that: it would not fit either."""
        wanted = sum(map(_size, self.entries)) // 2
        for entry in self.entries[:-1]:
            if sum(map(_size, self.entries)) <= wanted:
                return since
            if entry.role == "tool" and len(entry.text) > SHORTENED:
                entry.text = f"{entry.text[:SHORTENED]}\n[cut, to make room]"
        while since and sum(map(_size, self.entries)) > wanted:
            end = next(
                (at for at in range(1, since) if self.entries[at].role == "user"), since
            )  # a turn goes with all that was called in it
            del self.entries[:end]
            since -= end
        left = wanted - sum(map(_size, self.entries[:-1]))
        last = self.entries[-1]
        if len(last.text) > max(left, SHORTENED):
            last.text = f"{last.text[: max(left, SHORTENED)]}\n[cut, to make room]"
        return since


def _size(entry: Utterance) -> int:
    return len(entry.text) + sum(len(json.dumps(call.arguments)) for call in entry.calls)


class Assistant:
    """A model with its hands, and what was said so far."""

    def __init__(
        self, model: ModelFile, hands: Hands, conversation: KeptConversation, task: dict[str, Any]
    ):
        self._model = model
        self._hands = hands
        self._conversation = conversation
        self._steps = int(task["steps"])
        self._patience = float(task["timeout"])
        # A small model makes nothing of more than it is told by who serves it.
        self._system = task["system"] or ("" if model.schema else SYSTEM)
        self._since = 0  # where the turn under way begins
        self._compacted = False
        self.asked = self.input = self.output = 0

    def work(self, prompt: str) -> str:
        """One turn: the answer. Raises ModelError."""
        entries = self._conversation.entries
        self._since, self._compacted = len(entries), False
        entries.append(Utterance("user", prompt))
        try:
            answer = self._steps_to_answer(prompt)
        except BaseException:
            del entries[self._since :]
            raise
        entries.append(Utterance("assistant", answer))
        self._conversation.keep(self._since, rewritten=self._compacted)
        return answer

    def _steps_to_answer(self, prompt: str) -> str:
        entries, tools = self._conversation.entries, self._hands.tools()
        tried: list[WantedCall] = []
        if self._model.schema:
            # A small model that may take a tool takes any. So it gets the files that the question
            # names, and only tools that somebody gave it are offered.
            tools = self._hands.given()
            looks = [
                f"{call.arguments['path']}:\n{self._hands.use(call)}\n"
                for call in self._hands.looks(prompt)
            ]
            entries[-1].text = "\n".join([*looks, prompt])
        deadline = time.monotonic() + self._patience
        for step in range(self._steps):
            if time.monotonic() > deadline:
                raise ModelError(f"it was not done after {self._patience:g} s")
            is_last = step == self._steps - 1 and step > 0
            said = self._ask([] if is_last else tools)
            if not said.calls:
                if not said.text.strip():
                    raise ModelError(f"{self._model.name} gave no answer")
                return said.text
            entries.append(Utterance("assistant", said.text, said.calls))
            for call in said.calls:
                result = self._use(call)
                if self._model.schema and (call in tried or result.startswith("error:")):
                    tools = []  # it would ask for the same for ever
                tried.append(call)
        raise ModelError(f"{self._model.name} gave no answer in {self._steps} steps")

    def _ask(self, tools: Sequence[OfferedTool]) -> ModelSaid:
        """Ask the model; once in a turn a conversation that does not fit is compacted."""
        try:
            said = self._model.say(self._system, self._conversation.entries, tools)
        except OverflowedError as too_long:
            if self._compacted:
                raise ModelError(f"shortened, it does not fit either: {too_long}") from None
            note(f"the conversation is shortened: {too_long}")
            self._since, self._compacted = self._conversation.compact(self._since), True
            return self._ask(tools)
        self.asked += 1
        self.input += said.input
        self.output += said.output
        return said

    def _use(self, call: WantedCall) -> str:
        note(f"{call.name} {json.dumps(call.arguments, ensure_ascii=False)[:200]}")
        result = self._hands.use(call)
        if result.startswith("error:"):
            note(result)
        self._conversation.entries.append(Utterance("tool", result, id=call.id))
        return result


def _assistant(task: dict[str, Any], agent: Agent, *, again: bool) -> Assistant:
    context = task["context"]
    model = ModelFile(
        f"{agent.tree}/dev/llm/{task['model']}",
        agent.why,
        dialect=task["dialect"],
        schema=task["schema"],
        context=context,
    )
    # Of a small context a result takes a third at most: a token is three bytes of text or more.
    room = {} if context is None else {"room": max(1000, context)}
    hands = Hands(agent.tree, task["tools"], agent.why, **room)
    conversation = KeptConversation(f"{agent.home}/memory/conversation.jsonl", again=again)
    return Assistant(model, hands, conversation, task)


def _serve(task: dict[str, Any], agent: Agent) -> None:
    """Work on the mail of the agent."""
    assistant = _assistant(task, agent, again=True)

    def work(letters: Letters) -> str:
        # A small model takes headers for the text.
        text = letters.as_text() if task["schema"] else letters.as_mail()
        try:
            return f"{assistant.work(text.strip()).strip()}\n"
        except ModelError as refused:
            raise TurnFailedError(str(refused)) from None

    note(f"{agent.name} works on its mail with {task['model']}")
    Errands(agent, work, interrupts=True).serve()


def _once(task: dict[str, Any], agent: Agent) -> int:
    """Work on the prompt; the exit code."""
    if task["stdin"]:
        prompt = sys.stdin.buffer.read().decode("utf-8", "replace").strip()
    else:
        with open(f"{agent.home}/prompt", encoding="utf-8") as file:
            prompt = file.read().strip()
    if not prompt:
        note("agentfs: the PROMPT is empty")
        return USAGE
    assistant = _assistant(task, agent, again=task["continue"])
    turns = f"{agent.tree}/proc/self/turns"
    write_line(turns, "begin")
    try:
        answer, refused = assistant.work(prompt), ""
    except ModelError as failed:
        answer, refused = "", str(failed)
    write_line(turns, f"end failed {' '.join(refused.split())}" if refused else "end ok")
    if task["json"]:
        told: dict[str, Any] = {"answer": answer or None, "error": refused or None}
        told |= {"agent": agent.name, "model": task["model"], "calls": assistant.asked}
        print(json.dumps(told | {"input": assistant.input, "output": assistant.output}))
    elif answer:
        print(answer.strip())
    if refused:
        note(f"agentfs: {refused}")
    return REFUSED if refused else 0


def main() -> int:
    task = json.loads(sys.argv[1])
    agent = Agent()
    try:
        if task["serve"]:
            _serve(task, agent)
            return 0
        return _once(task, agent)
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
