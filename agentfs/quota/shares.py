"""Shares: things that all have together, divided so that no agent and no user can use them up.

A `Pot` is a number of things: reads that wait, bytes, definitions. The system has `size` of them. A
part of that, `shares.reserve`, is the operator's. Of the rest, an agent may hold as much as it
leaves to others, if its share, `shares.agent`, is 1/2; with share s, s/(1-s) times what is left.
All agents of one user and that user's other programs together have the share `shares.user`. So an
agent that is alone gets half. A second one gets a third, and so does the first one when it gives
back the rest: something is always left for the next one. No share is asked for while an agent, or a
user, holds no more than the `floor`.

    pot = shares.pots["parked"]         # `pots.POTS` has a row for each
    holder = shares.holder(caller.principal)

    charge = pot.take(holder)           # raises ShareError; as many as it says, else one
    charge.resize(4096)                 # holds so many from now on; raises ShareError
    charge.release()                    # holds none; the end of the object does the same

A thing that a table counts, which knows when it goes, needs no object:

    pot.check(holder, amount)           # raises ShareError, changes nothing
    pot.add(holder, amount)             # holds so many more, unasked: also when the store is read
    pot.give(holder, amount)            # holds so many fewer

A `Holder` is an agent (that very one, and no later one of its name), a user of the machine, or the
operator, for whom the kernel acts, too. Everything here is a few look-ups in dictionaries, as it is
on the way of every message. `/sys/shares` shows all pots, `/proc/PID/limits/shares` how much a
process may still take. The mount tells `refused` of refusals, for the event `share_refused`.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable

from agentfs.base.errors import KernelError, ShareError
from agentfs.model.names import INIT_NAME
from agentfs.model.principal import Principal
from agentfs.process.agents import Agents
from agentfs.quota.events import ShareRefused
from agentfs.quota.pots import POTS, PotKind
from agentfs.quota.settings import ShareSettings
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["Charge", "Holder", "Pot", "Shares"]

TELL_EVERY = 60.0
"""Seconds between two events that tell of one holder and one pot."""

NOBODYS = -1
"""The uid of an agent that was removed, which holds what it has sent."""

LARGEST = 3
"""How many of those who hold most are shown."""


class Holder:
    """Somebody who may hold something: an `agent`, the `operator`, or a user of the machine."""

    __slots__ = ("agent", "name", "operator", "uid")

    def __init__(self, name: str, uid: int, *, agent: bool = False, operator: bool = False) -> None:
        self.name = name
        self.uid = uid
        self.agent = agent
        self.operator = operator


class Pot:
    """There is `size()` of it; the pot knows how much each holds. `terms()` are the shares."""

    __slots__ = ("_held", "_operators", "_size", "_terms", "_used", "_users", "floor", "kind")

    def __init__(
        self, kind: PotKind, size: Callable[[], int], terms: Callable[[], ShareSettings]
    ) -> None:
        self.kind = kind
        self.floor = kind.floor
        self._used = 0
        self._operators = 0
        self._size = size
        self._terms = terms
        self._held: dict[Holder, int] = {}
        self._users: dict[int, int] = {}  # by uid: what all of a user hold together

    # -- taking and giving back ------------------------------------------------------------------

    def take(self, holder: Holder, amount: int = 1) -> Charge:
        """`amount` more for `holder`, until the charge is released. Raises ShareError."""
        self.check(holder, amount)
        return Charge(self, holder, amount)

    def check(self, holder: Holder, amount: int = 1) -> None:
        """Raise ShareError unless `holder` may hold `amount` more."""
        left = self.left(holder) - amount
        if left < 0:
            raise self.is_used_up(holder, left + amount)
        if holder.operator:
            return
        mine = self.held(holder) + amount
        terms = self._terms()
        if holder.agent and mine > self.floor and mine * (1 - terms.agent) > terms.agent * left:
            raise self.is_enough(holder, mine - amount, left + amount)
        if (self.used - self.operators + amount) * (1 - terms.user) <= terms.user * left:
            return  # all users together have no more than one may have
        users = self.held_by_user(holder.uid) + amount
        if users > self.floor and users * (1 - terms.user) > terms.user * left:
            raise self.is_enough(holder, users - amount, left + amount, user=True)

    def add(self, holder: Holder, amount: int = 1) -> None:
        """`holder` holds so much more, whether or not it may."""
        if not amount:
            return
        self._used += amount
        self._held[holder] = self._held.get(holder, 0) + amount
        if holder.operator:
            self._operators += amount
        else:
            self._users[holder.uid] = self._users.get(holder.uid, 0) + amount

    def give(self, holder: Holder, amount: int = 1) -> None:
        """`holder` holds so much less."""
        self._used -= amount
        self._held[holder] -= amount
        if not self._held[holder]:
            del self._held[holder]
        if holder.operator:
            self._operators -= amount
            return
        self._users[holder.uid] -= amount
        if not self._users[holder.uid]:
            del self._users[holder.uid]

    # -- the figures -----------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """The amount that all hold together."""
        return self._used

    @property
    def operators(self) -> int:
        """The amount that the operator holds."""
        return self._operators

    def bounds(self) -> tuple[int, int]:
        """(how much there is, how much of that is the operator's)."""
        size, share = self._size(), self._terms().reserve
        return size, max(1, int(size * share)) if share and size > 1 else 0

    def left(self, holder: Holder) -> int:
        """How much more `holder` could take if no share were asked for; below 0 if the operator
        has made the pot smaller than what is in use."""
        size, reserve = self.bounds()
        if holder.operator:
            return size - self.used
        return size - max(reserve, self.operators) - (self.used - self.operators)

    def held(self, holder: Holder) -> int:
        """The amount that `holder` holds."""
        return self._held.get(holder, 0)

    def held_by_user(self, uid: int) -> int:
        """The amount that all programs of a user hold together."""
        return self._users.get(uid, 0)

    def room(self, holder: Holder) -> int:
        """How much more `holder` may take now."""
        left = max(0, self.left(holder))
        if holder.operator:
            return left
        terms = self._terms()
        more = self._more(terms.user, self.held_by_user(holder.uid), left)
        if holder.agent:
            more = min(more, self._more(terms.agent, self.held(holder), left))
        return min(left, more)

    def _more(self, share: float, held: int, left: int) -> int:
        """How much more a share lets somebody take: held + n <= s/(1-s) * (left - n)."""
        return max(0, int(share * (left + held) - held + 1e-9), self.floor - held)

    def largest(self) -> list[tuple[Holder, int]]:
        """Those who hold most, the first of them first."""
        return heapq.nlargest(LARGEST, self._held.items(), key=lambda each: each[1])

    def __len__(self) -> int:
        """How many hold something."""
        return len(self._held)

    # -- refusals --------------------------------------------------------------------------------

    def is_used_up(self, holder: Holder, left: int) -> ShareError:
        """The refusal of more than is left."""
        (size, reserve), kind = self.bounds(), self.kind
        left = max(0, left)
        words = (
            f"{left or 'none'} of {size if holder.operator else size - reserve:,} {kind.unit} are"
            f" left{'' if holder.operator else ' to agents and users'}: /sys/shares says who has"
            f" them; the operator can have more of them ({kind.setting})"
        )
        return self.refusal(kind.scarce, words, holder, left)

    def is_enough(self, holder: Holder, held: int, left: int, *, user: bool = False) -> ShareError:
        """The refusal of what is more than a share."""
        terms, unit = self._terms(), self.kind.unit
        if user:
            setting, share = "shares.user", terms.user
            who = f"all programs of user {holder.uid} together hold {held:,} {unit} and leave"
        else:
            setting, share = "shares.agent", terms.agent
            who = f"{holder.name} holds {held:,} {unit} and leaves"
        words = (
            f"a share is used up ({setting} is {share:g}): give something back, or ask the operator"
            f" for more ({self.kind.setting}); {who} {left:,} to all others"
        )
        return self.refusal(self.kind.excess, words, holder, left)

    def refusal(self, number: int, words: str, holder: Holder, left: int) -> ShareError:
        """The error itself."""
        return ShareError(
            number,
            words,
            rule=self.kind.rule or f"shares.{self.kind.name}",
            pot=self.kind.name,
            held=self.held(holder),
            left=left,
        )


class Charge:
    """An amount of a pot that one holder has, for one purpose. The end of the object frees it."""

    __slots__ = ("amount", "holder", "pot")

    def __init__(self, pot: Pot, holder: Holder, amount: int) -> None:
        self.pot = pot
        self.holder = holder
        self.amount = amount
        pot.add(holder, amount)

    def resize(self, amount: int) -> None:
        """Hold `amount` from now on. Raises ShareError if that is too much more: it holds what it
        held then."""
        more = amount - self.amount
        if more > 0:
            self.pot.check(self.holder, more)
            self.pot.add(self.holder, more)
        elif more:
            self.pot.give(self.holder, -more)
        self.amount = amount

    def release(self) -> None:
        """Give everything back; once more does nothing."""
        self.resize(0)

    def __del__(self) -> None:
        self.release()


class Shares(Part):
    """All pots by name, and who holds something of them."""

    def __init__(self, ground: Ground, agents: Agents) -> None:
        self._settings = ground.settings
        self._events = ground.events
        self._clock = ground.clock
        self._find = agents.find
        self.operator = Holder("operator", 0, operator=True)
        self.nobody = Holder("removed agents", NOBODYS)
        self._agents: dict[str, Holder] = {}
        self._users: dict[int, Holder] = {}
        self._told: dict[tuple[str, str], float] = {}
        self.pots = {
            kind.name: Pot(kind, self.configured(kind), self.terms) for kind in POTS.values()
        }

    def terms(self) -> ShareSettings:
        """The shares, and the sizes that are nowhere else."""
        return self._settings.of(ShareSettings)

    def configured(self, kind: PotKind) -> Callable[[], int]:
        """How much there is of it, as the configuration says; `max` is no bound."""
        number = self._settings.number
        return lambda: sys.maxsize if (size := number(kind.setting)) is None else size

    def put(self, pot: Pot) -> None:
        """Have this pot for its kind: it counts in another way, or there is no row for it."""
        self.pots[pot.kind.name] = pot

    def charge(self, principal: Principal, pot: str) -> Charge:
        """For what `principal` will hold of a pot: of nothing yet."""
        return Charge(self.pots[pot], self.holder(principal), 0)

    def holder(self, principal: Principal) -> Holder:
        """The holder that stands for `principal`."""
        if principal.is_operator:
            return self.operator
        if principal.is_agent:
            return self.agent(principal.agent)
        return self.user(principal.uid)

    def user(self, uid: int) -> Holder:
        """A user of the machine who is no agent."""
        found = self._users.get(uid)
        if found is None:
            found = self._users[uid] = Holder(f"user {uid}", uid)
        return found

    def agent(self, name: str) -> Holder:
        """The agent that is called so now; `init` is the operator's."""
        if name == INIT_NAME:
            return self.operator
        agent = self._find(name)
        uid = NOBODYS if agent is None else agent.uid
        found = self._agents.get(name)
        if found is None or found.uid != uid:
            found = self._agents[name] = Holder(name, uid, agent=True)
        return found

    def agent_removed(self, name: str) -> None:
        """It holds what it held until that is given back; the next one of its name has nothing."""
        self._agents.pop(name, None)

    # -- what is told of them --------------------------------------------------------------------

    def table(self) -> str:
        """All pots as a table."""
        rows: list[tuple[str, ...]] = [
            ("POT", "SIZE", "RESERVED", "USED", "HOLDERS", "UNIT", "LARGEST")
        ]
        for pot in self.pots.values():
            size, reserve = pot.bounds()
            largest = ", ".join(f"{holder.name} {held}" for holder, held in pot.largest()) or "-"
            figures = (str(each) for each in (size, reserve, pot.used, len(pot)))
            rows.append((pot.kind.name, *figures, pot.kind.unit, largest))
        return _aligned(rows)

    def of(self, holder: Holder) -> str:
        """What `holder` holds of each pot, and how much more it may take, as a table."""
        rows: list[tuple[str, ...]] = [("POT", "HELD", "ROOM", "UNIT")]
        for pot in self.pots.values():
            figures = str(pot.held(holder)), str(pot.room(holder))
            rows.append((pot.kind.name, *figures, pot.kind.unit))
        return _aligned(rows)

    def refused(self, principal: Principal, refusal: KernelError) -> None:
        """A call of `principal` ended with `refusal`: an event, if that is about a share and none
        told of it within the last minute."""
        if not isinstance(refusal, ShareError):
            return
        now, key = self._clock.monotonic(), (principal.name, refusal.pot)
        if now < self._told.get(key, 0.0):
            return
        self._told = {each: until for each, until in self._told.items() if now < until}
        self._told[key] = now + TELL_EVERY
        agent = principal.name if principal.is_agent else ""
        self._events.emit(
            ShareRefused(principal.pid, agent, refusal.pot, refusal.held, refusal.left)
        )


def _aligned(rows: list[tuple[str, ...]]) -> str:
    """Rows of one length as lines whose columns begin below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)
