"""Approvals: calls that are allowed, but only once somebody has agreed.

A call that comes under such a rule raises ApprovalError and has changed nothing. Its caller files a
request, waits for the decision, and makes the call again. An approval lets one call through: of
that agent, with that action, on that path, and with that content, which the request shows. If
nobody waits for a request, the next try with another content takes its place. A request that nobody
decides is rejected at its deadline. Requests are durable: one that was decided while the daemon was
down, or after its caller had ended, is there for the next try.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from typing import Any

from agentfs.approvals.events import ApprovalAsked, ApprovalDecided, ApprovalDropped
from agentfs.approvals.request import KIND, OPERATOR, ApprovalRequest, ApprovalState, Key
from agentfs.approvals.settings import ApprovalSettings
from agentfs.base.alarm import Alarm
from agentfs.base.clock import change_time, rfc3339
from agentfs.base.errors import ApprovalError, KernelError
from agentfs.base.text import one_line
from agentfs.mail.mail import Mail
from agentfs.model.names import INIT_NAME
from agentfs.model.principal import Principal
from agentfs.quota.made import Made
from agentfs.rights.gate import Gate
from agentfs.store.event_log import Record
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import Records, keep_member

__all__ = ["Approvals"]

log = logging.getLogger(__name__)

SWEPT_AT_ONCE = 200
"""Requests that one transaction drops, which takes some milliseconds."""


class Approvals(Part):
    """All requests. The one who decides is told of a request by mail."""

    def __init__(self, ground: Ground, gate: Gate, mail: Mail, made: Made) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._mail = mail
        self._requests = Records(
            ground.store, KIND, _read, ApprovalRequest.record, lambda number: f"{number:06d}"
        )
        self._open = self._requests.index(
            lambda request: request.key if request.state.open else None, "state", "sha256"
        )
        self.by_agent = self._requests.index(
            lambda request: request.agent if request.state.open else None, "state"
        )
        """The open requests of each agent."""
        made.count_in("approvals", lambda: self.by_agent, lambda: self.open)
        self._used: set[Key] = set()  # by the transaction under way
        self._wakers: dict[int, set[Callable[[], object]]] = {}
        self._alarm = Alarm(ground.clock, ground.timers, self._expire_due)
        ground.events.listen(self._wake, ApprovalDecided)

    def load(self) -> None:
        self._requests.load()

    def take_up(self) -> None:
        self._alarm.set(self._expire_due())

    def sizes(self) -> dict[str, int]:
        """How many entries each table has."""
        return {"requests": len(self), "open": self.open, "waiting": len(self._wakers)}

    # -- look-ups --------------------------------------------------------------------------------

    def find(self, number: int) -> ApprovalRequest | None:
        return self._requests.get(number)

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[ApprovalRequest]:
        """By number."""
        return iter([self._requests[number] for number in sorted(self._requests)])

    @property
    def open(self) -> int:
        """How many requests are open."""
        return len(self._open)

    def waiting(self, agent: str) -> list[ApprovalRequest]:
        """The open requests of `agent` for which a call waits at the moment."""
        if not self._wakers:
            return []
        mine = self.by_agent.of(agent)
        return [mine[number] for number in self._wakers if number in mine]

    def may_see(self, principal: Principal, request: ApprovalRequest) -> bool:
        """Whether `principal` has to do with it: as the asking agent, as the one who decides, or as
        the operator."""
        return principal.acts_for(request.agent) or self._decides(principal, request)

    @staticmethod
    def _decides(principal: Principal, request: ApprovalRequest) -> bool:
        """The operator is a kind of caller, whatever an agent is called."""
        return principal.is_operator or (
            principal.is_agent and principal.name != OPERATOR and principal.name in request.deciders
        )

    def _find_open(self, key: Key) -> ApprovalRequest | None:
        return next(iter(self._open.of(key).values()), None)

    def _all_open(self) -> list[ApprovalRequest]:
        return [request for same in self._open.values() for request in same.values()]

    # -- the call that needs an approval ---------------------------------------------------------

    def is_approved(self, needed: ApprovalError) -> bool:
        key = _key(needed)
        if key in self._used:  # a call may ask twice
            return True
        request = self._find_open(key)
        if request is None or request.state is ApprovalState.PENDING:
            return False
        if self._store.in_transaction:
            keep_member(self._store, self._used, key)
            self._used.add(key)
            self._store.on_commit(lambda: self._used.discard(key))
            self._set(request, ApprovalState.USED, request.who)
        return True

    def file(self, needed: ApprovalError) -> ApprovalRequest:
        """The open request for a call: the one that is there, or a new one. Raises EAGAIN if the
        agent waits for too many decisions already, ENOSPC while the audit is full and everybody has
        to stop."""
        found = self._find_open(_key(needed))
        if found is not None:
            return found
        self._gate.require_room(None)
        mine = self.by_agent.of(needed.agent)
        for request in mine.values():
            same = request.key[:3] == _key(needed)[:3]
            if same and request.state is ApprovalState.PENDING and request.id not in self._wakers:
                return self._ask_instead(request, needed)
        most = self._settings.of(ApprovalSettings).max_pending
        if len(mine) >= most:
            raise KernelError(
                errno.EAGAIN,
                f"{needed.agent} waits for {most} decisions already",
                rule="approvals.max_pending",
            )
        self._gate.check_making(needed.agent, "approvals", 1)
        return self._ask(needed)

    def _ask(self, needed: ApprovalError) -> ApprovalRequest:
        now = self._clock.now()
        with self._store.transaction():
            number = self._store.next_number("last_approval")
            request = ApprovalRequest(
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
                **_shown(needed),
            )
            self._requests.put(number, request)
            self._announce(request)
        self._alarm.set(request.deadline)
        return request

    def _ask_instead(self, request: ApprovalRequest, needed: ApprovalError) -> ApprovalRequest:
        """The caller tries something else, and nobody waits for what was asked first."""
        changed = change_time(self._clock.now(), request.changed)
        with self._store.transaction():
            self._requests.change(request.id, pid=needed.pid, changed=changed, **_shown(needed))
            self._announce(request)
        return request

    def _announce(self, request: ApprovalRequest) -> None:
        """Let everybody know of it, and the one who decides by mail."""
        deadline = rfc3339(request.deadline)
        self._events.emit(
            ApprovalAsked(
                request.name, request.agent, request.action, request.by, deadline, request.sha256
            )
        )
        text = (
            f"{request.agent} (process {request.pid}, user {request.user}) asks to"
            f" {request.action} {one_line(request.path)}. Write `approve {request.sha256}`, or"
            f" reject and a reason, to /dev/approvals/{request.name}/decision by {deadline}."
        )
        if request.size or request.about:
            about = f"{request.about}\n" if request.about else ""
            content = request.content.decode(errors="replace")
            text += f" It is about ({request.size} bytes):\n\n{about}{content}"
        headers = [("Type", "approval-request"), ("Approval", request.name)]
        for decider in request.deciders:
            name = INIT_NAME if decider == OPERATOR else decider
            if self._mail.notify(name, f"{text}\n".encode(), headers) is None:
                log.warning("the inbox of %s is full, it is not told: %s", name, text.strip())

    # -- waiting ---------------------------------------------------------------------------------

    def check(self, request: ApprovalRequest) -> bool:
        """Whether the call may be tried again; False while nobody has decided. Raises EACCES if it
        was rejected, by somebody or at the deadline, or withdrawn."""
        self._expire_due()
        if request.state in (ApprovalState.APPROVED, ApprovalState.USED):
            return True
        if request.state is ApprovalState.PENDING:
            return False
        why = f": {request.reason}" if request.reason else ""
        how = f"was {request.state.value} by {request.who}"
        if request.state is ApprovalState.EXPIRED:
            how = "has expired"
        raise KernelError(errno.EACCES, f"request {request.name} {how}{why}", rule=request.rule)

    def on_decision(
        self, request: ApprovalRequest, waker: Callable[[], object]
    ) -> Callable[[], None]:
        """Call `waker()` when it is decided. The result takes that back."""
        wakers = self._wakers.setdefault(request.id, set())
        wakers.add(waker)

        def unsubscribe() -> None:
            wakers.discard(waker)
            if not wakers:
                self._wakers.pop(request.id, None)

        return unsubscribe

    def give_up(self, request: ApprovalRequest) -> None:
        """A signal ended the wait. If nobody else waits, the request is withdrawn."""
        if request.state is ApprovalState.PENDING and request.id not in self._wakers:
            with self._store.transaction():
                self._set(request, ApprovalState.WITHDRAWN, request.agent)

    def _wake(self, record: Record) -> None:
        if isinstance(record.event, ApprovalDecided):
            for waker in tuple(self._wakers.get(int(record.event.id), ())):
                waker()

    # -- system calls ----------------------------------------------------------------------------

    def decide(
        self,
        principal: Principal,
        number: int,
        *,
        approve: bool,
        reason: str = "",
        sha256: str = "",
    ) -> ApprovalRequest:
        """Approve or reject. `sha256` is of the content that was read. Raises ENOENT for anybody
        whom the request does not concern, EPERM for the agent that asks and if it is decided
        already, ESTALE if it has another content now."""
        self._expire_due()
        with self._gate.enter(principal):
            request = self._requests.get(number)
            if request is None or not self.may_see(principal, request):
                # The same words for both: nobody is to learn which it was.
                raise KernelError(errno.ENOENT, f"there is no request {number}", rule="approval")
            if not principal.is_operator and principal.agent == request.agent:
                raise KernelError(
                    errno.EPERM, "nobody decides what they ask for themselves", rule="approval"
                )
            if request.state is not ApprovalState.PENDING:
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
            state = ApprovalState.APPROVED if approve else ApprovalState.REJECTED
            self._set(request, state, principal.name, reason=reason)
            return request

    # -- requests that no call waits for: of nodes of runs, inside a transaction ------------------

    def use(self, number: int) -> None:
        """The approval is used up: what it was asked for is done."""
        request = self._requests[number]
        self._set(request, ApprovalState.USED, request.who)

    def withdraw(self, number: int, reason: str) -> None:
        """Nobody waits for the decision any more."""
        request = self._requests.get(number)
        if request is not None and request.state.open:
            self._set(request, ApprovalState.WITHDRAWN, request.agent, reason=reason)

    # -- what happens meanwhile ------------------------------------------------------------------

    def agent_removed(self, name: str) -> None:
        """What the agent was allowed is void, and what it was to decide is the operator's. So a
        later agent of its name gets neither."""
        for request in self._all_open():
            if request.agent == name:
                self._set(request, ApprovalState.WITHDRAWN, name, reason=f"{name} was removed")
            elif name in request.deciders and request.state is ApprovalState.PENDING:
                rest = ", ".join(each for each in request.deciders if each != name)
                self._requests.change(request.id, by=rest or OPERATOR)
                if not rest:
                    self._announce(request)

    def _expire_due(self) -> float | None:
        """Void what is past its deadline. Returns the next deadline."""
        now = self._clock.now()
        due = [request for request in self._all_open() if request.deadline <= now]
        if due:
            with self._store.transaction():
                for request in due:
                    pending = request.state is ApprovalState.PENDING
                    late = "nobody decided" if pending else "it was not used"
                    reason = f"{late} in time"
                    self._set(request, ApprovalState.EXPIRED, request.who, reason=reason)
        return min((request.deadline for request in self._all_open()), default=None)

    def tidy(self) -> int:
        """Drop a batch of requests that were closed too long ago. Returns how many."""
        oldest = self._clock.now() - self._settings.of(ApprovalSettings).retention
        old = [
            request
            for request in self._requests.values()
            if not request.state.open and request.changed <= oldest * 1e9
        ][:SWEPT_AT_ONCE]
        if old:
            with self._store.transaction():
                for request in old:
                    self._requests.drop(request.id)
                    self._events.emit(ApprovalDropped(request.name, request.agent))
        return len(old)

    def _set(
        self, request: ApprovalRequest, state: ApprovalState, who: str, *, reason: str = ""
    ) -> None:
        """Inside a transaction."""
        now = self._clock.now()
        approved = state is ApprovalState.APPROVED
        self._requests.change(
            request.id,
            state=state,
            who=who,
            reason=reason,
            changed=change_time(now, request.changed),
            deadline=now + request.timeout if approved else request.deadline,
        )
        self._events.emit(ApprovalDecided(request.name, request.agent, state.value, who))
        if approved:
            self._store.on_commit(lambda: self._alarm.set(request.deadline))


def _read(_: str, record: dict[str, Any]) -> tuple[int, ApprovalRequest]:
    request = ApprovalRequest.from_record(record)
    return request.id, request


def _key(needed: ApprovalError) -> Key:
    return needed.agent, needed.action, needed.path, needed.content.sha256


def _shown(needed: ApprovalError) -> dict[str, Any]:
    """What a request shows of the content of a call."""
    content = needed.content
    return {
        "about": content.about,
        "body": content.shown.decode("latin-1"),
        "size": content.size,
        "sha256": content.sha256,
    }
