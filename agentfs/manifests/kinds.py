"""The kinds of nodes: what the `spec` of each may say, and how it is read and filled in.

One table serves the compiler (keys, shapes, references), the engine (what of a spec is a template)
and the descriptions in /lib/nodes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

__all__ = [
    "ALIASES",
    "COMMON",
    "CTX_FIELDS",
    "KINDS",
    "LOOPS",
    "MODES",
    "RESERVED",
    "WORKING",
    "Filling",
    "NodeKind",
    "Shape",
    "SpecKey",
    "forms",
]


class Filling(enum.Enum):
    """How the texts in a value are filled in before a node begins."""

    LITERAL = "literal"
    """Not at all."""
    TEMPLATE = "template"
    """`{{ … }}` in any text, at any depth."""
    EXPRESSION = "expression"
    """A text is an expression (`a.v + 1`); of a map each text is one, and those of `expressions`
    may use the ones before; a list is filled in as a template."""
    MAPPING = "mapping"
    """Each text is a source as in `input_mapping`."""


class Shape(enum.Enum):
    """What YAML has to have there; the value says it in words."""

    TEXT = "a text"
    NAME = "a name"
    SECONDS = "a duration like 90s, 10m or 2h"
    COUNT = "a whole number of at least 1"
    NUMBER = "a number of at least 0"
    FLAG = "true or false"
    TEXTS = "a text or a list of texts"
    COMMAND = "a command line (text) or a list of texts"
    MAP = "a map"
    LIST = "a list"
    ANY = "a value"
    SCHEMA = "a JSON Schema (a map)"
    FUNCTION = "a function like `module:name`"
    BRANCHES = "a list of {condition, action} or {condition, body}"
    BODY = "a list of nodes, or a function like `module:name`"
    RETRY = "a map of attempts, delay, backoff, max_delay, or the name of a policy"
    CONCURRENCY = "a map of key, limit, on_full"
    LIMITS = "a map of limits"
    CAPS = "a list of capabilities"


@dataclass(frozen=True, slots=True)
class SpecKey:
    """One key of a spec."""

    shape: Shape
    form: Filling = Filling.LITERAL
    what: str = ""
    required: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeKind:
    """One kind. `main`: the key that a node in the short form gives its value to. `also`: other
    names of keys."""

    name: str
    main: str
    keys: Mapping[str, SpecKey]
    what: str
    also: Mapping[str, str] = field(default_factory=dict)

    def key(self, name: str) -> SpecKey | None:
        """A key of it, or one that all kinds have."""
        return self.keys.get(name) or COMMON.get(name)


def _key(
    shape: Shape, what: str, *, form: Filling = Filling.LITERAL, required: bool = False
) -> SpecKey:
    return SpecKey(shape, form, what, required)


def _choice(what: str, *choices: str) -> SpecKey:
    return SpecKey(Shape.TEXT, Filling.LITERAL, what, choices=choices)


T, E, M = Filling.TEMPLATE, Filling.EXPRESSION, Filling.MAPPING

STRATEGIES = ("dict", "list", "first", "last", "reduce")

COMMON: dict[str, SpecKey] = {
    "description": _key(Shape.TEXT, "what it is for"),
    "input_mapping": SpecKey(Shape.MAP, M, "its input, field by field: a node's output, a text, …"),
    "strict_mapping": _key(Shape.FLAG, "its input has the mapped fields alone"),
    "required_inputs": _key(Shape.TEXTS, "fields of its input that must not be null"),
    "input_schema": _key(Shape.SCHEMA, "what its input must be"),
    "output_schema": _key(Shape.SCHEMA, "what its output must be"),
    "when": SpecKey(Shape.TEXT, E, "it is skipped if this is false"),
    "timeout": _key(Shape.SECONDS, "of one attempt"),
    "retry": _key(Shape.RETRY, "attempts in all, and the delays between them"),
    "max_retries": _key(Shape.NUMBER, "attempts in all"),
    "retry_delay": _key(Shape.SECONDS, "before the second attempt; 0 is none"),
    "retry_backoff": _key(Shape.NUMBER, "the factor of each further delay"),
    "retry_max_delay": _key(Shape.SECONDS, "the longest delay"),
    "on_error": _key(Shape.NAME, "the node that gets {_error: {node, type, message}}"),
    "critical": _key(Shape.FLAG, "the run fails if it is skipped"),
    "join": _choice("when it runs, of several dependencies", "all", "any", "first"),
    "once": _key(Shape.FLAG, "it is never begun a second time, even if nobody knows how it ended"),
    "always": _key(Shape.FLAG, "it runs even if the run has failed or was cancelled"),
    "concurrency": _key(Shape.CONCURRENCY, "how many run at the same time, over all runs"),
    "policies": _key(Shape.TEXTS, "names of documents in /etc/policies"),
}
"""What the spec of every kind may say."""

_POOL = {"pool": _key(Shape.NAME, "the pool in /dev/pools whose workers do it")}
_MANY = {
    "concurrency": _key(Shape.COUNT, "how many items at the same time; 1 if left out"),
    "collect": _choice("its result (list)", "list", "last", "first", "dict"),
    "key_field": _key(Shape.TEXT, "the field of an item whose value is the key, for `dict`"),
    "error_handling": _choice(
        "after a failed item (fail_fast)", "fail_fast", "continue", "collect"
    ),
    "index_var": _key(Shape.NAME, "the name of the number of the item, from 0 (index)"),
}
_BODY = {
    "body": _key(Shape.BODY, "the nodes of one iteration"),
    "body_pipeline": _key(Shape.NAME, "a pipeline instead of a body"),
}

_TABLE: tuple[NodeKind, ...] = (
    NodeKind(
        "data",
        "output",
        {"output": SpecKey(Shape.ANY, T, "its output", True)},
        "A constant; templates in it are filled in.",
        {"value": "output"},
    ),
    NodeKind(
        "expression",
        "expressions",
        {
            "expressions": SpecKey(Shape.MAP, E, "its output: a name and an expression each"),
            "output_fields": _key(Shape.TEXTS, "those of them that are its output (all)"),
            "merge_strategy": _choice(
                "its output is made of its dependencies' outputs", *STRATEGIES
            ),
            "reducer": SpecKey(
                Shape.TEXT, E, "for reduce: `sum`, or an expression over acc and value"
            ),
            "extract_field": _key(Shape.TEXT, "of each dependency's output only this field"),
        },
        "Values computed from others.",
    ),
    NodeKind(
        "condition",
        "condition",
        {"condition": SpecKey(Shape.TEXT, E, "an expression", True)},
        "Its output is {result: true} or {result: false}.",
    ),
    NodeKind(
        "switch",
        "branches",
        {
            "branches": SpecKey(
                Shape.BRANCHES, Filling.LITERAL, "the first that is true is taken", True
            ),
            "else_action": _key(Shape.NAME, "the node that runs if no branch is true"),
            "else_body": _key(Shape.BODY, "the nodes that run if no branch is true"),
            "route_downstream": _key(Shape.FLAG, "always true here"),
        },
        "Routes: of the nodes that its branches name, only the chosen one runs.",
    ),
    NodeKind(
        "wait",
        "event_key",
        {
            "event_key": SpecKey(Shape.TEXT, T, "the name in /dev/waits that is written to", True),
            "timeout": _key(Shape.SECONDS, "it waits so long"),
            "on_timeout": SpecKey(Shape.ANY, T, "its output after that, instead of a failure"),
            "prompt": SpecKey(Shape.TEXT, T, "what a person is asked"),
        },
        "Waits for a write to /dev/waits/KEY or to the run's signals/KEY, which is its output.",
    ),
    NodeKind(
        "approval",
        "question",
        {
            "question": SpecKey(Shape.TEXT, T, "what is to be approved", True),
            "approvers": SpecKey(Shape.TEXTS, T, "agents and users that may answer"),
            "timeout": _key(Shape.SECONDS, "it waits so long"),
        },
        "Waits for a person or an agent to approve, in /dev/approvals.",
    ),
    NodeKind(
        "message",
        "to",
        {
            "to": SpecKey(Shape.TEXTS, T, "an agent, or several", True),
            "subject": SpecKey(Shape.TEXT, T, "its subject"),
            "body": SpecKey(Shape.ANY, T, "its text; anything else is sent as JSON"),
            "headers": SpecKey(Shape.MAP, T, "further headers"),
            "type": SpecKey(Shape.TEXT, T, "its header Type"),
        },
        "Sends mail in the name of who started the run.",
    ),
    NodeKind(
        "transition",
        "entity",
        {
            "entity": SpecKey(Shape.TEXT, T, "the type, as in /proc/entities", True),
            "entity_id": SpecKey(
                Shape.ANY, T, "which of them (the field `entity_id` of its input)"
            ),
            "to_state": SpecKey(Shape.TEXT, T, "the state that it is to be in", True),
            "reason": SpecKey(Shape.TEXT, T, "for its history"),
            "payload": SpecKey(Shape.MAP, M, "for guards, and for the process of the state"),
            "expected": SpecKey(Shape.TEXT, T, "ESTALE if it is in another state than this"),
        },
        "Changes the state of an entity.",
    ),
    NodeKind(
        "program",
        "program",
        {
            "program": SpecKey(Shape.COMMAND, Filling.LITERAL, "its words, or a line for sh", True),
            "args": SpecKey(Shape.LIST, T, "further words"),
            "env": SpecKey(Shape.MAP, T, "environment variables"),
            "cwd": _key(Shape.TEXT, "the folder that it runs in"),
            "stdin": _choice("what it reads of its input (json)", "json", "text", "none"),
            "output": _choice("how its stdout is taken (auto)", "json", "text", "auto"),
        },
        "A program: its input as JSON on stdin, its output on stdout.",
    ),
    NodeKind(
        "function",
        "fn",
        {
            "fn": SpecKey(Shape.FUNCTION, Filling.LITERAL, "the function, `module:name`", True),
            "unpack_input": _key(Shape.FLAG, "the fields of its input are its arguments"),
            **_POOL,
        },
        "A Python function, called by a worker of a pool.",
    ),
    NodeKind(
        "service_call",
        "service",
        {
            "service": SpecKey(Shape.FUNCTION, Filling.LITERAL, "the class, `module:Class`", True),
            "method": SpecKey(Shape.NAME, Filling.LITERAL, "its method", True),
            "config": _key(Shape.MAP, "arguments of the class"),
            **_POOL,
        },
        "A method of a Python class, called by a worker of a pool.",
    ),
    NodeKind(
        "agent",
        "agent",
        {
            "agent": SpecKey(
                Shape.TEXT, T, "the agent that is asked by mail; else a loop of tools"
            ),
            "prompt": SpecKey(Shape.TEXT, T, "its task in words"),
            "patience": _key(Shape.SECONDS, "how long its answer may take"),
            "model": SpecKey(Shape.TEXT, T, "the model of a loop of tools"),
            "system_message": SpecKey(Shape.TEXT, T, "before the task, for a loop of tools"),
            "tools": _key(Shape.TEXTS, "what a loop of tools may call"),
            "max_steps": _key(Shape.COUNT, "calls of the model in a loop of tools (20)"),
        },
        "Work for an agent; its reply is the output.",
        {"main_prompt": "prompt"},
    ),
    NodeKind(
        "llm",
        "prompt",
        {
            "prompt": SpecKey(Shape.TEXT, T, "what the model is asked", True),
            "model": SpecKey(Shape.TEXT, T, "the model; else that of the run's tier"),
            "system_message": SpecKey(Shape.TEXT, T, "before the prompt"),
            "max_output": _key(Shape.COUNT, "tokens of its answer at most"),
            "port": _key(Shape.NAME, "the port that it goes through"),
        },
        "One call of a model; its output is the text, or with output_schema an object.",
        {"human_message": "prompt", "prompt_template": "prompt", "template": "prompt"},
    ),
    NodeKind(
        "tool",
        "tool",
        {
            "tool": SpecKey(Shape.TEXT, Filling.LITERAL, "its name in /lib/tools", True),
            "arguments": SpecKey(Shape.MAP, T, "its arguments; its input if left out"),
        },
        "One call of a tool.",
    ),
    NodeKind(
        "api_call",
        "url",
        {
            "url": SpecKey(Shape.TEXT, T, "the address", True),
            "method": _choice("(GET)", "GET", "POST", "PUT", "DELETE", "PATCH"),
            "headers": SpecKey(Shape.MAP, T, "headers of the request"),
            "params": SpecKey(Shape.MAP, T, "the query"),
            "json_body": SpecKey(Shape.ANY, T, "its body"),
            "port": _key(Shape.NAME, "the port that it goes through"),
        },
        "One request over HTTP.",
    ),
    NodeKind(
        "while",
        "condition",
        {
            "condition": SpecKey(Shape.TEXT, E, "another iteration as long as this is true", True),
            "initial_state": SpecKey(Shape.MAP, T, "`state` before the first iteration"),
            "state_update": SpecKey(Shape.MAP, E, "`state` after each iteration"),
            "max_iterations": _key(Shape.COUNT, "at most so many (100)"),
            **_BODY,
        },
        "Iterations with a `state`, as long as a condition holds.",
    ),
    NodeKind(
        "for-each",
        "items",
        {
            "items": SpecKey(Shape.ANY, E, "a list, or an expression for one", True),
            "item_var": _key(Shape.NAME, "the name of the item (item)"),
            **_MANY,
            **_BODY,
        },
        "One iteration for each item of a list.",
    ),
    NodeKind(
        "times",
        "count",
        {"count": SpecKey(Shape.ANY, E, "how many, or an expression", True), **_MANY, **_BODY},
        "So many iterations.",
    ),
    NodeKind(
        "if",
        "condition",
        {
            "condition": SpecKey(Shape.TEXT, E, "which of the two runs", True),
            "body": _key(Shape.BODY, "if it is true"),
            "else_body": _key(Shape.BODY, "if it is false"),
        },
        "Nodes that run if a condition holds, and others if it does not.",
    ),
    NodeKind(
        "pipeline",
        "pipeline",
        {
            "pipeline": SpecKey(Shape.NAME, Filling.LITERAL, "its name in /etc/pipelines", True),
            "input": SpecKey(Shape.ANY, T, "the input of its run; the node's input if left out"),
            "version": _key(Shape.COUNT, "the newest if left out"),
            "environment": _key(Shape.NAME, "which of the documents of its text, by namespace"),
            "limits": _key(Shape.LIMITS, "limits of its run; they can only be narrower"),
            "caps": _key(Shape.CAPS, "capabilities of its run; they can only be fewer"),
            "on_parent_end": _choice(
                "its end if this run ends before (cancel)", "cancel", "abandon"
            ),
        },
        "A run of another pipeline; its output is the output.",
    ),
    NodeKind(
        "macro_invocation",
        "macro",
        {
            "macro": SpecKey(Shape.NAME, Filling.LITERAL, "its name in /etc/macros", True),
            "inputs": _key(Shape.MAP, "its parameters"),
            "config": _key(Shape.MAP, "its parameters, too"),
            "dependencies": _key(Shape.TEXTS, "what its first nodes wait for"),
        },
        "Nodes that a macro makes; they are in its place.",
    ),
)

KINDS: dict[str, NodeKind] = {kind.name: kind for kind in _TABLE}
"""By the canonical name."""

LOOPS = ("while", "for-each", "times")

WORKING = frozenset({"program", "function", "service_call", "agent", "llm", "tool", "api_call"})
"""Kinds whose work is done elsewhere: policies of a whole pipeline are about these."""

ALIASES: dict[str, str] = {
    **{name: name for name in KINDS},
    **{f"{name.replace('-', '_')}_node": name for name in KINDS},
    "static": "data",
    "static_node": "data",
    "re_act_agent_node": "agent",
    "for_each": "for-each",
    "foreach": "for-each",
    "if-else": "if",
    "macro": "macro_invocation",
    "service": "service_call",
}
"""Every name that a kind may be called by. `composite_node` is one of several, by its `mode`."""

MODES = {
    "while": "while",
    "for-each": "for-each",
    "times": "times",
    "if-else": "if",
    "if": "if",
    "switch": "switch",
}
"""Of `composite_node`."""

RESERVED = frozenset({"ctx", "$input", "input", "state", "nodes"})
"""What no node may be called: in a template it is something else."""

CTX_FIELDS = (
    "run_id",
    "pipeline_name",
    "node_name",
    "version",
    "attempt",
    "step_key",
    "environment",
    "ref_type",
    "ref_id",
    "key",
    "starter",
    "now",
)
"""What `ctx` has."""


@cache
def forms(kind: str) -> dict[str, Filling]:
    """How each key of a node's `spec` is filled in, for a canonical kind. Those of a switch's
    `branches` are expressions in `condition`."""
    return {name: key.form for name, key in KINDS[kind].keys.items()}
