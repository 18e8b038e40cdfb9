"""The daemon's descriptors that its clients' open files take, and how many those may be.

Every open real file is a descriptor of the daemon, which also needs some for itself: without one it
starts no program, finds out about no caller, and notices no change of the mount table.
"""

from __future__ import annotations

import errno
import resource
from typing import ClassVar

from agentfs.providers.devices import OWN, Device
from agentfs.quota.pots import PotKind
from agentfs.quota.shares import Charge, Pot, Shares

__all__ = ["Descriptor", "divide", "most"]

DESCRIPTORS = PotKind(
    "descriptors",
    "files open",
    "RLIMIT_NOFILE of the daemon",
    scarce=errno.ENFILE,
    excess=errno.EMFILE,
    rule="open files",
)

CLIENTS = 0.75
"""The clients' share of RLIMIT_NOFILE; the rest is the daemon's own."""


class Descriptor:
    """An open descriptor of a file on `device`, closed with the last who has it; `charge` is of
    whoever has it open, None for those that nobody has."""

    __slots__ = ("_charge", "_device", "number")

    count: ClassVar[int] = 0
    """How many there are."""
    ours: ClassVar[int] = 0
    """Of these, how many nobody has open."""

    def __init__(self, number: int, charge: Charge | None = None, device: Device = OWN) -> None:
        self.number = number
        self._device = device
        self._charge = charge
        Descriptor.count += 1
        Descriptor.ours += charge is None

    def __del__(self) -> None:
        Descriptor.count -= 1
        Descriptor.ours -= self._charge is None
        self._device.close(self.number)


def most() -> int:
    """How many clients may take."""
    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * CLIENTS)


def divide(shares: Shares) -> None:
    """Let everybody have a share of them."""
    shares.put(Pot(DESCRIPTORS, lambda: most() - Descriptor.ours, shares.terms))
