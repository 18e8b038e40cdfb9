"""Manifests for tests: nodes in, plan or faults out."""

from __future__ import annotations

import textwrap

import pytest

from agentfs.base.yaml_document import DocumentError
from agentfs.manifests.documents import LocalLibrary
from agentfs.manifests.pipeline import checked, compile_pipeline
from agentfs.manifests.plan import Plan
from agentfs.manifests.source import ManifestText

__all__ = ["faults", "pipeline", "plan", "shelf"]


def pipeline(nodes: str, spec: str = "") -> str:
    """A whole document. The nodes begin in line 4."""
    inner = textwrap.indent(textwrap.dedent(nodes).strip("\n"), "  ")
    more = textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ")
    head = "kind: Pipeline\nmetadata: {name: p}\nspec:\n"
    return f"{head}  nodes:\n{inner}\n{more}\n" if nodes else f"{head}{more}\n"


def shelf(**texts: str) -> LocalLibrary:
    """A library of documents, each under its kind and name: `macros_review="…"`."""
    found = LocalLibrary()
    for key, text in texts.items():
        kind, _, name = key.partition("_")
        source = ManifestText(textwrap.dedent(text), f"{name}.yaml")
        local = checked(source, kind, found)
        assert source.sound, source.told()
        for part in ("macros", "policies", "adapters"):
            getattr(found, part).update(getattr(local, part))
        found.own_configs.extend(local.own_configs)
    return found


def plan(nodes: str, spec: str = "", library: LocalLibrary | None = None, env: str = "") -> Plan:
    return compile_pipeline(pipeline(nodes, spec), "p.yaml", library or LocalLibrary(), env)


def faults(text: str, library: LocalLibrary | None = None, env: str = "") -> list[str]:
    """Every fault of a whole document, without the name of the file."""
    with pytest.raises(DocumentError) as refused:
        compile_pipeline(text, "p.yaml", library or LocalLibrary(), env)
    assert all(each.startswith("p.yaml:") for each in refused.value.faults)
    return [each.removeprefix("p.yaml:") for each in refused.value.faults]
