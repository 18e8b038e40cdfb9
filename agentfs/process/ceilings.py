"""The limits that hold for a process: the least of its own, its ancestors' and the configuration's.

Where each is enforced: children at the spawn (`process.rules`), claimed messages and their time in
`mail.claims`, calls by the minute in `quota.rates`, uses of models and tools in `quota.spending`,
memory and processor time of programs by the machine (`machine.programs`).
"""

from __future__ import annotations

from collections.abc import Iterable

from agentfs.model.principal import INIT
from agentfs.model.process import Limits, Process
from agentfs.process.settings import LimitSettings
from agentfs.process.table import ProcessTable
from agentfs.store.settings import Settings

__all__ = ["NAMES", "OWN_ONLY", "Ceilings"]

NAMES: tuple[str, ...] = Limits.__slots__
"""The limits there are, in their order."""

OWN_ONLY = "max_children"
"""It is about the process itself, not about what its children do: an ancestor's does not count."""


class Ceilings:
    """Looks limits up; it has no state of its own. `accounts` of a process are those whose limits
    count what it uses."""

    __slots__ = ("_settings", "_table", "accounts")

    def __init__(self, table: ProcessTable, settings: Settings) -> None:
        self._table = table
        self._settings = settings
        self.accounts = table.accounts

    def effective(self, process: Process, name: str) -> int | float | None:
        """The limit called `name` that holds for `process`; None is none. Process 1 has none but
        that on its children."""
        least: int | float | None = getattr(process.limits, name)
        if process.pid == INIT:
            return least if name == OWN_ONLY else None
        above = process
        while name != OWN_ONLY and above.ppid > INIT:
            found = self._table.find(above.ppid)
            if found is None:
                break
            above = found
            limit = getattr(above.limits, name)
            if limit is not None and (least is None or limit < least):
                least = limit
        general = self.general(name)
        return general if least is None or (general is not None and general < least) else least

    def accounts_of(self, pid: int) -> list[int]:
        """The same by pid; that alone if there is no such process."""
        process = self._table.find(pid)
        return [pid] if process is None else [each.pid for each in self.accounts(process)]

    def whole(self, process: Process, name: str) -> int | None:
        """The same, for a limit that is counted in whole numbers."""
        limit = self.effective(process, name)
        return None if limit is None else int(limit)

    def decisive(
        self, process: Process, names: Iterable[str]
    ) -> dict[str, tuple[int | float, str]]:
        """By name the least of the limits on `process`, and where it comes from: `own`, the name of
        an ancestor, or the key of the configuration. Of equal ones its own, then the nearest. What
        has no limit is left out."""
        found: dict[str, tuple[int | float, str]] = {}
        if process.pid == INIT:
            own = process.limits.max_children
            if OWN_ONLY in names and own is not None:
                found[OWN_ONLY] = own, "processes.max_children_of_init"
            return found
        holder: Process | None = process
        while holder is not None and holder.pid != INIT:
            for name in names:
                limit = getattr(holder.limits, name)
                if limit is None or (name == OWN_ONLY and holder is not process):
                    continue
                if name not in found or limit < found[name][0]:
                    found[name] = limit, "own" if holder is process else holder.name
            holder = self._table.find(holder.ppid)
        general = self._settings.of(LimitSettings)
        for name in names:
            limit = getattr(general, name)
            if limit is not None and (name not in found or limit < found[name][0]):
                found[name] = limit, f"limits.{name}"
        return found

    def general(self, name: str) -> int | float | None:
        """What the configuration says of every process."""
        limit: int | float | None = getattr(self._settings.of(LimitSettings), name)
        return limit
