"""Approvals: what is allowed, but only once somebody has agreed.

A call that comes under such a rule raises ApprovalError and has changed nothing. Whoever made it
files the request, waits for the decision, and makes the call again: an approval lets through one
call of that agent, with that action, on that path, and with that content: the request shows it. If
nobody waits for a request, the next try with another content takes its place. Without a decision it
is rejected at the deadline. Requests are durable: one that was decided while the daemon was down,
or after its caller had ended, is there for the next try.
"""

from __future__ import annotations

import enum
import errno
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from agentfs.approvals.events import ApprovalAsked, ApprovalDecided, ApprovalDropped
from agentfs.approvals.settings import ApprovalSettings
from agentfs.base.alarm import Alarm
from agentfs.base.clock import Clock, Timers, change_time, rfc3339
from agentfs.base.content import Content, hashed
from agentfs.base.errors import ApprovalError, KernelError
from agentfs.model.principal import Principal
from agentfs.model.process import Process, Role
from agentfs.rights.gate import Gate
from agentfs.rights.policy import Action, Decision
from agentfs.store.event_log import EventLog, Record
from agentfs.store.part import Part
from agentfs.store.settings import Settings
from agentfs.store.store import Store

__all__ = ["OPERATOR", "Approvals", "Request", "State"]

KIND = "approval"
OPERATOR = "operator"
"""Who decides where a rule names no agent."""

SWEPT_AT_ONCE = 200
"""Requests that one transaction drops: some milliseconds."""

Key = tuple[str, str, str, str]


class State(enum.Enum):
    """How far a request is."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    """Nobody decided in time, or nobody used the approval in time."""
    WITHDRAWN = "withdrawn"
    """Who asked did not wait for it."""
    USED = "used"

    @property
    def open(self) -> bool:
        return self in (State.PENDING, State.APPROVED)


@dataclass(slots=True)
class Request:
    """One request of process `pid` of `agent`. `deadline` is the wall-clock time at which it is
    rejected while it is pending, and at which an approval that was not used is void; `timeout` is
    how long each of them may take, in seconds. `body` is the beginning of the content, a character
    a byte, `size` the bytes that it has, `about` what the call says beside it. `who` decided."""

    id: int
    agent: str
    pid: int
    user: str
    action: str
    path: str
    rule: str
    by: str
    timeout: float
    asked: float
    deadline: float
    state: State = State.PENDING
    who: str = ""
    reason: str = ""
    changed: int = 0  # ns, for st_mtime
    body: str = ""
    size: int = 0
    about: str = ""
    sha256: str = hashed(b"", "")

    @property
    def key(self) -> Key:
        """Of what is open there is one of each."""
        return self.agent, self.action, self.path, self.sha256

    @property
    def content(self) -> bytes:
        """What it shows of the content."""
        return self.body.encode("latin-1")

    def asks_for(self, needed: ApprovalError) -> None:
        """Take the content of a call."""
        content = needed.content
        self.about = content.about
        self.body = content.shown.decode("latin-1")
        self.size = content.size
        self.sha256 = content.sha256

    @property
    def name(self) -> str:
        return f"{self.id:06d}"

    def record(self) -> dict[str, Any]:
        return {slot: getattr(self, slot) for slot in self.__slots__} | {"state": self.state.value}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Request:
        return cls(**(record | {"state": State(record["state"])}))


class Approvals(Part):
    """All requests. `tell(request)` lets whoever decides know of a new one, in its transaction."""

    def __init__(
        self,
        gate: Gate,
        store: Store,
        events: EventLog,
        clock: Clock,
        timers: Timers,
        settings: Settings,
        tell: Callable[[Request], object] = lambda request: None,
    ) -> None:
        self._gate = gate
        self._store = store
        self._events = events
        self._clock = clock
        self._settings = settings
        self._tell = tell
        self._by_id: dict[int, Request] = {}
        self._open: dict[Key, Request] = {}
        self._used_now: set[int] = set()  # by the transaction under way
        self._wakers: dict[int, set[Callable[[], object]]] = {}
        self._alarm = Alarm(clock, timers, self._expire_due)
        gate.policy.ask = self.require
        events.listen(self._wake, ApprovalDecided)

    def load(self) -> None:
        """Read all requests from the store."""
        for _, record in self._store.records(KIND):
            request = Request.from_record(record)
            self._by_id[request.id] = request
            if request.state.open:
                self._open[request.key] = request
        self._alarm.set(self._expire_due())

    def sizes(self) -> dict[str, int]:
        """How many entries each table has, for tests and /sys/stats."""
        return {"requests": len(self._by_id), "open": len(self._open), "waiting": len(self._wakers)}

    # -- look-ups --------------------------------------------------------------------------------

    def find(self, number: int) -> Request | None:
        return self._by_id.get(number)

    def __iter__(self) -> Iterator[Request]:
        """By number."""
        return iter([self._by_id[number] for number in sorted(self._by_id)])

    def counts(self) -> Counter[str]:
        """How many open requests each agent has."""
        return Counter(request.agent for request in self._open.values())

    @property
    def open(self) -> int:
        """How many are open."""
        return len(self._open)

    def waiting(self, agent: str) -> list[Request]:
        """The open requests of `agent` for which a call waits at the moment."""
        if not self._wakers:
            return []
        found = [self._by_id[number] for number in self._wakers]
        return [request for request in found if request.agent == agent and request.state.open]

    def may_see(self, principal: Principal, request: Request) -> bool:
        """Whether it concerns `principal`: who asks, who decides, and the operator."""
        return principal.acts_for(request.agent) or self._decides(principal, request)

    @staticmethod
    def _decides(principal: Principal, request: Request) -> bool:
        """The operator is a kind of caller, whatever an agent is called."""
        return principal.is_operator or (request.by != OPERATOR and principal.acts_for(request.by))

    # -- for the policy and the call that waits --------------------------------------------------

    def require(self, actor: Process, action: Action, path: str, decision: Decision) -> None:
        """Return if it was approved; inside a transaction the approval is used up by that. Raises
        ApprovalError. Process 1 is the operator, who need not ask."""
        if actor.role is Role.KERNEL or decision.approval is None:
            return
        content = decision.content or Content.of(b"")
        request = self._open.get((actor.name, action.value, path, content.sha256))
        if request is None or request.state is State.PENDING:
            wanted = decision.approval
            raise ApprovalError(
                f"{actor.name} may {action.words} here once {wanted.by} approves",
                rule=decision.rule,
                pid=actor.pid,
                agent=actor.name,
                user=actor.user,
                action=action.value,
                path=path,
                by=wanted.by,
                timeout=wanted.timeout,
                content=content,
            )
        if self._store.in_transaction:
            self._use(request)

    def _use(self, request: Request) -> None:
        if request.id in self._used_now:
            return
        self._used_now.add(request.id)
        self._store.on_rollback(lambda: self._used_now.discard(request.id))

        def used() -> None:
            self._used_now.discard(request.id)
            self._open.pop(request.key, None)

        self._store.on_commit(used)
        self._set(request, State.USED, request.who, keep_open=True)

    def file(self, needed: ApprovalError) -> Request:
        """The open request for a call: the one that there is, or a new one. Raises EAGAIN if the
        agent waits for too many decisions already, ENOSPC while the audit is full and everybody has
        to stop."""
        key = (needed.agent, needed.action, needed.path, needed.content.sha256)
        found = self._open.get(key)
        if found is not None:
            return found
        self._gate.require_room(None)
        for request in self._open.values():
            same = request.key[:3] == key[:3]
            if same and request.state is State.PENDING and request.id not in self._wakers:
                return self._change(request, needed)
        most = self._settings.of(ApprovalSettings).max_pending
        if sum(request.agent == needed.agent for request in self._open.values()) >= most:
            raise KernelError(
                errno.EAGAIN,
                f"{needed.agent} waits for {most} decisions already",
                rule="approvals.max_pending",
            )
        self._gate.check_making(needed.agent, "approvals", 1)
        now = self._clock.now()
        with self._store.transaction():
            number = int(self._store.meta("last_approval", "0")) + 1
            self._store.set_meta("last_approval", str(number))
            request = Request(
                number,
                needed.agent,
                needed.pid,
                needed.user,
                needed.action,
                needed.path,
                needed.rule,
                needed.by,
                needed.timeout,
                asked=now,
                deadline=now + needed.timeout,
                changed=change_time(now, 0),
            )
            request.asks_for(needed)
            self._by_id[number] = self._open[request.key] = request
            self._store.on_rollback(lambda: self._forget(request))
            self._ask(request)
        self._alarm.set(request.deadline)
        return request

    def _ask(self, request: Request) -> None:
        """Keep it, and let everybody know, inside a transaction."""
        self._store.put_record(KIND, request.name, request.record())
        deadline = rfc3339(request.deadline)
        self._events.emit(
            ApprovalAsked(
                request.name, request.agent, request.action, request.by, deadline, request.sha256
            )
        )
        self._tell(request)

    def _change(self, request: Request, needed: ApprovalError) -> Request:
        """The caller tries something else instead, and nobody waits for what was asked first."""
        before = replace(request)

        def undo() -> None:
            self._open.pop(request.key, None)
            for name in ("about", "body", "size", "sha256", "changed", "pid"):
                setattr(request, name, getattr(before, name))
            self._open[request.key] = request

        with self._store.transaction():
            self._store.on_rollback(undo)
            del self._open[request.key]
            request.asks_for(needed)
            request.pid = needed.pid
            request.changed = change_time(self._clock.now(), request.changed)
            self._open[request.key] = request
            self._ask(request)
        return request

    def check(self, request: Request) -> bool:
        """Whether the call may be tried again; False while nobody has decided. Raises EACCES if it
        was rejected, by somebody or at the deadline, or withdrawn."""
        self._expire_due()
        if request.state in (State.APPROVED, State.USED):
            return True
        if request.state is State.PENDING:
            return False
        why = f": {request.reason}" if request.reason else ""
        how = f"was {request.state.value} by {request.who}"
        if request.state is State.EXPIRED:
            how = "has expired"
        raise KernelError(errno.EACCES, f"request {request.name} {how}{why}", rule=request.rule)

    def on_decision(self, request: Request, waker: Callable[[], object]) -> Callable[[], None]:
        """Call `waker()` when it is decided; the result takes that back, and says whether nobody
        else waits."""
        wakers = self._wakers.setdefault(request.id, set())
        wakers.add(waker)

        def unsubscribe() -> None:
            wakers.discard(waker)
            if not wakers:
                self._wakers.pop(request.id, None)

        return unsubscribe

    def give_up(self, request: Request) -> None:
        """A signal ended the wait: without anybody else who waits the request is withdrawn."""
        if request.state is State.PENDING and request.id not in self._wakers:
            with self._store.transaction():
                self._set(request, State.WITHDRAWN, request.agent)

    # -- system calls ----------------------------------------------------------------------------

    def decide(
        self,
        principal: Principal,
        number: int,
        *,
        approve: bool,
        reason: str = "",
        sha256: str = "",
    ) -> Request:
        """Approve or reject. `sha256` is of the content that was read. Raises ENOENT, EACCES for
        who is neither the operator nor named by the rule, EPERM for one's own request, and where it
        is decided already, ESTALE if it has another content now."""
        self._expire_due()
        with self._gate.enter(principal):
            request = self._by_id.get(number)
            if request is None or not self.may_see(principal, request):
                # The same rule for both: nobody is to learn which it was.
                raise KernelError(errno.ENOENT, f"there is no request {number}", rule="approval")
            if not principal.is_operator and principal.name == request.agent:
                raise KernelError(
                    errno.EPERM, "nobody decides what they ask for themselves", rule="approval"
                )
            if request.state is not State.PENDING:
                raise KernelError(
                    errno.EPERM,
                    f"request {request.name} is {request.state.value} already",
                    rule="approval",
                )
            if sha256 and sha256.lower() != request.sha256:
                raise KernelError(
                    errno.ESTALE,
                    f"request {request.name} asks for something else now: read it again",
                    rule="approval",
                )
            state = State.APPROVED if approve else State.REJECTED
            self._set(request, state, principal.name, reason=reason)
            return request

    def agent_removed(self, name: str) -> None:
        """The agent is being removed: what it was allowed is void, and what it was to decide is the
        operator's. The next one of its name gets neither. For `Agents.on_remove`."""
        for request in tuple(self._open.values()):
            if request.agent == name:
                self._set(request, State.WITHDRAWN, name, reason=f"{name} was removed")
            elif request.by == name and request.state is State.PENDING:
                self._store.on_rollback(partial(setattr, request, "by", name))
                request.by = OPERATOR
                self._ask(request)

    # -- time ------------------------------------------------------------------------------------

    def _expire_due(self) -> float | None:
        """Void what is past its deadline; when the next one is."""
        now = self._clock.now()
        due = [request for request in self._open.values() if request.deadline <= now]
        if due:
            with self._store.transaction():
                for request in due:
                    late = "nobody decided" if request.state is State.PENDING else "it was not used"
                    self._set(request, State.EXPIRED, request.who, reason=f"{late} in time")
        return min((request.deadline for request in self._open.values()), default=None)

    def tidy(self) -> int:
        """Drop a batch of requests that were closed too long ago; say how many."""
        oldest = self._clock.now() - self._settings.of(ApprovalSettings).retention
        old = [
            request
            for request in self._by_id.values()
            if not request.state.open and request.changed <= oldest * 1e9
        ][:SWEPT_AT_ONCE]
        if old:
            with self._store.transaction():
                for request in old:
                    del self._by_id[request.id]
                    self._store.on_rollback(partial(self._restore, request))
                    self._store.delete_record(KIND, request.name)
                    self._events.emit(ApprovalDropped(request.name, request.agent))
        return len(old)

    # -- changes ---------------------------------------------------------------------------------

    def _set(
        self,
        request: Request,
        state: State,
        who: str,
        *,
        reason: str = "",
        keep_open: bool = False,
    ) -> None:
        """Inside a transaction. `keep_open`: until its commit, so that one call can ask twice."""
        before = (request.state, request.who, request.reason, request.deadline, request.changed)

        def undo() -> None:
            request.state, request.who, request.reason, request.deadline, request.changed = before
            self._restore(request)

        self._store.on_rollback(undo)
        request.state, request.who = state, who
        request.reason = reason
        request.changed = change_time(self._clock.now(), request.changed)
        if state is State.APPROVED:
            request.deadline = self._clock.now() + request.timeout
        elif not keep_open:
            self._open.pop(request.key, None)
        self._store.put_record(KIND, request.name, request.record())
        self._events.emit(ApprovalDecided(request.name, request.agent, state.value, who))
        if state is State.APPROVED:
            self._store.on_commit(lambda: self._alarm.set(request.deadline))

    def _restore(self, request: Request) -> None:
        self._by_id[request.id] = request
        if request.state.open:
            self._open[request.key] = request

    def _forget(self, request: Request) -> None:
        self._by_id.pop(request.id, None)
        self._open.pop(request.key, None)

    def _wake(self, record: Record) -> None:
        if isinstance(record.event, ApprovalDecided):
            for waker in tuple(self._wakers.get(int(record.event.id), ())):
                waker()
