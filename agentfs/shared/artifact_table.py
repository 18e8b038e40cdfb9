"""All artifacts by space and key, in memory and in the store, and the files of their contents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from agentfs.process.table import ProcessTable
from agentfs.quota.disk_shares import DiskShares
from agentfs.quota.shares import Charge
from agentfs.shared.artifact import LEAST, Artifact, Space, Visibility
from agentfs.shared.draft import Draft
from agentfs.store.store import Store

__all__ = ["FOLDER", "KIND", "Shelf"]

KIND = "artifact"
"""Of its record in the store."""

FOLDER = "artifacts"
"""Of the contents, in the state directory."""


class Shelf:
    """Loads itself from the store, and sweeps its folder. What it has is changed by `Artifacts`."""

    def __init__(
        self, store: Store, table: ProcessTable, state_dir: Path, disk: DiskShares
    ) -> None:
        self._store = store
        self._table = table
        self._disk = disk
        self.folder = state_dir / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._spaces: dict[Space, dict[str, Artifact]] = {}
        self._owned: Counter[str] = Counter()
        self._charges: dict[int, Charge] = {}
        self._drafts: dict[tuple[Space, str], list[Draft]] = {}
        self._serial = 0
        for _, record in store.records(KIND):
            artifact = Artifact.from_record(record)
            self._put(artifact)
            self._serial = max(self._serial, artifact.serial)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a daemon left that was killed while somebody wrote."""
        known = {self.path(artifact.serial).name for artifact in self}
        for file in self.folder.iterdir():
            if file.name not in known:
                file.unlink()

    # -- look-ups --------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Artifact]:
        for space in self._spaces.values():
            yield from space.values()

    def __len__(self) -> int:
        return sum(map(len, self._spaces.values()))

    def path(self, serial: int) -> Path:
        """The file of a version."""
        return self.folder / f"{serial:012d}"

    def find(self, space: Space, key: str) -> Artifact | None:
        return self._spaces.get(space, {}).get(key)

    def space(self, space: Space) -> dict[str, Artifact]:
        """The artifacts of a space by key, sorted."""
        return dict(sorted(self._spaces.get(space, {}).items()))

    def owned(self, owner: str) -> list[Artifact]:
        """Everything that belongs to an agent."""
        return [artifact for artifact in self if artifact.owner == owner]

    def drafted(self, space: Space, key: str) -> Draft | None:
        """What somebody writes under a key that is not taken yet; the newest."""
        if self.find(space, key) is not None:
            return None
        drafts = self._drafts.get((space, key))
        return drafts[-1] if drafts else None

    def line(self, name: str) -> list[str]:
        """An agent and those whose processes its process descends from, nearest first."""
        process = self._table.by_name(name)
        above = () if process is None else self._table.ancestors(process.pid)
        return [name, *(up.name for up in above)]

    def in_view(self, name: str, key: str) -> Artifact | None:
        """The artifact of visibility subtree that agent `name` finds under `key`: its own, or that
        of the nearest above it."""
        for owner in self.line(name):
            found = self.find((Visibility.SUBTREE.value, owner), key)
            if found is not None:
                return found
        return None

    def view(self, name: str) -> dict[str, Artifact]:
        """All of them by key, sorted."""
        found: dict[str, Artifact] = {}
        for owner in reversed(self.line(name)):
            found |= self._spaces.get((Visibility.SUBTREE.value, owner), {})
        return dict(sorted(found.items()))

    # -- the tables ------------------------------------------------------------------------------

    def move(self, old: Artifact, new: Artifact) -> None:
        """Have `new` in the place of `old`: the same content with another record."""
        self._forget(old)
        self._remember(new)

    def _remember(self, artifact: Artifact) -> None:
        self._store.on_rollback(lambda: self._take(artifact))
        self._put(artifact)
        self._store.put_record(KIND, f"{artifact.serial:012d}", artifact.record())

    def _forget(self, artifact: Artifact) -> None:
        self._store.on_rollback(lambda: self._put(artifact))
        self._take(artifact)
        self._store.delete_record(KIND, f"{artifact.serial:012d}")

    def _put(self, artifact: Artifact) -> None:
        self._spaces.setdefault(artifact.space, {})[artifact.key] = artifact
        self._owned[artifact.owner] += 1
        holder = self._disk.owner(artifact.owner, artifact.uid)
        size = max(artifact.size, LEAST)
        self._charges[artifact.serial] = Charge(self._disk.artifacts, holder, size)

    def _take(self, artifact: Artifact) -> None:
        space = self._spaces[artifact.space]
        del space[artifact.key]
        if not space:
            del self._spaces[artifact.space]
        self._owned[artifact.owner] -= 1
        if not self._owned[artifact.owner]:
            del self._owned[artifact.owner]
        self._charges.pop(artifact.serial).release()

    def _drop_drafts(self, space: Space, key: str) -> None:
        for draft in self._drafts.pop((space, key), ()):
            draft.dropped = True

    def _move_drafts(self, space: Space, key: str, new: str) -> None:
        for draft in self._drafts.get((space, key), ()):
            draft.key = new
        if (space, key) in self._drafts:
            self._drafts[space, new] = self._drafts.pop((space, key))
