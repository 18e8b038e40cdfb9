"""One node of a manifest: its form, its keys, and their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agentfs.base.yaml_document import near
from agentfs.manifests.documents import ManifestLibrary
from agentfs.manifests.inherit import NodePolicy, Settled
from agentfs.manifests.kinds import (
    ALIASES,
    COMMON,
    KINDS,
    MODES,
    RESERVED,
    WORKING,
    NodeKind,
    Shape,
    SpecKey,
)
from agentfs.manifests.levels import Policies, read_caps, read_limits, read_policies
from agentfs.manifests.plan import Concurrency, Retry
from agentfs.manifests.schema import Schema, schema_document
from agentfs.manifests.source import Located, ManifestText

__all__ = ["PROMPT", "NodeDraft", "NodeReader", "common_fields", "concurrency_of", "schema_of"]

NODE_KEYS = ("kind", "metadata", "spec", "dependencies", "wait_for")
SHORT_KEYS = ("name", "dependencies", "wait_for")
REFUSED = {
    "settings": "literal values belong into `spec`",
    "setup_fn": "a node before this one can do it",
    "examples": "they are a part of the prompt here",
    "conversation": "it is a part of the prompt here",
    "stream": "answers are read whole; /dev/llm streams",
    "continuation_prompts": "they are a part of the prompt here",
    "compensate": "there is no saga: `on_error` and `always` nodes undo what was done",
}
"""Keys of hexDAG's nodes that are not taken, and what there is instead."""

PROMPTS = frozenset({"prompt", "system_message"})
PROMPT = re.compile(r"/lib/prompts/([A-Za-z0-9._-]{1,64})\.md")
"""Where one of these keys says this, the text of that file is meant."""

FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[:.][A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(slots=True)
class NodeDraft:
    """A node on its way to the plan. `keys`: of its spec, by their canonical names. `data` and
    `order`: the nodes of its graph that it needs, for their output or only before it; `outer`:
    those of graphs around it, each with its level."""

    name: str
    kind: str
    whole: Located
    keys: dict[str, Located]
    dependencies: list[Located] | None
    wait_for: list[Located]
    data: set[str] = field(default_factory=set)
    order: set[str] = field(default_factory=set)
    outer: set[tuple[int, str]] = field(default_factory=set)
    handles: set[str] = field(default_factory=set)
    routes: set[str] = field(default_factory=set)
    spec: dict[str, Any] = field(default_factory=dict)
    written: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def free(self) -> bool:
        """Whether nothing says what it comes after."""
        edges = (self.data, self.order, self.handles, self.routes, self.wait_for)
        return self.dependencies is None and not any(edges)


class NodeReader:
    """Reads nodes of both forms."""

    def __init__(
        self,
        source: ManifestText,
        library: ManifestLibrary,
        services: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._source = source
        self._library = library
        self._services = services

    def draft(self, value: Located) -> NodeDraft | None:
        """One node: its kind, its name, its keys. None for one without a kind or a name, which
        is a fault."""
        if not isinstance(value.value, dict):
            self._source.fault(value, "a node: a map was expected", "E003")
            return None
        parts = value.parts()
        if "kind" in parts or "metadata" in parts:
            return self._long(value, parts)
        return self._short(value, parts)

    def _long(self, value: Located, parts: dict[str, Located]) -> NodeDraft | None:
        source = self._source
        for key in [key for key in parts if key not in NODE_KEYS]:
            if key in COMMON or any(key in kind.keys for kind in KINDS.values()):
                source.fault(value.key(key), f"`{key}`: move it inside `spec`", "E006")
            elif key in REFUSED:
                source.fault(value.key(key), f"`{key}` is not taken: {REFUSED[key]}", "E009")
            else:
                wanted = near(key, NODE_KEYS) or f", one of {', '.join(NODE_KEYS)} was expected"
                source.fault(value.key(key), f"a node: unknown key `{key}`{wanted}", "E005")
        given = source.required(value, parts, "kind", "a node")
        metadata = source.required(value, parts, "metadata", "a node")
        name = None
        if metadata is not None:
            inner = source.map(metadata, "metadata")
            named = source.required(metadata, inner, "name", "metadata")
            name = self._name(named) if named is not None else None
        spec = parts.get("spec", value.made({}))
        if spec.value is None:
            spec = spec.made({})
        if not isinstance(spec.value, dict):
            source.fault(spec, "spec: a map was expected", "E003")
            spec = spec.made({})
        kind = self._kind(given, spec) if given is not None else None
        if name is None or kind is None:
            return None
        return self._drafted(name, kind, value, spec.parts(), parts)

    def _short(self, value: Located, parts: dict[str, Located]) -> NodeDraft | None:
        """`{name: n, KIND: VALUE, …}`."""
        source = self._source
        named = source.required(value, parts, "name", "a node")
        name = self._name(named) if named is not None else None
        rest = {key: each for key, each in parts.items() if key not in SHORT_KEYS}
        kinds = [key for key in rest if key in ALIASES]
        if len(kinds) > 1:  # a key of one kind may be called as another kind: the first is the kind
            kinds = [key for key in kinds if key not in self._keys_of(kinds[0])] or kinds[:1]
        if len(kinds) != 1:
            hint = next((found for key in rest if (found := near(key, ALIASES))), "")
            what = "one kind" if kinds else "a kind"
            known = "" if hint else f": {', '.join(KINDS)}"
            source.fault(value, f"a node: {what} was expected as key{hint}{known}", "E101")
            return None
        kind = KINDS[ALIASES[kinds[0]]]
        main = rest.pop(kinds[0])
        if kind.main in rest:
            source.fault(value.key(kind.main), f"`{kind.main}` is said twice", "E002")
        if kind.name in ("data", "wait", "if") or main.value is not None:
            rest = {kind.main: main, **rest}
        if name is None:
            return None
        return self._drafted(name, kind, value, rest, parts)

    def _keys_of(self, alias: str) -> set[str]:
        kind = KINDS[ALIASES[alias]]
        return {*kind.keys, *kind.also, *COMMON} - {kind.main} - {alias}

    def _name(self, value: Located) -> str | None:
        name = self._source.name(value, "the name of a node")
        if name in RESERVED:
            self._source.fault(
                value, f"`{name}` is reserved: it means something else in templates", "E103"
            )
            return None
        return name

    def _kind(self, value: Located, spec: Located) -> NodeKind | None:
        given = value.value if isinstance(value.value, str) else ""
        if given in ("composite_node", "composite"):
            return self._composite(value, spec)
        plain = given.rpartition(":")[2]
        if given in ALIASES or plain in ALIASES:
            return KINDS[ALIASES.get(given) or ALIASES[plain]]
        hint = near(given, ALIASES) or f": one of {', '.join(KINDS)} was expected"
        if not near(given, ALIASES) and FUNCTION.fullmatch(given):
            hint = "; a Python function is `kind: function` with `fn: module:name`"
        self._source.fault(value, f"there is no kind `{value.value!s:.60}`{hint}", "E101")
        return None

    def _composite(self, value: Located, spec: Located) -> NodeKind | None:
        parts = spec.parts()
        mode = self._source.required(value.made({}), parts, "mode", "a composite_node")
        word = self._source.choice(mode, "mode", MODES) if mode is not None else None
        return KINDS[MODES[word]] if word is not None else None

    def _drafted(
        self,
        name: str,
        kind: NodeKind,
        whole: Located,
        spec: dict[str, Located],
        parts: dict[str, Located],
    ) -> NodeDraft:
        source = self._source
        keys: dict[str, Located] = {}
        known = {*kind.keys, *kind.also}
        if kind.name != "macro_invocation":
            known |= set(COMMON)
        for key, value in spec.items():
            canonical = kind.also.get(key, key)
            if key == "mode" and kind.name in MODES.values():
                continue
            if key in ("dependencies", "wait_for") and key not in kind.keys:
                source.fault(whole, f"{name}: `{key}` stands beside `spec`, not in it", "E006")
            elif canonical not in kind.keys and canonical in REFUSED:
                source.fault(value, f"{name}.{key} is not taken: {REFUSED[canonical]}", "E009")
            elif canonical not in known:
                hint = near(key, {*known, "dependencies", "wait_for"})
                wanted = hint or f": {kind.name} has {', '.join(kind.keys)}"
                source.fault(_key_place(whole, key), f"{name}: unknown key `{key}`{wanted}", "E005")
            elif canonical in keys:
                source.fault(value, f"{name}.{key}: `{canonical}` is said twice", "E002")
            else:
                keys[canonical] = self._prompt(value) if canonical in PROMPTS else value
        given = parts.get("dependencies") or keys.pop("dependencies", None)
        dependencies = None
        if given is not None and given.value is not None:
            dependencies = source.names(given, f"{name}.dependencies")
        wait_for = []
        if "wait_for" in parts and parts["wait_for"].value is not None:
            wait_for = source.names(parts["wait_for"], f"{name}.wait_for")
        for key, rule in kind.keys.items():
            if rule.required and key not in keys:
                source.fault(whole, f"{name}: the key `{key}` was expected", "E004")
        return NodeDraft(name, kind.name, whole, keys, dependencies, wait_for)

    def _prompt(self, value: Located) -> Located:
        """The text that is meant where the path of a prompt is given."""
        path = PROMPT.fullmatch(value.value) if isinstance(value.value, str) else None
        if path is None:
            return value
        text = self._library.prompt(path[1])
        if text is None:
            hint = near(path[1], self._library.names("prompts"))
            what = f"there is no prompt `{path[1]}` in /lib/prompts{hint}"
            self._source.fault(value, what, "E130")
            return value
        return value.made(text)

    # -- values ----------------------------------------------------------------------------------

    def value(self, draft: NodeDraft, name: str, key: SpecKey) -> Any:
        """A value of its spec, as the plan has it; None for one that was refused."""
        given, what = draft.keys[name], f"{draft.name}.{name}"
        source = self._source
        if given.value is None and key.shape is not Shape.ANY:
            return None
        if key.choices:
            return source.choice(given, what, key.choices)
        read = _READERS.get(key.shape)
        if read is not None:
            return read(source, given, what)
        match key.shape:
            case Shape.COMMAND:
                return self._command(given, what)
            case Shape.FUNCTION:
                return self._function(given, what)
            case Shape.MAP:
                source.map(given, what)
            case Shape.LIST:
                source.many(given, what)
        return given.value

    def _command(self, given: Located, what: str) -> list[str] | None:
        words = self._source.texts(given, what)
        if words == []:
            self._source.fault(given, f"{what}: a program was expected", "E003")
            return None
        if words is not None and not isinstance(given.value, list):
            return ["/bin/sh", "-c", *words, "sh"]
        return words

    def _function(self, given: Located, what: str) -> str | None:
        text = given.value if isinstance(given.value, str) else ""
        if text in self._services:
            text = str(self._services[text]["class"])
        if not FUNCTION.fullmatch(text):
            words = "`module:name` was expected"
            if "\n" in text or "lambda" in text or "(" in text:
                words += (
                    "; Python in a manifest is not taken: put it into a file of the folder `code`"
                )
            self._source.fault(given, f"{what}: {words}")
            return None
        if ":" in text:
            return text
        module, _, name = text.rpartition(".")
        return f"{module}:{name}"

    def service_config(self, draft: NodeDraft) -> dict[str, Any]:
        """The arguments of the class of a service, with those that the pipeline declares."""
        given = draft.keys.get("service")
        declared = self._services.get(str(given.value)) if given is not None else None
        return dict(declared.get("config", {})) if declared else {}


def _key_place(whole: Located, key: str) -> Located:
    """Where a key of a node is written: in its spec, or at its top."""
    if isinstance(whole.value, dict) and isinstance(whole.value.get("spec"), dict):
        return whole.child("spec").key(key)
    return whole.key(key)


# -- what all kinds have -------------------------------------------------------------------------


def common_fields(
    source: ManifestText, draft: NodeDraft, read: NodeReader, settled: Settled, library: Policies
) -> dict[str, Any]:
    """The fields of the plan's node that every kind has."""
    values = {
        name: read.value(draft, name, key)
        for name, key in COMMON.items()
        if name in draft.keys and name not in ("retry", "concurrency", "policies", "input_mapping")
    }
    fields: dict[str, Any] = {}
    for name in ("when", "on_error", "join"):
        if values.get(name):
            fields[name] = values[name]
    for name in ("critical", "once", "always"):
        if values.get(name):
            fields[name] = True
    for name in ("input_schema", "output_schema"):
        if values.get(name) is not None:
            fields[name] = values[name]
    if values.get("required_inputs"):
        fields["required_inputs"] = tuple(values["required_inputs"])
    mapping = draft.keys.get("input_mapping")
    if mapping is not None and mapping.value is not None:
        source.map(mapping, f"{draft.name}.input_mapping")
        fields["input"] = mapping.value
    if values.get("strict_mapping"):
        if "input" not in fields:
            source.fault(
                draft.keys["strict_mapping"],
                f"{draft.name}: strict_mapping is for a node with an input_mapping",
                "E004",
            )
        fields["strict"] = True
    policies = _node_policies(source, draft, library)
    for each in policies:
        if each.limits or each.on_limit:
            what = f"{draft.name}.policies: {each.name} has limits, which are a whole pipeline's"
            source.fault(draft.keys["policies"], what, "E140")
    near_by = Settled({}, None, (), None, {}, (*settled.policies, *policies), {}, {})
    about = near_by if draft.kind in WORKING else Settled({}, None, (), None, {}, policies, {}, {})
    _with_retry(source, draft, values, about, library, fields)
    timeout = values.get("timeout")
    if timeout is None and draft.kind in WORKING and draft.keys.get("timeout") is None:
        policy = about.policy("timeout")
        timeout = policy.timeout if policy else settled.settings.get("node_timeout")
    elif timeout is None and (policy := about.policy("timeout")):
        timeout = policy.timeout
    if timeout is not None and draft.kind not in ("wait", "approval"):
        fields["timeout"] = timeout
    for part in ("rate", "breaker"):
        policy = about.policy(part)
        if policy is not None:
            fields[part] = getattr(policy, part)
    if policies:
        fields["policies"] = tuple(policy.name for policy in policies)
    if "concurrency" in draft.keys and draft.kind not in ("for-each", "times"):
        fields["concurrency"] = concurrency_of(
            source, draft.keys["concurrency"], f"{draft.name}.concurrency"
        )
    return fields


def _node_policies(
    source: ManifestText, draft: NodeDraft, library: Policies
) -> tuple[NodePolicy, ...]:
    if "policies" not in draft.keys:
        return ()
    return read_policies(source, draft.keys["policies"], f"{draft.name}.policies", library)


def _with_retry(
    source: ManifestText,
    draft: NodeDraft,
    values: dict[str, Any],
    about: Settled,
    library: Policies,
    fields: dict[str, Any],
) -> None:
    """`retry`: the nearest policy, the key, and hexDAG's four keys, each over the one before."""
    policy = about.policy("retry")
    retry = (policy.retry if policy else None) or Retry()
    what = f"{draft.name}.retry"
    given = draft.keys.get("retry")
    if given is not None and isinstance(given.value, str):
        named = library.policy(given.value)
        if named is None or named.retry is None:
            hint = near(given.value, library.names("policies"))
            source.fault(given, f"{what}: there is no policy `{given.value}` for it{hint}", "E130")
        else:
            retry = named.retry
    elif given is not None and isinstance(given.value, int) and not isinstance(given.value, bool):
        retry = Retry(attempts=source.count(given, what) or 1)
    elif given is not None:
        parts = source.map(given, what, ("attempts", "delay", "backoff", "max_delay"))
        said = {
            "attempts": source.count(parts["attempts"], what) if "attempts" in parts else 3,
            "delay": source.seconds(parts["delay"], what) if "delay" in parts else None,
            "backoff": source.number(parts["backoff"], what) if "backoff" in parts else None,
            "max_delay": source.seconds(parts["max_delay"], what) if "max_delay" in parts else None,
        }
        retry = replace(retry, **_said(said))
    attempts = values.get("max_retries")
    delays = {
        "delay": values.get("retry_delay"),
        "backoff": values.get("retry_backoff"),
        "max_delay": values.get("retry_max_delay"),
    }
    own = _said(delays)
    if attempts is not None:
        own["attempts"] = max(1, int(attempts))
    retry = replace(retry, **own)
    if retry != Retry():
        fields["retry"] = retry


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def concurrency_of(source: ManifestText, value: Located, what: str) -> Concurrency | None:
    """`{key, limit, on_full}`, or a number for the limit alone."""
    if isinstance(value.value, int) and not isinstance(value.value, bool):
        limit = source.count(value, what)
        return Concurrency("", limit) if limit else None
    parts = source.map(value, what, ("key", "limit", "on_full"))
    if not isinstance(value.value, dict):
        return None
    key = source.text(parts["key"], f"{what}.key") if "key" in parts else ""
    limit = source.count(parts["limit"], f"{what}.limit") if "limit" in parts else 1
    on_full: str | None = "queue"
    if "on_full" in parts:
        on_full = source.choice(parts["on_full"], f"{what}.on_full", ("queue", "skip", "replace"))
    return Concurrency(key or "", limit or 1, on_full or "queue")


def schema_of(source: ManifestText, value: Located, what: str) -> dict[str, Any] | None:
    """A JSON Schema, or hexDAG's map of names and types, as a JSON Schema."""
    if not isinstance(value.value, dict):
        source.fault(value, f"{what}: a JSON Schema (a map) was expected", "E003")
        return None
    try:
        schema = schema_document(value.value)
        Schema(schema)
    except ValueError as bad:
        source.fault(value, f"{what}: {bad}", "E120")
        return None
    return dict(schema)


def _caps_of(source: ManifestText, value: Located, what: str) -> list[str] | None:
    caps = read_caps(source, value, what)
    return None if caps is None else list(caps)


_READERS: dict[Shape, Callable[[ManifestText, Located, str], Any]] = {
    Shape.TEXT: ManifestText.text,
    Shape.NAME: ManifestText.name,
    Shape.SECONDS: ManifestText.seconds,
    Shape.COUNT: ManifestText.count,
    Shape.NUMBER: ManifestText.number,
    Shape.FLAG: ManifestText.flag,
    Shape.TEXTS: ManifestText.texts,
    Shape.SCHEMA: schema_of,
    Shape.LIMITS: read_limits,
    Shape.CAPS: _caps_of,
}
"""By shape what reads a value that needs nothing but its text."""
