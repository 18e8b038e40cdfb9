"""A call of one model: sent to its provider, again where that helps, relayed, settled."""

from __future__ import annotations

import json

import trio

from agentfs.dialects.body import BadRequest
from agentfs.dialects.usage import TokenUsage, output_tokens
from agentfs.gateway.catalogue import Offer
from agentfs.gateway.failure import Failure, of_answer, of_failed
from agentfs.gateway.ledger import Grant, RefusedError
from agentfs.gateway.metered import Metered
from agentfs.gateway.office import CANCELLED, GONE, Job, Office
from agentfs.gateway.providers import Upstream
from agentfs.gateway.source import Deadline, FailedError, Headers, Incoming, Outgoing

__all__ = ["Attempt"]

CERTAIN = 16_384
"""Tokens that every model of today writes in one answer. A larger maximum, which the caller has not
named, is refused by OpenAI if it is more than the model's own."""

MOST_REPLY = 64 << 20
MOST_ERROR = 1 << 20
"""Bytes of a reply that comes at once, and of one that is an error."""


class Attempt:
    """One call of the daemon's books."""

    def __init__(self, office: Office, job: Job, grant: Grant) -> None:
        self._office, self._job = office, job
        self.metered = Metered(office.ledger, grant, job.request)
        self._grant = grant
        self._started = False  # a part of a stream was relayed

    def cancel(self) -> None:
        self._job.interrupt.cancel()

    async def run(self) -> Failure | None:
        """None: the caller was answered, or is gone. A failure: it was not, and nothing was used.
        Raises RefusedError."""
        self._office.open[self._grant.call] = self
        try:
            offer, provider = self._found()
            outgoing = self._outgoing(offer)
            failure = await self._tries(provider, offer, outgoing)
            if failure is not None:
                self._hide(failure)
                await self.metered.drop()
            return failure
        except RefusedError:
            await self.metered.drop()
            raise
        finally:
            # Still open: its connection's task was cancelled, or the caller cannot be written to.
            await self.metered.stop(self._job.interrupt.why or GONE)
            del self._office.open[self._grant.call]

    def _hide(self, failure: Failure) -> None:
        """Providers quote keys."""
        words = self._office.providers.shown(failure.words.encode("utf-8", "replace"))
        failure.words = words.decode()

    def _found(self) -> tuple[Offer, Upstream]:
        offer = self._office.catalogue.offers.get(self._grant.model)
        provider = self._office.providers.find(self._grant.provider)
        if offer is None or provider is None:
            raise RefusedError("EAGAIN", f"{self._grant.model} has just been changed: ask again")
        return offer, provider

    def _outgoing(self, offer: Offer) -> Outgoing:
        request = self._job.request
        most: int | None = self._grant.room
        if request.output is None and offer.max_output is None and self._grant.room > CERTAIN:
            most = None
        try:
            body = request.outgoing(offer.id, most)
        except BadRequest as bad:
            raise RefusedError("EDQUOT", str(bad), "budget") from None
        return Outgoing(request, self._job.target, self._job.headers, body)

    # -- tries -------------------------------------------------------------------------------------

    async def _tries(self, provider: Upstream, offer: Offer, outgoing: Outgoing) -> Failure | None:
        tries = 0
        while True:
            failure = await self._try(provider, offer, outgoing)
            if failure is None:
                return None
            tries += 1
            failure.tries = tries
            pause = failure.pause() if tries <= provider.retries else None
            if pause is None or self.metered.closed:
                return failure
            self.metered.failed()
            with self._job.interrupt.scope():
                await trio.sleep(pause)
            if self._job.interrupt.why:
                await self._interrupted()
                return None

    async def _try(self, provider: Upstream, offer: Offer, outgoing: Outgoing) -> Failure | None:
        failure: Failure | None = None
        outgoing.sent = self.metered.delivered = False
        with self._job.interrupt.scope() as scope:
            deadline = Deadline(scope, offer.patience)
            try:
                failure = await self._turn(provider, outgoing, deadline)
            except FailedError as failed:
                failure = of_failed(failed)
            finally:
                self.metered.delivered = outgoing.sent
        if scope.cancelled_caught:
            if self._job.interrupt.why:
                await self._interrupted()
                return None
            failure = await self._late(provider, deadline)
        if failure is not None and self._started:
            await self._break_off(failure)
            return None
        return failure

    async def _turn(
        self, provider: Upstream, outgoing: Outgoing, deadline: Deadline
    ) -> Failure | None:
        try:
            await provider.turnstile.enter(self._job.caller.pid)
        except RefusedError as full:  # another model may have a place
            return Failure("EAGAIN", full.words, again=False, retry_after=full.retry_after)
        try:
            reply = await provider.source.send(outgoing, deadline)
            try:
                return await self._take(provider, reply, deadline)
            finally:
                reply.close()
        finally:
            provider.turnstile.leave()

    async def _late(self, provider: Upstream, deadline: Deadline) -> Failure:
        """The provider took too long. A request that it has is charged: it may be at work."""
        words = f"{provider.name} {deadline.passed}"
        await self.metered.late(words)
        return Failure("ETIMEDOUT", words, again=not self.metered.closed)

    async def _interrupted(self) -> None:
        """The caller has gone, or the call was cancelled."""
        if self.metered.closed:  # the end of the answer is being sent, to somebody who is slow
            raise trio.BrokenResourceError
        why = self._job.interrupt.why
        await self.metered.stop(why)
        if why == CANCELLED:
            failure = Failure("ECANCELED", why, again=False)
            if self._started:
                await self._break_off(failure)
            else:
                await self._job.answer.refuse(failure.refused)

    async def _break_off(self, failure: Failure, events: tuple[bytes, ...] = ()) -> None:
        """A stream of which a part was relayed ends with an error."""
        stream = self.metered.stream
        assert stream is not None
        self._hide(failure)
        await self.metered.settle(None, failure.words)
        await self._job.answer.break_off(stream, events, failure)

    # -- replies -----------------------------------------------------------------------------------

    async def _take(
        self, provider: Upstream, reply: Incoming, deadline: Deadline
    ) -> Failure | None:
        if reply.status != 200:
            body = await self._whole(reply, deadline, MOST_ERROR)
            return of_answer(provider.name, reply.status, reply.headers, body)
        if self._job.request.stream and _is_stream(reply.headers):
            return await self._relay(reply, deadline)
        body = await self._whole(reply, deadline, MOST_REPLY)
        try:
            said = json.loads(body)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            return Failure("EREMOTEIO", f"{provider.name} answered with no JSON object", again=True)
        dialect = self._job.request.dialect
        usage = dialect.usage(said)
        if usage is None and isinstance(said.get("error"), dict):
            return of_answer(provider.name, 502, reply.headers, body)
        self.metered.answered(output_tokens(dialect.text(said), single=False))
        await self._settle(usage)
        await self._job.answer.whole(self._grant.model, reply.headers, body)
        return None

    async def _whole(self, reply: Incoming, deadline: Deadline, most: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while piece := await reply.read():
            deadline.idle()
            pieces.append(piece)
            size += len(piece)
            if size > most:
                words = f"{self._grant.provider} answered with more than {most} bytes"
                raise FailedError(words, again=False)
        deadline.rest()
        return b"".join(pieces)

    async def _relay(self, reply: Incoming, deadline: Deadline) -> Failure | None:
        """A stream, to its end."""
        answer, metered = self._job.answer, self.metered
        stream = metered.begin_stream()
        while True:
            data = await reply.read()
            deadline.rest()
            events = stream.feed(data, metered.allowed) if data else stream.end()
            while not (stream.finished or stream.error):
                await self._pass_on(reply, events)
                if not stream.held_back:
                    break
                if not await metered.grow(stream.output_estimate):
                    reply.close()
                    await metered.settle(None)
                    await answer.cut(stream)
                    return None
                events = stream.feed(b"", metered.allowed)
            if stream.finished:
                reply.complete()
                reached = stream.finish == "length" and answer.tells_end
                spent = reached and await metered.used_up()
                await self._settle(stream.usage)
                await self._begin(reply)
                await answer.finish(stream, events, spent=spent)
                return None
            if stream.error:
                failure = Failure("EREMOTEIO", stream.error, again=True)
                if not self._started and not events:
                    return failure
                await self._begin(reply)
                await self._break_off(failure, tuple(events))
                return None
            deadline.idle()

    async def _pass_on(self, reply: Incoming, events: list[bytes]) -> None:
        if events:
            await self._begin(reply)
            stream = self.metered.stream
            assert stream is not None
            await self._job.answer.relay(stream, events)
            self.metered.relayed()

    async def _begin(self, reply: Incoming) -> None:
        if not self._started:
            self._started = True
            await self._job.answer.begin(self._grant.model, reply.headers)

    async def _settle(self, usage: TokenUsage | None) -> None:
        await self.metered.settle(usage)
        request = self._job.request
        if usage is not None and not request.images:
            self._office.ratios.learn(
                self._job.caller.pid, self._grant.model, request.input_bytes, usage.prompt
            )


def _is_stream(headers: Headers) -> bool:
    return any(n == b"content-type" and v.startswith(b"text/event-stream") for n, v in headers)
