"""The ground that every service of the kernel stands on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agentfs.base.clock import Clock, SystemClock, Timers
from agentfs.store.event_log import EventLog
from agentfs.store.layout import STORE
from agentfs.store.part import Parts
from agentfs.store.settings import Section, Settings
from agentfs.store.store import Store

__all__ = ["Ground"]


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """The first argument of every service: the place of the state, the store, the events, the time,
    the configuration, and the parts, which are told what happens."""

    state_dir: Path
    store: Store
    events: EventLog
    clock: Clock
    timers: Timers
    settings: Settings
    parts: Parts = field(default_factory=Parts)

    @classmethod
    def open(
        cls, state_dir: Path, sections: tuple[type[Section], ...], clock: Clock | None = None
    ) -> Ground:
        """Open the store in `state_dir`, which has been laid out. The configuration has these
        `sections`; `clock` is the machine's unless a test gives another. Raises what `Store`
        raises."""
        clock = clock or SystemClock()
        store = Store(state_dir / STORE)
        events = EventLog(store, clock)
        return cls(
            state_dir, store, events, clock, Timers(clock), Settings(store, events, sections)
        )
