"""What is not wrong in a pipeline, but worth a look."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from agentfs.manifests.plan import Graph, Plan, PlanNode
from agentfs.manifests.source import ManifestText

__all__ = ["lint"]

ASKING = frozenset({"agent", "llm", "tool", "api_call"})
"""Kinds that ask somebody who may not answer."""

SECRET = re.compile(
    r"sk-[A-Za-z0-9_-]{16,}|ghp_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|xox[abp]-[A-Za-z0-9-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|Bearer [A-Za-z0-9._-]{20,}"
)
SECRET_KEY = re.compile(r"(api_?key|secret|token|password|credential)s?$", re.IGNORECASE)
USUAL = re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?")


def lint(source: ManifestText, plan: Plan) -> None:
    """Note what is worth a look."""
    if not plan.description:
        source.document.note(1, "metadata.description: there is none", "I300", "info")
    for node in _all(plan.graph):
        line = max(node.line, 1)
        if not USUAL.fullmatch(node.name):
            source.document.note(
                line, f"{node.name}: most names are a-z, 0-9, - and _", "I301", "info"
            )
        if node.kind in ASKING:
            if node.timeout is None and "patience" not in node.spec:
                what = f"{node.name}: no timeout: nobody says how long it may take"
                source.document.note(line, what, "W200", "warning")
            if node.retry.attempts == 1 and not node.once:
                what = f"{node.name}: no retry: one failure ends the run"
                source.document.note(line, what, "W201", "warning")
        if any(_secret(key, text) for key, text in _texts("", node.spec)):
            what = f"{node.name}: this looks like a secret; adapters and /etc/secrets are for those"
            source.document.note(line, what, "W203", "warning")
    used = {need for node in plan.graph.nodes for need in node.sources}
    told = str(plan.graph.output)
    for node in plan.graph.nodes if plan.graph.output is not None else ():
        idle = node.kind in ("data", "expression", "llm") and node.name not in used
        if idle and node.name not in told:
            what = f"{node.name}: nobody uses its output"
            source.document.note(max(node.line, 1), what, "W202", "warning")


def _all(graph: Graph) -> Iterator[PlanNode]:
    for node in graph.nodes:
        yield node
        for _, body in node.bodies:
            yield from _all(body)


def _texts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _texts(name, each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(key, each)


def _secret(key: str, text: str) -> bool:
    if SECRET.search(text):
        return True
    return bool(SECRET_KEY.search(key)) and len(text) >= 12 and "{{" not in text and " " not in text
