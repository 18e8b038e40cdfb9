"""Nodes that the kernel does itself, in the commit in which they become ready."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.manifests.fuel import Fuel
from agentfs.manifests.plan import PlanNode
from agentfs.workflow.advance import has_output
from agentfs.workflow.live import LiveGraph, LiveRun
from agentfs.workflow.loops import chosen_branch
from agentfs.workflow.values import Values

__all__ = ["SIMPLE", "KernelNodes"]


class KernelNodes:
    """Their outputs. Every call raises one of `EVALUATION` if there is none."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._kinds: dict[str, Callable[[LiveRun, LiveGraph, PlanNode, dict[str, Any]], Any]] = {
            "data": self._data,
            "expression": self._expression,
            "condition": self._condition,
            "switch": self._switch,
        }

    def output(self, live: LiveRun, scope: LiveGraph, node: PlanNode) -> Any:
        """The output of a node of one of the kinds `SIMPLE`."""
        given: Any = None
        rewritten = node.hooks_before and self._values.rewritten(live, scope, node)
        if node.input is not None or node.required_inputs or rewritten:
            prepared = self._values.prepared(live, scope, node)
            given = prepared if isinstance(prepared, dict) else {}
            missing = [name for name in node.required_inputs if given.get(name) is None]
            if missing:
                words = f"required inputs are missing: {', '.join(missing)}"
                raise KernelError(errno.EINVAL, words)
        names = self._values.names(live, scope, node, True, given)
        return self._kinds[node.kind](live, scope, node, names)

    def _data(self, live: LiveRun, scope: LiveGraph, node: PlanNode, names: dict[str, Any]) -> Any:
        return self._values.rendered(node.spec.get("output"), names)

    def _condition(
        self, live: LiveRun, scope: LiveGraph, node: PlanNode, names: dict[str, Any]
    ) -> Any:
        return {"result": self._values.holds(str(node.spec["condition"]), names)}

    def _switch(
        self, live: LiveRun, scope: LiveGraph, node: PlanNode, names: dict[str, Any]
    ) -> Any:
        branches = node.spec.get("branches") or ()
        branch = chosen_branch(self._values, node, names)
        action = node.spec.get("else_action") if branch is None else branches[branch].get("action")
        scope.chosen[node.name] = action
        metadata = {
            "mode": "switch",
            "matched_branch": branch,
            "matched_action": action,
            "stopped_by": "else" if branch is None else "branch_matched",
        }
        return {"result": action, "metadata": metadata}

    def _expression(
        self, live: LiveRun, scope: LiveGraph, node: PlanNode, names: dict[str, Any]
    ) -> Any:
        spec, fuel = node.spec, Fuel()
        found: dict[str, Any] = {}
        for name, source in (spec.get("expressions") or {}).items():
            text = isinstance(source, str)
            found[name] = self._values.evaluate(source, names, fuel) if text else source
            names[name] = found[name]
        strategy = spec.get("merge_strategy")
        if strategy is not None and not found:
            return {"result": self._merged(live, scope, node, str(strategy), names)}
        fields = spec.get("output_fields")
        return found if fields is None else {name: found[name] for name in fields if name in found}

    def _merged(
        self, live: LiveRun, scope: LiveGraph, node: PlanNode, strategy: str, names: dict[str, Any]
    ) -> Any:
        """The outputs of the nodes before it as one value."""
        given: dict[str, Any] = {}
        field = node.spec.get("extract_field")
        for name in node.sources:
            if has_output(scope.graph.by_name[name], scope.rows.get(name)):
                value = names["nodes"].get(name)
                if field:
                    value = value.get(field) if isinstance(value, dict) else None
                given[name] = value
        values = [*given.values()]
        match strategy:
            case "dict":
                return given
            case "list":
                return values
            case "first":
                return next((value for value in values if value is not None), None)
            case "last":
                return next((value for value in reversed(values) if value is not None), None)
            case "reduce":
                return self._reduced(str(node.spec.get("reducer", "")), values, names)
        raise KernelError(errno.EINVAL, f"there is no merge_strategy {strategy!r}")

    def _reduced(self, reducer: str, values: list[Any], names: dict[str, Any]) -> Any:
        """`reducer` is a function of a list, as `sum`, or an expression over `acc` and `value`."""
        if reducer.isidentifier():
            return self._values.evaluate(f"{reducer}(values)", names | {"values": values})
        fuel = Fuel()
        found: Any = values[0] if values else None
        for value in values[1:]:
            found = self._values.evaluate(reducer, names | {"acc": found, "value": value}, fuel)
        return found


SIMPLE = frozenset({"data", "expression", "condition", "switch"})
"""The kinds that it does; a switch with bodies is a loop."""
