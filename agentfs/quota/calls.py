"""Calls of models and tools: asked for before, settled after, refused when there is nothing left.

begin -> capability -> every meter holds what the call may use at most -> an id
settle -> every meter counts what it did use

A call that names no maximum has as much set aside as it could use: what the model takes in one call
(`context` in /etc/models.yaml) or the process may put into one (`max_context_tokens`); where a
meter has less left than that, all that it has left. So of many callers at once as many get through
as there are tokens for, and only a call that had all that was left of a budget set aside, which is
one at a time, can use more than there is.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.model.process import OnLimit, Process, Role
from agentfs.process.events import ProcessChanged
from agentfs.process.rules import own_alive
from agentfs.process.table import ProcessTable
from agentfs.quota.alerts import Marks
from agentfs.quota.budget import Budgets
from agentfs.quota.budget_table import Key
from agentfs.quota.call import KIND, Call
from agentfs.quota.events import ResourceStopped
from agentfs.quota.meter import Bounded, LimitError, Meter, Use
from agentfs.quota.models import Models
from agentfs.quota.settings import BudgetSettings
from agentfs.rights.gate import Gate
from agentfs.store.event_log import EventLog
from agentfs.store.part import Part
from agentfs.store.settings import Settings
from agentfs.store.store import Store

__all__ = ["Calls"]

LAST = "last_call"
"""The meta value with the highest id that was given out."""


class _Refusal(Exception):  # noqa: N818  # carries a meter's refusal out of its transaction
    def __init__(self, process: Process, why: KernelError) -> None:
        super().__init__(why)
        self.process = process
        self.why = why


@dataclass(eq=False, repr=False)
class Calls(Part):
    """`meters` are asked in their order. `on_use` calls get (process, use) for every use that was
    made, in its transaction. `stop` ends a process: TERM, then KILL. Every system call raises
    ESRCH and EACCES unless the principal acts for the process or is the operator."""

    gate: Gate
    table: ProcessTable
    store: Store
    events: EventLog
    settings: Settings
    models: Models
    budgets: Budgets
    marks: Marks
    stop: Callable[[Process], object]

    def __post_init__(self) -> None:
        self.meters: list[Meter] = [self.budgets]
        self.on_use: list[Callable[[Process, Use], object]] = []
        self._open: dict[int, dict[int, Call]] = {}  # by pid, by id
        self._last = int(self.store.meta(LAST, "0"))
        self.budgets.on_passed.append(self._passed)
        for key, record in self.store.records(KIND):
            self._index(Call.from_record(key, record))

    def of(self, pid: int) -> list[Call]:
        """The open calls of a process, the oldest first."""
        return list(self._open.get(pid, {}).values())

    def __iter__(self) -> Iterator[Call]:
        """All that are open."""
        return iter([call for calls in self._open.values() for call in calls.values()])

    def sizes(self) -> dict[str, int]:
        """How many entries each table has, for tests."""
        calls = sum(len(calls) for calls in self._open.values())
        return {"calls": calls, "callers": len(self._open), "marks": len(self.marks)}

    # -- system calls ------------------------------------------------------------------------------

    def llm(
        self, principal: Principal, pid: int, model: str = "", most: int | None = None
    ) -> int | str:
        """Begin a call of a model (the process's own by default) that uses at most so many tokens.
        Returns its id, or the rule because of which it is skipped where the process wants that.

        Raises EACCES (capability), EPERM (the model's tier is above the process's), EAGAIN (so many
        calls are open), and what a meter refuses with: EDQUOT, EAGAIN, EMSGSIZE.
        """
        exact = most is not None
        return self._begin(
            principal, pid, lambda process: self._use(process, model, most), "llm_calls", exact
        )

    def tool(self, principal: Principal, pid: int, name: str) -> int | str:
        """Begin a call of a tool. As `llm`."""

        def use(process: Process) -> Use:
            self.gate.policy.require_capability(process, f"tool:{name}")
            return Use("tool", name, process.tier)

        return self._begin(principal, pid, use, "tool_calls")

    def settle(
        self, principal: Principal, pid: int, number: int, tokens: tuple[int, int] | None = None
    ) -> None:
        """The call was made, with so many tokens (input, output); what was set aside if nobody
        says. More than that is counted in full. Raises ENOENT for a call that is not open, EINVAL
        for tokens of a tool, EMSGSIZE for more than was set aside and than one call can use: then
        the call stays open."""
        with self.gate.enter(principal):
            process = own_alive(self.table, principal, pid)
            call = self._find(process, number)
            actual = call.held
            if tokens is not None:
                if call.held.kind != "llm":
                    raise KernelError(errno.EINVAL, f"call {number} is of a tool: it has no tokens")
                if sum(tokens) > call.held.tokens:
                    self._check_size(process, call.held, sum(tokens))
                cost = self.models.cost(call.held.name, *tokens)
                actual = replace(call.held, input=tokens[0], output=tokens[1], cost=cost)
            self._close(process, call, actual)

    def cancel(self, principal: Principal, pid: int, number: int) -> None:
        """The call was not made: it counts for nothing. Raises ENOENT."""
        with self.gate.enter(principal):
            process = own_alive(self.table, principal, pid)
            self._close(process, self._find(process, number), None)

    def report(self, principal: Principal, pid: int, tokens: int, model: str = "") -> None:
        """Tell of a call that was made already, without having asked; priced as output. If it is
        more than there is, it is counted in full, once, and refused: EDQUOT; when there is nothing
        left it is refused and not counted, as is more than one call can use: EMSGSIZE. Else as
        `llm`."""
        refusal = None
        try:
            with self.gate.enter(principal):
                process = own_alive(self.table, principal, pid)
                use = self._use(process, model, tokens)
                held = self._hold(process, use)
                if isinstance(held, KernelError):  # would the least one get through?
                    refusal, held = held, self._hold(process, self._at_most(use, 1))
                    if isinstance(held, KernelError):
                        raise _Refusal(process, held)
                self._check_size(process, use, tokens)
                self._count(process, Call(0, pid, *held), use)
        except _Refusal as refused:
            self._refuse(principal, refused)
        if refusal is not None:
            self._refuse(principal, _Refusal(process, refusal))

    # -- ends --------------------------------------------------------------------------------------

    def program_ended(self, process: Process, code: int) -> None:
        """Its program ended: nobody will settle what is open, which is charged as it was held. For
        `Ends.on_end`."""
        for call in self.of(process.pid):
            self._close(process, call, call.held)

    def _passed(self, key: Key, source: int) -> None:
        """What open calls drew on is another process's now."""
        for calls in tuple(self._open.values()):
            for call in tuple(calls.values()):
                if (call.held.source, call.held.tier) == key:
                    self._put(replace(call, held=replace(call.held, source=source)))

    # -- beginning ---------------------------------------------------------------------------------

    def _begin(
        self,
        principal: Principal,
        pid: int,
        use: Callable[[Process], Use],
        kind: str,
        exact: bool = True,
    ) -> int | str:
        try:
            with self.gate.enter(principal, kind):
                process = own_alive(self.table, principal, pid)
                self._check_open(process)
                held = self._hold(process, use(process), exact)
                if isinstance(held, KernelError):
                    raise _Refusal(process, held)
                self._last += 1
                self.store.set_meta(LAST, str(self._last))
                self._put(Call(self._last, pid, *held))
                return self._last
        except _Refusal as refused:
            return self._refuse(principal, refused)

    def _check_open(self, process: Process) -> None:
        most = self.settings.of(BudgetSettings).max_open_calls
        if len(self._open.get(process.pid, ())) >= most:
            raise KernelError(
                errno.EAGAIN,
                f"{process.name} has {most} calls open: settle or cancel them",
                rule="max_open_calls",
            )

    def _use(self, process: Process, name: str, most: int | None) -> Use:
        """What a call of model `name` may use. Raises EACCES and EPERM."""
        self.gate.policy.require_capability(process, "llm")
        name = name or process.model
        model = self.models.find(name)
        tier = process.tier if model is None else model.tier
        if tier.rank < process.tier.rank:
            raise KernelError(
                errno.EPERM,
                f"{name} is a {tier.value} model, and {process.name} is {process.tier.value}",
                rule="tier",
            )
        source = self.budgets.source(process, tier)
        use = Use("llm", name, tier, source=source.pid)
        if most is None:
            bounds = (None if model is None else model.context, process.limits.max_context_tokens)
            most = min((bound for bound in bounds if bound), default=max(1, source.remaining))
        return self._at_most(use, most)

    def _check_size(self, process: Process, use: Use, tokens: int) -> None:
        """Raise EMSGSIZE if one call cannot have used so many tokens: more than the model's
        `context`, or, of a model without one, than all that the budget ever was. Others share the
        budgets, groups and sums in which such a figure would stand, and would pay for it."""
        model = self.models.find(use.name)
        if model is not None and model.context is not None:
            most, what = model.context, f"the context of {use.name}"
        else:
            source = self.budgets.drawn_on(process, use)
            most, what = source.allocated, f"the whole {source.tier.value} budget"
        if tokens > most:
            raise KernelError(
                errno.EMSGSIZE,
                f"{tokens} tokens are more than one call can use: {what} is {most}",
                rule="context",
            )

    def _at_most(self, use: Use, tokens: int) -> Use:
        """A use of so many tokens, at the price of the dearer ones."""
        cost = max(self.models.cost(use.name, tokens, 0), self.models.cost(use.name, 0, tokens))
        return replace(use, input=0, output=tokens, cost=cost)

    def _hold(
        self, process: Process, use: Use, exact: bool = True
    ) -> tuple[Use, dict[str, tuple[int, int]]] | KernelError:
        """Have every meter set `use` aside, or what it has left of it unless that is to be `exact`;
        or none of them: then why not."""
        holding: list[tuple[Meter, Use]] = []
        for meter in self.meters:
            part = use if exact else self._fitting(meter, process, use)
            try:
                meter.hold(process, part)
            except KernelError as refusal:
                for other, its in reversed(holding):
                    other.settle(process, its, None)
                return refusal
            holding.append((meter, part))
        held = next(part for meter, part in holding if meter is self.budgets)
        parts = {
            type(meter).__name__: (part.tokens, part.cost)
            for meter, part in holding
            if part != held
        }
        return held, parts

    def _fitting(self, meter: Meter, process: Process, use: Use) -> Use:
        """As much of `use` as `meter` lets through; one token if that is none."""
        room = None
        if isinstance(meter, Bounded):
            room = meter.room(process, self._at_most(use, 1))
        if room is None or room >= use.tokens:
            return use
        return self._at_most(use, max(1, room))

    def _refuse(self, principal: Principal, refused: _Refusal) -> str:
        """What follows, by the process's `on_limit`, in a transaction of its own: that of the call
        was rolled back. Raises the refusal unless it wants to skip."""
        process, why = refused.process, refused.why
        resource = why.resource if isinstance(why, LimitError) else why.rule
        with self.gate.enter(principal):
            self.marks.refused(process, resource)
            if isinstance(why, LimitError):
                self.marks.exceeded(process, resource, why.used, why.limit)
            if process.on_limit is OnLimit.STOP and process.role is not Role.KERNEL:
                self._stop(process, resource)
        if process.on_limit is OnLimit.SKIP:
            return why.rule
        raise why

    def _stop(self, process: Process, resource: str) -> None:
        if not process.stopping:  # another TERM would begin the grace period anew
            self.table.update(process, reason=f"limit: {resource}")
            self.events.emit(ResourceStopped(process.pid, process.name, resource))
            self.stop(process)

    # -- settling ----------------------------------------------------------------------------------

    def _find(self, process: Process, number: int) -> Call:
        call = self._open.get(process.pid, {}).get(number)
        if call is None:
            raise KernelError(errno.ENOENT, f"{process.name} has no open call {number}")
        return call

    def _close(self, process: Process, call: Call, actual: Use | None) -> None:
        with self.store.transaction():
            self._drop(call)
            if actual is None:
                for meter in self.meters:
                    meter.settle(process, call.held_by(meter), None)
            else:
                self._count(process, call, actual)

    def _count(self, process: Process, call: Call, actual: Use) -> None:
        for meter in self.meters:
            meter.settle(process, call.held_by(meter), actual)
        for told in self.on_use:
            told(process, actual)
        if actual.tokens:
            self.table.update(process, tokens=process.tokens + actual.tokens)
            self.events.emit(ProcessChanged(process.pid, process.name))

    # -- the table of open calls -------------------------------------------------------------------

    def _put(self, call: Call) -> None:
        before = self._open.get(call.pid, {}).get(call.id)
        undo = self._unindex if before is None else self._index
        self.store.on_rollback(lambda: undo(before or call))
        self._index(call)
        self.store.put_record(KIND, str(call.id), call.record())

    def _drop(self, call: Call) -> None:
        self.store.on_rollback(lambda: self._index(call))
        self._unindex(call)
        self.store.delete_record(KIND, str(call.id))

    def _index(self, call: Call) -> None:
        self._open.setdefault(call.pid, {})[call.id] = call

    def _unindex(self, call: Call) -> None:
        calls = self._open[call.pid]
        del calls[call.id]
        if not calls:
            del self._open[call.pid]
