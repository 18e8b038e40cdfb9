"""Macros: read once, and expanded to nodes wherever they are invoked."""

from __future__ import annotations

from typing import Any

from agentfs.base.yaml_document import near
from agentfs.manifests.documents import Macro, Manifest, Parameter
from agentfs.manifests.fuel import EvaluationError, Fuel, TemplateError
from agentfs.manifests.source import Located, ManifestText
from agentfs.manifests.template import Template, fill, is_template

__all__ = ["arguments", "expanded", "read_macro"]

TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
    "none": (type(None),),
}
"""What each name stands for. `Any` is all of them."""

PARAMETER_KEYS = ("name", "type", "description", "required", "default", "enum")


def read_macro(source: ManifestText, manifest: Manifest) -> Macro:
    """A Macro. Its fields stand at the top, or below `spec`."""
    known = ("parameters", "nodes", "nodes_raw", "requires_ports", "outputs")
    parts = manifest.spec.parts()
    if "spec" in manifest.whole.value:
        source.map(manifest.spec, "spec", known)
    parameters = _parameters(source, parts["parameters"]) if "parameters" in parts else []
    given = [key for key in ("nodes", "nodes_raw") if key in parts]
    if len(given) != 1:
        source.fault(manifest.whole, "a macro has either `nodes` or `nodes_raw`", "E004")
        return Macro(manifest.name, tuple(parameters), None, None, ())
    nodes, raw = parts.get("nodes"), parts.get("nodes_raw")
    if nodes is not None:
        source.many(nodes, "nodes")
    if raw is not None:
        text = source.text(raw, "nodes_raw")
        try:
            Template(text or "", [each.name for each in parameters], statements=True)
        except TemplateError as bad:
            where = f"nodes_raw, line {bad.line} of it, column {bad.column}"
            source.fault(raw, f"{where}: {bad.words}", "E110")
    ports = _ports(source, parts["requires_ports"]) if "requires_ports" in parts else []
    return Macro(manifest.name, tuple(parameters), nodes, raw, tuple(ports))


def _parameters(source: ManifestText, value: Located) -> list[Parameter]:
    found: dict[str, Parameter] = {}
    for each in source.many(value, "parameters") or []:
        parts = source.map(each, "a parameter", PARAMETER_KEYS)
        named = source.required(each, parts, "name", "a parameter")
        name = source.name(named, "parameters.name") if named is not None else None
        if name is None or named is None:
            continue
        if name in found or name in ("name", "dependencies"):
            source.fault(named, f"parameters: `{name}` is there already", "E102")
            continue
        types = _types(source, parts["type"], name) if "type" in parts else ("str",)
        choices: tuple[Any, ...] | None = None
        if "enum" in parts and source.many(parts["enum"], f"{name}.enum") is not None:
            choices = tuple(parts["enum"].value)
        required = (
            source.flag(parts["required"], f"{name}.required") if "required" in parts else False
        )
        default = parts.get("default")
        found[name] = Parameter(
            name,
            types,
            bool(required),
            default.value if default is not None else None,
            default is not None,
            choices,
        )
        if default is not None and default.value is not None:
            wrong = _wrong(found[name], default.value)
            if wrong:
                source.fault(default, f"{name}.default: {wrong}")
    return list(found.values())


def _types(source: ManifestText, value: Located, name: str) -> tuple[str, ...]:
    words = [word.strip() for word in str(value.value).split("|")]
    for word in words:
        if word.lower() not in TYPES and word != "Any":
            hint = near(word, [*TYPES, "Any"])
            wanted = (
                f"{name}.type: some of {', '.join(TYPES)} with `|` between, or Any, was expected"
            )
            source.fault(value, f"{wanted}{hint}")
            return ("Any",)
    return tuple(word if word == "Any" else word.lower() for word in words)


def _ports(source: ManifestText, value: Located) -> list[str]:
    """Those that have to be there."""
    found = []
    for each in source.many(value, "requires_ports") or []:
        parts = source.map(each, "a port", ("name", "protocol", "optional"))
        named = source.required(each, parts, "name", "a port")
        name = source.name(named, "requires_ports.name") if named is not None else None
        optional = "optional" in parts and source.flag(parts["optional"], "requires_ports.optional")
        if name is not None and not optional:
            found.append(name)
    return found


def _wrong(parameter: Parameter, value: Any) -> str:
    """What is wrong with a value, in words. A text with a template in it may become anything."""
    if isinstance(value, str) and is_template(value):
        return ""
    if parameter.choices is not None and value not in parameter.choices:
        return f"one of {', '.join(str(each) for each in parameter.choices)} was expected"
    if "Any" in parameter.types:
        return ""
    kinds = [kind for name in parameter.types for kind in TYPES[name]]
    if type(value) not in kinds:
        return f"a value of the type {' | '.join(parameter.types)} was expected"
    return ""


def arguments(
    source: ManifestText, macro: Macro, at: Located, given: dict[str, Located]
) -> dict[str, Any] | None:
    """The values of all parameters; those that are left out and have no default are absent. Faults
    give None."""
    faults = 0
    known = [each.name for each in macro.parameters]
    for name in [name for name in given if name not in known]:
        hint = near(name, known)
        source.fault(given[name], f"macro {macro.name} has no parameter `{name}`{hint}", "E131")
        faults += 1
    found: dict[str, Any] = {}
    for parameter in macro.parameters:
        if parameter.name in given:
            value = given[parameter.name]
            wrong = _wrong(parameter, value.value)
            if wrong and not (value.value is None and not parameter.required):
                source.fault(value, f"macro {macro.name}: {parameter.name}: {wrong}", "E131")
                faults += 1
            found[parameter.name] = value.value
        elif parameter.has_default:
            found[parameter.name] = parameter.default
        elif parameter.required:
            source.fault(at, f"macro {macro.name}: `{parameter.name}` was expected", "E131")
            faults += 1
    return None if faults else found


def expanded(
    source: ManifestText,
    macro: Macro,
    at: Located,
    scope: dict[str, Any],
    fuel: Fuel,
) -> list[Located] | None:
    """The nodes of a macro with `scope` filled in: `name`, `dependencies`, and its parameters.
    What they do not know stays as it is, for the run. Faults give None."""
    via = f"macro {macro.name}"
    try:
        if macro.nodes_raw is not None:
            text = str(macro.nodes_raw.value)
            filled = Template(text, scope, statements=True).fill(scope, fuel)
            made = source.rendered(str(filled), at, via)
        elif macro.nodes is not None:
            value = fill(macro.nodes.value, scope, tuple(scope), fuel)
            made = Located(value, macro.nodes.node, at.place, via)
        else:
            return None
    except TemplateError as bad:
        source.fault(at, f"{via}: {bad.words}", "E110")
        return None
    except EvaluationError as bad:
        source.fault(at, f"{via}: {bad}", "E131")
        return None
    if made is None:
        return None
    return source.many(made, f"{via}: nodes")
