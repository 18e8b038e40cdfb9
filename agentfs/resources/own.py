"""Who may use what a process has: the process itself and the operator."""

from __future__ import annotations

import errno

from agentfs.errors import KernelError
from agentfs.process.model import Process
from agentfs.process.rules import check_parent
from agentfs.process.table import ProcessTable
from agentfs.security.principal import Principal

__all__ = ["own"]


def own(table: ProcessTable, principal: Principal, pid: int) -> Process:
    """The living process `pid`, if `principal` acts for it or is the operator. Raises ESRCH and
    EACCES."""
    process = table.get(pid)
    if not principal.is_operator and principal.pid != pid:
        raise KernelError(
            errno.EACCES,
            f"only {process.name} itself and the operator may do that, not {principal.name}",
            rule="own process",
        )
    check_parent(process)
    return process
