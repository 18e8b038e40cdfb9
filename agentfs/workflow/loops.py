"""Nodes that run graphs of their own: `while`, `for-each`, `times`, `if`, and `switch` with bodies.

Each iteration has a row of its own, `LOOP/NUMBER`, whose output is what the body gave. The row of a
loop has what it goes by as its input: items, total, the body that was chosen.
"""

from __future__ import annotations

import errno
from typing import Any

from agentfs.base.clock import Clock
from agentfs.base.errors import KernelError
from agentfs.library.settings import WorkflowSettings
from agentfs.manifests.plan import PlanNode
from agentfs.store.event_log import EventLog
from agentfs.store.ground import Ground
from agentfs.store.settings import Settings
from agentfs.workflow.advance import roots
from agentfs.workflow.events import NodeChanged
from agentfs.workflow.journal import RunJournal, decode, encode
from agentfs.workflow.live import LiveGraph, LiveRun, Loop
from agentfs.workflow.model import NodeRow, NodeState
from agentfs.workflow.outputs import is_artifact
from agentfs.workflow.steps import Steps
from agentfs.workflow.values import EVALUATION, Values

__all__ = ["LoopNodes", "chosen_branch"]

TOGETHER = 100
"""Iterations that begin at once."""

MOST_ERRORS = 100
"""Errors of iterations that the output of a loop tells of."""


def chosen_branch(values: Values, node: PlanNode, names: dict[str, Any]) -> int | None:
    """The number of the first branch of a switch whose condition holds; None if none does. Raises
    one of `EVALUATION`."""
    for number, branch in enumerate(node.spec.get("branches") or ()):
        if values.holds(str(branch["condition"]), names):
            return number
    return None


class LoopNodes:
    """Begins loops and their iterations, and ends them."""

    def __init__(self, ground: Ground, journal: RunJournal, values: Values, steps: Steps) -> None:
        self._events: EventLog = ground.events
        self._clock: Clock = ground.clock
        self._settings: Settings = ground.settings
        self._journal = journal
        self._values = values
        self._steps = steps

    # -- the begin -------------------------------------------------------------------------------

    def begin(self, live: LiveRun, scope: LiveGraph, node: PlanNode) -> None:
        """Begin a loop: its first iterations, or its end if it has none. Raises one of
        `EVALUATION`."""
        names = self._values.names(live, scope, node, True)
        row = self._steps.row(live, scope, node)
        loop = Loop(scope, node, row)
        self._set_up(loop, names)
        row.attempt += 1
        row.began = self._clock.now()
        row.deadline = row.began + node.timeout if node.timeout else 0.0
        if row.deadline:
            live.expect(row.deadline)
        live.loops[row.path] = loop
        self._change(live, scope, node, row)
        live.touch(row, input_text=encode(_progress(loop)))
        self._steps.note(live, "NodeStarted", node=row.path, attempt=row.attempt)
        self.fill(live, loop)

    def _change(self, live: LiveRun, scope: LiveGraph, node: PlanNode, row: NodeRow) -> None:
        old = row.state
        live.move(scope, node, row, NodeState.RUNNING)
        self._events.emit(
            NodeChanged(row.run, row.path, old.value, NodeState.RUNNING.value, row.attempt)
        )

    def _set_up(self, loop: Loop, names: dict[str, Any]) -> None:
        node, spec = loop.node, loop.node.spec
        match node.kind:
            case "for-each":
                loop.items = self._items(spec.get("items"), names)
                loop.total = len(loop.items)
            case "times":
                loop.total = self._count(spec.get("count"), names)
            case "while":
                loop.total = self._bounded(spec.get("max_iterations", 100))
                loop.state = self._values.rendered(spec.get("initial_state") or {}, names)
            case "if":
                loop.body = "body" if self._values.holds(str(spec["condition"]), names) else "else"
                loop.total = 0 if node.body(loop.body) is None else 1
            case _:
                branch = chosen_branch(self._values, node, names)
                loop.body = "else" if branch is None else f"branch-{branch}"
                loop.total = 0 if node.body(loop.body) is None else 1

    def _items(self, given: Any, names: dict[str, Any]) -> list[Any]:
        found = self._values.evaluate(given, names) if isinstance(given, str) else given
        found = self._values.rendered(found, names) if not isinstance(given, str) else found
        if isinstance(found, dict) and not is_artifact(found):
            found = [{"key": key, "value": value} for key, value in found.items()]
        if not isinstance(found, list):
            kind = "nothing" if found is None else type(found).__name__
            raise KernelError(errno.EINVAL, f"items: a list or a map was expected, not {kind}")
        self._bounded(len(found))
        return found

    def _count(self, given: Any, names: dict[str, Any]) -> int:
        found = self._values.evaluate(given, names) if isinstance(given, str) else given
        if not isinstance(found, int) or isinstance(found, bool) or found < 0:
            raise KernelError(errno.EINVAL, f"count: a whole number was expected, not {found!r}")
        return self._bounded(found)

    def _bounded(self, count: int) -> int:
        most = self._settings.of(WorkflowSettings).max_iterations
        if count > most:
            raise KernelError(
                errno.EINVAL, f"{count} iterations, {most} are allowed (workflows.max_iterations)"
            )
        return int(count)

    # -- iterations ------------------------------------------------------------------------------

    def fill(self, live: LiveRun, loop: Loop) -> None:
        """Begin as many iterations as may run at a time, and end the loop if all are done."""
        limit = int(loop.node.spec.get("concurrency") or 1) if loop.node.kind == "for-each" else 1
        begun = 0
        try:
            while len(loop.open) < limit and not loop.stopped and self._may_begin(live, loop):
                self._iterate(live, loop)
                begun += 1
                if begun == TOGETHER:  # the rest comes later: others wait meanwhile
                    live.push(loop.scope, (loop.node,))
                    return
        except EVALUATION as bad:
            loop.stopped = "failed"
            if not loop.open:
                self._end_failed(live, loop, str(getattr(bad, "reason", bad)))
            return
        if not loop.open:
            self._end(live, loop)

    def _may_begin(self, live: LiveRun, loop: Loop) -> bool:
        if live.is_closing(loop.scope):
            return False
        if loop.next >= loop.total:
            loop.stopped = "limit" if loop.node.kind == "while" else "exhausted"
            return False
        if loop.node.kind == "while":
            names = self._values.names(live, loop.scope, loop.node, True) | {
                "state": loop.state,
                "iteration": loop.next,
            }
            if not self._values.holds(str(loop.node.spec["condition"]), names):
                loop.stopped = "condition"
                return False
        return True

    def _iterate(self, live: LiveRun, loop: Loop) -> None:
        number = loop.next
        loop.next += 1
        graph = loop.node.body(loop.body)
        assert graph is not None  # the plan has it, or there would be no iteration
        inner = LiveGraph(graph, loop, number, names_of(loop, number))
        loop.open[number] = inner
        row = NodeRow(live.run.id, inner.path, NodeState.RUNNING, 1, self._clock.now())
        state = encode({"state": loop.state}) if loop.node.kind == "while" else None
        self._tell(live, row, NodeState.PENDING, state)
        if graph.nodes:
            live.push(inner, roots(graph))
        else:
            live.settling.append(inner)

    def _tell(
        self,
        live: LiveRun,
        row: NodeRow,
        old: NodeState,
        input_text: str | None,
        output: str | None = None,
    ) -> None:
        live.touch(row, input_text=input_text, output=output)
        event = NodeChanged(row.run, row.path, old.value, row.state.value, row.attempt)
        self._events.emit(event)

    def iteration_row(self, live: LiveRun, scope: LiveGraph) -> NodeRow:
        """The row of an iteration that is under way."""
        change = live.changed.get(scope.path)
        if change is not None:
            return change.row
        row = self._journal.row(live.run.id, scope.path)
        return row or NodeRow(live.run.id, scope.path, NodeState.RUNNING, 1)

    def settled(self, live: LiveRun, scope: LiveGraph) -> None:
        """All nodes of an iteration have ended, or none will any more."""
        loop = scope.loop
        assert loop is not None
        if loop.open.pop(scope.number, None) is None:
            return
        row, output, error = self.iteration_row(live, scope), None, scope.error
        closing = live.is_closing(loop.scope)
        if not error and not closing:
            try:
                output, value = self._result(live, scope)
                if loop.node.kind == "while":
                    self._update(live, loop, scope, value)
            except EVALUATION as bad:
                error = str(getattr(bad, "reason", bad))
        row.ended = self._clock.now()
        row.state = NodeState.FAILED if error else NodeState.COMPLETED
        if closing and not error:
            row.state = NodeState.CANCELLED
        row.error = error
        self._tell(live, row, NodeState.RUNNING, None, output)
        if error:
            self.failed(loop, scope.number, error)
        if closing:
            if not loop.open:
                self._over(live, loop)
        elif loop.stopped == "failed":
            if not loop.open:
                self._end_failed(live, loop, loop.errors[0]["error"])
        else:
            self.fill(live, loop)

    def _result(self, live: LiveRun, scope: LiveGraph) -> tuple[str, Any]:
        value = self._values.result(live, scope)
        return self._values.kept(live.run.id, scope.path, value)

    def _update(self, live: LiveRun, loop: Loop, scope: LiveGraph, value: Any) -> None:
        """The state of a `while` after an iteration."""
        state = dict(loop.state) if isinstance(loop.state, dict) else {}
        names = self._values.names(live, scope, None, True)
        names |= {"body": value, "result": value, "iteration": scope.number}
        for name, source in (loop.node.spec.get("state_update") or {}).items():
            names["state"] = state
            given = isinstance(source, str)
            state = state | {name: self._values.evaluate(source, names) if given else source}
        loop.state = state | {"iteration": scope.number + 1}

    @staticmethod
    def failed(loop: Loop, number: int, error: str) -> None:
        """An iteration has failed: what that means for the loop."""
        loop.failed += 1
        if len(loop.errors) < MOST_ERRORS:
            loop.errors.append({"iteration": number, "error": error})
        handling = loop.node.spec.get("error_handling", "fail_fast")
        if loop.node.kind in ("if", "switch") or handling == "fail_fast":
            loop.stopped = "failed"

    # -- the end ---------------------------------------------------------------------------------

    def _over(self, live: LiveRun, loop: Loop) -> None:
        """What is around it ends, and so does it."""
        live.loops.pop(loop.row.path, None)
        if not loop.row.state.final:
            self._steps.cancel(live, loop.scope, loop.node, "what is around it ended")

    def _end_failed(self, live: LiveRun, loop: Loop, error: str) -> None:
        live.loops.pop(loop.row.path, None)
        kind = loop.errors[0].get("kind", "error") if loop.errors else "error"
        self._steps.fail(live, loop.scope, loop.node, error, again=False, kind=kind)

    def _end(self, live: LiveRun, loop: Loop) -> None:
        live.loops.pop(loop.row.path, None)
        if live.is_closing(loop.scope) and not loop.stopped:
            self._steps.cancel(live, loop.scope, loop.node, "what is around it ended")
            return
        self._steps.flush(live)
        found = self._journal.iterations(live.run.id, loop.row.path)
        metadata: dict[str, Any] = {
            "mode": loop.node.kind,
            "iterations": loop.next,
            "stopped_by": loop.stopped,
            "successful": loop.next - loop.failed,
            "failed": loop.failed,
            "errors": loop.errors or None,
        }
        if loop.node.kind == "while":
            metadata["final_state"] = loop.state
        result: str | tuple[Any]
        if loop.node.kind in ("if", "switch"):
            result = self._one_result(loop, found, metadata)
        else:
            result = self._collected(loop, found)
        if isinstance(result, str):  # JSON already
            text = f'{{"result":{result},"metadata":{encode(metadata)}}}'
            self._steps.complete(live, loop.scope, loop.node, decode(text), text=text)
            return
        self._steps.complete(
            live, loop.scope, loop.node, {"result": result[0], "metadata": metadata}
        )

    def _one_result(
        self, loop: Loop, found: list[tuple[str, str]], metadata: dict[str, Any]
    ) -> str:
        chosen, has_body = loop.body, bool(found)
        if loop.node.kind == "if":
            metadata |= {
                "condition_met": chosen == "body",
                "branch_taken": "if" if chosen == "body" else "else",
                "stopped_by": "condition",
            }
            empty = encode({"condition_met": chosen == "body"})
        else:
            branch = None if chosen == "else" else int(chosen.removeprefix("branch-"))
            metadata |= {
                "matched_branch": branch,
                "stopped_by": "else" if branch is None else "branch_matched",
            }
            empty = "null"
        return (found[0][1] or "null") if has_body else empty

    def _collected(self, loop: Loop, found: list[tuple[str, str]]) -> str | tuple[Any]:
        """The results of all iterations, as `collect` says: as JSON, or as a value."""
        spec = loop.node.spec
        skips = spec.get("error_handling") == "collect"
        failed = NodeState.FAILED.value
        texts = [text or "null" for state, text in found if not (skips and state == failed)]
        match spec.get("collect", "list"):
            case "last":
                return next((text for text in reversed(texts) if text != "null"), "null")
            case "first":
                return next((text for text in texts if text != "null"), "null")
            case "dict":
                return (self._by_key(spec.get("key_field"), [decode(text) for text in texts]),)
            case _:
                return f"[{','.join(texts)}]"

    @staticmethod
    def _by_key(field: str | None, values: list[Any]) -> dict[str, Any]:
        if not field:
            return {str(number): value for number, value in enumerate(values)}
        return {
            str(value[field]): value
            for value in values
            if isinstance(value, dict) and value.get(field) is not None
        }


def names_of(loop: Loop, number: int) -> dict[str, Any]:
    """What an iteration gives to its templates."""
    spec = loop.node.spec
    if loop.node.kind in ("if", "switch"):
        return {}
    names: dict[str, Any] = {"index": number, "iteration": number}
    if loop.node.kind == "while":
        return names | {"state": loop.state}
    item = number if loop.items is None else loop.items[number]
    return names | {
        "item": item,
        str(spec.get("item_var", "item")): item,
        str(spec.get("index_var", "index")): number,
        "total": loop.total,
        "is_first": number == 0,
        "is_last": number == loop.total - 1,
    }


def _progress(loop: Loop) -> dict[str, Any]:
    """What a loop goes by, for the journal."""
    progress: dict[str, Any] = {"body": loop.body, "total": loop.total}
    if loop.items is not None:
        progress["items"] = loop.items
    if loop.node.kind == "while":
        progress["state"] = loop.state
    return progress
