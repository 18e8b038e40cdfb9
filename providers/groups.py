"""/sys/cgroup: groups of processes, with the names and formats of Linux's control groups."""

from __future__ import annotations

import errno
from collections.abc import Hashable, Iterable, Iterator, Sequence

from agentfs.base.errors import KernelError
from agentfs.model.process import Process
from agentfs.providers.system_table import SystemTable
from agentfs.quota.events import GroupCreated, GroupLimitHit, GroupLimitSet, GroupRemoved
from agentfs.quota.group_table import Group
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Removed
from agentfs.vfs.declare import file, live, value
from agentfs.vfs.files import Basics, Live
from agentfs.vfs.handles import MAX_CONTROL, Whole, as_text
from agentfs.vfs.node import Handle, Node, Time, is_writing
from agentfs.vfs.on import When, on

__all__ = ["CgroupDirectory", "GroupDirectory"]

MOST = 10**15
"""The greatest number that a limit can be."""

ERRORS = {
    "EINVAL": "neither `max` nor a whole number",
    "EACCES": "you are neither the operator nor a process with manage_tree",
    "EPERM": "it is not a group below your own",
}


class Members(Live):
    """Which processes are in a group; a pid that is written is moved there."""

    def __init__(self, folder: _GroupsDirectory) -> None:
        key = folder.key_of("cgroup.procs")
        super().__init__(Basics(key, 0o666, folder.owner, folder.guard), folder.list_members)
        self._move = folder.move

    def open(self, flags: int, caller: Caller) -> Handle:
        if not is_writing(flags):
            return super().open(flags, caller)

        async def move(data: bytes) -> None:
            self._move(as_text(data).strip(), caller)

        return Whole(move, MAX_CONTROL)


class _GroupsDirectory(SystemTable):
    """The root and every group have these: processes, and groups."""

    mode = 0o777
    path = ""

    @file(
        "cgroup.procs",
        0o666,
        kind="Live",
        example="7\n12\n",
        errors={
            "EINVAL": "neither a pid nor `branch PID`",
            "ESRCH": "no living process has this pid",
            "EACCES": "you are neither the operator nor a process with manage_tree",
            "EPERM": "process 1, another user's process, or a group that is not below your own",
        },
    )
    def procs(self) -> Node:
        """The living processes that are in this group and in none below it, a pid a line. Write a
        pid, or 0 for yourself, to move that process here; its children stay where they are
        (`branch PID` moves them and all below them too, in one step), and what it has used stays
        on the account of the group it leaves. `pids.max` bounds what is
        spawned, not what is moved."""
        return Members(self)

    def list_members(self) -> bytes:
        members: Iterable[Process] = self.kernel.groups.members(self.path)
        return "".join(f"{process.pid}\n" for process in members).encode()

    def move(self, text: str, caller: Caller) -> None:
        branch = text.startswith("branch ")
        number = text.removeprefix("branch ").strip()
        if not (number.isascii() and number.isdigit() and len(number) < 16):
            raise KernelError(errno.EINVAL, f"a pid, or `branch PID`, was expected, not {text!r}")
        pid = int(number) or caller.principal.pid or 0
        groups = self.kernel.groups
        (groups.move_branch if branch else groups.move)(caller.principal, pid, self.path)

    def find(self, name: str) -> Node | None:
        group = self.kernel.groups.find(f"{self.path}/{name}" if self.path else name)
        return None if group is None else GroupDirectory(self, group)

    def more(self) -> Iterator[tuple[str, Node]]:
        for group in self.kernel.groups.groups.children(self.path):
            yield group.name, GroupDirectory(self, group)

    def mkdir(self, name: str, mode: int, caller: Caller) -> Node:
        group = self.kernel.groups.create(caller.principal, self.path, name)
        return GroupDirectory(self, group)

    def rmdir(self, name: str, caller: Caller) -> None:
        found = self.find(name)
        if not isinstance(found, GroupDirectory):
            raise self.missing(name)
        self.kernel.groups.remove(caller.principal, found.path)


class GroupDirectory(_GroupsDirectory):
    """/sys/cgroup/NAME: a group of processes. Its limits are for itself and all groups below it
    together. A child is in its parent's group; `group:` in its definition names another
    one. An empty one is removed with `rmdir`."""

    PATH = "/sys/cgroup/NAME"

    def __init__(self, above: SystemTable, group: Group) -> None:
        super().__init__(above)
        self.key = self.at(group.path)
        self._group = group
        self.path = group.path

    @staticmethod
    def at(path: str) -> Hashable:
        """The key of the directory of a group."""
        return ("cgroup", path)

    @property
    def group(self) -> Group:
        """The group, looked at in every operation. ESTALE once it is removed."""
        if self._group.removed:
            raise KernelError(errno.ESTALE, f"group {self.path} is removed")
        return self._group

    def changed(self) -> Time:
        return self.group.changed

    @value(
        "tokens.max",
        0o666,
        write="set_tokens",
        on=(When(GroupLimitSet, limit="tokens"),),
        example="1000000",
        errors=ERRORS,
    )
    def tokens_max(self) -> str:
        """How many tokens its processes may use of models in all; `max`: any number. A call that
        would exceed it is refused: EDQUOT."""
        return _shown(self.group.tokens_max)

    async def set_tokens(self, text: str, caller: Caller) -> None:
        self._set("tokens", text, caller)

    @live("tokens.current", example="41200")
    def tokens_current(self) -> str:
        """How many tokens its processes, and those of the groups below it, have used while they
        were in it, and what their open calls hold."""
        return str(self.group.tokens)

    @live("tokens.remaining", example="958800")
    def tokens_remaining(self) -> str:
        """How many tokens are left of `tokens.max`: 0 and not less; `max` if there is no limit. A
        group above it may have less."""
        return _left(self.group.tokens_max, self.group.tokens)

    @live("tokens.percent", example="4.1")
    def tokens_percent(self) -> str:
        """How much of `tokens.max` is used, in percent; 0.0 if there is no limit."""
        return _percent(self.group.tokens_max, self.group.tokens)

    @value("tokens.events", on=(When(GroupLimitHit, limit="tokens"),), example="max 3")
    def tokens_events(self) -> str:
        """`max N`: how many calls were refused because this group, or one below it, had no tokens
        left."""
        return f"max {self.group.tokens_hits}"

    @value(
        "pids.max",
        0o666,
        write="set_pids",
        on=(When(GroupLimitSet, limit="pids"),),
        example="max",
        errors=ERRORS,
    )
    def pids_max(self) -> str:
        """How many living processes there may be for another one to be spawned; `max`: any number.
        A spawn that would exceed it is refused: EAGAIN."""
        return _shown(self.group.pids_max)

    async def set_pids(self, text: str, caller: Caller) -> None:
        self._set("pids", text, caller)

    @live("pids.current", example="4")
    def pids_current(self) -> str:
        """How many living processes it and the groups below it have. More than `pids.max` if they
        were moved here, or there before it was set."""
        return str(self.kernel.groups.count(self.group))

    @live("pids.remaining", example="16")
    def pids_remaining(self) -> str:
        """How many processes can be spawned before `pids.max` is reached; `max` without it."""
        return _left(self.group.pids_max, self.kernel.groups.count(self.group))

    @live("pids.percent", example="20.0")
    def pids_percent(self) -> str:
        """How much of `pids.max` is taken, in percent; 0.0 if there is no limit."""
        return _percent(self.group.pids_max, self.kernel.groups.count(self.group))

    @value("pids.events", on=(When(GroupLimitHit, limit="pids"),), example="max 0")
    def pids_events(self) -> str:
        """`max N`: how many spawns were refused because this group, or one below it, was full."""
        return f"max {self.group.pids_hits}"

    @value(
        "rate.max",
        0o666,
        write="set_rate",
        on=(When(GroupLimitSet, limit="rate"),),
        example="messages 600",
        errors=ERRORS,
    )
    def rate_max(self) -> str:
        """How many calls of a kind all its processes, and those of the groups below it, may make
        within 60 s: `KIND N` a line for each kind that is limited. Write `KIND N`, or `KIND max`
        for any number. Kinds: calls (all of them together), messages, spawns, signals, claims,
        artifacts, llm_calls, tool_calls. One more is refused: EAGAIN, and `/proc/self/error` says
        when the next may be made."""
        return "".join(f"{kind} {most}\n" for kind, most in sorted(self.group.rates.items()))

    async def set_rate(self, text: str, caller: Caller) -> None:
        self.group  # noqa: B018  # ESTALE
        kind, _, limit = text.strip().partition(" ")
        self.kernel.groups.set_rate(caller.principal, self.path, kind, _parsed(limit.strip()))

    @live("rate.current", example="messages 17")
    def rate_current(self) -> str:
        """How many calls of each kind that is limited were made within the last 60 s."""
        group, rates = self.group, self.kernel.rates
        made = {kind: rates.made(group, kind) for kind in group.rates}
        return "".join(f"{kind} {calls}\n" for kind, calls in sorted(made.items()))

    def _set(self, limit: str, text: str, caller: Caller) -> None:
        self.group  # noqa: B018  # ESTALE
        self.kernel.groups.set_limit(caller.principal, self.path, limit, _parsed(text))


class CgroupDirectory(_GroupsDirectory):
    """/sys/cgroup: the groups at the top, and the processes that are in none."""

    PATH = "/sys/cgroup"
    WHAT = "Groups of processes, and what each may use."
    EACH = GroupDirectory
    key = ("cgroup",)

    def changed(self) -> Time:
        return self.kernel.groups.groups.changed

    def concerned(self, event: GroupLimitSet | GroupLimitHit) -> Sequence[Hashable]:
        paths = [event.path]
        while isinstance(event, GroupLimitHit) and "/" in paths[-1]:
            paths.append(paths[-1].rpartition("/")[0])
        return [GroupDirectory.at(path) for path in paths]

    def _folder(self, path: str) -> Hashable:
        return GroupDirectory.at(path) if path else self.key

    @on(GroupCreated)
    def _created(self, event: GroupCreated) -> Iterator[Change]:
        group = self.kernel.groups.find(event.path)
        if group is not None:
            node = GroupDirectory(self, group)
            node.remember()
            yield Created(self._folder(group.parent), group.name, node)

    @on(GroupRemoved)
    def _removed(self, event: GroupRemoved) -> Iterator[Change]:
        parent, _, name = event.path.rpartition("/")
        key = GroupDirectory.at(event.path)
        yield Removed(self._folder(parent), name, key, is_directory=True)


def _left(most: int | None, used: int) -> str:
    return "max" if most is None else str(max(0, most - used))


def _percent(most: int | None, used: int) -> str:
    if most is None:
        return "0.0"
    return f"{100 * used / most:.1f}" if most else "100.0"


def _shown(limit: int | None) -> str:
    return "max" if limit is None else str(limit)


def _parsed(text: str) -> int | None:
    if text == "max":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MOST))):
        raise KernelError(errno.EINVAL, f"`max` or a whole number was expected, not {text!r}")
    number = int(text)
    if number > MOST:
        raise KernelError(errno.EINVAL, f"a limit is at most {MOST}; `max` is none")
    return number
