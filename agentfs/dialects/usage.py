"""What a call used, in tokens; and how many tokens a text may have."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Ratios", "TokenUsage", "count", "output_tokens"]


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens that a provider has counted. The four do not overlap: what was read from a cache, or
    written to one, is not in `input` (as Anthropic counts; OpenAI's `prompt_tokens` is the sum)."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0

    @property
    def prompt(self) -> int:
        """All tokens of the input, cached or not."""
        return self.input + self.cache_read + self.cache_write

    def later(self, other: TokenUsage) -> TokenUsage:
        """What holds after `other` has come later in the same stream. Totals replace totals: they
        are never added. A 0 says nothing: providers repeat only some of the fields."""
        return TokenUsage(
            other.input or self.input,
            other.output or self.output,
            other.cache_read or self.cache_read,
            other.cache_write or self.cache_write,
        )

    @property
    def told(self) -> TokenUsage | None:
        """Itself, unless it is all zeros: providers that do not count say so."""
        return self if self.prompt or self.output else None

    def with_output(self, output: int) -> TokenUsage:
        return replace(self, output=output)


def count(record: Mapping[str, Any], name: str) -> int:
    """The number of tokens under a name; 0 for anything that is no such number."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        return 0
    return int(value)


SMALL = 8
"""Characters of a chunk that is one token: OpenAI, llama.cpp and vLLM send one a chunk."""


def output_tokens(text: str, single: bool) -> int:
    """A guess at the tokens of a piece of an answer: 4 bytes each, and at least one. Where a
    provider sends one token a chunk (`single`), a small piece is one; Anthropic packs several, of
    which 3 bytes count as one."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if single:
        return 1 if size <= SMALL else -(-size // 4)
    return max(1, -(-size // 3))


FIRST = 2.0
"""Bytes a token before anything is known of a model. Measured with Llama's tokenizer: English 3.05,
Python 3.34, JSON 2.30, Chinese 2.50, Hangul 1.83."""

LEAST, MOST = 1.0, 4.0
"""Bytes a token that are believed."""

ENOUGH = 2_048
"""Bytes of a request from which a ratio is learned: in smaller ones the provider's own words, which
surround the conversation, weigh too much."""


WINDOW = 16
"""Requests of which the worst counts: one odd request is forgotten after so many others."""

MOST_KNOWN = 4_096
"""Processes with their models of which ratios are kept."""


class Ratios:
    """The fewest bytes a token that were lately seen, of what one process asks one model: the
    digits of another do not make this one's English longer."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[int, str], deque[float]] = OrderedDict()

    def of(self, process: int, model: str) -> float:
        """`FIRST` before anything is known."""
        return min(self._seen.get((process, model), ()), default=FIRST)

    def learn(self, process: int, model: str, size: int, tokens: int) -> None:
        """`size` bytes of a request without images were `tokens` tokens."""
        if size < ENOUGH or tokens <= 0:
            return
        seen = self._seen.setdefault((process, model), deque(maxlen=WINDOW))
        seen.append(min(MOST, max(LEAST, size / tokens)))
        self._seen.move_to_end((process, model))
        if len(self._seen) > MOST_KNOWN:
            self._seen.popitem(last=False)


def tokens(size: int, bytes_per_token: float) -> int:
    return math.ceil(size / max(bytes_per_token, LEAST))
