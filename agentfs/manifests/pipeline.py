"""From the text of a manifest to a plan, or to everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from agentfs.base.yaml_document import Diagnostic, DocumentError
from agentfs.base.yaml_text import CORE
from agentfs.manifests.documents import (
    LocalLibrary,
    Manifest,
    ManifestLibrary,
    engine_level,
    read_manifests,
)
from agentfs.manifests.folders import FOLDERS
from agentfs.manifests.fuel import TemplateError
from agentfs.manifests.graph import GraphReader
from agentfs.manifests.inherit import Level, settle
from agentfs.manifests.kinds import Filling
from agentfs.manifests.levels import LEVEL_KEYS, read_level
from agentfs.manifests.lint import lint
from agentfs.manifests.local import chosen, gathered, misplaced, stem
from agentfs.manifests.nodes import concurrency_of, schema_of
from agentfs.manifests.plan import Concurrency, Plan
from agentfs.manifests.references import Fields, NamedNodes, NameScope, find
from agentfs.manifests.source import Located, ManifestText
from agentfs.manifests.system_plan import read_system
from agentfs.manifests.template import Template

__all__ = ["check_manifest", "checked", "compile_pipeline", "describe"]

SPEC_KEYS = (
    "nodes",
    "input_schema",
    "output_schema",
    "output",
    "outputs",
    *LEVEL_KEYS,
    "concurrency",
    "max_runs",
    "max_queued",
    "max_concurrent_nodes",
    "node_timeout",
    "code",
    "on_parent_end",
    "retention",
    "services",
    "orchestrator",
    "kernel",
)
INSTEAD = {
    "type_ports": "a node names its port with `port`",
    "node_ports": "a node names its port with `port`",
    "aliases": "a kind is called by its own name; a Python function is `kind: function`",
    "custom_types": "types are JSON Schema, in input_schema and output_schema",
    "state_machines": "they belong to a System",
    "observers": "`events` of a run is read by whoever wants to know",
    "common_field_mappings": "say `input_mapping` in each node",
    "metadata": "it stands beside `spec`",
    "transaction": "there is no saga: `on_error` and `always` nodes undo what was done",
}
"""Keys of hexDAG's Pipeline that are not taken, and what there is instead."""

DRAFT = "draft"
"""The name of a text that is only checked: it may call itself anything."""

LEFT = ("program", "exec")
"""Below these a `${NAME}` is the shell's."""


def compile_pipeline(
    text: str, file: str, library: ManifestLibrary, environment: str = "", version: int = 0
) -> Plan:
    """The plan of the pipeline that `text` has. `file` names it, and is named in faults. Raises
    DocumentError with every fault."""
    plan, source = _compiled(text, file, library, environment, version)
    if plan is None or not source.sound:
        raise source.refusal()
    return plan


def check_manifest(
    kind: str, text: str, file: str, library: ManifestLibrary, *, style: bool = False
) -> list[Diagnostic]:
    """Everything that is found in a document of a folder of /etc, or in a prompt: faults,
    warnings, and with `style` what `lint` says."""
    if kind == "prompts":
        return _prompt_faults(text, file)
    source = ManifestText(text, file)
    try:
        if kind == "pipelines":
            plan, source = _compiled(text, file, library, "", 0, every=True)
            if style and plan is not None and source.sound:
                lint(source, plan)
        elif kind == "systems":
            read_system(source, library)
        else:
            checked(source, kind, library)
    except DocumentError as bad:
        return list(bad.diagnostics)
    return source.document.diagnostics


def _prompt_faults(text: str, file: str) -> list[Diagnostic]:
    try:
        Template(text)
    except TemplateError as bad:
        return [Diagnostic(file, bad.line, bad.column, "E110", bad.words)]
    return []


def checked(source: ManifestText, kind: str, library: ManifestLibrary) -> LocalLibrary:
    """The documents of a text that has no pipeline and no system: one, of the folder `kind`."""
    manifests = read_manifests(source, stem(source.file))
    for each in manifests:
        if FOLDERS[each.kind] != kind:
            misplaced(source, each, next(name for name in FOLDERS if FOLDERS[name] == kind))
    for each in manifests[1:]:
        source.fault(each.whole, f"one document was expected in a file of /etc/{kind}", "E003")
    named = [replace(each, name=stem(source.file)) for each in manifests]
    return gathered(source, named, library)


def describe(text: str) -> str:
    """The description that the first document of a text has; empty if it has none."""
    try:
        manifests = read_manifests(ManifestText(text, ""), "")
    except DocumentError:
        return ""
    return next((each.description for each in manifests if each.description), "")


def _compiled(
    text: str,
    file: str,
    library: ManifestLibrary,
    environment: str,
    version: int,
    *,
    every: bool = False,
) -> tuple[Plan | None, ManifestText]:
    source = ManifestText(text, file)
    manifests = read_manifests(source, stem(file))
    local = gathered(source, manifests, library)
    manifest = chosen(source, manifests, "Pipeline", environment)
    if manifest is None:
        return None, source
    if stem(file) not in (manifest.name, DRAFT):
        what = f"metadata.name: the file says `{stem(file)}`, and that is its name"
        source.warn(manifest.metadata or manifest.whole, what, "W104")
    plan = _Pipeline(source, local, manifest, environment, version).plan()
    if every:
        for other in manifests:
            if other.kind == "Pipeline" and other is not manifest:
                _Pipeline(source, local, other, other.namespace, version).plan()
    return plan, source


class _Pipeline:
    """One Pipeline document on its way to a plan."""

    def __init__(
        self,
        source: ManifestText,
        library: ManifestLibrary,
        manifest: Manifest,
        environment: str,
        version: int,
    ) -> None:
        self._source = source
        self._library = library
        self._manifest = manifest
        self._name = stem(source.file)
        self._environment = environment or manifest.namespace
        self._version = version

    def plan(self) -> Plan:
        source, manifest = self._source, self._manifest
        spec = source.substituted(manifest.spec, dict(self._library.variables), LEFT)
        for key in [key for key in INSTEAD if key in spec.value]:
            code = "E006" if key == "metadata" else "E009"
            source.fault(spec.key(key), f"spec.{key} is not taken: {INSTEAD[key]}", code)
        keys = source.map(
            spec.made({key: each for key, each in spec.value.items() if key not in INSTEAD}),
            "spec",
            SPEC_KEYS,
        )
        level = read_level(source, f"pipeline {self._name}", keys, self._library)
        level = engine_level(source, level, keys)
        settled = settle((*self._levels(), level))
        schemas = {
            name: schema_of(source, keys[name], name)
            for name in ("input_schema", "output_schema")
            if name in keys and keys[name].value is not None
        }
        services = self._services(keys["services"]) if "services" in keys else {}
        listed = source.required(spec, keys, "nodes", "spec")
        nodes = source.many(listed, "spec.nodes") if listed is not None else None
        if nodes == [] and listed is not None:
            source.warn(listed, "there are no nodes", "W100")
        output = self._output(keys)
        reader = GraphReader(source, self._library, settled, self._name, services)
        made = reader.graph(nodes or [], _fields(schemas.get("input_schema")), output)
        numbers = {
            name: source.count(keys[name], name, least)
            for name, least in (("max_runs", 1), ("max_queued", 0))
            if name in keys and keys[name].value is not None
        }
        end = "cancel"
        if "on_parent_end" in keys:
            end = (
                source.choice(keys["on_parent_end"], "on_parent_end", ("cancel", "abandon")) or end
            )
        self._shadows(made.graph.by_name, schemas.get("input_schema"), keys)
        return Plan(
            self._name,
            self._version,
            made.graph,
            schemas.get("input_schema"),
            schemas.get("output_schema"),
            manifest.description,
            self._environment,
            settled.limits,
            settled.settings.get("on_limit", ""),
            settled.caps,
            settled.deny,
            settled.deadline,
            self._concurrency(keys, _fields(schemas.get("input_schema"))),
            numbers.get("max_runs"),
            numbers.get("max_queued"),
            settled.settings.get("max_concurrent_nodes", Plan("").max_concurrent_nodes),
            self._code(keys),
            settled.ports,
            end,
            settled.settings.get("retention"),
            settled.origin,
            self._written(spec, keys, made.written, output) if source.sound else "",
        )

    def _levels(self) -> list[Level]:
        found = []
        for config in self._library.configs():
            if config.namespace in ("", self._environment):
                found.append(config.level)
                for fault in config.faults:
                    what = f"config {config.name}: {fault}"
                    self._source.fault(self._manifest.whole, what, "E130")
        return found

    def _services(self, value: Located) -> dict[str, dict[str, Any]]:
        found = {}
        for name, each in self._source.map(value, "services").items():
            parts = self._source.map(each, f"services.{name}", ("class", "config"))
            given = self._source.required(each, parts, "class", f"services.{name}")
            path = self._source.text(given, f"services.{name}.class") if given is not None else None
            config = parts.get("config")
            if config is not None:
                self._source.map(config, f"services.{name}.config")
            if path is not None:
                settings = config.value if config is not None else {}
                found[name] = {
                    "class": path,
                    "config": settings if isinstance(settings, dict) else {},
                }
        return found

    def _output(self, keys: Mapping[str, Located]) -> Located | None:
        for name in ("output", "outputs"):
            if name in keys and keys[name].value is not None:
                return keys[name]
        return None

    def _concurrency(self, keys: Mapping[str, Located], fields: Fields) -> Concurrency | None:
        if "concurrency" not in keys:
            return None
        found = concurrency_of(self._source, keys["concurrency"], "spec.concurrency")
        if found is not None and found.key:
            key, scope = keys["concurrency"].child("key"), NameScope((frozenset(),), fields)
            what = "spec.concurrency.key"
            find(self._source, key, Filling.TEMPLATE, what, scope, NamedNodes())
        return found

    def _code(self, keys: Mapping[str, Located]) -> str:
        if "code" not in keys:
            return ""
        path = self._source.text(keys["code"], "code") or ""
        if path and (not path.startswith("/") or "\0" in path or ".." in path.split("/")):
            what = "code: the absolute path of a folder was expected, without .."
            self._source.fault(keys["code"], what)
        return path

    def _shadows(
        self, nodes: Mapping[str, Any], schema: dict[str, Any] | None, keys: Mapping[str, Located]
    ) -> None:
        for name in _fields(schema).names & nodes.keys():
            what = f"input_schema: `{name}` is a node, too: in templates it is the node"
            self._source.warn(keys["input_schema"], what, "W102")

    def _written(
        self,
        spec: Located,
        keys: Mapping[str, Located],
        nodes: list[dict[str, Any]],
        output: Located | None,
    ) -> str:
        """The expanded document."""
        rest = {key: spec.value[key] for key in SPEC_KEYS if key in keys and key != "outputs"}
        if output is not None:
            rest["output"] = output.value
        metadata: dict[str, Any] = {"name": self._name}
        if self._manifest.namespace:
            metadata["namespace"] = self._manifest.namespace
        if self._manifest.description:
            metadata["description"] = self._manifest.description
        document = {"kind": "Pipeline", "metadata": metadata, "spec": {**rest, "nodes": nodes}}
        return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.CSafeDumper):
    """Texts that either schema would take for something else are in quotes; nothing is an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _letter, _patterns in CORE.items():
    for _tag, _pattern in _patterns:
        if not _tag.endswith("merge"):
            _Dumper.add_implicit_resolver(_tag, _pattern, [_letter])


def _fields(schema: dict[str, Any] | None) -> Fields:
    """What a schema says of the fields of a run's input."""
    if schema is None:
        return Fields()
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return Fields(declared=False)
    more = schema.get("additionalProperties", False)
    others = more is not False or "patternProperties" in schema or "$ref" in schema
    others = others or any(key in schema for key in ("allOf", "anyOf", "oneOf"))
    return Fields(frozenset(properties), declared=True, others=others)
