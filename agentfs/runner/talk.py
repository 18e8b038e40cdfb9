"""Calls of a model through its file in /dev/llm: a conversation goes in, what the model says or
wants to do comes out. Two dialects, chat/completions and messages; and, for a model that knows no
tools, a JSON schema of what it may answer.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = [
    "ModelError",
    "ModelFile",
    "ModelSaid",
    "OfferedTool",
    "OverflowedError",
    "Utterance",
    "WantedCall",
]

MOST_ANSWER = 4096
"""Tokens of one answer; of a model whose context is small, a quarter of that."""

SHORT_ANSWER = 400
"""The same of a small model: a longer answer of it is one that it repeats for ever."""

MOST_REPLY = 32 << 20
"""Bytes of one reply."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
RATE_PATIENCE = 90.0
"""Seconds for which a call is tried again that a rate refuses: rates are by the minute."""

PIECE = 64 * 1024

OVERFLOWS = re.compile(
    r"context.{0,20}(length|window|size)|maximum context|prompt is too long|exceeds?.{0,30}context",
    re.IGNORECASE,
)
"""The words of providers for a conversation that does not fit."""


class ModelError(Exception):
    """The call was refused, or has failed; the text says why."""


class OverflowedError(ModelError):
    """The conversation is too long for the model."""


@dataclass
class WantedCall:
    """The model wants a tool called."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass
class Utterance:
    """One piece of a conversation: what `user` or `assistant` said, with the calls that the latter
    wants; or, of a `tool`, the result of the call `id`."""

    role: str
    text: str
    calls: list[WantedCall] = field(default_factory=list)
    id: str = ""

    def record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, record: dict[str, Any]) -> Utterance:
        calls = [WantedCall(**call) for call in record.get("calls", ())]
        return cls(record["role"], record["text"], calls, record.get("id", ""))


@dataclass
class OfferedTool:
    """`parameters` is a JSON schema."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass
class ModelSaid:
    """An answer of the model, and the tokens that the provider counted."""

    text: str
    calls: list[WantedCall]
    input: int = 0
    output: int = 0


class ModelFile:
    """The model `name`. `why` gives the kernel's words for the last refusal, `dialect` is chat or
    messages, `schema`: it knows no tools."""

    def __init__(
        self,
        path: str,
        why: Callable[[], str],
        *,
        dialect: str = "chat",
        schema: bool = False,
        context: int | None = None,
    ) -> None:
        self.name = os.path.basename(path)
        self.schema = schema
        self.context = context
        self._path = path
        self._why = why
        self._dialect = dialect
        most = SHORT_ANSWER if schema else MOST_ANSWER
        self._most = most if context is None else max(64, min(most, context // 4))

    def say(
        self, system: str, entries: Sequence[Utterance], tools: Sequence[OfferedTool]
    ) -> ModelSaid:
        """What it says to that. Raises ModelError."""
        if self.schema:
            request = self._with_schema(system, entries, tools)
        elif self._dialect == "messages":
            request = self._in_messages(system, entries, tools)
        else:
            request = self._in_chat(system, entries, tools)
        reply = self._exchange({"model": self.name, "max_tokens": self._most} | request)
        if "error" in reply:
            raise _failed(str((reply["error"] or {}).get("message", reply["error"])))
        try:
            said = _of_messages(reply) if "content" in reply else _of_chat(reply)
        except (LookupError, TypeError, ValueError, AttributeError) as bad:
            raise ModelError(f"{self.name} gave a reply that is none: {bad!r}") from None
        return self._by_schema(said, tools) if self.schema else said

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        """Write the request, read the reply to its end."""
        data = json.dumps(request).encode()
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            try:
                while data:
                    data = data[os.write(file, data) :]
                content = bytearray()
                while len(content) < MOST_REPLY and (piece := self._read(file)):
                    content += piece
            finally:
                os.close(file)
        except OSError as failed:
            words = ""
            with contextlib.suppress(OSError):
                words = self._why().strip()
            words = words or f"{self._path}: {failed.strerror}"
            if failed.errno == errno.EMSGSIZE:
                raise OverflowedError(words) from None
            raise _failed(words) from None
        try:
            reply = json.loads(content)
        except ValueError:
            raise ModelError(
                f"{self.name} gave a reply that is no JSON: {content[:200]!r}"
            ) from None
        if not isinstance(reply, dict):
            raise ModelError(f"{self.name} gave a reply that is no JSON object")
        return reply

    @staticmethod
    def _read(file: int) -> bytes:
        """The next bytes of the reply. While a rate refuses the call, it is tried again."""
        pause, deadline = FIRST_PAUSE, time.monotonic() + RATE_PATIENCE
        while True:
            try:
                return os.read(file, PIECE)
            except BlockingIOError:
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    # -- chat/completions --------------------------------------------------------------------------

    def _in_chat(
        self, system: str, entries: Sequence[Utterance], tools: Sequence[OfferedTool]
    ) -> dict[str, Any]:
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        for each in entries:
            message: dict[str, Any] = {"role": each.role, "content": each.text}
            if each.calls:
                message["tool_calls"] = [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
                    }
                    for call in each.calls
                ]
            if each.role == "tool":
                message["tool_call_id"] = each.id
            messages.append(message)
        request: dict[str, Any] = {"messages": messages}
        if tools:
            request["tools"] = [{"type": "function", "function": asdict(tool)} for tool in tools]
        return request

    # -- messages ----------------------------------------------------------------------------------

    def _in_messages(
        self, system: str, entries: Sequence[Utterance], tools: Sequence[OfferedTool]
    ) -> dict[str, Any]:
        messages: list[dict[str, Any]] = []
        for each in entries:
            role = each.role
            content: list[dict[str, Any]] = []
            if each.text and role != "tool":
                content = [{"type": "text", "text": each.text}]
            for call in each.calls:
                content.append(
                    {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
                )
            if role == "tool":
                role = "user"
                content = [{"type": "tool_result", "tool_use_id": each.id, "content": each.text}]
            if messages and messages[-1]["role"] == role:  # roles take turns
                messages[-1]["content"] += content
            else:
                messages.append({"role": role, "content": content})
        request: dict[str, Any] = {"messages": messages}
        if system:
            request["system"] = system
        if tools:
            request["tools"] = [
                {"name": t.name, "description": t.description, "input_schema": t.parameters}
                for t in tools
            ]
        return request

    # -- a model that knows no tools ---------------------------------------------------------------

    def _with_schema(
        self, system: str, entries: Sequence[Utterance], tools: Sequence[OfferedTool]
    ) -> dict[str, Any]:
        """What it may answer is a schema: {"answer": TEXT}, or a tool with its arguments. Small
        models keep to a schema whatever they are told, and to nothing else; but they answer better
        without one, where there is no tool to choose."""
        plain = []
        for each in entries:
            if each.role == "tool":
                plain.append(Utterance("user", f"The result:\n{each.text}\n\n{ANSWER_NOW}"))
            elif each.calls:
                call = each.calls[0]
                said = {"tool": call.name, "arguments": call.arguments}
                plain.append(Utterance("assistant", json.dumps(said)))
            else:
                plain.append(each)
        if not tools:
            return self._in_chat(system, plain, ()) | {"temperature": 0}
        kinds = [_object({"answer": {"type": "string"}})]
        kinds += [
            _object({"tool": {"const": tool.name}, "arguments": tool.parameters}) for tool in tools
        ]
        listed = "\n".join(f"{tool.name}: {tool.description}" for tool in tools)
        schema = {"name": "turn", "strict": True, "schema": {"oneOf": kinds}}
        return self._in_chat(f"{system}\n{HOW_TO_CALL}\n{listed}", plain, ()) | {
            "temperature": 0,
            "response_format": {"type": "json_schema", "json_schema": schema},
        }

    def _by_schema(self, said: ModelSaid, tools: Sequence[OfferedTool]) -> ModelSaid:
        """What it said, by the schema; its text as it is if it was cut."""
        try:
            value = json.loads(said.text)
        except ValueError:
            cut = re.match(r'\s*\{\s*"answer"\s*:\s*"(.*)', said.text, re.DOTALL)
            return ModelSaid(cut[1].strip() if cut else said.text, [], said.input, said.output)
        if isinstance(value, dict) and value.get("tool") in {tool.name for tool in tools}:
            call = WantedCall("call", value["tool"], _arguments(value.get("arguments") or {}))
            return ModelSaid("", [call], said.input, said.output)
        text = value.get("answer") if isinstance(value, dict) else None
        return ModelSaid(str(text if text is not None else said.text), [], said.input, said.output)


HOW_TO_CALL = (
    'Answer with {"answer": "TEXT"}. If you need a tool first, answer with'
    ' {"tool": "NAME", "arguments": {…}}. The tools:'
)
ANSWER_NOW = "Now answer the question."


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _failed(words: str) -> ModelError:
    return OverflowedError(words) if OVERFLOWS.search(words) else ModelError(words)


def _of_chat(reply: dict[str, Any]) -> ModelSaid:
    message = reply["choices"][0]["message"]
    calls = []
    for each in message.get("tool_calls") or ():
        wanted = each["function"]
        calls.append(
            WantedCall(each.get("id") or "call", wanted["name"], _arguments(wanted["arguments"]))
        )
    usage = reply.get("usage") or {}
    return ModelSaid(
        message.get("content") or "",
        calls,
        int(usage.get("prompt_tokens") or 0),
        int(usage.get("completion_tokens") or 0),
    )


def _of_messages(reply: dict[str, Any]) -> ModelSaid:
    texts, calls = [], []
    for block in reply["content"]:
        if block["type"] == "text":
            texts.append(block["text"])
        elif block["type"] == "tool_use":
            calls.append(WantedCall(block["id"], block["name"], _arguments(block["input"])))
    usage = reply.get("usage") or {}
    return ModelSaid(
        "".join(texts),
        calls,
        int(usage.get("input_tokens") or 0),
        int(usage.get("output_tokens") or 0),
    )


def _arguments(given: Any) -> dict[str, Any]:
    """The arguments of a call. If they are no object, the tool tells the model so."""
    if isinstance(given, str):
        try:
            given = json.loads(given or "{}")
        except ValueError:
            return {"": given}
    return given if isinstance(given, dict) else {"": given}
