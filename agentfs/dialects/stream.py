"""A stream on its way from a provider to a client: whole events, counted, and cut where the budget
ends."""

from __future__ import annotations

import json
from collections import deque

from agentfs.dialects.dialect import Request
from agentfs.dialects.progress import Progress
from agentfs.dialects.sse import MAX_EVENT, Events, read_event
from agentfs.dialects.usage import FIRST, TokenUsage

__all__ = ["TokenStream"]

ENDED_EARLY = "the provider ended its answer before it was over"


class TokenStream:
    """One answer. Feed it what the provider sends, and relay what it gives back.

    `error` is not "" after the provider has sent an error, or something that is no stream: nothing
    more is relayed then, and `fail` makes the event that tells the client.
    """

    def __init__(self, request: Request, input_tokens: int | None = None) -> None:
        """`input_tokens`: our estimate, for a cut stream whose provider has not counted."""
        assert request.dialect.reader is not None
        self._reader = request.dialect.reader(request)
        self._progress = Progress(single=self._reader.single)
        self._input = request.estimate(FIRST) if input_tokens is None else input_tokens
        self._events = Events()
        self._waiting: deque[bytes] = deque()
        self._over = False  # cut or failed: nothing more is relayed

    @property
    def usage(self) -> TokenUsage | None:
        """What the whole answer has cost; None until the provider has said it."""
        return self._progress.usage if self._progress.final else None

    @property
    def output_estimate(self) -> int:
        """Tokens of the answer so far: the larger of our count and the provider's."""
        usage = self._progress.usage
        return max(self._progress.tokens, usage.output if usage else 0)

    @property
    def estimated(self) -> TokenUsage:
        """What is charged if the provider has not counted to the end."""
        known = self._progress.usage
        usage = known if known is not None and known.prompt else TokenUsage(self._input)
        return usage.with_output(self.output_estimate)

    @property
    def finish(self) -> str:
        """How the answer ended: "stop", "length", the provider's own word; "" until then."""
        return self._progress.finish

    @property
    def finished(self) -> bool:
        return self._progress.finished

    @property
    def error(self) -> str:
        return self._progress.error

    @property
    def held_back(self) -> bool:
        """Events wait until more tokens are allowed."""
        return bool(self._waiting)

    @property
    def text(self) -> str:
        """The text in what the last `feed` or `end` gave: of several answers, the first's."""
        return "".join(self._progress.pieces)

    def feed(self, data: bytes, allowed: int | None = None) -> list[bytes]:
        """Events for the client. After the one with which `output_estimate` exceeds `allowed`, the
        rest is held back: call it again with b"" when more are allowed."""
        self._waiting += self._events.feed(data)
        relayed = self._relay(allowed)
        if self._events.too_long and not self._waiting and not self._over:
            self._broken(f"the provider sent an event of more than {MAX_EVENT} bytes")
        return relayed

    def end(self) -> list[bytes]:
        """The provider has closed its side: what is still to be relayed. If the answer was not
        over, `error` says so."""
        rest = self._events.rest()
        if rest.strip():
            self._waiting.append(rest + b"\n\n")
        relayed = self._relay(None)
        if not self._over and not self.finished:
            more = self._reader.complete(self._progress)
            if more is None:
                self._broken(ENDED_EARLY)
            else:
                relayed += [more] if more else []
                self._progress.finished = True
        return relayed

    def cut(self, reason: str) -> bytes:
        """End the stream here as its dialect ends at the maximum of tokens. Events that were held
        back are dropped. The reason is a comment in the stream, which no SDK shows."""
        if self._over or self.finished:
            return b""
        self._stop()
        comment = ": " + " ".join(reason.split()) + "\n\n" if reason else ""
        tail = self._reader.cut(self.estimated, self._progress)
        self._progress.ended("length")
        return comment.encode("utf-8", "replace") + tail

    def fail(self, words: str) -> bytes:
        """The dialect's event for an error in mid-stream."""
        if self.finished:
            return b""
        self._stop()
        return self._reader.fail(words, self._progress)

    def _relay(self, allowed: int | None) -> list[bytes]:
        relayed: list[bytes] = []
        self._progress.pieces.clear()
        while self._waiting and not self._over:
            if allowed is not None and self.output_estimate > allowed:
                break
            event = self._waiting.popleft()
            if self._see(event):
                relayed.append(event)
        return relayed

    def _see(self, event: bytes) -> bool:
        """Whether the client gets the event."""
        name, data = read_event(event)
        if data is None:
            return True  # a comment, or an event without data
        if data.startswith(b"[DONE]"):
            if not self.finished and not self._reader.done(self._progress):
                self._broken(ENDED_EARLY)
                return False
            self._progress.finished = True
            return True
        if self.finished:
            return True
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            if name == "error":
                self._broken(data.decode("utf-8", "replace"))
            else:
                shown = data[:80].decode("utf-8", "replace")
                self._broken(f"the provider sent an event that is not JSON: {shown}")
            return False
        relayed = self._reader.see(name, value, self._progress)
        if self._progress.error:
            self._stop()
        return relayed and not self._over

    def _broken(self, words: str) -> None:
        self._progress.failed(words)
        self._stop()

    def _stop(self) -> None:
        self._over = True
        self._waiting.clear()
