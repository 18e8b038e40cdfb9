"""The gate: the steps that every system call of the kernel walks, in one order, in one place.

    identity     the principal, told by the operating system, acts for a living process
    permission   the role, the rules and the capabilities allow the action (`Policy`)
    limits       rate, budget, quota
    transaction  the change, in memory and in the store, whole or not at all
    events       what happened, after the commit

There is no checkpoint between the first check and the commit.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.model.process import Process
from agentfs.rights.policy import Policy
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["ALL_CALLS", "KINDS", "MESSAGES", "Gate"]

ALL_CALLS, MESSAGES = "calls", "messages"
KINDS = (
    ALL_CALLS,
    MESSAGES,
    "spawns",
    "signals",
    "claims",
    "artifacts",
    "llm_calls",
    "tool_calls",
)
"""The kinds of calls that can be limited by the minute; `calls` is all of the others together."""


class Gate:
    """Opened once for every system call."""

    def __init__(
        self, ground: Ground, policy: Policy, find: Callable[[int], Process | None]
    ) -> None:
        self._store = ground.store
        self._parts = ground.parts
        self._find = find
        self.policy = policy
        self.calls = 0

    def actor(self, principal: Principal) -> Process:
        """The living process that `principal` acts for. Raises EACCES if there is none."""
        process = None if principal.pid is None else self._find(principal.pid)
        if process is None or not process.state.alive:
            raise KernelError(
                errno.EACCES,
                f"{principal.name} is no agent of this system and may not change anything in it",
                rule="identity",
            )
        return process

    def enter(self, principal: Principal, kind: str = "") -> AbstractContextManager[Process]:
        """The identity of one system call, then its transaction. `kind`: one of `KINDS`, for a call
        that counts; messages are counted where they are accepted.

        The block gets the acting process: the call asks `policy` first what it needs, then the
        limits. Everything inside the block is one atomic change; raising a KernelError in it
        refuses the call.
        """
        self.calls += 1
        return _Entered(self, self.actor(principal), principal, self._store.transaction(), kind)

    def admit(self, principal: Principal, actor: Process, kind: str) -> None:
        """What `principal` did is about to be accepted: count it, and see to it that there is room
        for its record. Last, because a call that is refused for another reason does not count."""
        self._parts.tell(Part.admit, principal)
        if kind:
            self._parts.tell(Part.count_call, actor, kind)

    def require_room(self, principal: Principal | None) -> None:
        """Raise ENOSPC if the system stops until the audit has room, and this call, which has no
        record there or gets it later, is to stop with the rest. None: not the operator's."""
        self._parts.tell(Part.require_room, principal)

    def check_making(self, maker: str, kind: str, count: int) -> None:
        """Raise EDQUOT or ENOSPC if agent `maker` may not make `count` more things of a kind."""
        self._parts.tell(Part.check_making, maker, kind, count)

    def check_launch(self, maker: str) -> None:
        """Raise EAGAIN if agent `maker` may not start one more program now."""
        self._parts.tell(Part.check_launch, maker)

    def count_message(self, sender: Process, messages: int = 1) -> None:
        """Count so many messages of `sender`, inside the transaction that accepts them; with 0 only
        ask. Raises EAGAIN if one more is more than it may send within the minute."""
        self._parts.tell(Part.count_message, sender, messages)

    def attribute(self, principal: Principal) -> None:
        """The transaction under way is made for `principal`: the audit names it. The first one
        named wins; where nobody is, it is the kernel's own work."""
        if self._store.acting is None:
            self._store.acting = principal


class _Entered(AbstractContextManager[Process]):
    """The block of `Gate.enter`. A class, as the store's is: it is on every call's way."""

    __slots__ = ("_actor", "_gate", "_kind", "_principal", "_transaction")

    def __init__(
        self,
        gate: Gate,
        actor: Process,
        principal: Principal,
        transaction: AbstractContextManager[None],
        kind: str,
    ) -> None:
        self._kind = kind
        self._gate = gate
        self._actor = actor
        self._principal = principal
        self._transaction = transaction

    def __enter__(self) -> Process:
        self._transaction.__enter__()
        self._gate.attribute(self._principal)
        return self._actor

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if failure is None:
            try:
                self._gate.admit(self._principal, self._actor, self._kind)
            except BaseException as refusal:
                self._transaction.__exit__(type(refusal), refusal, refusal.__traceback__)
                raise
        self._transaction.__exit__(kind, failure, trace)
