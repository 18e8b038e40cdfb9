"""The settings of mail, and of the questions that are asked by it."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from agentfs.store.settings import Count, Duration, Section

__all__ = ["MessageSettings"]


class MessageSettings(Section):
    """`max_sent` counts the finished messages that are kept for each sender, `max_dead` the dead
    letters of each mailbox; each goes after its retention.
    `reply_timeout`: how long a question asked through `asks/new` waits unless it says so itself;
    `max_open_asks` and `max_closed_asks` count those of each agent.
    `max_hops`: a message that comes after so many answers in a row which were automatic or said
    nothing new is a dead letter; one agent can send another `answer_burst` answers at once, and
    then `answers_per_minute` (EAGAIN).
    `max_batch_bytes` is for one read of `recv.batch`, `max_broadcast_bytes` for all copies of one
    broadcast together. `stall_after`: an agent at work is stalled when mail waits for it and it has
    taken and finished none for so long."""

    NAME: ClassVar = "messages"

    max_size: Annotated[int, Field(ge=1024)] = 1024 * 1024
    max_waiting: Count = 10_000
    max_delivery_attempts: Count = 5
    ageing_per_second: Annotated[float, Field(ge=0, le=1000)] = 0.1
    max_hops: Count = 100  # RFC 5321, 6.3
    answer_burst: Count = 20_000
    answers_per_minute: Count = 600
    claim_timeout: Duration = 3600.0
    stall_after: Duration = 300.0
    sent_retention: Duration = 86_400.0
    max_sent: Count = 1000
    dead_retention: Duration = 30 * 86_400.0
    max_dead: Count = 1000
    reply_timeout: Duration = 600.0
    max_open_asks: Count = 1000
    asks_retention: Duration = 86_400.0
    max_closed_asks: Count = 1000
    max_batch_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024
    max_broadcast_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024
