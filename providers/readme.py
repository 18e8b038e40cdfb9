"""/README: what the tree is, and who its reader is in it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from agentfs.base.errors import KernelError
from agentfs.model.principal import Kind
from agentfs.vfs.caller import Caller
from agentfs.vfs.files import Basics, Live, Owner
from agentfs.vfs.handles import Snapshot
from agentfs.vfs.node import Handle, is_writing

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["Readme"]

TREE = """\
This is AgentFS: a tree of AI agents in which reading and writing files are the system calls.
agents/NAME  an agent: its mail, state, log and memory     proc/PID  a process: status, why, limits
dev          events, queues, topics, approvals, shm        etc       the configuration and rules
shared       plain files for everybody                     sys       figures, and the audit
`getfattr -n user.agentfs.kind PATH` says what kind of file a path is.
"""

WHO = {
    Kind.AGENT: """\
You are the agent {name}, process {pid}: agents/self and proc/self are yours.
Why a call was refused: cat proc/self/error. Why you wait: cat proc/self/why.
""",
    Kind.OPERATOR: """\
You are the operator: you may do everything, and act as process 1, init.
Why a call was refused: cat proc/self/error. Whether AGENT may do something: agentfs can.
""",
    Kind.USER: """\
You are nobody in this tree: user {uid} of the machine neither mounted it nor runs an agent of it.
You may read what the modes (ls -l) let everybody read; you have no mail and no proc/self.
Its operator can make an agent for you, as root: agentfs spawn -n NAME --user YOU -- PROGRAM
Why a call was refused: "Permission denied" for what `ls -l PATH` does not give to everybody is
Linux's answer, without more words. The tree's own last refusal to user {uid}:
{refused}""",
    Kind.STRANGER: """\
You are nobody in this tree: your program was started by the tree's daemon, but it is no longer any
agent's, because the agent ended or the program left its parents. You may read what the modes give
to everybody. The agent that started you, or the operator, can start you again.
""",
}


class Readme(Live):
    """Says to each reader who that is, so it is rendered at the open and never cached."""

    def __init__(self, kernel: Kernel, owner: Callable[[], Owner]) -> None:
        super().__init__(Basics(("readme",), 0o444, owner))
        self._kernel = kernel

    def open(self, flags: int, caller: Caller) -> Handle:
        if is_writing(flags):
            raise KernelError(errno.EACCES, "this file can only be read")
        principal = caller.principal
        who = WHO[principal.kind].format(
            name=principal.name,
            pid=principal.pid,
            uid=principal.uid,
            refused=self._kernel.refusals.text_of_user(principal.uid) or "nothing so far\n",
        )
        return Snapshot((TREE + who).encode())
