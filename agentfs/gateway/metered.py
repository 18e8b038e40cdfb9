"""A call that has begun, until it is settled: what it holds, what of it was relayed."""

from __future__ import annotations

from agentfs.dialects.dialect import Request
from agentfs.dialects.stream import TokenStream
from agentfs.dialects.usage import TokenUsage
from agentfs.gateway.ledger import Grant, Ledger, RefusedError

__all__ = ["Metered"]

STEP = 2_048
"""Tokens of output that a stream holds more when it needs more: it asks for them once a step, and
others can have what it does not need."""


class Metered:
    """It is closed once, whatever happens. `delivered`: the provider has the request, and may be at
    work on it."""

    def __init__(self, ledger: Ledger, grant: Grant, request: Request) -> None:
        self.grant = grant
        self._held = grant.output
        self._full = False  # there are no more than those
        self.delivered = False
        self.closed = False
        self._ledger = ledger
        self._request = request
        self.stream: TokenStream | None = None
        self._answered = 0  # tokens of an answer that came at once, as far as one can guess
        self._relayed: int | None = None
        self._reported: int | None = None

    def begin_stream(self) -> TokenStream:
        """The provider has begun to answer in a stream."""
        self.stream = TokenStream(self._request, self.grant.input)
        return self.stream

    @property
    def allowed(self) -> int:
        """The output after which the stream stops until more is held. Where there is no more, one
        event may exceed it: the provider, which was told, ends there by itself as a rule, and says
        what it has counted."""
        return self._held if self._full else self._held - 1

    async def grow(self, output: int) -> bool:
        """Hold more than the `output` that there is; False if it has to end here."""
        if self._full:
            return False
        while not self._full and self._held <= output:  # it is given a part at a time
            before = self._held
            try:
                self._held = await self._ledger.grow(self.grant.call, output + STEP)
            except RefusedError:
                self._full = True
            self._full = self._full or self._held <= before
        return output <= self._held

    async def used_up(self) -> bool:
        """Whether an answer that has reached its maximum would have gone on with a larger budget:
        what it was asked for at most may be the budget's rest."""
        try:
            await self._ledger.grow(self.grant.call, self._held + 1)
        except RefusedError as why:
            return why.errno == "EDQUOT"
        return False

    def relayed(self) -> None:
        """What the stream has given until now was sent to the caller."""
        assert self.stream is not None
        self._relayed = self.stream.output_estimate
        if self._reported is None:
            self.report()

    def report(self) -> None:
        """Tell the daemon how far it is, unless that is known."""
        if self._relayed is not None and self._relayed != self._reported and not self.closed:
            self._reported = self._relayed
            self._ledger.progress(self.grant.call, self._relayed, self.grant.provider)

    def answered(self, tokens: int) -> None:
        """The provider has answered at once, with about so many tokens."""
        self._answered = tokens

    async def settle(self, usage: TokenUsage | None, error: str = "") -> None:
        """It is over. None: the provider did not count."""
        if self.closed:
            return
        self.closed = True
        used = self._estimate() if usage is None else usage
        await self._ledger.settle(
            self.grant.call,
            used,
            self.grant.provider,
            estimated=usage is None,
            error=error,
        )

    async def stop(self, error: str) -> None:
        """It was interrupted by our side. A request that the provider has is charged."""
        if self.delivered or self.stream is not None:
            await self.settle(None, error)
        else:
            await self.drop()

    def failed(self) -> None:
        """The provider has failed before the first byte, and is asked again: it has nothing now."""
        self.delivered, self.stream = False, None

    async def late(self, error: str) -> None:
        """The provider let its time pass. One that cannot be connected to has nothing."""
        if self.delivered and self._relayed is None:
            await self.settle(None, error)

    async def drop(self) -> None:
        """The provider has failed before the first byte: nothing was used."""
        if not self.closed:
            self.closed = True
            await self._ledger.drop(self.grant.call)

    def _estimate(self) -> TokenUsage:
        if self.stream is None:
            return TokenUsage(self.grant.input, self._answered)
        return self.stream.estimated
