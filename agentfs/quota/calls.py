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
from functools import partial

from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.model.process import Process
from agentfs.process.rules import own_alive
from agentfs.process.table import ProcessTable
from agentfs.quota.call import Call
from agentfs.quota.enforcement import Enforcement, Refusal, check_model
from agentfs.quota.events import CallCancelled
from agentfs.quota.meter import Use
from agentfs.quota.meters import Meters
from agentfs.quota.open_calls import OpenCalls
from agentfs.quota.relay import Used
from agentfs.quota.relayed import Relayed
from agentfs.quota.settling import Settling
from agentfs.rights.gate import Gate
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["Calls"]


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
        self._events = ground.events
        self._gate = gate
        self._table = table
        self._catalog = meters.catalog
        self._meters = meters
        self._open = open_calls
        self._enforcement = enforcement
        self._settling = Settling(ground, table, meters, open_calls)
        self.relayed = Relayed(ground, gate, table, meters, open_calls, enforcement)

    def of(self, pid: int) -> list[Call]:
        """The open calls of a process, the oldest first."""
        return self._open.of(pid)

    def find(self, pid: int, number: int) -> Call | None:
        """The open call of a process with this id."""
        return self._open.find(pid, number)

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
                actual = self._settling.priced(call, Used(*tokens))
            self._settling.close(process, call, actual)

    def cancel(self, principal: Principal, pid: int, number: int) -> None:
        """The call was not made: it counts for nothing. Raises ENOENT."""
        with self._gate.enter(principal):
            process = own_alive(self._table, principal, pid)
            self._settling.close(process, self._find(process, number), None)

    def end(self, principal: Principal, pid: int, number: int) -> None:
        """End a call, whoever makes it: one of the process's own as `cancel` does; one of the
        gateway's is stopped at the provider, and what has come by then counts. Raises ENOENT."""
        with self._gate.enter(principal):
            process = own_alive(self._table, principal, pid)
            call = self._get(process, number)
            if call.relay is None:
                self._settling.close(process, call, None)
            else:
                self._events.emit(CallCancelled(pid, process.name, number))

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
                        raise Refusal(process, held)
                self._check_size(process, use, tokens)
                self._settling.count(process, Call(0, pid, *held), use)
        except Refusal as refused:
            self._enforcement.refuse(principal, refused.process, refused.why)
        if refusal is not None:
            self._enforcement.refuse(principal, process, refusal)

    # -- ends --------------------------------------------------------------------------------------

    def program_ended(self, process: Process, code: int) -> None:
        """Nobody will settle what is open, which is charged as it was held; of the gateway's calls
        what has come."""
        for call in self.of(process.pid):
            self._settling.close(process, call, self._settling.so_far(call))

    def take_up(self) -> None:
        """The gateway of the run before is gone, and with it its calls."""
        self.relayed.charge_lost()

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
                self._open.check_more(process)
                held = self._meters.hold(process, use(process), exact=exact)
                if isinstance(held, KernelError):
                    raise Refusal(process, held)
                return self._open.add(process, *held).id
        except Refusal as refused:
            return self._enforcement.refuse(principal, refused.process, refused.why)

    def _use(self, process: Process, name: str, most: int | None) -> Use:
        """What a call of model `name` may use. Raises EACCES and EPERM."""
        self._gate.policy.require_capability(process, "llm")
        name = name or process.model
        model = self._catalog.find(name)
        name, tier = (name, process.tier) if model is None else (model.name, model.tier)
        check_model(process, name, tier)
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
        model = self._catalog.find(use.name)
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

    def _get(self, process: Process, number: int) -> Call:
        call = self._open.find(process.pid, number)
        if call is None:
            raise KernelError(errno.ENOENT, f"{process.name} has no open call {number}")
        return call

    def _find(self, process: Process, number: int) -> Call:
        """One that the process settles. Raises EPERM for one of the gateway's."""
        call = self._get(process, number)
        if call.relay is not None:
            raise KernelError(
                errno.EPERM,
                f"the gateway makes call {number}, and settles it: write cancel to"
                f" /proc/{process.pid}/calls/{number}/ctl to end it",
                rule="gateway",
            )
        return call
