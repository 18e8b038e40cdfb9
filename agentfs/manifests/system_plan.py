"""`kind: System`: processes that are runs of pipelines or programs, and the pipes between them.

    kind: System
    metadata: {name: research}
    spec:
      processes:
        fetch: {pipeline: fetch}
        digest: {pipeline: digest, limits: {max_llm_calls: 20}, caps: [llm]}
      pipes:
      - {from: fetch, to: digest, mapping: {pages: "{{ fetch.output.pages }}"}}
      init: {type: schedule, cron: "0 6 * * *", timezone: Europe/Berlin}

Processes that no pipe holds back run at the same time. A pipe is one pass of templates over the
outputs of the processes that have ended, and the input of the system.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pydantic import ValidationError

from agentfs.base.yaml_document import near
from agentfs.manifests.documents import Manifest, ManifestLibrary, read_manifests
from agentfs.manifests.expression import Expression
from agentfs.manifests.fuel import TemplateError
from agentfs.manifests.inherit import Level
from agentfs.manifests.levels import LEVEL_KEYS, read_level
from agentfs.manifests.local import chosen, gathered, stem
from agentfs.manifests.machine import read_machine
from agentfs.manifests.nodes import schema_of
from agentfs.manifests.source import Located, ManifestText
from agentfs.manifests.template import references_of
from agentfs.model.spec import ProcessSpec

__all__ = [
    "INITS",
    "Init",
    "SystemPipe",
    "SystemPlan",
    "SystemProcess",
    "compile_system",
    "names_in",
    "read_system",
]

INITS = ("manual", "schedule", "continuous", "event")
RESTARTS = ("always", "on-failure", "never")

KEYS = (
    "processes",
    "pipes",
    "init",
    "input_schema",
    "state_machines",
    "description",
    *LEVEL_KEYS,
)
RUN_KEYS = ("pipeline", "exec", "version", "input", *LEVEL_KEYS)
PROGRAM_KEYS = tuple(name for name in ProcessSpec.model_fields if name != "name")
INIT_KEYS: dict[str, tuple[str, ...]] = {
    "manual": (),
    "schedule": ("every", "cron", "timezone", "overlap", "missed", "max_runs", "until"),
    "continuous": ("restart", "backoff", "max_backoff", "max_restarts", "window"),
    "event": ("topic", "filter", "since"),
}
PIPE_KEYS = ("from", "to", "mapping")

HYPHENATED = re.compile(r"\.([A-Za-z_]\w*(?:-[A-Za-z_]\w*)+)", re.ASCII)

MOST_PROCESSES = 200
"""Processes of one system: each is an entry of its record, which every step of it writes."""


@dataclass(frozen=True, slots=True)
class SystemPipe:
    """What `target` gets of `source`: fields of its input, as templates."""

    source: str
    target: str
    mapping: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.source}-{self.target}"


@dataclass(frozen=True, slots=True)
class Init:
    """When a system runs: once, by a schedule (`timing` has the keys of one), again and again, or
    for each record of a topic. Durations in seconds; `since`: the number of the record after which
    it begins, None is now."""

    type: str = "manual"
    timing: dict[str, Any] = field(default_factory=dict)
    restart: str = "always"
    backoff: float = 1.0
    max_backoff: float = 60.0
    max_restarts: int = 10
    window: float = 600.0
    topic: str = ""
    filter: str = ""
    since: int | None = None


@dataclass(frozen=True, slots=True)
class SystemProcess:
    """One process: a run of a pipeline, or (`program`, a definition as for a spawn) a program.
    `after` are those whose pipes lead to it, `input` are templates as those of pipes."""

    name: str
    pipeline: str = ""
    version: int | None = None
    program: dict[str, Any] | None = None
    after: tuple[str, ...] = ()
    input: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, float | None] = field(default_factory=dict)
    caps: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    deadline: float | None = None
    on_limit: str = ""
    ports: dict[str, Any] = field(default_factory=dict)

    def level(self) -> Level:
        """As a level of what its run inherits."""
        return _level(f"process {self.name}", self)


@dataclass(frozen=True, slots=True)
class SystemPlan:
    """A system that can run; `processes` in a topological order, ties as in the document."""

    name: str
    processes: tuple[SystemProcess, ...]
    pipes: tuple[SystemPipe, ...] = ()
    init: Init = Init()
    version: int = 0
    description: str = ""
    input_schema: dict[str, Any] | None = None
    limits: dict[str, float | None] = field(default_factory=dict)
    caps: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    deadline: float | None = None
    on_limit: str = ""
    ports: dict[str, Any] = field(default_factory=dict)
    machines: dict[str, Any] = field(default_factory=dict)

    def level(self) -> Level:
        """As a level of what its runs inherit."""
        return _level(f"system {self.name}", self)

    def process(self, name: str) -> SystemProcess | None:
        return next((each for each in self.processes if each.name == name), None)

    def pipes_to(self, name: str) -> tuple[SystemPipe, ...]:
        """Those that lead to a process, in the order of the document."""
        return tuple(pipe for pipe in self.pipes if pipe.target == name)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SystemPlan:
        """The plan that gave this record."""
        return cls(
            **{
                **_tuples(record),
                "processes": tuple(SystemProcess(**_tuples(each)) for each in record["processes"]),
                "pipes": tuple(SystemPipe(**each) for each in record["pipes"]),
                "init": Init(**record["init"]),
            }
        )


def _level(name: str, said: SystemPlan | SystemProcess) -> Level:
    settings = {"on_limit": said.on_limit} if said.on_limit else {}
    return Level(name, said.limits, said.caps, said.deny, said.deadline, settings, ports=said.ports)


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    """Lists where the value has tuples."""
    return {
        name: tuple(value) if name in ("after", "caps", "deny") and value is not None else value
        for name, value in record.items()
    }


def names_in(mapping: Any, processes: Iterable[str]) -> list[str]:
    """The names with hyphens that templates of pipes may have: of processes, and, behind a dot, of
    nodes and fields, which begin with letters on both sides of a hyphen. `a.n-1` is a
    subtraction."""
    names = [*processes]
    waiting = [mapping]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            names += HYPHENATED.findall(value)
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return names


def compile_system(
    text: str, file: str, library: ManifestLibrary, environment: str = "", version: int = 0
) -> SystemPlan:
    """The system that `text` describes. `file` names it in faults. Raises DocumentError with every
    fault."""
    source = ManifestText(text, file)
    plan = read_system(source, library, environment, version)
    if plan is None or not source.sound:
        raise source.refusal()
    return plan


def read_system(
    source: ManifestText, library: ManifestLibrary, environment: str = "", version: int = 0
) -> SystemPlan | None:
    """The same; None, or a plan with gaps, if `source` is not sound then."""
    manifests = read_manifests(source, stem(source.file))
    local = gathered(source, manifests, library)
    manifest = chosen(source, manifests, "System", environment)
    return None if manifest is None else _Reader(source, local, manifest, version).plan()


class _Reader:
    """One System document on its way to a plan."""

    def __init__(
        self, source: ManifestText, library: ManifestLibrary, manifest: Manifest, version: int
    ) -> None:
        self._source = source
        self._library = library
        self._manifest = manifest
        self._version = version
        self._places: dict[str, Located] = {}
        self._names: list[str] = []

    def plan(self) -> SystemPlan:
        source, manifest = self._source, self._manifest
        spec = source.substituted(manifest.spec, dict(self._library.variables), ("exec",))
        if "transaction" in spec.value:
            words = "spec.transaction is not taken: a failed process stops the system"
            source.fault(spec.key("transaction"), words, "E009")
            spec = spec.made({k: each for k, each in spec.value.items() if k != "transaction"})
        keys = source.map(spec, "spec", KEYS)
        level = read_level(source, f"system {manifest.name}", keys, self._library)
        schema = (
            schema_of(source, keys["input_schema"], "input_schema")
            if "input_schema" in keys
            else None
        )
        processes = self._processes(spec, keys)
        pipes = self._pipes(keys)
        return SystemPlan(
            manifest.name,
            self._ordered(processes, pipes),
            tuple(pipes),
            self._init(keys),
            self._version,
            manifest.description,
            schema,
            level.limited(),
            level.caps,
            level.deny,
            level.deadline,
            str(level.settings.get("on_limit", "")),
            level.ports,
            self._machines(keys),
        )

    # -- processes -------------------------------------------------------------------------------

    def _processes(self, spec: Located, keys: Mapping[str, Located]) -> dict[str, SystemProcess]:
        """By name. A map of names, or a list of maps with a name each."""
        source = self._source
        given = source.required(spec, dict(keys), "processes", "spec")
        if given is None:
            return {}
        found: dict[str, SystemProcess] = {}
        for name, value, parts in self._listed(given):
            if name in found:
                source.fault(value, f"processes: there is a {name} already", "E102")
                continue
            self._places[name] = value
            self._names.append(name)
            found[name] = self._process(name, value, parts)
        if not found and source.sound:
            source.fault(given, "processes: one at least was expected")
        if len(found) > MOST_PROCESSES:
            source.fault(given, f"processes: at most {MOST_PROCESSES} were expected")
        return found

    def _listed(self, given: Located) -> list[tuple[str, Located, dict[str, Located]]]:
        source = self._source
        found = []
        if isinstance(given.value, list):
            for each in given.items():
                parts = source.map(each, "processes")
                at = source.required(each, parts, "name", "processes")
                name = None if at is None else source.name(at, "processes: name")
                parts.pop("name", None)
                if name is not None:
                    found.append((name, each, parts))
            return found
        for key, each in source.map(given, "processes").items():
            name = source.name(given.key(key), "processes")
            parts = source.map(each, f"processes: {key}")
            if name is not None:
                found.append((name, each, parts))
        return found

    def _process(self, name: str, value: Located, parts: dict[str, Located]) -> SystemProcess:
        source, what = self._source, f"processes: {name}"
        pipeline = self._pipeline(what, parts)
        if not pipeline:
            return self._program(name, value, parts)
        known = {key: each for key, each in parts.items() if key in RUN_KEYS}
        source.map(value.made({k: e.value for k, e in parts.items()}), what, RUN_KEYS)
        level = read_level(source, f"process {name}", known, self._library)
        version = source.count(parts["version"], f"{what}: version") if "version" in parts else None
        given: dict[str, Any] = {}
        if "input" in parts:
            given = {k: e.value for k, e in source.map(parts["input"], f"{what}: input").items()}
        return SystemProcess(
            name,
            pipeline,
            version,
            None,
            (),
            given,
            level.limited(),
            level.caps,
            level.deny,
            level.deadline,
            str(level.settings.get("on_limit", "")),
            level.ports,
        )

    def _pipeline(self, what: str, parts: dict[str, Located]) -> str:
        """The name of its pipeline; "" if it is a program."""
        source = self._source
        at = parts.get("pipeline")
        if at is None:
            given = parts["exec"].value if "exec" in parts else None
            if not (isinstance(given, str) and given.endswith((".yaml", ".yml"))):
                return ""
            at = parts["exec"]
        elif "exec" in parts:
            source.fault(parts["exec"], f"{what}: one of `pipeline` and `exec` was expected")
        text = source.text(at, f"{what}: pipeline") or ""
        name = os.path.basename(text).removesuffix(".yaml").removesuffix(".yml")
        if name and not self._library.pipeline(name):
            hint = near(name, self._library.names("pipelines"))
            source.fault(at, f"{what}: there is no pipeline `{name}`{hint}", "E130")
        return name or "?"

    def _program(self, name: str, value: Located, parts: dict[str, Located]) -> SystemProcess:
        source, what = self._source, f"processes: {name}"
        known = source.map(
            value.made({k: e.value for k, e in parts.items()}), what, (*PROGRAM_KEYS, "pipeline")
        )
        if "exec" not in parts:
            source.fault(value, f"{what}: `pipeline` or `exec` was expected", "E004")
        content = {key: each.value for key, each in known.items() if key != "pipeline"}
        try:
            ProcessSpec.model_validate({"name": name, **content})
        except ValidationError as bad:
            for fault in bad.errors(include_url=False, include_context=False, include_input=False):
                where = str(fault["loc"][0]) if fault["loc"] else ""
                words = fault["msg"].removeprefix("Value error, ")
                source.fault(known.get(where, value), f"{what}.{where}: {words}")
        return SystemProcess(name, program=content)

    # -- pipes -----------------------------------------------------------------------------------

    def _pipes(self, keys: Mapping[str, Located]) -> list[SystemPipe]:
        source = self._source
        listed = source.many(keys["pipes"], "pipes") if "pipes" in keys else None
        found: list[SystemPipe] = []
        for each in listed or []:
            parts = source.map(each, "pipes", PIPE_KEYS)
            ends = [self._end(each, parts, key) for key in ("from", "to")]
            mapping: dict[str, Any] = {}
            if "mapping" in parts:
                fields = source.map(parts["mapping"], "pipes: mapping")
                mapping = {name: value.value for name, value in fields.items()}
            if ends[0] is None or ends[1] is None:
                continue
            pipe = SystemPipe(ends[0], ends[1], mapping)
            if pipe.source == pipe.target:
                source.fault(each, f"pipes: {pipe.source} leads to itself", "E105")
            elif any(pipe.name == other.name for other in found):
                source.fault(each, f"pipes: {pipe.source} leads to {pipe.target} already", "E102")
            else:
                found.append(pipe)
                self._places[pipe.name] = parts.get("mapping", each)
        return found

    def _end(self, whole: Located, parts: dict[str, Located], key: str) -> str | None:
        source = self._source
        at = source.required(whole, parts, key, "pipes")
        name = None if at is None else source.name(at, f"pipes: {key}")
        if name is None or at is None:
            return None
        if name not in self._names:
            hint = near(name, self._names)
            source.fault(at, f"pipes: {key}: there is no process `{name}`{hint}", "E130")
            return None
        return name

    def _ordered(
        self, processes: dict[str, SystemProcess], pipes: list[SystemPipe]
    ) -> tuple[SystemProcess, ...]:
        """Every process behind those whose pipes lead to it."""
        after: dict[str, list[str]] = {name: [] for name in processes}
        for pipe in pipes:
            after[pipe.target].append(pipe.source)
        sorter = TopologicalSorter(after)
        try:
            sorter.prepare()
        except CycleError as bad:
            circle = " -> ".join(reversed(bad.args[1]))
            place = self._places[bad.args[1][0]]
            self._source.fault(place, f"pipes go in a circle: {circle}", "E100")
            return tuple(processes.values())
        order: list[str] = []
        position = {name: number for number, name in enumerate(processes)}
        while sorter.is_active():
            ready = sorted(sorter.get_ready(), key=lambda name: position[name])
            order += ready
            sorter.done(*ready)
        above: dict[str, set[str]] = {}
        for name in order:
            above[name] = {*after[name], *(up for each in after[name] for up in above[each])}
        for pipe in pipes:
            self._check_templates(pipe.name, pipe.mapping, {pipe.source, *above[pipe.target]})
        for name, process in processes.items():
            if process.input:
                self._check_templates(name, process.input, above[name])
        return tuple(_with_after(processes[name], tuple(after[name])) for name in order)

    def _check_templates(self, place: str, mapping: dict[str, Any], above: set[str]) -> None:
        """What the templates name has ended by then, or is the input of the system."""
        source, value = self._source, self._places[place]
        for name, template in mapping.items():
            parts = value.parts() if isinstance(value.value, dict) else {}
            at = parts.get(name, value)
            try:
                references = references_of(template, names_in(template, self._names))
            except TemplateError as bad:
                source.fault(at, f"{name}: {bad}", "E110")
                continue
            for reference in references:
                first = reference.path[0]
                if first in ("input", "ctx") or first in above:
                    continue
                if first in self._names:
                    what = f"{name}: no pipe leads from {first} to where this is used"
                else:
                    known = [*sorted(above), "input"]
                    what = f"{name}: there is no `{first}`{near(first, known)}"
                source.fault(at, what, "E111")

    # -- init and state machines -----------------------------------------------------------------

    def _init(self, keys: Mapping[str, Located]) -> Init:
        source = self._source
        if "init" not in keys:
            return Init()
        value = keys["init"]
        if isinstance(value.value, str):
            value = value.made({"type": value.value})
        every = {key for known in INIT_KEYS.values() for key in known}
        parts = source.map(value, "init", ("type", *sorted(every)))
        kind = "manual"
        if "type" in parts:
            kind = source.choice(parts["type"], "init: type", INITS) or kind
        for key in parts.keys() - {"type", *INIT_KEYS[kind]}:
            source.fault(parts[key], f"init: {key} is not for type {kind}", "E005")
        given: dict[str, Any] = {}
        for key in ("backoff", "max_backoff", "window"):
            if key in parts and (seconds := source.seconds(parts[key], f"init: {key}")) is not None:
                given[key] = seconds
        for key, least in (("max_restarts", 0), ("since", 0)):
            count = source.count(parts[key], f"init: {key}", least) if key in parts else None
            if count is not None:
                given[key] = count
        if "restart" in parts:
            word = source.choice(parts["restart"], "init: restart", RESTARTS)
            given["restart"] = word or "always"
        if kind == "event":
            at = source.required(value, parts, "topic", "init")
            given["topic"] = (at and source.name(at, "init: topic")) or ""
            if "filter" in parts:
                given["filter"] = self._filter(parts["filter"])
        if kind == "schedule":
            given["timing"] = self._timing(value, parts)
        return Init(kind, **given)

    def _filter(self, value: Located) -> str:
        text = self._source.text(value, "init: filter") or ""
        try:
            if text:
                Expression(text)
        except TemplateError as bad:
            self._source.fault(value, f"init: filter: {bad}", "E110")
        return text

    def _timing(self, value: Located, parts: dict[str, Located]) -> dict[str, Any]:
        timing = {key: parts[key].value for key in INIT_KEYS["schedule"] if key in parts}
        if len({"every", "cron"} & timing.keys()) != 1:
            self._source.fault(value, "init: one of `every` and `cron` was expected", "E004")
        return timing

    def _machines(self, keys: Mapping[str, Located]) -> dict[str, Any]:
        """State machines by the type of their entities, as they are written."""
        source = self._source
        found: dict[str, Any] = {}
        if "state_machines" not in keys:
            return found
        for name, each in source.map(keys["state_machines"], "state_machines").items():
            machine = read_machine(source.document, each.node, f"state_machines: {name}")
            if machine is None:
                continue
            for process in sorted(machine.processes()):
                if not self._library.pipeline(process):
                    hint = near(process, self._library.names("pipelines"))
                    words = f"state_machines: {name}: there is no pipeline `{process}`{hint}"
                    source.fault(each, words, "E130")
            found[name] = each.value
        return found


def _with_after(process: SystemProcess, after: tuple[str, ...]) -> SystemProcess:
    record = {name: getattr(process, name) for name in SystemProcess.__slots__}
    return SystemProcess(**(record | {"after": after}))
