"""Reading the spec of a node, whose templates are evaluated by then: what comes of those nobody has
checked before."""

from __future__ import annotations

import errno
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.model.spec import seconds

__all__ = ["duration"]


def duration(spec: dict[str, Any], name: str, usual: float) -> float:
    """A duration in seconds; `usual` if the spec says nothing. Raises EINVAL."""
    said = spec.get(name)
    if said is None:
        return usual
    try:
        return seconds(said)
    except ValueError as bad:
        raise KernelError(errno.EINVAL, f"{name}: {bad}, not {said!r}") from None
