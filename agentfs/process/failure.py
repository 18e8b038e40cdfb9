"""How a program ended, in words for people: its exit code, or its signal."""

from __future__ import annotations

import signal
from contextlib import suppress

__all__ = ["ended_how"]


def ended_how(code: int | None) -> str:
    """How a program ended. `code` is its exit code, or 128 + signal; None: nobody saw it."""
    if code is None:
        return "nobody knows how it ended"
    if code > 128:
        with suppress(ValueError):
            return f"it was ended by {signal.Signals(code - 128).name}"
    return f"it ended with exit code {code}"
