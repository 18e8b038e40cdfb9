"""A part: a service of the kernel that is told what happens in the others."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterator
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from agentfs.base.errors import ApprovalError
from agentfs.model.principal import Principal
from agentfs.model.process import Process, Tier
from agentfs.model.spec import ProcessSpec

__all__ = ["EndedWork", "Part", "Parts"]

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A", bound="Part")


class EndedWork(Protocol):
    """A run, or a system, that has ended. `id` is the pid of its process, the value of `state` how
    it has ended (completed, failed, cancelled, timed_out), `error` or `reason` why it has not
    completed."""

    @property
    def id(self) -> int: ...
    @property
    def state(self) -> enum.Enum: ...
    @property
    def error(self) -> str: ...
    @property
    def reason(self) -> str: ...


class Part:
    """A service that is told what other services do. Each method does nothing here; a service
    overrides those that concern it, and is asked about nothing else.

    The kernel's list of parts is the order in which they are told, of everything. A call that is
    made inside a transaction may refuse it, by raising KernelError.
    """

    # -- one run of the daemon -------------------------------------------------------------------

    def load(self) -> None:
        """Read from the store what was not read when the service was made. Write nothing."""

    def take_up(self) -> None:
        """Everything is read: put right what an earlier daemon, or release, has left."""

    async def run(self) -> None:
        """Work until cancelled."""

    def flush(self) -> None:
        """The daemon ends, and so do its programs: store what is kept in memory only."""

    def tidy(self) -> object:
        """The maid makes her round, every `processes.maid_interval`. She goes on with the next part
        if one fails."""

    def complaint(self) -> str:
        """What is wrong, in words for `/sys/health`; empty if nothing is."""
        return ""

    # -- agents and their processes, inside the transaction of the change ------------------------

    def program_ended(self, process: Process, code: int) -> None:
        """The program of `process` has ended; perhaps another is started in its place."""

    def process_ended(self, process: Process) -> None:
        """`process` has ended for good, and its children have another parent."""

    def step_ended(self, process: Process, code: int | None, *, lost: bool) -> None:
        """A program that did a step has ended, and `process` with it: `code` is its exit code, or
        128 + signal, None if nobody knows. `lost`: it did not end by itself, or nobody knows
        whether it did: the daemon was ended, or the machine. Told before `process_ended`."""

    def run_signalled(self, process: Process, name: str, grace: float | None) -> None:
        """Somebody sent TERM (seconds to KILL: `grace`, None for the setting), STOP or CONT to the
        entry of a run: cancel the run, pause it, let it go on. KILL ends the entry at once:
        `process_ended`. Raises EPERM where the run cannot do that."""

    def program_restarts(self, process: Process, reason: str) -> None:
        """The program of `process` is about to be started again."""

    def process_given_up(self, process: Process, parent: Process, reason: str) -> None:
        """`process` has failed too often and is dead; `parent` may do something about it."""

    def agent_removed(self, name: str) -> None:
        """The agent is about to be removed. It is still there."""

    def refusal_repeated(self, pid: int, code: str, reason: str, rule: str) -> None:
        """A call of process `pid` was refused as one before it: no event tells of it yet."""

    def run_ended(self, run: EndedWork) -> None:
        """A run of a pipeline, or a system, has ended: it has its final state, and its output is
        stored."""

    # -- what is used ----------------------------------------------------------------------------

    def usage(self, process: Process, limit: str) -> float | None:
        """What counts against this limit of `process` now, in the limit's unit. None: it is counted
        elsewhere."""
        return None

    def use_recorded(self, process: Process, kind: str, name: str) -> None:
        """A use of a model (`kind` "llm") or a tool by `process` is booked, inside the transaction
        that settles it."""

    # -- what may be refused ---------------------------------------------------------------------

    def check_group(self, actor: Process, parent: Process, spec: ProcessSpec) -> None:
        """`actor` asks for a child of `parent` in a group, `spec.group` or its parent's. Raises
        ENOENT, EACCES, EPERM, and EAGAIN if the group is full."""

    def check_grant(self, parent: Process, tier: Tier, spec: ProcessSpec) -> None:
        """`parent` is to give a child of this tier the budget of `spec`. Raises EPERM, EDQUOT."""

    def spawned(self, process: Process, spec: ProcessSpec) -> None:
        """`process` was made as `spec` says, and its program is not started yet."""

    def admit(self, principal: Principal, ahead: int = 0) -> None:
        """A system call of `principal` is about to be accepted, inside its transaction, or inside
        one in which the calls of others have `ahead` records before it. Raises ENOSPC if there is
        no room for its record in the audit."""

    def require_room(self, principal: Principal | None) -> None:
        """The same of a call that has no record in the audit, or gets it later. None: somebody who
        is not the operator."""

    def check_making(self, maker: str, kind: str, count: int) -> None:
        """Agent `maker` is about to make `count` more things of a kind. Raises EDQUOT or ENOSPC."""

    def check_launch(self, maker: str) -> None:
        """Agent `maker` is about to start one more program. Raises EAGAIN."""

    def is_approved(self, needed: ApprovalError) -> bool:
        """Whether somebody has approved the call that `needed` is about. Inside a transaction the
        approval is used up by that."""
        return False

    def versions_in_use(self, kind: str, name: str) -> Collection[int]:
        """The versions of a document that something under way was made of."""
        return ()

    def count_call(self, caller: Process, kind: str) -> None:
        """`caller` makes a system call of a kind (`gate.KINDS`). Raises EAGAIN if it has made too
        many within the minute."""

    def count_message(self, sender: Process, messages: int) -> None:
        """`sender` sends so many messages; with 0 it only asks whether it could. Raises EAGAIN."""


class Parts:
    """All parts, in the order in which they are told."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._concerned: dict[str, tuple[Callable[..., object], ...]] = {}

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts)

    def add(self, part: A, *more: Part) -> A:
        """These come after those that are there. Returns the first of them."""
        self._parts += (part, *more)
        self._concerned.clear()
        return part

    def each(self, hook: Callable[Concatenate[Part, P], R]) -> tuple[Callable[P, R], ...]:
        """`hook`, a method of `Part`, of every part that overrides it."""
        name = hook.__name__
        found = self._concerned.get(name)
        if found is None:
            own = getattr(Part, name)
            found = tuple(
                getattr(part, name) for part in self._parts if getattr(type(part), name) is not own
            )
            self._concerned[name] = found
        return found  # type: ignore[return-value]  # what getattr gives has no type

    def tell(
        self, hook: Callable[Concatenate[Part, P], object], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call `hook` of every part that overrides it, in order. An exception ends it."""
        for call in self._concerned.get(hook.__name__) or self.each(hook):
            call(*args, **kwargs)
