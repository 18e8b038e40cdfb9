"""The documents that a text has: the one that it is about, and what that finds beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable

from agentfs.base.yaml_document import near
from agentfs.manifests.documents import (
    LocalLibrary,
    Manifest,
    ManifestLibrary,
    read_adapter,
    read_config,
    read_policy,
)
from agentfs.manifests.folders import FOLDERS
from agentfs.manifests.macro import read_macro
from agentfs.manifests.source import ManifestText

__all__ = ["chosen", "gathered", "misplaced", "stem"]


def stem(file: str) -> str:
    """The name of a document, from that of its file."""
    name = os.path.basename(file)
    return name.removesuffix(".yaml").removesuffix(".yml")


def gathered(
    source: ManifestText, manifests: Iterable[Manifest], library: ManifestLibrary
) -> LocalLibrary:
    """The library with what the text itself has beside its pipeline: it comes first."""
    local = LocalLibrary(library)
    shorter = [each for each in manifests if each.kind not in ("Pipeline", "System")]
    for each in sorted(shorter, key=lambda each: _FIRST.index(each.kind)):
        if each.kind in ("Policy", "Middleware"):
            local.policies[each.name] = read_policy(source, each)
        elif each.kind == "Adapter":
            local.adapters[each.name] = read_adapter(source, each)
        elif each.kind == "Macro":
            local.macros[each.name] = read_macro(source, each)
        elif each.kind == "Config":
            local.own_configs.append(read_config(source, each, local))
    local.pipelines |= {each.name for each in manifests if each.kind == "Pipeline"}
    return local


_FIRST = ("Policy", "Middleware", "Adapter", "Macro", "Config")


def chosen(
    source: ManifestText, manifests: list[Manifest], kind: str, environment: str
) -> Manifest | None:
    """The one document of `kind` for an environment: the first, if none is asked for."""
    found = [each for each in manifests if each.kind == kind]
    others = [each for each in manifests if each.kind in {"Pipeline", "System"} - {kind}]
    for each in others:
        misplaced(source, each, kind)
    if not found:
        if manifests and not others and source.sound:
            what = f"`kind: {kind}` was expected, there is none in the text"
            source.fault(manifests[0].whole, what, "E101")
        return None
    if environment:
        named = {each.namespace: each for each in reversed(found)}
        if environment in named:
            return named[environment]
        if len(found) > 1 or found[0].namespace:
            known = ", ".join(sorted(each or "(none)" for each in named))
            hint = near(environment, named) or f": there is {known}"
            what = f"there is no environment `{environment}`{hint}"
            source.fault(found[0].whole, what, "E007")
        return found[0]
    names = {each.namespace for each in found}
    if len(found) > 1 and len(names) < len(found):
        second = f"a second {kind.lower()} of this environment"
        what = f"{second}: each needs a metadata.namespace of its own"
        source.fault(found[-1].whole, what, "E102")
    return found[0]


def misplaced(source: ManifestText, manifest: Manifest, wanted: str) -> None:
    """A document stands in another folder than that of its kind, which is `wanted` here."""
    place = f"/etc/{FOLDERS[manifest.kind]}"
    what = f"kind: {wanted} was expected, a {manifest.kind} belongs into {place}"
    source.fault(manifest.whole.child("kind"), what, "E101")
