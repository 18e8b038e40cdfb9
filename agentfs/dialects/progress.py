"""What is known of a stream so far, and what of it a dialect has to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from agentfs.dialects.usage import TokenUsage, output_tokens

__all__ = ["Progress", "StreamReader"]


FINISH = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length"}
"""Anthropic's words for what OpenAI calls otherwise."""


@dataclass(slots=True)
class Progress:
    """What the events of a stream said until now."""

    single: bool = True
    """Whether the provider sends one token an event."""

    usage: TokenUsage | None = None
    final: bool = False
    """Whether the usage is that of the whole answer."""

    tokens: int = 0
    """Of the answer, by our own count; reasoning and the arguments of tools too."""

    pieces: list[str] = field(default_factory=list)
    """Text of the answer, without all that is around it."""

    finish: str = ""
    """How the answer ended: "stop", "length", or the provider's own word; "" until then."""

    finished: bool = False
    error: str = ""
    error_type: str = ""

    def wrote(self, text: object, shown: bool = False) -> None:
        """The answer has grown by a piece; `shown`: it is text for the reader."""
        if isinstance(text, str) and text:
            self.tokens += output_tokens(text, self.single)
            if shown:
                self.pieces.append(text)

    def counted(self, usage: TokenUsage | None, final: bool = True) -> None:
        """The provider has counted; `final`: with all of the output."""
        if usage is not None:
            self.final = self.final or final
            self.usage = usage if self.usage is None else self.usage.later(usage)

    def ended(self, finish: object) -> None:
        """The answer is over; the first word for it counts."""
        if not self.finish and isinstance(finish, str):
            self.finish = FINISH.get(finish, finish)

    def failed(self, error: object) -> None:
        """The provider's error object, or its words."""
        if isinstance(error, dict):
            words, kind = error.get("message"), error.get("code") or error.get("type")
        else:
            words, kind = error, ""
        self.error = words if isinstance(words, str) and words else "the provider failed"
        self.error_type = kind if isinstance(kind, str) else ""


class StreamReader(Protocol):
    """A dialect's knowledge of one stream. It is told of each event that the client gets."""

    single: bool

    def see(self, name: str, data: Any, progress: Progress) -> bool:
        """An event of the provider's; the client gets it if this is true."""

    def done(self, progress: Progress) -> bool:
        """[DONE] has come: whether the answer may be over."""

    def complete(self, progress: Progress) -> bytes | None:
        """The provider ended here: what its answer lacks; None if it was not over."""

    def cut(self, usage: TokenUsage, progress: Progress) -> bytes:
        """Events that end the answer as if its maximum were reached."""

    def fail(self, words: str, progress: Progress) -> bytes:
        """The dialect's event for an error."""
