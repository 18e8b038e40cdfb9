"""How many tokens a request of messages would have. The provider is asked, which costs nothing:
only the right to use the model is needed."""

from __future__ import annotations

from agentfs.dialects.messages import COUNT_TOKENS
from agentfs.gateway.bodies import parsed
from agentfs.gateway.ledger import RefusedError
from agentfs.gateway.office import Interrupt, Office
from agentfs.gateway.source import Deadline, FailedError, Headers, Outgoing

__all__ = ["count_tokens"]

MOST_REPLY = 1 << 20

Answered = tuple[int, Headers, bytes]


async def count_tokens(
    office: Office, pid: int, interrupt: Interrupt, target: str, headers: Headers, body: bytes
) -> Answered | None:
    """Status, headers and body of the answer; None: nobody waits for it any more. Raises
    BadRequest, RefusedError."""
    request = await parsed(COUNT_TOKENS, body)
    told = await office.ledger.models(pid)
    offer = office.catalogue.find(request.model)
    if offer is None or offer.name not in [model["name"] for model in told]:
        raise RefusedError("ENOENT", f"there is no model {request.model} for you", "model")
    provider = office.providers.find(offer.provider)
    if provider is None or "messages" not in office.catalogue.speaks(offer):
        raise RefusedError("ENOENT", f"{offer.name} is not offered as messages", "dialect")
    outgoing = Outgoing(request, target, headers, request.outgoing(offer.id, None))
    with interrupt.scope() as scope:
        deadline = Deadline(scope, offer.patience)
        await provider.turnstile.enter(pid)
        try:
            reply = await provider.source.send(outgoing, deadline)
            try:
                said = b""
                while len(said) < MOST_REPLY and (piece := await reply.read()):
                    said += piece
            finally:
                reply.close()
        except FailedError as failed:
            words = office.providers.shown(failed.words.encode("utf-8", "replace")).decode()
            raise RefusedError(failed.errno, words, "provider") from None
        finally:
            provider.turnstile.leave()
        kind = [(name, value) for name, value in reply.headers if name == b"content-type"]
        return reply.status, kind, office.providers.shown(said)
    if interrupt.why:
        return None
    raise RefusedError("ETIMEDOUT", f"{provider.name} {deadline.passed}", "provider")
