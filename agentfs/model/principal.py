"""The party that a caller acts for. Linux says which it is, never the caller."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["INIT", "Kind", "Principal"]

INIT = 1
"""The pid of process 1, `init`. The operator acts for it."""


class Kind(enum.Enum):
    """The sort of a caller."""

    AGENT = "agent"  # a program of an agent
    OPERATOR = "operator"  # the mount's owner or root, outside of every agent
    USER = "user"  # another user of the machine: what the file modes give, no system call
    STRANGER = "stranger"  # descends from the daemon but from no living agent: nobody


@dataclass(frozen=True, slots=True)
class Principal:
    """One caller's standing. `pid` is the process it acts for: 1 for the operator, None for
    users and strangers. `name` is that process's name, or the kind of caller; `behalf` the agent in
    whose name it acts, if it is the program of a step."""

    kind: Kind
    pid: int | None
    name: str
    uid: int
    gid: int
    behalf: str = ""

    @property
    def agent(self) -> str:
        """The agent in whose name it acts: what it makes and uses is that one's. Things that are
        private to that agent are not for it: see `acts_for`."""
        return self.behalf or self.name

    @property
    def is_operator(self) -> bool:
        return self.kind is Kind.OPERATOR

    @property
    def is_agent(self) -> bool:
        return self.kind is Kind.AGENT

    def acts_for(self, name: str) -> bool:
        """Whether it may use what is private to agent `name`: it is that agent, or the operator."""
        kind = self.kind  # asked for every message: properties would cost two calls
        return kind is Kind.OPERATOR or (kind is Kind.AGENT and self.name == name)
