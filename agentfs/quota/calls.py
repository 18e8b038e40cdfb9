"""Calls of models and tools: asked for before, settled after, refused when there is nothing left.

begin -> capability -> every meter holds what the call may use at most -> an id
settle -> every meter counts what it did use

A call that names no maximum has as much set aside as it could use: what the model takes in one call
(`context` in /etc/models.yaml) or the process may put into one (`max_context_tokens`); where a
meter has less left than that, all that it has left. So of many callers at once, as many get through
as there are tokens for. Only a call that had all that was left of a budget set aside can use more
than there is, and there is one such call at a time.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.model.process import Process
from agentfs.process.events import ProcessChanged
from agentfs.process.rules import own_alive
from agentfs.process.table import ProcessTable
from agentfs.quota.call import Call
from agentfs.quota.enforcement import Enforcement
from agentfs.quota.meter import Use
from agentfs.quota.meters import Meters
from agentfs.quota.open_calls import OpenCalls
from agentfs.quota.settings import BudgetSettings
from agentfs.rights.gate import Gate
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["Calls"]


class _Refusal(Exception):  # noqa: N818  # carries a meter's refusal out of its transaction
    def __init__(self, process: Process, why: KernelError) -> None:
        super().__init__(why)
        self.process = process
        self.why = why


class Calls(Part):
    """Every system call raises ESRCH and EACCES unless the principal acts for the process or is the
    operator."""

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        table: ProcessTable,
        meters: Meters,
        open_calls: OpenCalls,
        enforcement: Enforcement,
    ) -> None:
        self.budgets = meters.budgets
        self._store = ground.store
        self._events = ground.events
        self._settings = ground.settings
        self._gate = gate
        self._table = table
        self._models = meters.models
        self._meters = meters
        self._open = open_calls
        self._enforcement = enforcement

    def of(self, pid: int) -> list[Call]:
        """The open calls of a process, the oldest first."""
        return self._open.of(pid)

    def __iter__(self) -> Iterator[Call]:
        """All that are open."""
        return iter(self._open)

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
            principal, pid, partial(self._use, name=model, most=most), "llm_calls", exact
        )

    def tool(self, principal: Principal, pid: int, name: str) -> int | str:
        """Begin a call of a tool. As `llm`."""

        def use(process: Process) -> Use:
            self._gate.policy.require_capability(process, f"tool:{name}")
            return Use("tool", name, process.tier)

        return self._begin(principal, pid, use, "tool_calls")

    def settle(
        self, principal: Principal, pid: int, number: int, tokens: tuple[int, int] | None = None
    ) -> None:
        """The call was made, with so many tokens (input, output); what was set aside if nobody
        says. More than that is counted in full. Raises ENOENT for a call that is not open, EINVAL
        for tokens of a tool, EMSGSIZE for more than was set aside and than one call can use: then
        the call stays open."""
        with self._gate.enter(principal):
            process = own_alive(self._table, principal, pid)
            call = self._find(process, number)
            actual = call.held
            if tokens is not None:
                if call.held.kind != "llm":
                    raise KernelError(errno.EINVAL, f"call {number} is of a tool: it has no tokens")
                if sum(tokens) > call.held.tokens:
                    self._check_size(process, call.held, sum(tokens))
                cost = self._models.cost(call.held.name, *tokens)
                actual = replace(call.held, input=tokens[0], output=tokens[1], cost=cost)
            self._close(process, call, actual)

    def cancel(self, principal: Principal, pid: int, number: int) -> None:
        """The call was not made: it counts for nothing. Raises ENOENT."""
        with self._gate.enter(principal):
            process = own_alive(self._table, principal, pid)
            self._close(process, self._find(process, number), None)

    def report(self, principal: Principal, pid: int, tokens: int, model: str = "") -> None:
        """Tell of a call that was made already, without having asked; priced as output. If it is
        more than there is, it is counted in full, once, and refused: EDQUOT; when there is nothing
        left it is refused and not counted, as is more than one call can use: EMSGSIZE. Else as
        `llm`."""
        refusal = None
        try:
            with self._gate.enter(principal):
                process = own_alive(self._table, principal, pid)
                use = self._use(process, model, tokens)
                held = self._meters.hold(process, use, exact=True)
                if isinstance(held, KernelError):  # would the least one get through?
                    least = self._meters.at_most(use, 1)
                    refusal, held = held, self._meters.hold(process, least, exact=True)
                    if isinstance(held, KernelError):
                        raise _Refusal(process, held)
                self._check_size(process, use, tokens)
                self._count(process, Call(0, pid, *held), use)
        except _Refusal as refused:
            self._enforcement.refuse(principal, refused.process, refused.why)
        if refusal is not None:
            self._enforcement.refuse(principal, process, refusal)

    # -- ends --------------------------------------------------------------------------------------

    def program_ended(self, process: Process, code: int) -> None:
        """Nobody will settle what is open, which is charged as it was held."""
        for call in self.of(process.pid):
            self._close(process, call, call.held)

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
            with self._gate.enter(principal, kind):
                process = own_alive(self._table, principal, pid)
                self._check_open(process)
                held = self._meters.hold(process, use(process), exact=exact)
                if isinstance(held, KernelError):
                    raise _Refusal(process, held)
                return self._open.add(pid, *held).id
        except _Refusal as refused:
            return self._enforcement.refuse(principal, refused.process, refused.why)

    def _check_open(self, process: Process) -> None:
        most = self._settings.of(BudgetSettings).max_open_calls
        if self._open.count(process.pid) >= most:
            raise KernelError(
                errno.EAGAIN,
                f"{process.name} has {most} calls open: settle or cancel them",
                rule="max_open_calls",
            )

    def _use(self, process: Process, name: str, most: int | None) -> Use:
        """What a call of model `name` may use. Raises EACCES and EPERM."""
        self._gate.policy.require_capability(process, "llm")
        name = name or process.model
        model = self._models.find(name)
        tier = process.tier if model is None else model.tier
        if tier.rank < process.tier.rank:
            raise KernelError(
                errno.EPERM,
                f"{name} is a {tier.value} model, and {process.name} is {process.tier.value}",
                rule="tier",
            )
        source = self.budgets.source(process, tier)
        if most is None:
            bounds = (None if model is None else model.context, process.limits.max_context_tokens)
            most = min((bound for bound in bounds if bound), default=max(1, source.remaining))
        cost = 0 if model is None else model.most(most)
        return Use("llm", name, tier, 0, most, cost, source.pid)

    def _check_size(self, process: Process, use: Use, tokens: int) -> None:
        """Raise EMSGSIZE if one call cannot have used so many tokens: more than the model's
        `context`, or, of a model without one, than all that the budget ever was. Others share the
        budgets, groups and sums in which such a figure would stand, and would pay for it."""
        model = self._models.find(use.name)
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

    # -- settling ----------------------------------------------------------------------------------

    def _find(self, process: Process, number: int) -> Call:
        call = self._open.find(process.pid, number)
        if call is None:
            raise KernelError(errno.ENOENT, f"{process.name} has no open call {number}")
        return call

    def _close(self, process: Process, call: Call, actual: Use | None) -> None:
        with self._store.transaction():
            self._open.remove(call)
            if actual is None:
                self._meters.let_go(process, call)
            else:
                self._count(process, call, actual)

    def _count(self, process: Process, call: Call, actual: Use) -> None:
        self._meters.count(process, call, actual)
        tokens = actual.tokens
        if tokens:
            self._table.update(process, tokens=process.tokens + tokens)
            self._events.emit(ProcessChanged(process.pid, process.name))
