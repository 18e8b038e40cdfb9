"""Pages of /lib about what stands in manifests: kinds of nodes, adapters, tags of templates.

The schemas are made of the tables that manifests are checked against, so they cannot say anything
else; a test compiles the examples.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

from agentfs.manifests.documents import BEHIND
from agentfs.manifests.kinds import COMMON, KINDS, Filling, NodeKind, Shape, SpecKey
from agentfs.manifests.levels import LIMITS, SAME_LIMIT

__all__ = ["ADAPTERS", "NODES", "TAGS", "About"]


@dataclass(frozen=True, slots=True)
class About:
    """What something is, in words; the JSON Schema of what its author writes; and an example."""

    about: str
    schema: dict[str, Any]
    example: str


_TEXT = {"type": "string"}
_TEXTS = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]}
_MAP = {"type": "object"}
_NAME = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]*$"}
_SECONDS = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": "^([0-9]+(\\.[0-9]+)?(ms|s|m|h|d)?)+$"},
        {"type": "null"},
    ]
}
_NODES = {"type": "array", "items": _MAP}

_SHAPES: dict[Shape, dict[str, Any]] = {
    Shape.TEXT: _TEXT,
    Shape.NAME: _NAME,
    Shape.SECONDS: _SECONDS,
    Shape.COUNT: {"type": "integer", "minimum": 1},
    Shape.NUMBER: {"type": "number", "minimum": 0},
    Shape.FLAG: {"type": "boolean"},
    Shape.TEXTS: _TEXTS,
    Shape.COMMAND: _TEXTS,
    Shape.MAP: _MAP,
    Shape.LIST: {"type": "array"},
    Shape.ANY: {},
    Shape.SCHEMA: _MAP,
    Shape.FUNCTION: {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.]*([:.][A-Za-z_]\\w*)$"},
    Shape.BRANCHES: {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"condition": _TEXT, "action": _NAME, "body": _NODES},
            "required": ["condition"],
            "additionalProperties": False,
        },
    },
    Shape.BODY: {"anyOf": [_TEXT, _NODES]},
    Shape.RETRY: {
        "anyOf": [
            _NAME,
            {
                "type": "object",
                "properties": {
                    "attempts": {"type": "integer", "minimum": 1},
                    "delay": _SECONDS,
                    "backoff": {"type": "number", "minimum": 0},
                    "max_delay": _SECONDS,
                },
                "additionalProperties": False,
            },
        ]
    },
    Shape.LIMITS: {
        "type": "object",
        "properties": {
            name: {"anyOf": [{"type": "number", "minimum": 0}, {"enum": [None, "max"]}]}
            for name in (*LIMITS, *SAME_LIMIT)
        },
        "additionalProperties": False,
    },
    Shape.CAPS: _TEXTS,
    Shape.CONCURRENCY: {
        "type": "object",
        "properties": {
            "key": _TEXT,
            "limit": {"type": "integer", "minimum": 1},
            "on_full": {"enum": ["queue", "skip", "replace"]},
        },
        "additionalProperties": False,
    },
}

_READ_AS = {
    Filling.LITERAL: "",
    Filling.TEMPLATE: "; a template",
    Filling.EXPRESSION: "; an expression",
    Filling.MAPPING: "; each text an expression, or a template",
}


def _key_schema(key: SpecKey) -> dict[str, Any]:
    schema = dict(_SHAPES[key.shape])
    if key.choices:
        schema = {"enum": list(key.choices)}
    elif key.form is not Filling.LITERAL and key.shape not in (Shape.TEXT, Shape.MAP):
        schema = {"anyOf": [schema, _TEXT]} if schema else schema
    return {"description": f"{key.what}{_READ_AS[key.form]}"} | schema


def _spec_schema(kind: NodeKind) -> dict[str, Any]:
    """The JSON Schema of the `spec` of a node."""
    keys = {**kind.keys, **{name: key for name, key in COMMON.items() if name not in kind.keys}}
    fields = {name: _key_schema(key) for name, key in keys.items()}
    for other, name in kind.also.items():
        fields[other] = {"description": f"the same as {name}"} | fields[name]
    needed = [name for name, key in kind.keys.items() if key.required]
    same = {name: [each for each, of in kind.also.items() if of == name] for name in needed}
    plain = [name for name in needed if not same[name]]
    either = [
        {"anyOf": [{"required": [each]} for each in (name, *same[name])]}
        for name in needed
        if same[name]
    ]
    return {
        "title": kind.name,
        "description": kind.what,
        "type": "object",
        "properties": fields,
        "additionalProperties": False,
        **({"required": plain} if plain else {}),
        **({"allOf": either} if either else {}),
    }


_EXAMPLES = {
    "data": "- {name: settings, data: {limit: 3, words: [a, b]}}\n",
    "expression": """\
- {name: order, data: {price: 4, count: 5}}
- {name: sum, expression: {net: order.price * order.count, gross: "round(net * 1.19, 2)"}}
""",
    "condition": """\
- {name: order, data: {count: 5}}
- {name: many, condition: order.count > 3}
- {name: note, data: "many orders", when: many.result}
""",
    "switch": """\
- {name: order, data: {count: 5}}
- name: route
  switch: [{condition: order.count > 100, action: person}]
  else_action: program
- {name: person, approval: "{{ order.count }} of them?"}
- {name: program, program: [wc, -c]}
""",
    "wait": """\
- {name: paid, wait: "paid-{{ input.order }}", timeout: 7d, on_timeout: {paid: false}}
- {name: thanks, message: alice, body: "{{ paid }}"}
""",
    "approval": """\
- {name: allowed, approval: "May {{ input.file }} be deleted?", timeout: 1d}
""",
    "message": """\
- {name: tell, message: alice, subject: "about {{ input.file }}", body: it is there}
""",
    "transition": """\
- {name: ship, transition: order, entity_id: "{{ input.order }}", to_state: shipped}
""",
    "program": """\
- name: count
  program: [grep, -c]
  args: ["{{ input.word }}", "{{ input.file }}"]
  output: text
  retry: {attempts: 3, delay: 10s}
  timeout: 1m
""",
    "function": """\
- {name: clean, function: "texts:clean", input_mapping: {text: input.text, width: "80"}}
""",
    "service_call": """\
- {name: save, service_call: "stores:Notes", method: save, once: true}
""",
    "agent": """\
- name: review
  agent: alice
  prompt: "Read {{ input.file }}. Is it good?"
  patience: 2h
  output_schema: {type: object, properties: {good: {type: boolean}}, required: [good]}
""",
    "llm": """\
- name: summary
  llm: "In one sentence: {{ input.text }}"
  output_schema: {type: object, properties: {sentence: {type: string}}, required: [sentence]}
""",
    "tool": """\
- {name: found, tool: search, arguments: {query: "{{ input.question }}", limit: 5}}
""",
    "api_call": """\
- {name: weather, api_call: "https://weather.example/v1", params: {place: "{{ input.place }}"}}
""",
    "while": """\
- name: halve
  while: state.n > 1
  initial_state: {n: "{{ input.n }}", steps: 0}
  state_update: {n: state.n // 2, steps: state.steps + 1}
  body: [{name: show, program: [echo], args: ["{{ state.n }}"]}]
""",
    "for-each": """\
- {name: files, data: [a.txt, b.txt]}
- name: sizes
  for-each: files
  item_var: file
  concurrency: 10
  body: [{name: size, program: [wc, -c], args: ["{{ file }}"], output: text}]
""",
    "times": """\
- name: throws
  times: input.throws
  body: [{name: throw, program: [shuf, -i, 1-6, -n, "1"], output: json}]
""",
    "if": """\
- name: long
  if: len(input.text) > 1000
  body: [{name: short, llm: "Shorten: {{ input.text }}"}]
  else_body: [{name: same, data: "{{ input.text }}"}]
""",
    "pipeline": """\
- {name: checked, pipeline: review, input: {file: "{{ input.file }}"}}
""",
    "macro_invocation": """\
- {name: twice, macro_invocation: review-twice, inputs: {file: "{{ input.file }}"}}
""",
}


def _words(kind: NodeKind) -> str:
    """What a kind is, and its keys, a line each; those that it needs first."""
    lines = [kind.what, ""]
    for name, key in sorted(kind.keys.items(), key=lambda each: not each[1].required):
        names = " or ".join([name, *(other for other, of in kind.also.items() if of == name)])
        shape = f"one of {', '.join(key.choices)}" if key.choices else key.shape.value
        needed = ", needed" if key.required else ""
        lines.append(f"{names}: {key.what} ({shape}{_READ_AS[key.form]}{needed})")
    common = textwrap.fill(f"Beside these, as every node: {', '.join(COMMON)}.", 100)
    return "\n".join([*lines, "", common, ""])


NODES: dict[str, About] = {
    name: About(_words(kind), _spec_schema(kind), _EXAMPLES[name]) for name, kind in KINDS.items()
}
"""Kinds of nodes. The schema is that of `spec`; the example is in the short form, where the kind is
the key of its main value and the others follow."""


_BEHIND = {
    "program": (
        "A program: a call as JSON on its stdin, the answer on its stdout.",
        "[python3, -m, search]",
    ),
    "queue": ("A queue: a call is an item of it, and who takes that answers.", "searches"),
    "agent": ("An agent: a call is a message to it, and its reply the answer.", "librarian"),
    "tool": ("A tool of /lib/tools: a call is one of that.", "search"),
    "model": ("A model of /dev/llm: a call is a prompt.", "smollm2"),
    "url": ("An address: a call is a request over HTTP to it.", "https://search.example/v1"),
}


def _adapter(name: str) -> About:
    about, value = _BEHIND[name]
    behind = _TEXTS if name == "program" else _TEXT
    schema = {
        "title": name,
        "description": about,
        "type": "object",
        "properties": {
            name: behind,
            "description": {"description": "what it is for"} | _TEXT,
            "config": {"description": "settings that a call has with it"} | _MAP,
            "headers": {"description": "header lines of each call"} | _MAP,
            "capabilities": {
                "description": "what the run has to be allowed: requires",
                "type": "object",
                "properties": {"requires": _TEXTS},
                "additionalProperties": False,
            },
        },
        "required": [name],
        "additionalProperties": False,
    }
    example = f"kind: Adapter\nmetadata: {{name: finder}}\nspec: {{{name}: {value}}}\n"
    return About(f"{about}\n", schema, example)


ADAPTERS: dict[str, About] = {name: _adapter(name) for name in BEHIND}
"""What may be behind a port. The schema is that of an Adapter's `spec`."""

TAGS: dict[str, About] = {
    "raw": About(
        "Text between {% raw %} and {% endraw %} stays as it is, double braces too.\n",
        _TEXT,
        "{% raw %}{{ this is text }}{% endraw %}\n",
    ),
    "for": About(
        "Repeats its text for each item of a list: in the nodes_raw of a Macro. `loop` has index,"
        " index0, first, last and length.\n",
        _TEXT,
        "{% for word in words %}\n- {name: '{{ name }}_{{ loop.index }}', data: '{{ word }}'}\n"
        "{% endfor %}\n",
    ),
    "if": About(
        "Takes its text if a condition is true: in the nodes_raw of a Macro. With elif and else.\n",
        _TEXT,
        "{% if careful %}\n- {name: '{{ name }}_ask', approval: 'Go on?'}\n{% endif %}\n",
    ),
    "set": About(
        "Gives a value a name, for what follows: in the nodes_raw of a Macro.\n",
        _TEXT,
        "{% set all = words + ['end'] %}\n- {name: '{{ name }}_all', data: '{{ all | tojson }}'}\n",
    ),
}
"""Tags of templates."""
