"""/: the root of the tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agentfs.providers.devices import Devices
from agentfs.providers.figures import MountFigures
from agentfs.providers.readme import Readme
from agentfs.providers.system_table import SystemTable
from agentfs.vfs.declare import file
from agentfs.vfs.node import Node
from agentfs.vfs.settings import MountSettings

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["RootDirectory", "Served"]


class Served(NamedTuple):
    """The tree shows this."""

    kernel: Kernel
    figures: MountFigures


class RootDirectory(SystemTable):
    """/: the root of the tree."""

    PATH = "/"
    key = ("root",)

    def __init__(self, served: Served) -> None:
        super().__init__(served)
        self.figures = served.figures
        settings = self.kernel.settings
        self.devices = Devices(lambda: settings.of(MountSettings).disk_timeout)

    @file("README", 0o444, kind="Live", example="This is AgentFS: …\nYou are the operator: …")
    def readme(self) -> Node:
        """What the tree is, whom its reader acts for in it, and where to look why a call was
        refused: for users of the machine who are nobody in the tree, also the last refusal."""
        return Readme(self.kernel, self.owner)
