"""What the gateway asks for before a call, what it gets, and how far the call has come."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Begun", "Relay", "Used", "Wanted"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A process asks the gateway for a call of `model`, which has one of its names. `input` is an
    estimate, in tokens; `output` is the maximum that the request names, None if it names none.
    `stream`: the answer comes in pieces, and can be ended at each. `via` is the way on which the
    request came, `dialect` its form. `instead_of` is the model that was asked for, where this one
    is its fallback."""

    model: str
    input: int
    output: int | None = None
    stream: bool = False
    via: str = ""
    dialect: str = ""
    instead_of: str = ""


@dataclass(frozen=True, slots=True)
class Begun:
    """The call may be made, as `id`, of `model` at `provider`. So many tokens of `output` are set
    aside, and `room` may be told to the provider as the maximum: a stream asks for more before it
    has used what is set aside."""

    id: int
    model: str
    provider: str
    output: int
    room: int


@dataclass(frozen=True, slots=True)
class Used:
    """The tokens that a provider says it has used. Those of a cache are not in `input`."""

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0


@dataclass(frozen=True, slots=True)
class Relay:
    """A call that the gateway makes: how far it has come. `output` are the tokens so far;
    `first_byte_at` in seconds since 1970, None: nothing has come. `stored`: when the store was told
    of that, by a clock that never goes back; None: never."""

    provider: str
    via: str = ""
    dialect: str = ""
    stream: bool = False
    instead_of: str = ""
    first_byte_at: float | None = None
    output: int = 0
    stored: float | None = None
