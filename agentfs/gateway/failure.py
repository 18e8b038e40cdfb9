"""A provider that failed before it answered: whether another try can help, and when."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time

from agentfs.gateway.ledger import RefusedError
from agentfs.gateway.source import AGAIN, FailedError, Headers

__all__ = ["Failure", "of_answer", "of_failed"]

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 8.0
"""Seconds before the second try, and at most: doubled with each, and each between half and all."""

LONGEST_WAIT = 60.0
"""A provider that wants more seconds than this before another try is not waited for: it may want
days."""


@dataclass(slots=True)
class Failure:
    """Without a `status` there was no answer. `again`: another try can help."""

    errno: str
    words: str
    again: bool
    status: int | None = None
    headers: Headers = ()
    body: bytes = b""
    retry_after: float | None = None
    tries: int = 1

    def pause(self) -> float | None:
        """Seconds until the next try; None if it would be in vain."""
        if not self.again or (self.retry_after or 0) > LONGEST_WAIT:
            return None
        pause: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self.tries - 1))
        pause *= random.uniform(0.5, 1)  # noqa: S311 -- so that callers do not come all at once
        return max(self.retry_after or 0, pause)

    @property
    def futile(self) -> bool:
        """Whether the caller's own tries would only be added to ours."""
        return self.tries > 1 or (self.retry_after or 0) > LONGEST_WAIT

    @property
    def refused(self) -> RefusedError:
        """The same for a caller who is not told in the provider's own words."""
        return RefusedError(self.errno, self.words, "provider", self.retry_after)


def of_failed(failed: FailedError) -> Failure:
    """There was no answer."""
    return Failure(failed.errno, failed.words, failed.again)


def of_answer(name: str, status: int, headers: Headers, body: bytes) -> Failure:
    """The answer is an error."""
    return Failure(
        "EAGAIN" if status == 429 else "EREMOTEIO",
        f"{name} answered {status}: {_words(body)}",
        status in AGAIN,
        status,
        headers,
        body,
        _retry_after(headers),
    )


def _words(body: bytes) -> str:
    """What the error says."""
    text = body.decode("utf-8", "replace").strip()
    try:
        said = json.loads(text)
        error = said.get("error", said)
        words = error.get("message") if isinstance(error, dict) else error
    except (ValueError, AttributeError, RecursionError):
        words = None
    return (words if isinstance(words, str) and words else text)[:1_000]


def _retry_after(headers: Headers) -> float | None:
    """Seconds that the provider wants to be left alone."""
    for name, value in headers:
        said = value.decode("latin-1")
        try:
            if name == b"retry-after-ms":
                return max(0.0, float(said) / 1000)
            if name == b"retry-after":
                if said.strip().replace(".", "", 1).isdigit():
                    return float(said)
                wanted: float = parsedate_to_datetime(said).timestamp()
                return max(0.0, wanted - time())
        except ValueError:
            continue
    return None
