"""All artifacts by space and key, in memory and in the store, and the files of their contents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agentfs.process.table import ProcessTable
from agentfs.quota.disk_shares import DiskShares
from agentfs.quota.shares import Charge
from agentfs.shared.artifact import LEAST, Artifact, Space, Visibility
from agentfs.shared.draft import ArtifactDraft
from agentfs.store.ground import Ground
from agentfs.store.records import Records

__all__ = ["FOLDER", "KIND", "ArtifactTable"]

KIND = "artifact"
"""Of its record in the store."""

FOLDER = "artifacts"
"""Of the contents, in the state directory."""


class ArtifactTable:
    """Loads itself from the store, and sweeps its folder. Changes of artifacts belong inside a
    transaction; drafts are in memory only."""

    def __init__(self, ground: Ground, table: ProcessTable, disk: DiskShares) -> None:
        self._table = table
        self._disk = disk
        self.folder = ground.state_dir / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._by_key: dict[Space, dict[str, Artifact]] = {}
        self._charges: dict[int, Charge] = {}
        self._drafts: dict[tuple[Space, str], list[ArtifactDraft]] = {}
        self._artifacts = Records(
            ground.store,
            KIND,
            lambda name, record: (int(name), Artifact.from_record(record)),
            Artifact.record,
            _file_name,
        )
        self._by_owner = self._artifacts.index(lambda artifact: artifact.owner)
        self._artifacts.follow(self._entered, self._left)
        self._artifacts.load()
        self._serial = max(self._artifacts, default=0)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a daemon left that was killed while somebody wrote."""
        known = {self.path(serial).name for serial in self._artifacts}
        for file in self.folder.iterdir():
            if file.name not in known:
                file.unlink()

    # -- look-ups --------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Artifact]:
        return iter(self._artifacts.values())

    def __len__(self) -> int:
        return len(self._artifacts)

    def path(self, serial: int) -> Path:
        """The file of a version."""
        return self.folder / _file_name(serial)

    def find(self, space: Space, key: str) -> Artifact | None:
        return self._by_key.get(space, {}).get(key)

    def space(self, space: Space) -> dict[str, Artifact]:
        """The artifacts of a space by key, sorted."""
        return dict(sorted(self._by_key.get(space, {}).items()))

    def owned(self, owner: str) -> list[Artifact]:
        """Everything that belongs to an agent."""
        return list(self._by_owner.of(owner).values())

    def count(self, owner: str) -> int:
        """How many artifacts an agent has."""
        return len(self._by_owner.of(owner))

    def drafted(self, space: Space, key: str) -> ArtifactDraft | None:
        """The newest draft for a key under which there is no artifact yet."""
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
            found |= self._by_key.get((Visibility.SUBTREE.value, owner), {})
        return dict(sorted(found.items()))

    # -- changes ---------------------------------------------------------------------------------

    def next_serial(self) -> int:
        """A number that no version has had."""
        self._serial += 1
        return self._serial

    def put(self, artifact: Artifact) -> None:
        """A version, or the same content with another record."""
        self._artifacts.put(artifact.serial, artifact)

    def drop(self, artifact: Artifact) -> None:
        """A version is no more. Its file is the caller's to remove."""
        self._artifacts.drop(artifact.serial)

    def _entered(self, serial: int, artifact: Artifact) -> None:
        self._by_key.setdefault(artifact.space, {})[artifact.key] = artifact
        holder = self._disk.owner(artifact.owner, artifact.uid)
        size = max(artifact.size, LEAST)
        self._charges[serial] = Charge(self._disk.artifacts, holder, size)

    def _left(self, serial: int, artifact: Artifact) -> None:
        space = self._by_key[artifact.space]
        del space[artifact.key]
        if not space:
            del self._by_key[artifact.space]
        self._charges.pop(serial).release()

    # -- drafts ----------------------------------------------------------------------------------

    def add_draft(self, draft: ArtifactDraft) -> None:
        """Somebody begins to write."""
        self._drafts.setdefault((draft.space, draft.key), []).append(draft)

    def remove_draft(self, draft: ArtifactDraft) -> None:
        """Nobody writes it any more; it may be gone already."""
        drafts = self._drafts.get((draft.space, draft.key), [])
        if draft in drafts:
            drafts.remove(draft)
            if not drafts:
                del self._drafts[draft.space, draft.key]

    def drop_drafts(self, space: Space, key: str) -> None:
        """Nothing will come of the drafts for a key."""
        for draft in self._drafts.pop((space, key), ()):
            draft.drop()

    def move_drafts(self, space: Space, key: str, new: str) -> None:
        """The drafts for a key are for another one."""
        for draft in self._drafts.get((space, key), ()):
            draft.rename(new)
        if (space, key) in self._drafts:
            self._drafts[space, new] = self._drafts.pop((space, key))


def _file_name(serial: int) -> str:
    return f"{serial:012d}"
