"""The codes of what is found in manifests."""

from __future__ import annotations

__all__ = ["CODES"]

CODES = {
    "E001": "the text is not YAML",
    "E002": "a key is there twice",
    "E003": "a value has another shape than expected",
    "E004": "a key is missing",
    "E005": "a key is not known",
    "E006": "a key stands in the wrong place",
    "E007": "a value is not one of those that are possible",
    "E008": "the document is too large",
    "E009": "something of hexDAG that is not taken here",
    "E100": "nodes depend on each other in a circle",
    "E101": "there is no such kind",
    "E102": "a name is there twice",
    "E103": "a name that nothing can have here",
    "E104": "there is no such node",
    "E105": "a node refers to itself",
    "E110": "a template or an expression cannot be read",
    "E111": "nothing has this name",
    "E112": "`ctx` has no such field",
    "E113": "the input schema has no such field",
    "E114": "two names that mean different things are the same",
    "E120": "a schema cannot be used",
    "E130": "there is no such macro, policy, adapter or process",
    "E131": "a macro does not get what it needs",
    "E132": "macros invoke each other in a circle",
    "E133": "a port is missing or not well described",
    "E140": "a limit, a capability or a policy cannot be used",
    "W100": "the pipeline has no nodes",
    "W101": "a dependency is named that references give already",
    "W102": "a field of the input has the name of a node",
    "W103": "there is no such pipeline yet",
    "W104": "the document calls itself otherwise than its file",
    "W200": "a node that asks others has no timeout",
    "W201": "a node that asks others is not tried again",
    "W202": "nobody uses the output of a node",
    "W203": "this looks like a secret",
    "I300": "there is no description",
    "I301": "a name is not written as most are: a-z, 0-9, - and _",
}
"""Each code and what it means. `E` is a fault; `W` and `I` refuse nothing."""
