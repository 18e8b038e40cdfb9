"""What every level may say in the same words: limits, caps, deny, deadline, policies, ports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from agentfs.base.errors import KernelError
from agentfs.base.yaml_document import near
from agentfs.manifests.inherit import Level, NodePolicy
from agentfs.manifests.source import Located, ManifestText
from agentfs.model.capability import canonical
from agentfs.model.process import OnLimit
from agentfs.model.spec import NamedLimits

__all__ = [
    "LEVEL_KEYS",
    "Adapters",
    "Policies",
    "read_caps",
    "read_level",
    "read_limits",
    "read_ports",
]

LIMITS = tuple(NamedLimits.model_fields)
SAME_LIMIT = {"max_total_tokens": "max_tokens_total"}
"""What hexDAG calls a limit."""

LEVEL_KEYS = ("limits", "caps", "deny", "deadline", "on_limit", "policies", "ports")
"""The keys of a `spec` that `read_level` reads."""

SAME_CAP: Mapping[str, tuple[str, ...]] = {
    "port.llm": ("llm",),
    "port.tool_router": ("tool:*",),
    "port.data_store": ("datastore.read", "datastore.write"),
    "proc.spawn": ("spawn_children",),
    "mem.read": ("memory",),
    "mem.write": ("memory",),
    "vas.read": ("file_read",),
    "vas.list": ("file_read",),
    "vas.stat": ("file_read",),
    "vas.write": ("file_write",),
    "vas.exec": ("shell_exec",),
}
"""hexDAG's second vocabulary of capabilities."""

PORT_KEYS = ("adapter", "ref", "config", "adapters", "strategy")


class Policies(Protocol):
    """What policies can be found in."""

    def policy(self, name: str) -> NodePolicy | None: ...

    def names(self, kind: str) -> Iterable[str]: ...


class Adapters(Protocol):
    """What adapters can be found in."""

    def adapter(self, name: str) -> dict[str, Any] | None: ...

    def names(self, kind: str) -> Iterable[str]: ...


class LevelLibrary(Policies, Adapters, Protocol):
    """What a level may name."""


def read_limits(source: ManifestText, value: Located, what: str) -> dict[str, float | None]:
    """Limits by name; `max` and null are no limit."""
    found: dict[str, float | None] = {}
    for key, each in source.map(value, what, (*LIMITS, *SAME_LIMIT)).items():
        name = SAME_LIMIT.get(key, key)
        most = each.value
        if most is None or most == "max":
            found[name] = None
        elif (
            type(most) in (int, float)
            and 0 <= most < 2**63
            and (type(most) is int or name == "max_cost_usd")
        ):
            found[name] = most
        else:
            number = "number" if name == "max_cost_usd" else "whole number"
            source.fault(each, f"{what}.{key}: a {number} of at least 0, or max, was expected")
    return found


def read_caps(source: ManifestText, value: Located, what: str) -> tuple[str, ...] | None:
    """A list of capabilities by their canonical names."""
    if value.value is None:
        return None
    found: dict[str, None] = {}
    for each in source.names(value, what):
        for name in SAME_CAP.get(str(each.value), (str(each.value),)):
            try:
                found[canonical(name)] = None
            except KernelError as bad:
                source.fault(each, f"{what}: {bad.reason}", "E140")
    return tuple(found)


def read_level(
    source: ManifestText, name: str, keys: Mapping[str, Located], library: LevelLibrary
) -> Level:
    """What `keys` say that every level may say."""
    limits: dict[str, float | None] = {}
    settings: dict[str, Any] = {}
    if "limits" in keys:
        given = keys["limits"]
        if isinstance(given.value, dict):
            own = {key: given.value[key] for key in given.value if key != "on_limit"}
            if "on_limit" in given.value:
                _on_limit(source, given.child("on_limit"), "limits.on_limit", settings)
            given = given.made(own)
        limits = read_limits(source, given, "limits")
    if "on_limit" in keys:
        _on_limit(source, keys["on_limit"], "on_limit", settings)
    caps, deny = _caps(source, keys)
    deadline = source.seconds(keys["deadline"], "deadline") if "deadline" in keys else None
    policies = (
        read_policies(source, keys["policies"], "policies", library) if "policies" in keys else ()
    )
    ports = read_ports(source, keys["ports"], library) if "ports" in keys else {}
    return Level(name, limits, caps, deny, deadline, settings, policies, ports)


def _on_limit(source: ManifestText, value: Located, what: str, settings: dict[str, Any]) -> None:
    word = source.choice(value, what, [each.value for each in OnLimit])
    if word is not None:
        settings["on_limit"] = word


def _caps(
    source: ManifestText, keys: Mapping[str, Located]
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """`caps` as a list, or as hexDAG's map of `default_set` and `deny`; and `deny`."""
    caps: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    given = keys.get("caps")
    if given is not None and isinstance(given.value, dict):
        parts = source.map(given, "caps", ("default_set", "deny"))
        if "default_set" in parts:
            caps = read_caps(source, parts["default_set"], "caps.default_set")
        if "deny" in parts:
            deny = read_caps(source, parts["deny"], "caps.deny") or ()
    elif given is not None:
        caps = read_caps(source, given, "caps")
    if "deny" in keys:
        deny += read_caps(source, keys["deny"], "deny") or ()
    return caps, tuple(dict.fromkeys(deny))


def read_policies(
    source: ManifestText, value: Located, what: str, library: Policies
) -> tuple[NodePolicy, ...]:
    """Names of policies: one, a list, or a map whose values are names."""
    if isinstance(value.value, dict):
        named = list(value.parts().values())
    else:
        named = source.names(value, what)
    found = []
    for each in named:
        name = source.text(each, what)
        if name is None:
            continue
        policy = library.policy(name)
        if policy is None:
            hint = near(name, library.names("policies"))
            source.fault(each, f"{what}: there is no policy `{name}`{hint}", "E130")
        else:
            found.append(policy)
    return tuple(found)


# -- ports ---------------------------------------------------------------------------------------


def read_ports(source: ManifestText, value: Located, library: Adapters) -> dict[str, Any]:
    """`ports`: a name and what is behind it: `{ref: ADAPTER, config: {…}}`, the name of an adapter,
    or several, `{adapters: [...], strategy: round_robin | failover}`."""
    found = {}
    for name, port in source.map(value, "ports").items():
        read = _port(source, port, f"ports.{name}", library)
        if read is not None:
            found[name] = read
    return found


def _port(
    source: ManifestText, value: Located, what: str, library: Adapters
) -> dict[str, Any] | None:
    if isinstance(value.value, str):
        return _adapter(source, value, value, what, library)
    keys = source.map(value, what, PORT_KEYS)
    named = [key for key in ("adapter", "ref", "adapters") if key in keys]
    if len(named) != 1:
        if isinstance(value.value, dict):
            source.fault(value, f"{what}: one of adapter, ref, adapters was expected", "E133")
        return None
    if named == ["adapters"]:
        strategy: str | None = "round_robin"
        if "strategy" in keys:
            choices = ("round_robin", "failover")
            strategy = source.choice(keys["strategy"], f"{what}.strategy", choices)
        members = source.many(keys["adapters"], f"{what}.adapters") or []
        if not members and isinstance(keys["adapters"].value, list):
            source.fault(keys["adapters"], f"{what}.adapters: at least one was expected", "E133")
        read = [_port(source, each, f"{what}.adapters", library) for each in members]
        return {"strategy": strategy, "adapters": [each for each in read if each is not None]}
    if "strategy" in keys:
        source.fault(
            keys["strategy"].made(""), f"{what}: `strategy` is for several `adapters`", "E133"
        )
    adapter = _adapter(source, keys[named[0]], value, what, library)
    if adapter is not None and "config" in keys:
        source.map(keys["config"], f"{what}.config")
        if isinstance(keys["config"].value, dict):
            adapter = {**adapter, "config": adapter.get("config", {}) | keys["config"].value}
    return adapter


def _adapter(
    source: ManifestText, name: Located, whole: Located, what: str, library: Adapters
) -> dict[str, Any] | None:
    text = source.text(name, what)
    if text is None:
        return None
    adapter = library.adapter(text)
    if adapter is None:
        hint = near(text, library.names("adapters"))
        source.fault(name, f"{what}: there is no adapter `{text}`{hint}", "E130")
        return None
    return dict(adapter)
