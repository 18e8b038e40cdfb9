"""Bytes that somebody writes and that are nowhere else yet: in the daemon's memory."""

from __future__ import annotations

from agentfs.quota.shares import Charge

__all__ = ["Written"]


class Written(bytearray):
    """They count for whoever writes them, until they are dropped. More than the share raises
    ShareError, and changes nothing."""

    def __init__(self, charge: Charge, content: bytes = b"") -> None:
        charge.resize(len(content))
        super().__init__(content)
        self._charge = charge

    def put(self, offset: int, data: bytes) -> None:
        """Write `data` at `offset`; what is between the end and there is zeros."""
        size = len(self)
        if offset + len(data) > size:
            self._charge.resize(offset + len(data))
        if offset > size:
            self.extend(bytes(offset - size))
        self[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        """Cut them to `size` bytes, or fill them up with zeros."""
        self._charge.resize(size)
        del self[size:]
        self.extend(bytes(size - len(self)))

    def replace_by(self, content: bytes) -> None:
        """Have `content` instead."""
        self._charge.resize(len(content))
        self[:] = content

    def drop(self) -> None:
        """Nobody needs them any more."""
        self.clear()
        self._charge.release()
