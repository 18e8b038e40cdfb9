"""Agents: the durable names, their definitions and their files. The table has their processes."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentfs.base.clock import change_time
from agentfs.base.errors import KernelError
from agentfs.base.within import give, is_directory, mounts
from agentfs.model.names import INIT_NAME, check_name, is_kernels
from agentfs.model.principal import Principal
from agentfs.model.process import Agent, Process, Role
from agentfs.model.spec import parse_spec
from agentfs.process.events import AgentChanged, AgentDefined, AgentRemoved
from agentfs.process.table import ProcessTable
from agentfs.rights.gate import Gate
from agentfs.rights.policy import Action, across_users
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import Records
from agentfs.store.store import AGENTS

__all__ = ["Agents"]

log = logging.getLogger(__name__)

LAST_ID = "last_agent"
"""The meta value with the highest number that an agent has had."""


class Agents(Part):
    """All agents by name. Loads itself from the store."""

    def __init__(self, ground: Ground, gate: Gate, table: ProcessTable) -> None:
        self._store = ground.store
        self._parts = ground.parts
        self._events = ground.events
        self._clock = ground.clock
        self._gate = gate
        self._table = table
        self._homes = ground.state_dir / "agents"
        self._logs = ground.state_dir / "logs"
        self._trash = ground.state_dir / "trash"
        self._number = itertools.count()
        self._withdrawn: list[Callable[[str], object]] = []
        for folder in (self._homes, self._logs, self._trash):
            folder.mkdir(parents=True, exist_ok=True)
        self._by_name: Records[str, Agent] = Records(
            self._store, AGENTS, lambda name, record: (name, Agent(**record)), Agent.record
        )
        self._in_lower = self._by_name.index(lambda agent: agent.name.lower(), "name")
        self._by_name.load()
        self.find: Callable[[str], Agent | None] = self._by_name.get
        """The agent of a name: the table's own method, as every message asks twice."""
        self._number_old()

    def _number_old(self) -> None:
        """Number the agents of an earlier release. An agent that has the name of a
        creator by now is taken for it; a creator that is gone does not come back."""
        old = [agent for agent in self._by_name.values() if not agent.id]
        if old:
            with self._store.transaction():
                for agent in old:
                    self._by_name.change(agent.name, id=self._next_id())
                for agent in old:
                    creator = self._by_name.get(agent.creator)
                    creator_id = creator.id if creator is not None else 0
                    self._by_name.change(agent.name, creator_id=creator_id)

    def take_up(self) -> None:
        """Agents of several users: say what that means."""
        uids = [agent.uid for agent in self._by_name.values() if agent.name != INIT_NAME]
        if words := across_users(uids):
            log.info("%s", words)

    def _next_id(self) -> int:
        """A number that no agent has had. Inside a transaction."""
        return self._store.next_number(LAST_ID)

    def on_withdrawn(self, call: Callable[[str], object]) -> None:
        """Call `call` with the name of each agent whose first program could not be started: it has
        looked its memory up in the tree, though nobody was told of the agent."""
        self._withdrawn.append(call)

    # -- look-ups --------------------------------------------------------------------------------

    @property
    def last_id(self) -> int:
        """The number of the agent that was made last."""
        return int(self._store.meta(LAST_ID, "0"))

    def get(self, name: str) -> Agent:
        """Raises ENOENT."""
        agent = self._by_name.get(name)
        if agent is None:
            raise KernelError(errno.ENOENT, f"there is no agent {name!r}")
        return agent

    def __iter__(self) -> Iterator[str]:
        """The names, sorted."""
        return iter(sorted(self._by_name))

    def __len__(self) -> int:
        return len(self._by_name)

    def made(self, name: str, agent: Agent) -> bool:
        """Whether agent `name` defined `agent`: that very one, and none that is called so since."""
        maker = self._by_name.get(name)
        return maker is not None and maker.id == agent.creator_id

    def memory_dir(self, name: str) -> Path:
        """The agent's own files, mode 0700."""
        return self._homes / name / "memory"

    def beside_mail(self, name: str) -> Path:
        """What mail programs keep beside its mail, mode 0700; made when there is something."""
        return self._homes / name / "inbox"

    def log_path(self, name: str) -> Path:
        """What its programs write to stdout and stderr; of a step, whose name may have a slash, to
        stderr."""
        return self._logs / f"{name.replace('/', '%')}.log"

    # -- system calls ----------------------------------------------------------------------------

    def define(self, principal: Principal, name: str, uid: int, gid: int) -> Agent:
        """Make an agent that runs nothing yet. Raises EACCES, EPERM, EINVAL, EEXIST."""
        with self._gate.enter(principal) as actor:
            self._gate.policy.require(actor, Action.SPAWN, f"/agents/{name}", what=b"define")
            self._gate.policy.require_capability(actor, "spawn_children")
            if name in self._by_name:
                raise KernelError(errno.EEXIST, f"there is an agent {name!r} already", rule="name")
            self.check_new(actor, name)
            agent = self._create(name, uid, gid, actor.agent)
            self._events.emit(AgentDefined(name))
            return agent

    def check_new(self, actor: Process, name: str) -> None:
        """Raise EINVAL unless an agent can be called so, EEXIST if one is but for upper and lower
        case, EACCES for anybody but the operator if a rule of /etc/acl.yaml speaks of it, or if the
        kernel makes it, EDQUOT or ENOSPC if `actor` may define no more."""
        check_name(name)
        if name.lower() in self._in_lower:
            raise KernelError(
                errno.EEXIST,
                f"there is an agent whose name differs from {name!r} by case only",
                rule="name",
            )
        if actor.role is not Role.KERNEL and is_kernels(name):
            raise KernelError(
                errno.EACCES,
                f"the kernel makes an agent {name} where it needs one: only the operator may do so",
                rule="name",
            )
        rule = self._gate.policy.acl.named().get(name)
        if rule is not None and actor.role is not Role.KERNEL:
            raise KernelError(
                errno.EACCES,
                f"rule {rule.number} of /etc/acl.yaml speaks of {name}: only the operator, who made"
                " the rule, can make that agent",
                rule=rule.name,
            )
        self._gate.check_making(actor.agent, "definitions", 1)

    def require_definer(self, principal: Principal, name: str) -> None:
        """Raise what `redefine` raises unless `principal` may do that."""
        agent = self.get(name)
        if not principal.is_operator:
            self._check_definer(principal.agent if principal.is_agent else "", agent)

    def redefine(self, principal: Principal, name: str, text: str) -> None:
        """Replace the definition; what runs goes on as it was started.

        Raises EINVAL (with every fault), EPERM for the agent itself, which could widen its own
        rights so, and EACCES for anybody but its creator and the operator.
        """
        with self._gate.enter(principal) as actor:
            agent = self.get(name)
            if not principal.is_operator:
                self._check_definer(actor.agent, agent)
            spec = parse_spec(text)
            if spec.name not in ("", name):
                raise KernelError(
                    errno.EINVAL, f"name: this is the definition of {name}, not of {spec.name}"
                )
            if spec.role == "kernel":
                raise KernelError(errno.EPERM, "role kernel is process 1's only", rule="role")
            self.update(agent, spec=text, prompt=spec.prompt)
            self._events.emit(AgentChanged(name))

    def remove(self, principal: Principal, name: str) -> None:
        """Remove an agent with its mail, memory and log.

        Raises EPERM for init, EBUSY while a process of it lives, and EACCES for anybody but its
        creator and the operator.
        """
        with self._gate.enter(principal) as actor:
            self._gate.policy.require(actor, Action.SPAWN, f"/agents/{name}", what=b"remove")
            agent = self.get(name)
            if name == INIT_NAME:
                raise KernelError(errno.EPERM, "init cannot be removed", rule="init")
            if not principal.is_operator:
                self._check_definer(actor.agent, agent)
            running = self._table.by_name(name)
            if running is not None:
                raise KernelError(errno.EBUSY, f"process {running.pid} of {name} is alive")
            self._drop(name)
            self._events.emit(AgentRemoved(name))

    def _check_definer(self, actor: str, agent: Agent) -> None:
        if actor == agent.name:
            raise KernelError(
                errno.EPERM, f"{actor} may not change what defines itself", rule="definition"
            )
        if not self.made(actor, agent):
            raise KernelError(
                errno.EACCES,
                f"{agent.name} was defined by {agent.creator}: only {agent.creator} and the"
                f" operator may change that, not {actor}",
                rule="definition",
            )

    # -- for spawn, whose events wait until the program runs -------------------------------------

    def ensure(
        self, name: str, uid: int, gid: int, creator: str, spec_text: str, prompt: str = ""
    ) -> Agent | None:
        """Have an agent with this definition; return what it was before, None if it is new.

        Tells nobody. `restore(name, before)` takes it back, `announce` tells of it.
        """
        agent = self._by_name.get(name)
        if agent is None:
            self._create(name, uid, gid, creator, spec_text, prompt)
            return None
        before = replace(agent)
        self.prepare(name)
        if (agent.uid, agent.gid) != (uid, gid):
            self._own(agent.name, uid, gid)
        self.update(agent, uid=uid, gid=gid, spec=spec_text, prompt=prompt)
        return before

    def prepare(self, name: str) -> None:
        """Make its files again if somebody removed them. Raises what the disk says."""
        agent = self._by_name[name]
        if not (is_directory(str(self.memory_dir(name))) and self.log_path(name).exists()):
            self._make_files(name, agent.uid, agent.gid)

    def restore(self, name: str, before: Agent | None) -> None:
        """Take back an `ensure`. An agent that was new has never been, which is no event."""
        if before is None:
            with self._store.transaction():
                self._drop(name)
                for call in self._withdrawn:
                    self._store.on_commit(functools.partial(call, name))
            return
        agent = self._by_name[name]
        if (agent.uid, agent.gid) != (before.uid, before.gid):
            self._own(name, before.uid, before.gid)
        self.update(
            agent,
            uid=before.uid,
            gid=before.gid,
            spec=before.spec,
            prompt=before.prompt,
            pid=before.pid,
        )

    def announce(self, name: str, before: Agent | None) -> None:
        """Emit what an `ensure` did."""
        self._events.emit(AgentDefined(name) if before is None else AgentChanged(name))

    def set_pid(self, name: str, pid: int | None) -> None:
        """Say which process is its newest."""
        agent = self._by_name.get(name)
        if agent is not None and agent.pid != pid:
            self.update(agent, pid=pid)

    def update(self, agent: Agent, **fields: Any) -> None:
        """Set fields of a record, and store it."""
        changed = change_time(self._clock.now(), agent.changed)
        self._by_name.change(agent.name, changed=changed, **fields)

    def ended(self, name: str, code: int, result: str) -> None:
        """Keep what its process left that has ended for good."""
        agent = self._by_name.get(name)
        if agent is not None:
            self.update(agent, exit_code=code, result=result)

    # -- records and files together --------------------------------------------------------------

    def _create(
        self, name: str, uid: int, gid: int, creator: str, spec: str = "", prompt: str = ""
    ) -> Agent:
        if os.geteuid() != 0:
            uid, gid = os.geteuid(), os.getegid()  # the only user whose files we can make
        agent = Agent(name, uid, gid, creator, spec, prompt=prompt)
        agent.changed = int(self._clock.now() * 1e9)
        with self._store.transaction():
            agent.id = self._next_id()
            maker = agent if creator == name else self._by_name.get(creator)
            agent.creator_id = maker.id if maker is not None else 0
            self._store.on_rollback(lambda: self._discard_files(name))
            self._by_name.put(name, agent)
            self._make_files(name, uid, gid)
        return agent

    def _drop(self, name: str) -> None:
        with self._store.transaction():
            self._parts.tell(Part.agent_removed, name)
            self._by_name.drop(name)
            self._store.on_commit(lambda: self._discard_files(name))

    def _make_files(self, name: str, uid: int, gid: int) -> None:
        """A home with a memory, and an empty log. Raises what the disk says: ENOSPC, EACCES."""
        memory = self.memory_dir(name)
        try:
            memory.parent.mkdir(mode=0o755, exist_ok=True)
            try:
                memory.mkdir(mode=0o700)
            except FileExistsError:
                if not is_directory(str(memory)):
                    raise
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK
            os.close(os.open(self.log_path(name), flags, 0o640))
            self._own(name, uid, gid)
        except OSError as failure:
            raise KernelError.from_os(failure, f"cannot make the files of {name}") from failure

    def _own(self, name: str, uid: int, gid: int) -> None:
        if os.geteuid() == 0:
            for path in (self.memory_dir(name), self.log_path(name)):
                with contextlib.suppress(FileNotFoundError):
                    give(str(path), uid, gid)

    def _discard_files(self, name: str) -> None:
        """Out of sight at once; `empty_trash` takes its time."""
        place = self._trash / f"{os.getpid()}-{next(self._number)}"
        written = self.log_path(name)
        try:
            place.mkdir(exist_ok=True)
            for path in (self._homes / name, written, written.with_name(written.name + ".1")):
                with contextlib.suppress(FileNotFoundError):
                    path.rename(place / path.name)
        except OSError:
            log.exception("files of the removed agent %s stay behind", name)

    def empty_trash(self) -> None:
        """Delete the files of removed agents. Slow, and knows no other state: for a thread. What
        the operator mounted in a memory is not the agent's: it waits until it is unmounted."""
        places = [path for _, path in mounts()]
        for place in self._trash.iterdir():
            below = os.path.join(os.path.realpath(place), "")
            if not any(path.startswith(below) for path in places):
                shutil.rmtree(place, ignore_errors=True)
