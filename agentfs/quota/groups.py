"""Groups of processes, as Linux's control groups: nested, each process in exactly one or in none.

A group bounds the tokens that its processes use and how many there may be; so does every group
above it. The record of a process says its group, and nothing else does, so no process can count
twice. Here are the system calls and the `Meter`; the table of groups is `group_table`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.model.process import Process, Role
from agentfs.model.spec import ProcessSpec
from agentfs.process.events import ProcessChanged
from agentfs.process.table import ProcessTable
from agentfs.quota.events import GroupEntered, GroupLimitHit, GroupLimitSet
from agentfs.quota.group_table import Group, GroupHold, GroupTable
from agentfs.quota.made import GROUPS, Made
from agentfs.quota.meter import LimitError, Room, Use
from agentfs.quota.settings import GroupSettings
from agentfs.rights.gate import KINDS, Gate
from agentfs.rights.policy import Action, outermost
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["Groups"]

ROOT = "/sys/cgroup"


class Groups(Part):
    """The system calls on groups, the check of a spawn, and the `Meter` of their tokens."""

    stored_name = "Groups"

    def __init__(
        self, ground: Ground, gate: Gate, table: ProcessTable, groups: GroupTable, made: Made
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._settings = ground.settings
        self._gate = gate
        self._table = table
        self._made = made
        self._hits: dict[tuple[Group, str], str] = {}
        self.groups = groups
        for group in groups:  # who has made them is not kept
            made.note(GROUPS, group.path, None)

    # -- look-ups --------------------------------------------------------------------------------

    def find(self, path: str) -> Group | None:
        return self.groups.find(path)

    def members(self, path: str) -> list[Process]:
        """The living processes of a group itself, by age; for "" those that are in none."""
        return self._table.members(path)

    def count(self, group: Group) -> int:
        """How many living processes it and everything below it have."""
        return self._table.count_members(group.path) + sum(
            self.count(child) for child in self.groups.children(group.path)
        )

    # -- system calls ----------------------------------------------------------------------------

    def create(self, principal: Principal, parent: str, name: str) -> Group:
        """Make a group. Raises EINVAL (a name that no file can have), EEXIST, ENOENT, EACCES,
        EPERM, EAGAIN (`groups.max_groups`, `groups.max_depth`)."""
        with self._gate.enter(principal) as actor:
            self._require(actor, parent, f"make {name}")
            self._gate.check_making(actor.agent, GROUPS, 1)
            created = self.groups.create(parent, name, self._settings.of(GroupSettings))
            self._made.add(GROUPS, created.path, actor.agent)
            return created

    def remove(self, principal: Principal, path: str) -> None:
        """Remove an empty group. Raises EBUSY while it has processes or groups."""
        with self._gate.enter(principal) as actor:
            group = self.groups.get(path)
            self._require(actor, group.parent, f"remove {group.name}")
            if self._table.count_members(path):
                raise KernelError(errno.EBUSY, f"group {path} has processes: move them first")
            self.groups.remove(group)
            self._made.remove(GROUPS, path)

    def set_limit(self, principal: Principal, path: str, limit: str, value: int | None) -> None:
        """Set `tokens` or `pids` of a group. It may be less than is used: then nothing more is
        let through."""
        with self._gate.enter(principal) as actor:
            group = self.groups.get(path)
            self._require(actor, group.parent, f"{group.name}: {limit}.max {_told(value)}")
            if limit == "tokens":
                self.groups.change(group, tokens_max=value)
            else:
                self.groups.change(group, pids_max=value)
            self._events.emit(GroupLimitSet(path, limit, value))

    def set_rate(self, principal: Principal, path: str, kind: str, value: int | None) -> None:
        """Set how many calls of a kind its processes may make within a minute. EINVAL for a kind
        that there is not."""
        with self._gate.enter(principal) as actor:
            group = self.groups.get(path)
            self._require(actor, group.parent, f"{group.name}: rate of {kind} {_told(value)}")
            if kind not in KINDS:
                raise KernelError(
                    errno.EINVAL, f"one of {', '.join(KINDS)} was expected, not {kind!r}"
                )
            others = {each: most for each, most in group.rates.items() if each != kind}
            self.groups.change(group, rates=others if value is None else others | {kind: value})
            self._events.emit(GroupLimitSet(path, "rate", value))

    def move_branch(self, principal: Principal, pid: int, path: str) -> None:
        """Put a living process and all below it into a group, in one step: as `move` for each."""
        with self._gate.enter(principal):
            branch = [self._table.get(pid), *self._table.descendants(pid)]
            for process in branch:
                if process is branch[0] or process.state.alive:
                    self.move(principal, process.pid, path)

    def move(self, principal: Principal, pid: int, path: str) -> None:
        """Put a living process into a group, "" for none; its children stay where they are. The
        group that it leaves keeps its uses and its open calls. As with Linux, `pids.max` does not
        hold here: it bounds spawns. Raises ESRCH, ENOENT, EACCES, EPERM."""
        with self._gate.enter(principal) as actor:
            process = self._table.get(pid)
            if process.role is Role.KERNEL:
                raise KernelError(errno.EPERM, "process 1 is in no group", rule="init")
            if not process.state.alive:
                raise KernelError(errno.ESRCH, f"process {pid} is {process.state.value}")
            if path:
                self.groups.get(path)
            policy = self._gate.policy
            policy.require_capability(actor, "manage_tree")
            what = f"move to group {path or '/'}".encode()
            policy.require(actor, Action.MANAGE_TREE, f"/agents/{process.name}", process, what=what)
            self._contain(actor, process.group)
            self._contain(actor, path)
            self._among_strangers(actor, process.uid, path)
            old = process.group
            if old == path:
                return
            self._table.update(process, group=path)
            self._events.emit(GroupEntered(pid, process.name, old, path))
            self._events.emit(ProcessChanged(pid, process.name))

    def _require(self, actor: Process, inside: str, what: str) -> None:
        """Raise unless `actor` may manage what is in the group `inside`, and do `what` there."""
        self._gate.policy.require_capability(actor, "manage_tree")
        path = f"{ROOT}/{inside}" if inside else ROOT
        self._gate.policy.require(
            actor, Action.MANAGE_TREE, path, what=what.encode("utf-8", "surrogateescape")
        )
        self._contain(actor, inside)

    def _contain(self, actor: Process, path: str) -> None:
        """Raise EPERM unless `path` is the actor's own group or below it: a process in a group
        cannot widen what holds for it (Linux: delegation containment)."""
        own = actor.group
        if own and path != own and not path.startswith(f"{own}/"):
            raise KernelError(
                errno.EPERM,
                f"{actor.name} is in group {own} and may manage what is in there, not in"
                f" {path or 'the root group'}",
                rule="group containment",
            )

    def _among_strangers(self, actor: Process, uid: int, path: str) -> None:
        """Raise EPERM if an actor that is not in a group puts a process of user `uid` there among
        those of other users: processes of one group may write to each other."""
        top = outermost(path)
        if actor.role is Role.KERNEL or not top or outermost(actor.group) == top:
            return
        stranger = next((each for each in self._below(top) if each.uid != uid), None)
        if stranger is not None:
            raise KernelError(
                errno.EPERM,
                f"{stranger.name}, in group {stranger.group}, is another user's: only the operator"
                " and who is in the group puts somebody there",
                rule="group containment",
            )

    def _below(self, path: str) -> Iterator[Process]:
        yield from self._table.members(path)
        for child in self.groups.children(path):
            yield from self._below(child.path)

    # -- spawn and end ---------------------------------------------------------------------------

    def check_group(self, actor: Process, parent: Process, spec: ProcessSpec) -> None:
        """Whether a child of `parent` may be in its parent's group, or in the one that `spec`
        names. EAGAIN if that, or one above it, has all the processes that it may have."""
        path = parent.group if spec.group is None else spec.group
        if path != parent.group:
            if path:
                self.groups.get(path)
            self._gate.policy.require_capability(actor, "manage_tree")
            place = f"{ROOT}/{path}" if path else ROOT
            what = f"spawn a child of {parent.name} in it".encode()
            self._gate.policy.require(actor, Action.MANAGE_TREE, place, what=what)
            self._contain(actor, path)
            self._among_strangers(actor, parent.uid, path)
        for group in self.groups.line(path):
            if group.pids_max is not None and self.count(group) >= group.pids_max:
                self._hit(group, "pids", parent)
                raise KernelError(
                    errno.EAGAIN,
                    f"group {group.path} has {group.pids_max} processes, as many as it may have",
                    rule=f"group {group.path}: pids.max",
                )

    def process_ended(self, process: Process) -> None:
        """Everything that its open calls held counts as used."""
        self.groups.forget(process.pid)

    # -- the meter -------------------------------------------------------------------------------

    def room(self, process: Process, use: Use, held: int = 0) -> Room:
        """The tokens that its groups, or those where the call has `held` set aside, let through."""
        if use.kind != "llm":
            return Room()
        path = self.groups.held_in(process.pid, held) if held else process.group
        rooms = [
            max(0, group.tokens_max - group.tokens)
            for group in self.groups.line(path or "")
            if group.tokens_max is not None
        ]
        return Room(min(rooms, default=None))

    def hold(self, process: Process, use: Use) -> None:
        """Count the tokens of `use` in its group and all above. Raises EDQUOT if one of them has
        no room for them; a call of a model needs room for one token at least."""
        if use.kind != "llm":
            return
        tokens, path = use.tokens, process.group
        if path:
            self._check(process, path, tokens)
        # Of a process in no group as well: another call of as many tokens, begun once it is in one,
        # is not taken for this one.
        self.groups.hold(process.pid, GroupHold(path, tokens))

    def grow(self, process: Process, held: Use, more: Use) -> None:
        """Count more in the group where the call began."""
        path = self.groups.held_in(process.pid, held.tokens)
        if path is not None:
            self._check(process, path, more.tokens)
            self.groups.grow(process.pid, held.tokens, more.tokens)

    def _check(self, process: Process, path: str, tokens: int) -> None:
        for group in self.groups.line(path):
            if group.tokens_max is None or group.tokens + max(1, tokens) <= group.tokens_max:
                continue
            self._hit(group, "tokens", process)
            rule = f"group {group.path}: tokens.max"
            raise LimitError(
                errno.EDQUOT,
                f"group {group.path} has used {group.tokens} of its {group.tokens_max} tokens:"
                f" there is no room for {tokens} more",
                rule=rule,
                resource=rule,
                used=group.tokens,
                limit=group.tokens_max,
            )

    def settle(self, process: Process, held: Use, actual: Use | None) -> None:
        """Count the use where it was held; if nothing was held, in the group of now."""
        if held.kind != "llm":
            return
        used = 0 if actual is None else actual.tokens
        if not self.groups.settle(process.pid, held.tokens, used):
            self.groups.charge(process.group, used)

    # -- refusals --------------------------------------------------------------------------------

    def _hit(self, group: Group, limit: str, process: Process) -> None:
        """Count a refusal in `group` and all above it, as Linux does: after the transaction, which
        is rolled back."""
        if not self._hits:
            self._store.on_end(self._count_hits)
        self._hits[group, limit] = process.name  # once, though a report may ask twice

    def _count_hits(self) -> None:
        hits, self._hits = self._hits, {}
        with self._store.transaction():
            for (group, limit), name in hits.items():
                if group.removed:
                    continue
                for each in self.groups.line(group.path):
                    if limit == "tokens":
                        self.groups.change(each, tokens_hits=each.tokens_hits + 1)
                    else:
                        self.groups.change(each, pids_hits=each.pids_hits + 1)
                self._events.emit(GroupLimitHit(group.path, limit, name))


def _told(limit: int | None) -> str:
    return "max" if limit is None else str(limit)
