"""What templates of a node may name, the node's input, and its settings once they are evaluated."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.library.settings import WorkflowSettings
from agentfs.manifests.expression import Expression, MappingSource, mapping_source
from agentfs.manifests.fuel import Fuel
from agentfs.manifests.kinds import Filling, forms
from agentfs.manifests.plan import HOOK, PlanNode
from agentfs.manifests.template import (
    MISSING,
    EvaluationError,
    TemplateError,
    is_template,
    needs_inside,
    render,
)
from agentfs.store.ground import Ground
from agentfs.workflow.advance import exits, has_output
from agentfs.workflow.journal import RunJournal, decode
from agentfs.workflow.live import LiveGraph, LiveRun, is_loop
from agentfs.workflow.model import NodeState, RunState
from agentfs.workflow.outputs import Outputs, is_artifact

__all__ = ["EVALUATION", "Values"]

EVALUATION = (EvaluationError, TemplateError, KernelError)
"""The errors of an evaluation; each has words for a person."""


@lru_cache(maxsize=4096)
def _expression(text: str, names: frozenset[str]) -> Expression:
    return Expression(text, names)


@lru_cache(maxsize=4096)
def _source(text: str, names: frozenset[str]) -> MappingSource:
    return mapping_source(text, names)


class Values:
    """Evaluates for nodes of live runs. Every call may raise one of `EVALUATION`."""

    def __init__(self, ground: Ground, journal: RunJournal, outputs: Outputs) -> None:
        self._clock = ground.clock
        self._settings = ground.settings
        self._journal = journal
        self._outputs = outputs

    # -- outputs ---------------------------------------------------------------------------------

    def kept(self, run: int, name: str, value: Any) -> tuple[str, Any]:
        """(text, value) as the journal is to have it; a long value is a file called `name` then."""
        most = self._settings.of(WorkflowSettings).max_output
        return self._outputs.kept(run, name, value, most)

    def output(self, live: LiveRun, path: str) -> Any:
        """What a node has given, as the journal has it: a long value is what stands for a file."""
        kept = live.outputs
        if path in kept:
            return kept[path]
        change = live.changed.get(path)
        text = None if change is None else change.output
        if text is None:
            text = self._journal.value(live.run.id, path, "output")
        value = decode(text) if text else None
        live.keep_output(path, value, len(text))
        return value

    def run_input(self, live: LiveRun) -> Any:
        """The input of the run, as the last of the hooks before it has left it."""
        if not live.has_input:
            text = self._journal.run_value(live.run.id, "input")
            live.input, live.has_input = (decode(text) if text else None), True
        found = live.input
        for node in live.plan.graph.nodes:
            if node.kind != HOOK or node.spec["on"] != "pre-run":
                break  # they are the first
            found = self._answer(live, live.top, node.name).get("input", found)
        return found

    # -- hooks -----------------------------------------------------------------------------------

    def _answer(self, live: LiveRun, scope: LiveGraph, hook: str) -> dict[str, Any]:
        """What a hook wants; empty if that is nothing, or it has not been called."""
        row = scope.rows.get(hook)
        if row is None or row.state is not NodeState.COMPLETED:
            return {}
        found = self.output(live, scope.prefix + hook)
        if is_artifact(found):
            found = self._outputs.read(found)
        return found if isinstance(found, dict) else {}

    def _answers(self, live: LiveRun, scope: LiveGraph, node: PlanNode) -> list[dict[str, Any]]:
        """The same of the hooks before a node that are about it."""
        hooks = (scope.graph.by_name[name] for name in node.hooks_before)
        return [
            self._answer(live, scope, hook.name)
            for hook in hooks
            if hook.spec["on"] == "pre-node"
            and hook.spec["node"] == (node.spec["node"] if node.kind == HOOK else node.name)
        ]

    def rewritten(self, live: LiveRun, scope: LiveGraph, node: PlanNode) -> bool:
        """Whether a hook has given a node another input."""
        return any("input" in each for each in self._answers(live, scope, node))

    def veto(self, live: LiveRun, scope: LiveGraph, node: PlanNode) -> str:
        """Why hooks do not let a node begin; empty if they do."""
        for each in self._answers(live, scope, node):
            if "veto" in each:
                return str(each["veto"])
        if is_loop(node) and self.rewritten(live, scope, node):
            return f"EPERM: a hook gave another input, and a node of kind {node.kind} has none"
        return ""

    def _for_hook(self, live: LiveRun, scope: LiveGraph, hook: PlanNode) -> dict[str, Any]:
        """What a hook is told."""
        run, on = live.run, hook.spec["on"]
        told = {"on": on, "run": run.id, "pipeline": run.pipeline, "starter": run.starter}
        if on == "pre-run":
            return told | {"input": self.run_input(live)}
        if on == "post-run":
            closing = live.is_closing(scope)
            ending = RunState.COMPLETED if run.ending is None else run.ending
            return told | {
                "state": RunState.FAILED.value if scope.error else ending.value,
                "input": self.run_input(live),
                "output": None if closing else _or_none(lambda: self.result(live, scope)),
                "error": run.error or run.reason or scope.error,
            }
        node = scope.graph.by_name[hook.spec["node"]]
        told |= {"node": scope.prefix + node.name, "kind": node.kind}
        if on == "pre-node":
            return told | {"input": _or_none(lambda: self.prepared(live, scope, node))}
        row = scope.rows[node.name]
        output = self._of(live, scope, (node.name,), False).get(node.name)
        return told | {"state": row.state.value, "output": output, "error": row.error}

    # -- names -----------------------------------------------------------------------------------

    def names(
        self,
        live: LiveRun,
        scope: LiveGraph,
        node: PlanNode | None,
        whole: bool | frozenset[str],
        given: Any = None,
    ) -> dict[str, Any]:
        """The scope of a node's templates: fields of the run's input, those of `given` (its own
        input), what the loops around it say, the nodes before it (in those loops, too), and
        `nodes`, `input`, `ctx`, `state`; the later ones win. For node None it is that of the
        graph's output. `whole`: long values, all or those of these nodes, are read from their
        files."""
        run_input = self.run_input(live)
        found: dict[str, Any] = dict(run_input) if isinstance(run_input, dict) else {}
        if isinstance(given, dict) and not is_artifact(given):
            found |= given
        outputs: dict[str, Any] = {}
        state: Any = {}
        for inner in reversed([scope, *scope.within()]):
            if inner.loop is not None:
                outer = inner.loop.scope
                outputs |= self._of(live, outer, inner.loop.node.needs, whole)
                found |= inner.names
                state = inner.names.get("state", state)
        own = scope.graph.nodes if node is None else ()
        outputs |= self._of(live, scope, (each.name for each in own), whole)
        if node is not None:
            outputs |= self._of(live, scope, node.needs, whole)
        found |= outputs
        for inner in (scope, *scope.within()):
            for name in inner.graph.hyphenated:  # else `a-b` without an output is a subtraction
                if name not in outputs:
                    found[name] = MISSING
        run = live.run
        found["nodes"] = outputs
        found["input"] = run_input
        found["state"] = state
        found["ctx"] = {
            "run_id": run.id,
            "pipeline_name": run.pipeline,
            "node_name": "" if node is None else node.name,
            "now": self._clock.now(),
        }
        return found

    def _of(
        self, live: LiveRun, scope: LiveGraph, names: Any, whole: bool | frozenset[str]
    ) -> dict[str, Any]:
        found = {}
        for name in names:
            node = scope.graph.by_name[name]
            if node.kind != HOOK and has_output(node, scope.rows.get(name)):
                value = self.output(live, scope.prefix + name)
                for hook in node.hooks_after:
                    value = self._answer(live, scope, hook).get("output", value)
                if whole and is_artifact(value) and (whole is True or name in whole):
                    value = self._outputs.read(value)
                found[name] = value
        return found

    # -- evaluation ------------------------------------------------------------------------------

    def evaluate(self, text: str, names: dict[str, Any], fuel: Fuel | None = None) -> Any:
        """The value of an expression."""
        return _expression(text, _hyphens(names)).evaluate(names, fuel)

    def holds(self, text: str, names: dict[str, Any]) -> bool:
        """Whether a condition is true."""
        return _expression(text, _hyphens(names)).holds(names)

    def rendered(self, value: Any, names: dict[str, Any]) -> Any:
        """`value` with the templates in it evaluated."""
        return render(value, names, _hyphens(names)) if _has_templates(value) else value

    def spec(self, node: PlanNode, names: dict[str, Any]) -> dict[str, Any]:
        """The settings of a node, with templates and mappings in them evaluated."""
        spec = node.spec
        if node.kind == HOOK:
            return spec
        if _has_templates(spec):
            spec = spec | render(_filled_in(node), names, _hyphens(names))
        for key, mapping in _filled_in(node, Filling.MAPPING).items():
            spec = spec | {key: self._mapped(mapping, names)}
        return spec

    def names_of_step(
        self, live: LiveRun, scope: LiveGraph, node: PlanNode, prepared: Any
    ) -> dict[str, Any]:
        """As `names`, for what `spec` fills in: long values that are passed on as a whole stay what
        stands for their files."""
        if node.kind == HOOK:
            return {}
        names = self.names(live, scope, node, False, prepared)
        if any(map(is_artifact, names["nodes"].values())):
            inside = needs_inside(_filled_in(node), _hyphens(names))
            names = self.names(live, scope, node, inside, prepared)
        return names

    def result(self, live: LiveRun, scope: LiveGraph) -> Any:
        """What a graph gives: its `output`, or what its exits have given; one exit its own output,
        several a map of those that ran."""
        graph = scope.graph
        if graph.output is not None:
            names = self.names(live, scope, None, False)
            if any(map(is_artifact, names["nodes"].values())):
                inside = needs_inside(graph.output, _hyphens(names))
                names = self.names(live, scope, None, inside)
            return self.rendered(graph.output, names)
        last = exits(graph)
        found = self._of(live, scope, (node.name for node in last), False)
        return next(iter(found.values()), None) if len(last) == 1 else found

    # -- input -----------------------------------------------------------------------------------

    def prepared(self, live: LiveRun, scope: LiveGraph, node: PlanNode) -> Any:
        """The input of a node: the run's if it depends on nothing, the output of the one node that
        it depends on, or a map of several; `input_mapping` is laid over, and fields of the run's
        input fill what is left out or null. Where an `input_schema` has properties, the output of
        the one node is cut to these, if it has any of them, and no others are filled in. A hook
        before it may have given another."""
        if node.kind == HOOK:
            return self._for_hook(live, scope, node)
        for each in reversed(self._answers(live, scope, node) if node.hooks_before else ()):
            if "input" in each:
                return each["input"]
        base = self._base(live, scope, node)
        declared = _declared(node)
        if node.input is None:
            if len(node.sources) == 1 and isinstance(base, dict) and declared & base.keys():
                base = {name: value for name, value in base.items() if name in declared}
            return self._with_ambient(live, base, declared) if not node.strict else base
        whole = _looks_inside(node)
        names = self.names(live, scope, node, whole, base)
        mapped = self._mapped(node.input, names)
        if node.strict:
            return mapped
        found = (
            self._of(live, scope, node.sources, False) | {"input": self.run_input(live)} | mapped
        )
        return self._with_ambient(live, found, declared)

    def _mapped(self, mapping: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
        hyphens, fuel = _hyphens(names), Fuel()
        found = {}
        for target, source in mapping.items():
            if isinstance(source, str):
                found[target] = _source(source, hyphens).evaluate(names, fuel)
            else:
                found[target] = mapping_source(source, hyphens).evaluate(names, fuel)
        return found

    def _base(self, live: LiveRun, scope: LiveGraph, node: PlanNode) -> Any:
        given = self._of(live, scope, node.sources, False)
        if len(node.sources) == 1:
            return next(iter(given.values()), None)
        if node.sources:
            return given
        if scope.loop is None:
            return self.run_input(live)
        inner = scope.names
        item = inner.get(scope.loop.node.spec.get("item_var", "item"))
        return item if scope.loop.node.kind == "for-each" else inner

    def _with_ambient(self, live: LiveRun, prepared: Any, declared: frozenset[str]) -> Any:
        ambient = self.run_input(live)
        if not isinstance(ambient, dict) or not isinstance(prepared, dict) or prepared is ambient:
            return prepared
        if is_artifact(prepared):
            return prepared
        missing = {
            name: value
            for name, value in ambient.items()
            if value is not None and prepared.get(name) is None
            if not declared or name in declared
        }
        return prepared | missing if missing else prepared


def _or_none(value: Callable[[], Any]) -> Any:
    """None in place of what cannot be evaluated: the node itself will fail by that."""
    try:
        return value()
    except EVALUATION:
        return None


def _declared(node: PlanNode) -> frozenset[str]:
    """The fields that the input of a node is said to have."""
    fields = (node.input_schema or {}).get("properties")
    return frozenset(fields) if isinstance(fields, dict) else frozenset()


def _hyphens(names: Collection[str]) -> frozenset[str]:
    """The names with hyphens: nothing else is told to the parser."""
    return frozenset([name for name in names if "-" in name])


def _filled_in(node: PlanNode, form: Filling = Filling.TEMPLATE) -> dict[str, Any]:
    """The settings of a node that are templates, or of another form."""
    of_kind = forms(node.kind)
    return {key: value for key, value in node.spec.items() if of_kind.get(key) is form}


def _has_templates(value: Any) -> bool:
    if isinstance(value, str):
        return is_template(value)
    if isinstance(value, dict):
        return any(map(_has_templates, value.values()))
    return isinstance(value, list) and any(map(_has_templates, value))


def _looks_inside(node: PlanNode) -> bool:
    """Whether its mapping names more than whole outputs, which may be files then."""
    return any(
        not isinstance(source, str) or source.strip("{} $").removeprefix("nodes.") not in node.needs
        for source in (node.input or {}).values()
    )
