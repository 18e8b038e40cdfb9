"""/sys: the system's own figures."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from agentfs.base.errors import KernelError
from agentfs.providers.system_table import SystemTable
from agentfs.store.events import HealthChecked
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import live, transaction, value
from agentfs.vfs.files import fields
from agentfs.vfs.handles import as_text

if TYPE_CHECKING:
    from agentfs.providers.root import RootDirectory

__all__ = ["SysDirectory"]


class SysDirectory(SystemTable):
    """/sys: version, health and figures."""

    PATH = "/sys"
    WHAT = "The system's own figures."
    key = ("sys",)

    def __init__(self, root: RootDirectory) -> None:
        super().__init__(root)
        self.figures = root.figures

    @value("version", example="0.1.0")
    def version(self) -> str:
        """The release of the kernel."""
        return self.kernel.version

    @value("boot_id", example="5f0c1d2e3a4b5c6d")
    def boot_id(self) -> str:
        """Another one with each start of the daemon."""
        return self.kernel.events.boot

    @value("health", on=(HealthChecked,), example="Ok:\tyes\nChecked:\t2026-11-21T09:00:00.123Z\n…")
    def health(self) -> str:
        """The maid's last report, `Key:\\tvalue` a line: whether all is well, when it looked, and
        what it found and put right."""
        return fields(*self.kernel.maid.report.items())

    @live("shares", example="parked  4000  400  12  3  waiting reads and writes  bob 10, alice 2")
    def shares(self) -> str:
        """What all have together, a pot a line below a headline: how much there is of it (SIZE),
        how much of that is for the operator alone (RESERVED), how much is USED, by how many
        (HOLDERS), of what (UNIT), and the three who hold most. The operator is not bounded by what
        others hold; see resources.md."""
        return self.kernel.shares.table()

    @transaction(
        "can",
        0o666,
        example="alice send /agents/bob/inbox",
        errors={
            "EINVAL": "not AGENT ACTION PATH, or an unknown action",
            "ENOENT": "there is no such agent",
            "ESRCH": "no process of it is alive",
        },
    )
    async def can(self, request: bytes, caller: Caller) -> str:
        """Write `AGENT ACTION PATH`; read, `Key:\\tvalue` a line, whether it is allowed, and the
        rule that decides with its text; also the capability that is needed as well, whose approval,
        and why not."""
        self.kernel.gate.actor(caller.principal)
        words = as_text(request).strip().split(" ", 2)
        if len(words) != 3:
            raise KernelError(errno.EINVAL, "AGENT ACTION PATH were expected")
        return fields(*self.kernel.explanations.explain(*words).pairs())
