"""The documents of a text, by their kinds; and the kinds that are short: Policy, Adapter, Config.

Pipelines, macros and systems have modules of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agentfs.base.yaml_document import near
from agentfs.manifests.folders import FOLDERS
from agentfs.manifests.inherit import Level, NodePolicy
from agentfs.manifests.levels import LEVEL_KEYS, read_caps, read_level, read_limits
from agentfs.manifests.plan import Breaker, Rate, Retry
from agentfs.manifests.source import Located, ManifestText
from agentfs.model.process import OnLimit

__all__ = [
    "ConfigLevel",
    "LocalLibrary",
    "Macro",
    "Manifest",
    "ManifestLibrary",
    "Parameter",
    "read_adapter",
    "read_config",
    "read_manifests",
    "read_policy",
]

METADATA = ("name", "namespace", "description")
MACRO_KEYS = ("parameters", "nodes", "nodes_raw", "requires_ports", "outputs")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One document: its kind, its name, and the values of `spec`; of a macro those of the top."""

    kind: str
    name: str
    namespace: str
    description: str
    whole: Located
    spec: Located
    metadata: Located | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a macro. `types` are names of Python's types, or Any."""

    name: str
    types: tuple[str, ...] = ("str",)
    required: bool = False
    default: Any = None
    has_default: bool = False
    choices: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True)
class Macro:
    """A macro as it is kept: its nodes are still templates."""

    name: str
    parameters: tuple[Parameter, ...]
    nodes: Located | None
    nodes_raw: Located | None
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConfigLevel:
    """What a Config says. It is in effect for runs of its `namespace`; of all, if that is empty."""

    name: str
    namespace: str
    level: Level
    faults: tuple[str, ...] = ()  # something that it names is not there any more


class ManifestLibrary(Protocol):
    """What a manifest may name. `variables`: those that `${NAME}` may stand for."""

    @property
    def variables(self) -> Mapping[str, str]: ...

    def macro(self, name: str) -> Macro | None: ...

    def policy(self, name: str) -> NodePolicy | None: ...

    def adapter(self, name: str) -> dict[str, Any] | None: ...

    def prompt(self, name: str) -> str | None:
        """The text of /lib/prompts/NAME.md."""

    def pipeline(self, name: str) -> bool:
        """Whether there is one."""

    def configs(self) -> Iterable[ConfigLevel]:
        """All, by name."""

    def names(self, kind: str) -> Iterable[str]:
        """Of all documents in a folder of /etc."""


@dataclass(slots=True)
class LocalLibrary:
    """A library of documents at hand, over another one."""

    below: ManifestLibrary | None = None
    macros: dict[str, Macro] = field(default_factory=dict)
    policies: dict[str, NodePolicy] = field(default_factory=dict)
    adapters: dict[str, dict[str, Any]] = field(default_factory=dict)
    own_configs: list[ConfigLevel] = field(default_factory=list)
    pipelines: set[str] = field(default_factory=set)
    own_variables: dict[str, str] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> Mapping[str, str]:
        return {**(self.below.variables if self.below else {}), **self.own_variables}

    def macro(self, name: str) -> Macro | None:
        found = self.macros.get(name)
        return self.below.macro(name) if found is None and self.below else found

    def policy(self, name: str) -> NodePolicy | None:
        found = self.policies.get(name)
        return self.below.policy(name) if found is None and self.below else found

    def adapter(self, name: str) -> dict[str, Any] | None:
        found = self.adapters.get(name)
        return self.below.adapter(name) if found is None and self.below else found

    def prompt(self, name: str) -> str | None:
        found = self.prompts.get(name)
        return self.below.prompt(name) if found is None and self.below else found

    def pipeline(self, name: str) -> bool:
        return name in self.pipelines or (self.below is not None and self.below.pipeline(name))

    def configs(self) -> Iterable[ConfigLevel]:
        return [*(self.below.configs() if self.below else ()), *self.own_configs]

    def names(self, kind: str) -> Iterable[str]:
        own: Mapping[str, Iterable[str]] = {
            "macros": self.macros,
            "policies": self.policies,
            "adapters": self.adapters,
            "prompts": self.prompts,
            "pipelines": self.pipelines,
        }
        return [*own.get(kind, ()), *(self.below.names(kind) if self.below else ())]


# -- the common shape ----------------------------------------------------------------------------


def read_manifests(source: ManifestText, default_name: str) -> list[Manifest]:
    """All documents of a text, in its order; what has no shape of one is a fault and left out.
    Raises DocumentError if the text is not YAML."""
    found = []
    for root in source.roots():
        document = _document(source, root, default_name)
        if document is not None:
            found.append(document)
    if not found and source.sound:
        wanted = ", ".join(FOLDERS)
        source.document.fault(
            1, f"`kind:` was expected, one of {wanted}: the text has no document", "E004"
        )
    return found


def _document(source: ManifestText, root: Located, default_name: str) -> Manifest | None:
    if not isinstance(root.value, dict):
        source.fault(root, "the document: a map was expected", "E003")
        return None
    parts = root.parts()
    given = source.required(root, parts, "kind", "the document")
    if given is None:
        return None
    kind = given.value if isinstance(given.value, str) else ""
    if kind not in FOLDERS:
        hint = near(kind, FOLDERS)
        wanted = hint or f": one of {', '.join(FOLDERS)} was expected"
        source.fault(given, f"there is no kind `{given.value!s:.40}`{wanted}", "E101")
        return None
    flat = kind == "Macro"
    source.map(root, "the document", ("apiVersion", "kind", "metadata", "spec", *MACRO_KEYS * flat))
    name, namespace, description = default_name, "", ""
    metadata = source.required(root, parts, "metadata", "the document")
    if metadata is not None:
        free = source.map(metadata, "metadata")
        required = kind in ("Adapter", "Policy", "Middleware", "Macro")
        if required:
            source.required(metadata, free, "name", "metadata")
        if "name" in free:
            name = source.name(free["name"], "metadata.name") or default_name
        if "namespace" in free:
            namespace = source.name(free["namespace"], "metadata.namespace") or ""
        if free.get("description") is not None and free["description"].value is not None:
            description = source.text(free["description"], "metadata.description") or ""
    if flat:
        spec = parts.get("spec", root)
        both = [key for key in MACRO_KEYS if key in parts] if "spec" in parts else []
        for key in both:
            source.fault(root.key(key), f"`{key}` is beside `spec`: one place was expected", "E006")
    else:
        there = source.required(root, parts, "spec", "the document")
        if there is None:
            return None
        spec = there
    if not isinstance(spec.value, dict):
        source.fault(spec, "spec: a map was expected", "E003")
        return None
    return Manifest(kind, name, namespace, description, root, spec, metadata)


# -- Policy --------------------------------------------------------------------------------------

POLICY_TYPES: dict[str, tuple[str, ...]] = {
    "retry": (
        "attempts",
        "max_retries",
        "delay",
        "initial_delay_ms",
        "max_delay",
        "max_delay_ms",
        "backoff",
        "multiplier",
    ),
    "timeout": ("timeout", "seconds", "timeout_seconds"),
    "rate_limit": ("calls", "max_calls", "seconds", "period", "window"),
    "circuit_breaker": (
        "failures",
        "failure_threshold",
        "seconds",
        "recovery_timeout",
        "reset_timeout",
    ),
    "resource_limit": ("limits", "on_limit"),
}


def read_policy(source: ManifestText, document: Manifest) -> NodePolicy:
    """A Policy, or a Middleware read as one."""
    if document.kind == "Middleware":
        return _middleware(source, document)
    keys = source.map(document.spec, "spec", ("type", "config"))
    given = source.required(document.spec, keys, "type", "spec")
    kind = source.choice(given, "spec.type", POLICY_TYPES) if given is not None else None
    if kind is None:
        return NodePolicy(document.name)
    config = keys.get("config", document.spec.made({}))
    return _policy(source, document.name, kind, config, "spec.config")


def _policy(source: ManifestText, name: str, kind: str, config: Located, what: str) -> NodePolicy:
    if kind == "resource_limit":
        parts = source.map(config, what)
        on_limit = ""
        if "on_limit" in parts:
            words = [each.value for each in OnLimit]
            on_limit = source.choice(parts["on_limit"], f"{what}.on_limit", words) or ""
        inner = parts.get("limits")
        if inner is None and isinstance(config.value, dict):
            own = {key: each for key, each in config.value.items() if key != "on_limit"}
            inner = config.made(own)
        limits = read_limits(source, inner, what) if inner is not None else {}
        return NodePolicy(name, limits=limits, on_limit=on_limit)
    keys = source.map(config, what, POLICY_TYPES[kind])
    read = _Config(source, keys, what)
    if kind == "retry":
        return NodePolicy(name, retry=_retry(source, read))
    if kind == "timeout":
        seconds = read.seconds(("timeout", "seconds", "timeout_seconds"), None)
        if seconds is None and isinstance(config.value, dict) and not keys:
            source.fault(config, f"{what}: the key `timeout` was expected", "E004")
        return NodePolicy(name, timeout=seconds)
    if kind == "rate_limit":
        calls = read.count(("calls", "max_calls"), Rate("").calls)
        seconds = read.seconds(("seconds", "period", "window"), Rate("").seconds)
        return NodePolicy(name, rate=Rate(name, calls, seconds or Rate("").seconds))
    failures = read.count(("failures", "failure_threshold"), Breaker("").failures)
    rest = read.seconds(("seconds", "recovery_timeout", "reset_timeout"), Breaker("").seconds)
    return NodePolicy(name, breaker=Breaker(name, failures, rest or Breaker("").seconds))


@dataclass(frozen=True, slots=True)
class _Config:
    """The values of a policy, each by one of several names."""

    source: ManifestText
    keys: dict[str, Located]
    what: str

    def _given(self, names: tuple[str, ...]) -> tuple[str, Located] | None:
        return next(((name, self.keys[name]) for name in names if name in self.keys), None)

    def count(self, names: tuple[str, ...], default: int) -> int:
        given = self._given(names)
        if given is None:
            return default
        return self.source.count(given[1], f"{self.what}.{given[0]}") or default

    def seconds(self, names: tuple[str, ...], default: float | None) -> float | None:
        given = self._given(names)
        if given is None:
            return default
        name, value = given
        if name.endswith("_ms"):
            number = self.source.number(value, f"{self.what}.{name}")
            return default if number is None else number / 1000
        read = self.source.seconds(value, f"{self.what}.{name}")
        return default if read is None else read

    def factor(self, names: tuple[str, ...], default: float) -> float:
        given = self._given(names)
        if given is None or given[1].value == "exponential":
            return default
        if given[1].value in ("constant", "fixed"):
            return 1.0
        read = self.source.number(given[1], f"{self.what}.{given[0]}")
        return default if read is None else read


def _retry(source: ManifestText, read: _Config) -> Retry:
    plain = Retry()
    delay = read.seconds(("delay", "initial_delay_ms"), plain.delay)
    most = read.seconds(("max_delay", "max_delay_ms"), plain.max_delay)
    return Retry(
        read.count(("attempts", "max_retries"), 3),
        plain.delay if delay is None else delay,
        read.factor(("multiplier", "backoff"), plain.backoff),
        plain.max_delay if most is None else most,
    )


WRAPPERS = {
    "retry": ("retry",),
    "timeout": ("timeout",),
    "ratelimit": ("rate_limit",),
    "circuitbreaker": ("circuit_breaker",),
}
"""What the name of a middleware class has in it, and which policy that is."""

BUILT_IN = {
    "retry": {"attempts": 4},
    "timeout": {"timeout": 60},
    "rate_limit": {},
    "circuit_breaker": {},
}
"""hexDAG's defaults: three retries after the first attempt; a minute."""


def _middleware(source: ManifestText, document: Manifest) -> NodePolicy:
    keys = source.map(document.spec, "spec", ("stack",))
    given = source.required(document.spec, keys, "stack", "spec")
    stack = source.many(given, "spec.stack") if given is not None else None
    if stack == [] and given is not None:
        source.fault(given, "spec.stack: at least one was expected")
    parts: dict[str, Any] = {}
    for each in stack or []:
        options = each.made({})
        path = each.value
        if isinstance(path, dict) and len(path) == 1:
            (path,) = path
            options = each.child(path)
        plain = str(path).rpartition(".")[2].lower().replace("_", "")
        kind = next((kinds[0] for word, kinds in WRAPPERS.items() if word in plain), None)
        if kind is None:
            source.fault(
                each,
                f"spec.stack: {path!s:.60} is not taken: retry, timeout, rate limit and circuit"
                f" breaker are, as policies",
                "E009",
            )
            continue
        if isinstance(options.value, dict) and not options.value:
            options = options.made(BUILT_IN[kind])
        policy = _policy(source, document.name, kind, options, f"spec.stack: {path}")
        for part in ("retry", "timeout", "rate", "breaker"):
            if getattr(policy, part) is not None:
                parts[part] = getattr(policy, part)
    return NodePolicy(document.name, **parts)


# -- Adapter -------------------------------------------------------------------------------------

BEHIND = ("program", "queue", "agent", "tool", "model", "url")
"""What an adapter may stand for: one of these."""


def read_adapter(source: ManifestText, document: Manifest) -> dict[str, Any]:
    """What is behind a port, as JSON: the adapter's name, one of `BEHIND`, its config, and the
    capabilities that it requires."""
    known = (*BEHIND, "config", "capabilities", "description", "headers")
    spec = document.spec
    for key in ("class", "adapter"):
        if key in spec.value:
            source.fault(
                spec.key(key),
                f"spec.{key}: a Python class is not taken; one of {', '.join(BEHIND)} was expected",
                "E009",
            )
            spec = spec.made({name: each for name, each in spec.value.items() if name != key})
    keys = source.map(spec, "spec", known)
    behind = [key for key in BEHIND if key in keys]
    found: dict[str, Any] = {"adapter": document.name}
    if len(behind) != 1:
        if spec is document.spec or behind:
            source.fault(spec, f"spec: one of {', '.join(BEHIND)} was expected", "E133")
    elif behind == ["program"]:
        words = source.texts(keys["program"], "spec.program")
        line = isinstance(keys["program"].value, str)
        found["program"] = ["/bin/sh", "-c", *(words or []), "sh"] if line else words
    else:
        found[behind[0]] = source.text(keys[behind[0]], f"spec.{behind[0]}")
    for key in ("config", "headers"):
        if key in keys:
            source.map(keys[key], f"spec.{key}")
            found[key] = keys[key].value
    if "capabilities" in keys:
        needs = source.map(keys["capabilities"], "spec.capabilities", ("requires",))
        if "requires" in needs:
            required = read_caps(source, needs["requires"], "spec.capabilities.requires")
            found["requires"] = list(required or ())
    return found


# -- Config --------------------------------------------------------------------------------------

INSTEAD = {
    "modules": "functions are found in the folder `code` of a pipeline",
    "plugins": "functions are found in the folder `code` of a pipeline",
    "dev_mode": "there is one mode",
    "settings": "settings are in /etc/agentfs.yaml",
    "logging": "the log of each node is a file of its run",
    "mcp_permissions": "rights are in /etc/acl.yaml",
}
"""What hexDAG's Config has beyond ours."""

ENGINE_KEYS = (
    "max_concurrent_nodes",
    "default_node_timeout",
    "pipeline_timeout",
    "strict_validation",
)


def read_engine(
    source: ManifestText, value: Located, what: str
) -> tuple[dict[str, Any], float | None]:
    """hexDAG's `orchestrator`: settings, and the deadline."""
    keys = source.map(value, what, ENGINE_KEYS)
    settings: dict[str, Any] = {}
    if "max_concurrent_nodes" in keys:
        most = source.count(keys["max_concurrent_nodes"], f"{what}.max_concurrent_nodes")
        if most is not None:
            settings["max_concurrent_nodes"] = most
    if "default_node_timeout" in keys and keys["default_node_timeout"].value is not None:
        seconds = source.seconds(keys["default_node_timeout"], f"{what}.default_node_timeout")
        if seconds is not None:
            settings["node_timeout"] = seconds
    if "strict_validation" in keys and keys["strict_validation"].value is not True:
        source.fault(
            keys["strict_validation"],
            f"{what}.strict_validation: true was expected: schemas are always checked",
            "E009",
        )
    deadline = None
    if "pipeline_timeout" in keys and keys["pipeline_timeout"].value is not None:
        deadline = source.seconds(keys["pipeline_timeout"], f"{what}.pipeline_timeout")
    return settings, deadline


def read_config(source: ManifestText, document: Manifest, library: ManifestLibrary) -> ConfigLevel:
    """A Config."""
    spec = document.spec
    for key in [key for key in INSTEAD if key in spec.value]:
        source.fault(spec.key(key), f"spec.{key} is not taken: {INSTEAD[key]}", "E009")
        spec = spec.made({name: each for name, each in spec.value.items() if name != key})
    own = ("orchestrator", "kernel", "retention", "max_concurrent_nodes", "node_timeout")
    keys = source.map(spec, "spec", (*own, *LEVEL_KEYS))
    level = read_level(source, f"config {document.name}", keys, library)
    return ConfigLevel(document.name, document.namespace, engine_level(source, level, keys))


def engine_level(source: ManifestText, level: Level, keys: Mapping[str, Located]) -> Level:
    """`level` with the settings for the engine that `keys` have."""
    settings: dict[str, Any] = {}
    deadline = level.deadline
    for name in ("kernel", "orchestrator"):
        if name in keys:
            found, longest = read_engine(source, keys[name], name)
            settings |= found
            if longest is not None:
                deadline = longest if deadline is None else min(deadline, longest)
    if "max_concurrent_nodes" in keys:
        settings["max_concurrent_nodes"] = (
            source.count(keys["max_concurrent_nodes"], "max_concurrent_nodes") or 1
        )
    for key in ("node_timeout", "retention"):
        if key in keys:
            seconds = source.seconds(keys[key], key)
            if seconds is not None:
                settings[key] = seconds
    return Level(
        level.name,
        level.limits,
        level.caps,
        level.deny,
        deadline,
        level.settings | settings,
        level.policies,
        level.ports,
    )
