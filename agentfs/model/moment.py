"""Moments as people write them in queries: a date, or a duration: so long ago."""

from __future__ import annotations

import errno
from datetime import UTC, datetime

from agentfs.base.errors import KernelError
from agentfs.model.spec import seconds

__all__ = ["count", "moment"]


def moment(name: str, text: str, now: float) -> float:
    """The moment in seconds since 1970 that `text` says for the key `name` of a query. A date
    without a zone is UTC. Raises EINVAL."""
    try:
        return now - seconds(text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise KernelError(
            errno.EINVAL,
            f"{name} is a date (2026-11-21T09:00:00Z) or so long ago (2h), not {text[:64]!r}",
        ) from None


def count(text: str, most: int) -> int:
    """The `limit` of a query. Raises EINVAL."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
        raise KernelError(errno.EINVAL, f"limit is a number from 1 to {most}")
    return int(text)
