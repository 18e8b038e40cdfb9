"""What manifests may name, as it is at a moment: plain values, which a thread may read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentfs.manifests.documents import ConfigLevel, Macro
from agentfs.manifests.inherit import NodePolicy

__all__ = ["Shelf"]


@dataclass(frozen=True, slots=True)
class Shelf:
    """A `ManifestLibrary` of `agentfs.manifests`."""

    variables: Mapping[str, str] = field(default_factory=dict)
    macros: Mapping[str, Macro] = field(default_factory=dict)
    policies: Mapping[str, NodePolicy] = field(default_factory=dict)
    adapters: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    prompt_names: frozenset[str] = frozenset()
    pipelines: frozenset[str] = frozenset()
    every_config: tuple[ConfigLevel, ...] = ()

    def macro(self, name: str) -> Macro | None:
        return self.macros.get(name)

    def policy(self, name: str) -> NodePolicy | None:
        return self.policies.get(name)

    def adapter(self, name: str) -> dict[str, Any] | None:
        return self.adapters.get(name)

    def prompt(self, name: str) -> str | None:
        return self.prompts.get(name)

    def pipeline(self, name: str) -> bool:
        return name in self.pipelines

    def configs(self) -> Iterable[ConfigLevel]:
        return self.every_config

    def names(self, kind: str) -> Iterable[str]:
        named: Mapping[str, Iterable[str]] = {
            "macros": self.macros,
            "policies": self.policies,
            "adapters": self.adapters,
            "prompts": self.prompt_names,
            "pipelines": self.pipelines,
        }
        return named.get(kind, ())
