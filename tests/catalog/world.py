"""A catalogue without a kernel."""

from __future__ import annotations

from agentfs.catalog.catalog import Catalog
from agentfs.catalog.secrets import Secrets
from agentfs.process.table import ProcessTable
from agentfs.rights.gate import Gate
from agentfs.rights.policy import Policy
from agentfs.store.ground import Ground

__all__ = ["catalog_of"]


def catalog_of(ground: Ground) -> Catalog:
    """That of a system which was just opened, or opened again."""
    table = ProcessTable(ground)
    gate = Gate(ground, Policy(table.find, ground.parts), table.find)
    return Catalog(ground, Secrets(ground, gate))
