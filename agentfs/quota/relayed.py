"""Calls of models that the gateway makes for processes: begun, grown and settled from inside the
kernel, by who has established whose program asks.

A plain call holds its input and all of its output from the beginning, or as much as there is room
for; that is what the provider is told as the maximum. One that names no maximum is given a part of
the room. An answer that comes in pieces holds little,
and more before it uses more: its maximum is the room there is, and where that is gone by then it
ends. Programs ask for 64,000 tokens and use 300: held in full, three of them would lock out
everybody else. So the sum of all that is used never passes a budget, a limit or a group while
answers come; only an input that was estimated too low can.

Nothing here trusts the gateway to live: what it has told of a call is stored once a second, and
counts if it dies.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NoReturn, TypeVar

from agentfs.base.errors import KernelError
from agentfs.catalog.catalog import Catalog
from agentfs.catalog.entries import Model, ProviderEntry
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.model.process import Process
from agentfs.process.rules import check_parent
from agentfs.process.table import ProcessTable
from agentfs.quota.call import Call
from agentfs.quota.enforcement import Enforcement, Refusal, check_model
from agentfs.quota.meter import Use
from agentfs.quota.meters import Meters
from agentfs.quota.open_calls import OpenCalls
from agentfs.quota.relay import Begun, Relay, Used, Wanted
from agentfs.quota.settling import Settling
from agentfs.rights.gate import Gate
from agentfs.store.ground import Ground

__all__ = ["FIRST", "Relayed"]

FIRST = 2048
"""Tokens that an answer in pieces holds at first, and more by each time: 15 seconds of most models,
so growing costs nothing beside them."""

PART, LEAST = 8, 64
"""Of the room that is left it takes one part of so many, but not less than so many tokens at once:
where little is left, many answers share it, and the first does not take everything."""

UNNAMED = 4096
"""Tokens that a plain call is given which names no maximum, or one part of what is left if that is
more. With all that is left, or all that the model can write, it would lock out every other."""

UNSAID = 16_384
"""The most tokens of an answer for which neither the caller nor the list of models names a maximum.
The provider is told a number, and refuses one that is more than its model writes: gpt-4o writes so
many."""

STORED_EVERY = 0.9
"""Seconds between two writes of how far a call has come. It is told once a second."""

MOST = 10**12
"""The most tokens of a kind that a provider may say it has used: more is no figure."""

WORDS = 500
"""Characters that are kept of why a call failed."""

T = TypeVar("T")


class Relayed:
    """The gateway's calls. They are made for a process that is known, and in its name."""

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        table: ProcessTable,
        meters: Meters,
        open_calls: OpenCalls,
        enforcement: Enforcement,
    ) -> None:
        self._store = ground.store
        self._clock = ground.clock
        self._gate = gate
        self._table = table
        self._catalog: Catalog = meters.catalog
        self._meters = meters
        self._open = open_calls
        self._enforcement = enforcement
        self._settling = Settling(ground, table, meters, open_calls)

    def __iter__(self) -> Iterator[Call]:
        """All that are open."""
        return (call for call in self._open if call.relay is not None)

    def offered(self, process: Process) -> list[Model]:
        """The models that `process` may call now: those for which somebody answers, of no higher
        tier than its own; none without the capability."""
        if not self._gate.policy.capabilities(process).allows("llm"):
            return []
        return [each for each in self._catalog.usable() if each.tier.rank >= process.tier.rank]

    def require(
        self, process: Process, name: str, dialect: str = ""
    ) -> tuple[Model, ProviderEntry]:
        """The model that answers to `name`, and its provider, for a call of `process`. Raises
        EACCES (the capability, or a key that is not set), EPERM (the model's tier is above the
        process's), ENOENT (no such model, or nobody answers for it in this dialect)."""
        self._gate.policy.require_capability(process, "llm")
        model, provider = self._catalog.require(name, dialect)
        check_model(process, model.name, model.tier)
        return model, provider

    # -- beginning -------------------------------------------------------------------------------

    def begin(self, process: Process, ask: Wanted) -> Begun:
        """Begin a call of a model for `process`.

        Raises EACCES (the capability, or a key that is not set), EPERM (the model's tier is above
        the process's), ENOENT (no such model, or nobody answers for it in this dialect), EMSGSIZE
        (more than the model takes, or the process may put into one call), EAGAIN (a rate,
        `max_open_calls`), and EDQUOT for whatever else a meter refuses. A process with `on_limit:
        skip` is refused as all others: it has its answer from the error.
        """
        kind = "" if ask.instead_of else "llm_calls"  # a fallback belongs to the call before it

        def begun() -> Begun:
            with self._gate.enter(acting_for(process), kind):
                check_parent(process)
                self._open.check_more(process)
                model, provider = self.require(process, ask.model, ask.dialect)
                held, room = self._first(process, model, ask)
                held = self._held(process, replace(held, provider=provider.name))
                relay = Relay(
                    provider.name, ask.via, ask.dialect, ask.stream, ask.instead_of or ask.model
                )
                call = self._open.add(process, held, relay=relay)
                return Begun(call.id, model.name, provider.name, held.output, room)

        return self._or_refused(process, begun)

    def _first(self, process: Process, model: Model, ask: Wanted) -> tuple[Use, int]:
        """What a call sets aside at first, and the most that it may write. Raises EMSGSIZE."""
        if model.context is not None and ask.input >= model.context:
            raise KernelError(
                errno.EMSGSIZE,
                f"about {ask.input} tokens are more than the context of {model.name},"
                f" {model.context}: leave something out",
                rule="context",
            )
        source = self._meters.budgets.source(process, model.tier)
        use = Use("llm", model.name, model.tier, ask.input, source=source.pid)
        left = self._left(process, model, use)
        if ask.dialect == "embeddings" or ask.output == 0:
            return _with_output(use, model, 0), 0
        room = max(1, min(left, *_bounds(model, ask, left)))
        output = min(room, _part(left)) if ask.stream else room
        return _with_output(use, model, output), room

    def _held(self, process: Process, use: Use) -> Use:
        held = self._meters.hold(process, use, exact=True)
        if isinstance(held, KernelError):
            raise Refusal(process, held)
        return held[0]

    def _left(self, process: Process, model: Model | None, use: Use, held: int = 0) -> int:
        """How many tokens a call may write beyond those of `use`, of which so many are held."""
        room = self._meters.room(process, use, held)
        reads = use.input if not held else 0
        left = MOST if room.tokens is None else room.tokens - reads
        if room.cost is not None and model is not None:
            affordable = model.affordable(use.input, room.cost + use.cost)
            if affordable is not None:
                left = min(left, affordable - use.output)
        return left

    # -- on the way ------------------------------------------------------------------------------

    def grow(self, number: int, output: int) -> int:
        """The answer may become so many tokens long. Returns how many it holds now, which is less
        where little is left. Raises EDQUOT if there is not one more; ENOENT for a call that is not
        open."""
        process, call = self._get(number)
        held = call.held
        if output <= held.output:
            return held.output

        def grown() -> int:
            with self._gate.enter(acting_for(process)):
                model = self._catalog.find(held.name)
                left = self._left(process, model, held, held.tokens)
                more = max(1, min(output - held.output, _part(left)))
                use = _with_output(held, model, held.output + more)
                step = replace(held, input=0, output=more, cost=max(0, use.cost - held.cost))
                try:
                    self._meters.grow(process, held, step)
                except KernelError as refusal:
                    raise Refusal(process, refusal) from None
                use = replace(use, cost=held.cost + step.cost)
                self._open.replace(replace(call, held=use))
                return use.output

        return self._or_refused(process, grown)

    def progress(
        self, number: int, output: int, first_byte: bool = False, provider: str = ""
    ) -> None:
        """So many tokens have come, from `provider`. Of a call that has ended meanwhile this says
        nothing."""
        call = self._open.get(number)
        if call is None or call.relay is None:
            return
        relay, now = call.relay, self._clock.monotonic()
        if first_byte and relay.first_byte_at is None:
            relay = replace(relay, first_byte_at=self._clock.now())
        stored = relay.stored is None or now - relay.stored >= STORED_EVERY
        relay = replace(
            relay,
            output=max(relay.output, output),
            provider=provider or relay.provider,
            stored=now if stored else relay.stored,
        )
        self._open.replace(replace(call, relay=relay), stored=stored)

    # -- ends ------------------------------------------------------------------------------------

    def settle(
        self,
        number: int,
        used: Used | None,
        estimated: bool = False,
        error: str = "",
        provider: str = "",
    ) -> None:
        """The call has ended, and used so many tokens, as `provider` says; None: nobody says so,
        and the estimate of its input counts with what has come. `error`: why it failed. Raises
        ENOENT."""
        process, call = self._get(number)
        if used is None:
            actual = self._settling.so_far(call)
        else:
            kept = Used(*(min(max(0, each), MOST) for each in _figures(used)))
            actual = self._settling.priced(call, kept, estimated=estimated)
        if provider:
            actual = replace(actual, provider=provider)
        self._close(process, call, actual, error[:WORDS])

    def drop(self, number: int) -> None:
        """The call was not made: it counts for nothing. Raises ENOENT."""
        process, call = self._get(number)
        self._close(process, call, None)

    def charge_lost(self) -> int:
        """There is no gateway that makes them any more: every call counts with what has come.
        Returns how many there were."""
        lost = list(self)
        for call in lost:
            process = self._table.find(call.pid)
            assert process is not None, "calls are charged when their process ends"
            self._close(process, call, self._settling.so_far(call), "the gateway has ended")
        return len(lost)

    def _close(self, process: Process, call: Call, actual: Use | None, error: str = "") -> None:
        with self._store.transaction():
            self._gate.attribute(acting_for(process))
            self._settling.close(process, call, actual, error)

    def _get(self, number: int) -> tuple[Process, Call]:
        call = self._open.get(number)
        process = None if call is None else self._table.find(call.pid)
        if call is None or call.relay is None or process is None:
            raise KernelError(errno.ENOENT, f"the gateway has no call {number} open")
        return process, call

    def _or_refused(self, process: Process, make: Callable[[], T]) -> T:
        """What `make` returns; if a meter refuses, the refusal is counted, and raised."""
        try:
            return make()
        except Refusal as refused:
            self._refuse(process, refused.why)

    def _refuse(self, process: Process, why: KernelError) -> NoReturn:
        self._enforcement.refuse(acting_for(process), process, why)
        raise why


def acting_for(process: Process) -> Principal:
    """A call in the name of `process`, which only the kernel makes."""
    kind = Kind.OPERATOR if process.pid == INIT else Kind.AGENT
    return Principal(kind, process.pid, process.name, process.uid, process.gid, process.behalf)


def _bounds(model: Model, ask: Wanted, left: int) -> Iterator[int]:
    """What an answer is bounded by beside the tokens that are left: at least one number."""
    if ask.output is not None:
        yield ask.output
    elif not ask.stream:
        yield max(UNNAMED, left // PART)
    if model.max_output is not None:
        yield model.max_output
    elif ask.output is None:
        yield UNSAID
    if model.context is not None:
        yield model.context - ask.input


def _part(left: int) -> int:
    """How many of the tokens that are left one answer holds at once."""
    return max(1, min(FIRST, max(LEAST, left // PART), left))


def _with_output(use: Use, model: Model | None, output: int) -> Use:
    """The same with so much output, at its dearest price."""
    cost = 0 if model is None else model.most_of(use.input, output)
    return replace(use, output=output, cost=cost)


def _figures(used: Used) -> tuple[int, int, int, int]:
    return used.input, used.output, used.cache_read, used.cache_write
