"""Which model an agent is to use: by /etc/models.yaml and `ls /dev/llm`."""

from __future__ import annotations

import fnmatch
from typing import Any, NamedTuple

from agentfs.tools.tree import ToolError, Tree, TreeError

__all__ = ["Choice", "choose"]


FIRST = ("tactical", "operational", "strategic")
"""Of several models the one of the first of these tiers is taken."""


class Choice(NamedTuple):
    """A model, as far as an agent has to know. `why`: why it is this one, in words, if nobody has
    named it. `schema`: it knows no tools, and is told by a JSON schema what it may answer."""

    name: str = ""
    tier: str = ""
    dialect: str = "chat"
    context: int | None = None
    schema: bool = False
    why: str = ""


def choose(tree: Tree, wanted: str | None) -> Choice:
    """The model called `wanted`, by its name or one that it answers to; else the first usable one,
    whose provider needs no key if there is none. Raises ToolError."""
    document = _document(tree)
    models: dict[str, Any] = document.get("models") or {}
    providers: dict[str, Any] = document.get("providers") or {}
    if wanted is not None:
        name = _named(models, wanted)
        if name is None:
            raise ToolError(f"/etc/models.yaml has no model {wanted!r}; it has {', '.join(models)}")
        return _model(models, providers, name)
    usable = _usable(tree)
    if not usable:
        raise ToolError(
            "no model can be used: `agentfs secret set anthropic` sets a key, and `./run model` in"
            " the checkout fetches a small model that needs none"
        )
    usable.sort(key=lambda name: FIRST.index((models.get(name) or {}).get("tier", FIRST[-1])))
    with_key = [name for name in usable if _has_key(models, providers, name)]
    chosen = _model(models, providers, (with_key or usable)[0])
    if with_key:
        return chosen
    what = "a small model of this machine" if chosen.schema else "which needs none"
    return chosen._replace(why=f"no key is set: {chosen.name}, {what}, answers")


def _document(tree: Tree) -> dict[str, Any]:
    # slow to import
    from agentfs.base.errors import KernelError
    from agentfs.base.yaml_text import read_yaml

    try:
        found = read_yaml(tree.read("etc/models.yaml"))
    except KernelError as bad:
        raise ToolError(f"/etc/models.yaml: {bad.reason}") from None
    return found if isinstance(found, dict) else {}


def _usable(tree: Tree) -> list[str]:
    try:
        return tree.names("dev/llm")
    except TreeError as failed:
        raise ToolError(f"there are no models here: {failed}") from None


def _named(models: dict[str, Any], wanted: str) -> str | None:
    """The model with that name, or the first that answers to it."""
    if wanted in models:
        return wanted
    for name, each in models.items():
        globs = each.get("match") or ()
        if any(fnmatch.fnmatchcase(wanted, glob) for glob in globs):
            return name
    return None


def _has_key(models: dict[str, Any], providers: dict[str, Any], name: str) -> bool:
    provider = providers.get((models.get(name) or {}).get("provider") or "") or {}
    return bool(provider.get("key"))


def _model(models: dict[str, Any], providers: dict[str, Any], name: str) -> Choice:
    from agentfs.catalog.catalog import RUNNABLE  # slow to import

    entry = models.get(name) or {}
    provider = providers.get(entry.get("provider") or "") or {}
    speaks = provider.get("speaks") or ["chat"]
    return Choice(
        name,
        entry.get("tier") or "",
        "chat" if "chat" in speaks else speaks[0],
        entry.get("context"),
        provider.get("run", provider.get("replay")) in RUNNABLE,  # or a tape of one
    )
