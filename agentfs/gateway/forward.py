"""A request on its way through the models that may answer it.

What fails before the first byte is asked of the model's fallbacks, each of which is a call of its
own in the daemon's books. After the first byte nobody else is asked: the caller has a part of an
answer, and another model would go on with something else.
"""

from __future__ import annotations

from collections import deque

from agentfs.gateway.attempt import Attempt
from agentfs.gateway.failure import Failure
from agentfs.gateway.ledger import Grant, RefusedError
from agentfs.gateway.office import Job, Office

__all__ = ["forward"]


async def forward(office: Office, job: Job, model: str) -> None:
    """Answer the caller, whatever happens. Raises trio.BrokenResourceError if that is not
    possible."""
    first: Failure | None = None
    instead_of = ""
    names = deque([model])
    while names and not job.interrupt.why:
        try:
            grant = await _begin(office, job, names.popleft(), instead_of)
            if not instead_of:
                names += _fallbacks(office, job, grant.model)
            failure = await Attempt(office, job, grant).run()
        except RefusedError as why:
            if first is not None:
                continue  # a fallback: the failure of the first is told
            await job.answer.refuse(why)
            return
        if failure is None:
            return
        first = first or failure
        instead_of = instead_of or grant.model
    if first is not None and not job.interrupt.why:
        await job.answer.fail(first)


async def _begin(office: Office, job: Job, name: str, instead_of: str) -> Grant:
    offer = office.catalogue.find(name)
    known = name if offer is None else offer.name
    return await office.ledger.begin(
        job.caller,
        job.request,
        name,
        job.request.estimate(office.ratios.of(job.caller.pid, known)),
        whole=job.request.hides(name if offer is None else offer.id),
        instead_of=instead_of,
    )


def _fallbacks(office: Office, job: Job, model: str) -> list[str]:
    """Those of a model that are offered in the dialect of the request."""
    catalogue = office.catalogue
    offer = catalogue.offers.get(model)
    others = [catalogue.offers.get(name) for name in (() if offer is None else offer.fallbacks)]
    speaks = job.request.dialect.name
    return [other.name for other in others if other and speaks in catalogue.speaks(other)]
