"""The whole tree: its root, and which provider says what an event changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from agentfs.providers.agents import AgentsDirectory
from agentfs.providers.descriptors import divide
from agentfs.providers.dev import DevDirectory
from agentfs.providers.devices import Devices
from agentfs.providers.etc import EtcDirectory
from agentfs.providers.mail import MAIL
from agentfs.providers.proc import ProcDirectory
from agentfs.providers.readme import Readme
from agentfs.providers.shared import SharedTree
from agentfs.providers.sys import Figures, SysDirectory
from agentfs.store.event import Event
from agentfs.vfs.changes import Change
from agentfs.vfs.declare import directory, file
from agentfs.vfs.files import Owner
from agentfs.vfs.namespace import Namespace
from agentfs.vfs.node import Directory, Node
from agentfs.vfs.settings import MountSettings
from agentfs.vfs.table import Table

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["RootDirectory", "build"]


class RootDirectory(Table):
    """/: the root of the tree."""

    PATH = "/"

    def __init__(self, kernel: Kernel, figures: Figures) -> None:
        self.kernel = kernel
        self.key = ("root",)
        devices = Devices(lambda: kernel.settings.of(MountSettings).disk_timeout)
        self._agents = AgentsDirectory(kernel, devices)
        self._proc = ProcDirectory(kernel)
        self._dev = DevDirectory(kernel)
        self._etc = EtcDirectory(kernel)
        self._sys = SysDirectory(kernel, figures)
        self._shared = SharedTree(kernel, devices)

    def owner(self) -> Owner:
        return Owner(*self.kernel.owner, int(self.kernel.started * 1e9))

    @file("README", 0o444, kind="Live", example="This is AgentFS: …\nYou are the operator: …")
    def readme(self) -> Node:
        """What the tree is, whom its reader acts for in it, and where to look why a call was
        refused: for users of the machine who are nobody in the tree, also the last refusal."""
        return Readme(self.kernel, self.owner)

    @directory("agents")
    def agents(self) -> Directory:
        """The agents by name."""
        return self._agents

    @directory("proc")
    def proc(self) -> Directory:
        """The processes by pid, and figures of the whole system."""
        return self._proc

    @directory("dev")
    def dev(self) -> Directory:
        """The streams of the kernel itself."""
        return self._dev

    @directory("etc")
    def etc(self) -> Directory:
        """The configuration."""
        return self._etc

    @directory("sys")
    def sys(self) -> Directory:
        """The system's own figures."""
        return self._sys

    @directory("shared", 0o1777)
    def shared(self) -> Directory:
        """Plain files for all agents, kept on disk, without routing: full POSIX behaviour. `docs`
        in it is read-only for agents. Needs the capability `file_read`, and `file_write` for any
        change."""
        return self._shared.root

    def changes(self, event: Event) -> Iterator[Change]:
        """Which nodes an event changed."""
        yield from self._proc.changes(event)
        yield from self._agents.changes(event)
        yield from self._dev.changes(event)
        if not isinstance(event, MAIL):  # what happens most changes nothing of these
            yield from self._etc.changes(event)
            yield from self._sys.changes(event)


def build(kernel: Kernel, figures: Figures = dict) -> Namespace:
    """The tree of `kernel`. `figures()` gives the mount's statistics for `/sys/metrics`."""
    divide(kernel.shares)
    root = RootDirectory(kernel, figures)
    return Namespace(root, root.changes)
