"""Reminders: messages that an agent asks for at a time. They are delivered into its own inbox.

A reminder is in the store before the call that sets it returns. Its delivery and its removal (or,
by cron, its next time) are one transaction, so it is delivered exactly once whenever the daemon is
killed. Times that were missed while nothing ran, while the inbox was full, or while the last
message of the reminder was still waiting in it, are made up for by one message.
"""

from __future__ import annotations

import errno

from agentfs.base.buckets import TokenBuckets
from agentfs.base.clock import rfc3339
from agentfs.base.due_work import work_as_due
from agentfs.base.errors import KernelError
from agentfs.mail.mail import Mail
from agentfs.mail.message import Priority
from agentfs.model.principal import Principal
from agentfs.process.agents import Agents
from agentfs.quota.made import Made
from agentfs.reminders.counts import Delivered, DeliveryCounts
from agentfs.reminders.events import (
    ReminderCancelled,
    ReminderDelayed,
    ReminderFired,
    ReminderRescheduled,
    ReminderSet,
    ReminderTallyChanged,
)
from agentfs.reminders.reminder_table import Reminder, ReminderTable
from agentfs.reminders.schedule import parse
from agentfs.reminders.settings import ReminderSettings
from agentfs.rights.gate import Gate
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import take_from

__all__ = ["Reminder", "Reminders"]

# Deliveries in one transaction. Each takes 0.1 ms or 0.2, and a sender meanwhile waits for a
# batch; 10,000 that are due at once are to take fewer than 200 transactions.
BATCH = 52
# Seconds. Between two batches everybody else has a turn; the wall clock can be stepped, so look
# again after a while.
PAUSE, LONGEST_WAIT = 0.005, 10.0
# Seconds back between two looks at the wall clock that are a step of it.
STEP = 1.0
# Seconds after which a delivery is so late that its message says so.
LATE = 60.0


class Reminders(Part):
    """The system calls on reminders, and their delivery: `run`, and `run_due`, which is one turn of
    it. `table` has the reminders."""

    def __init__(self, ground: Ground, gate: Gate, agents: Agents, mail: Mail, made: Made) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._agents = agents
        self._mail = mail
        self._buckets = TokenBuckets(ground.clock)
        self._counts = DeliveryCounts(ground.store)
        self._seen = ground.clock.now()  # what the wall clock said last
        self._doubtful: list[Reminder] = []  # it was set back, and they are not looked at yet
        self.table = table = ReminderTable(ground)
        made.count_in("reminders", lambda: table.by_agent, lambda: len(table))

    def load(self) -> None:
        """Read everything from the store."""
        # Each reminder has an event when it is set, so none has a higher number than the last one.
        self.table.load(self._events.last)
        self._counts.load()
        self._doubtful = self.table.every()  # the clock may have been set back meanwhile

    def counts(self, agent: str) -> Delivered:
        """How many deliveries were tried, and how many succeeded."""
        return self._counts.of(agent)

    def left(self, agent: str) -> int:
        """How many it can set at this moment, as far as the rate goes."""
        limits = self._settings.of(ReminderSettings)
        return int(self._buckets.left(agent, limits.burst, limits.per_minute) + 1e-9)

    # -- system calls ------------------------------------------------------------------------------

    def set(self, principal: Principal, agent: str, request: str) -> list[Reminder]:
        """Set a reminder for each line of `request`: all of them, or none. If there is a NUL in it,
        reminders are ended by NULs, and their texts may have lines (as with `xargs -0`).

        EACCES for anybody but the agent and the operator, EINVAL, EMSGSIZE (the text), EDQUOT (so
        many are pending), EAGAIN (so many were set just now).
        """
        with self._gate.enter(principal) as actor:
            self._require(principal, agent)
            self._agents.get(agent)
            now = self._clock.now()
            ends = "\0" if "\0" in request else "\n"
            wanted = [parse(each) for each in request.split(ends) if each.strip()]
            if not wanted:
                raise KernelError(errno.EINVAL, "an empty request")
            firsts = [schedule.first(now) for schedule, _ in wanted]
            self._gate.check_making(actor.name, "reminders", len(wanted))
            self._limit(agent, [text for _, text in wanted])
            made = [
                self.table.add(agent, schedule, text, now, first)
                for (schedule, text), first in zip(wanted, firsts, strict=True)
            ]
            for reminder in made:
                self._events.emit(ReminderSet(agent, reminder.id, reminder.next))
            return made

    def cancel(self, principal: Principal, agent: str, name: str) -> None:
        """It will not fire any more, even if it is due. EACCES, and ENOENT if it is gone."""
        with self._gate.enter(principal):
            self._require(principal, agent)
            reminder = self.table.find(agent, name)
            if reminder is None:
                raise KernelError(errno.ENOENT, f"{agent} has no reminder {name!r}")
            self.table.remove(reminder)
            self._events.emit(ReminderCancelled(agent, reminder.id))

    @staticmethod
    def _require(principal: Principal, agent: str) -> None:
        if not principal.acts_for(agent):
            raise KernelError(
                errno.EACCES,
                f"the reminders of {agent} are private, and you are {principal.name}",
                rule="private",
            )

    def _limit(self, agent: str, texts: list[str]) -> None:
        limits, count = self._settings.of(ReminderSettings), len(texts)
        for text in texts:
            if len(text.encode()) > limits.max_text:
                raise KernelError(
                    errno.EMSGSIZE,
                    f"the text has {len(text.encode())} bytes, {limits.max_text} are allowed",
                    rule="reminders.max_text",
                )
        pending = self.table.pending(agent)
        if pending + count > limits.max_pending:
            raise KernelError(
                errno.EDQUOT,
                f"{agent} has {pending} reminders pending, {limits.max_pending} are allowed:"
                " remove one, or wait until one has fired",
                rule="reminders.max_pending",
            )
        if count > limits.burst:
            raise KernelError(
                errno.EINVAL,
                f"{count} reminders in one write, at most {limits.burst} can be set at once",
                rule="reminders.burst",
            )
        wait = take_from(self._store, self._buckets, agent, count, limits.burst, limits.per_minute)
        if wait:
            raise KernelError(
                errno.EAGAIN,
                f"{agent} has set too many reminders just now: try again in {wait:.1f} s"
                f" ({limits.burst} at once, then {limits.per_minute} a minute)",
                rule="reminders.per_minute",
            )

    # -- delivery ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Deliver what falls due, until cancelled. Others get as much of the loop as it takes."""
        await work_as_due(self.run_due, self.table.watch, self._clock, "reminders")

    def run_due(self) -> float:
        """Deliver what is due, a batch at most; the seconds until it is to be called again (inf:
        nothing is pending)."""
        now = self._clock.now()
        if now < self._seen - STEP:
            self._doubtful = self.table.every()
        self._seen = now
        if self._doubtful:
            self._correct(now)
        if self._first_due(now) is not None:
            with self._store.transaction():
                for _ in range(BATCH):
                    reminder = self._first_due(now)
                    if reminder is None:
                        break
                    self._deliver(reminder, now)
                self._counts.write()
        if self._doubtful:
            return PAUSE
        first = self.table.first()
        if first is None:
            return float("inf")
        return min(max(first.due - self._clock.now(), PAUSE), LONGEST_WAIT)

    def _correct(self, now: float) -> None:
        """Look at a batch of those that may be for a time which the clock was never to reach."""
        batch = self._doubtful[-BATCH:]
        with self._store.transaction():
            for reminder in batch:
                if self.table.find(reminder.agent, reminder.id) is not reminder:
                    continue  # it was cancelled, or has fired
                schedule, again = reminder.schedule, now + self._settings.of(ReminderSettings).retry
                following = schedule.corrected(reminder.next, now)
                if schedule.kind == "cron":  # it may wait for its last message to be read
                    again = schedule.corrected(reminder.due, now)
                due = max(following, min(reminder.due, again))
                if following != reminder.next:
                    self.table.reschedule(reminder, following, due, now)
                    self._events.emit(ReminderRescheduled(reminder.agent, reminder.id, following))
                elif due != reminder.due:
                    self.table.move(reminder, due)
        del self._doubtful[-BATCH:]

    def _first_due(self, now: float) -> Reminder | None:
        first = self.table.first()
        return None if first is None or first.due > now else first

    def _deliver(self, reminder: Reminder, now: float) -> None:
        agent = reminder.agent
        following = reminder.schedule.after(now)
        if following is not None and self._is_unread(reminder):
            self.table.move(
                reminder, following
            )  # else who does not read finds the inbox full of it
            return
        headers = [
            ("Type", "reminder"),
            ("Reminder", reminder.id),
            ("Scheduled", rfc3339(reminder.next)),
        ]
        if now - reminder.next >= LATE:
            headers.append(("Missed", str(reminder.schedule.missed(reminder.next, now))))
        message = self._mail.notify(
            agent,
            f"{reminder.text}\n".encode(),
            headers,
            sender=agent,
            priority=Priority.NORMAL,
        )
        self._counts.count(agent, now, delivered=message is not None)
        if message is None:
            again = now + self._settings.of(ReminderSettings).retry
            self.table.move(reminder, again)
            self.table.touch(agent)
            reason = f"the inbox of {agent} is full"
            self._events.emit(ReminderDelayed(agent, reminder.id, reason, again))
            return
        if following is None:
            self.table.remove(reminder)
        else:
            self.table.repeat(reminder, following, message.seq)
        self._events.emit(ReminderFired(agent, reminder.id, message.id, following))

    def _is_unread(self, reminder: Reminder) -> bool:
        """Whether what it delivered last still waits in the inbox."""
        last = None if reminder.message is None else self._mail.archive.find(reminder.message)
        return last is not None and last.folder == "new"

    # -- from time to time -------------------------------------------------------------------------

    def tidy(self) -> None:
        """Drop what is kept no longer: minutes older than 24 hours, buckets that are full."""
        limits = self._settings.of(ReminderSettings)
        self._buckets.drop_full(limits.burst, limits.per_minute)
        with self._store.transaction():
            for agent in self._counts.age(self._clock.now()):
                self.table.touch(agent)
                self._events.emit(ReminderTallyChanged(agent))

    def agent_removed(self, name: str) -> None:
        """Its reminders go with it."""
        with self._store.transaction():
            self.table.forget(name)
            self._counts.forget(name)
