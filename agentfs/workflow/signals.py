"""Signals: values that somebody sends to a run under a key. One that comes before its wait is kept
until that takes it, or until the run has ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from agentfs.store.records import Records
from agentfs.store.store import Store

__all__ = ["KIND", "KeptSignal", "KeptSignals"]

KIND = "signal"
"""The records in the store, by RUN/KEY."""


@dataclass(slots=True)
class KeptSignal:
    """What was sent. A second signal of a key that nobody has taken yet comes behind the first."""

    run: int
    values: list[Any]


class KeptSignals:
    """The signals that nobody has waited for yet. Changes belong inside a transaction."""

    def __init__(self, store: Store) -> None:
        self._kept = Records(store, KIND, _read, asdict, _name)
        self._by_run = self._kept.index(lambda kept: kept.run, "run")

    def load(self) -> None:
        self._kept.load()

    def keep(self, run: int, key: str, value: Any) -> None:
        before = self._kept.get((run, key))
        self._kept.put((run, key), KeptSignal(run, [*(before.values if before else ()), value]))

    def take(self, run: int, key: str) -> tuple[bool, Any]:
        """Use up the first signal of a key: (True, its value), or (False, None) if none is kept."""
        found = self._kept.get((run, key))
        if found is None:
            return False, None
        if len(found.values) == 1:
            self._kept.drop((run, key))
        else:
            self._kept.put((run, key), KeptSignal(run, found.values[1:]))
        return True, found.values[0]

    def count(self, run: int, key: str) -> int:
        found = self._kept.get((run, key))
        return 0 if found is None else len(found.values)

    def keys(self, run: int) -> list[str]:
        """The keys of which signals are kept."""
        return sorted(key for _, key in self._by_run.of(run))

    def forget(self, run: int) -> None:
        """The run has ended."""
        for key in self.keys(run):
            self._kept.drop((run, key))


def _read(name: str, record: dict[str, Any]) -> tuple[tuple[int, str], KeptSignal]:
    run, _, key = name.partition("/")
    return (int(run), key), KeptSignal(**record)


def _name(key: tuple[int, str]) -> str:
    return f"{key[0]}/{key[1]}"
