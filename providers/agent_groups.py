"""/dev/tasks/groups: agents that do something together.

members    a name a line          progress, status   how far they are
wait       until all are through  ctl                add, remove, complete, fail, again
"""

from __future__ import annotations

import errno
import json
import stat as st
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.projects.events import (
    AgentGroupChanged,
    AgentGroupCreated,
    AgentGroupRemoved,
)
from agentfs.projects.groups import AgentGroup, MemberState
from agentfs.providers.ends import EndStream, Readers
from agentfs.providers.queue_folders import each
from agentfs.providers.system_table import SystemTable
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.declare import control, stream, value
from agentfs.vfs.files import Owner
from agentfs.vfs.node import Attributes, Node, Stat, StreamHandle, Time
from agentfs.vfs.on import on
from agentfs.vfs.table import Table

__all__ = ["AgentGroupDirectory", "AgentGroupsDirectory"]

COMMANDS = "add NAME…, remove NAME…, complete NAME [WORDS], fail NAME [WORDS] or again NAME"

CHANGED = (AgentGroupChanged,)
"""The event that changes what the files say."""


class AgentGroupDirectory(Table):
    """/dev/tasks/groups/NAME: a group of agents. Members, the owner and whom the mode lets read
    (r) see it; they, or whom it lets write (w), write to all members: `@NAME` is a receiver in
    `send` and in `outbox`. The message comes to every member or to none, and counts as one for each
    in `messages_per_minute`."""

    PATH = "/dev/tasks/groups/NAME"
    mode = 0o755

    def __init__(self, groups: AgentGroupsDirectory, group: AgentGroup) -> None:
        self._groups = groups
        self._group = group
        self.kernel = groups.kernel
        self.key = self.at(group.name)

    @staticmethod
    def at(name: str) -> Hashable:
        """The key of the directory of a group."""
        return ("agent groups", name)

    @property
    def group(self) -> AgentGroup:
        """The group. ESTALE once it is removed."""
        if self._group.removed:
            raise KernelError(errno.ESTALE, f"{self._group} was removed")
        return self._group

    def owner(self) -> Owner:
        who = self.group.ownership
        return Owner(who.uid, who.gid, self._group.changed)

    def stat(self) -> Stat:
        found = super().stat()
        mode = self._group.ownership.mode
        found.mode = st.S_IFDIR | mode | each(mode, 0o6, 0o1)
        return found

    def guard(self, caller: Caller) -> None:
        self.kernel.agent_groups.may_read(caller.principal, self.group)

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        super().chattr(caller, replace(wanted, mode=None))
        if wanted.mode is not None:
            self.kernel.agent_groups.chmod(caller.principal, self._group.name, wanted.mode)

    @value(
        "members",
        0o666,
        write="set_members",
        on=CHANGED,
        example="alice\nbob\n",
        errors={
            "ENOENT": "there is no such agent",
            "EPERM": "written by another than the owner agent and the operator",
            "ENOSPC": "more than projects.max_members",
        },
    )
    def members(self) -> str:
        """Who is in it, a name a line. Writing all names at once, with blanks or lines between,
        says who is; whoever stays is as far as before."""
        return "".join(f"{name}\n" for name in self.group.members)

    async def set_members(self, text: str, caller: Caller) -> None:
        self.kernel.agent_groups.set_members(caller.principal, self._group.name, text.split())

    @value(
        "progress",
        on=CHANGED,
        example="members 4\npending 1\nrunning 1\ncompleted 2\nfailed 0\npercent 50.0\n",
    )
    def progress(self) -> str:
        """How many members there are, and how many of them are pending (without a process yet),
        running, completed and failed; how many are through, in percent."""
        group = self.group
        members = len(group.members)
        counts = {state: group.count(state) for state in MemberState}
        through = sum(counts[state] for state in MemberState if state.final)
        percent = 100 * through / members if members else 0.0
        lines = [f"{state.value} {count}\n" for state, count in counts.items()]
        return "".join([f"members {members}\n", *lines, f"percent {percent:.1f}\n"])

    @value("status", on=CHANGED, example="alice\tcompleted\nbob\tfailed\tit was ended by SIGKILL\n")
    def status(self) -> str:
        """Each member, how far it is, and what it said about its part, or how its program ended."""
        return "".join(
            f"{name}\t{member.state.value}" + (f"\t{member.words}\n" if member.words else "\n")
            for name, member in self.group.members.items()
        )

    @stream("wait", 0o444, example='{"state": "failed", "completed": ["alice"], "failed": …}')
    def wait(self, caller: Caller) -> StreamHandle:
        """Blocks until every member has done its part, there is one, and no task of the group is
        open; then gives state (completed, or failed if one has), completed (names) and failed
        (names, each with its words) as one JSON object. **ESTALE**: the group was removed."""
        begin = partial(
            self.kernel.why.waits.begin, caller.principal.pid, "end", f"of {self._group}"
        )
        return EndStream(self._groups.readers, self._group.name, self._end, begin)

    def _end(self) -> bytes | None:
        group = self.group
        if not group.finished or self.kernel.tasks.open_of_group(group.name):
            return None
        failed = {
            name: member.words
            for name, member in group.members.items()
            if member.state is MemberState.FAILED
        }
        said = {
            "state": "failed" if failed else "completed",
            "completed": [name for name in group.members if name not in failed],
            "failed": failed,
        }
        return f"{json.dumps(said, ensure_ascii=False)}\n".encode()

    @control(
        "ctl",
        0o222,
        example="add alice bob",
        errors={
            "EINVAL": "another command, or words of more than a line",
            "ENOENT": "there is no such agent, or it is no member",
            "EPERM": "only the owner agent and the operator; a member may leave, and speak of its"
            " own part",
            "ENOSPC": "more than projects.max_members",
        },
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """Commands: `add NAME…`, `remove NAME…`; `complete NAME [WORDS]` and `fail NAME [WORDS]`
        say that a member has done its part, or has not managed to (`self` is the caller), `again
        NAME` that it begins anew. A member whose program ends for good is completed, or failed if
        the exit code is not 0, by itself; so is one that has done all tasks of the group (`group:
        NAME` in a task) that it was given."""
        groups, name, principal = self.kernel.agent_groups, self.group.name, caller.principal
        verb, _, rest = command.strip().partition(" ")
        who, _, words = rest.strip().partition(" ")
        member = principal.agent if who == "self" else who
        match verb:
            case "add" if who:
                groups.set_members(principal, name, [*self.group.members, *rest.split()])
            case "remove" if who:
                for one in rest.split():
                    groups.leave(principal, name, principal.agent if one == "self" else one)
            case "complete" | "fail" if who:
                failed = verb == "fail"
                groups.finish(principal, name, member, failed=failed, words=words.strip())
            case "again" if who and not words:
                groups.again(principal, name, member)
            case _:
                raise KernelError(errno.EINVAL, f"{COMMANDS}, not {command[:100]!r}")


class AgentGroupsDirectory(SystemTable):
    """/dev/tasks/groups: `mkdir` makes a group, `rmdir` removes one; its members stay agents."""

    PATH = "/dev/tasks/groups"
    WHAT = "Groups of agents: a directory for each."
    EACH = AgentGroupDirectory
    mode = 0o1777
    key = ("agent groups",)

    def __init__(self, above: SystemTable) -> None:
        super().__init__(above)
        told = (AgentGroupChanged, AgentGroupRemoved)
        self.readers = Readers(self.kernel.events, "name", *told)

    def changed(self) -> Time:
        return self.kernel.agent_groups.changed

    def find(self, name: str) -> Node | None:
        group = self.kernel.agent_groups.find(name)
        return None if group is None else AgentGroupDirectory(self, group)

    def more(self) -> Iterator[tuple[str, Node]]:
        for name in self.kernel.agent_groups:
            yield name, AgentGroupDirectory(self, self.kernel.agent_groups.get(name))

    def mkdir(self, name: str, mode: int, caller: Caller) -> Node:
        mode = caller.unmasked(mode)
        group = self.kernel.agent_groups.create(caller.principal, name, mode)
        return AgentGroupDirectory(self, group)

    def rmdir(self, name: str, caller: Caller) -> None:
        self.kernel.agent_groups.remove(caller.principal, name)

    def each(self, key: Any) -> AgentGroupDirectory:
        return AgentGroupDirectory(self, self.kernel.agent_groups.get(key[1]))

    def concerned(self, event: AgentGroupChanged) -> Sequence[Hashable]:
        return (AgentGroupDirectory.at(event.name),)

    @on(AgentGroupCreated)
    def _created(self, event: AgentGroupCreated) -> Iterator[Change]:
        group = self.kernel.agent_groups.find(event.name)
        if group is not None:
            yield Created(self.key, event.name, AgentGroupDirectory(self, group))

    @on(AgentGroupRemoved)
    def _removed(self, event: AgentGroupRemoved) -> Iterator[Change]:
        key = AgentGroupDirectory.at(event.name)
        yield Removed(self.key, event.name, key, is_directory=True)

    @on(AgentGroupChanged)
    def _changed(self, event: AgentGroupChanged) -> Iterator[Change]:
        yield Modified(AgentGroupDirectory.at(event.name))
