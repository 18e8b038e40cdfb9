"""Faults of the processes and agents in a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from agentfs.base.errors import KernelError
from agentfs.model.capability import PLAIN, canonical
from agentfs.model.principal import INIT
from agentfs.model.process import Process, ProcessKind, Role
from agentfs.process.history import KIND
from agentfs.store.rows import StoreRows

__all__ = ["NUMBERS", "faults"]

NUMBERS = ("last_pid", "last_agent")
"""Meta values that are numbers."""

ROLES = {role.value for role in Role if role is not Role.KERNEL}


def faults(rows: StoreRows) -> Iterator[str]:
    """Every fault of them, in words."""
    yield from rows.faults
    yield from _process_faults(rows)
    yield from _capability_faults(rows)
    yield from _agent_faults(rows)
    for key, end in rows.records(KIND):
        if not (key.isascii() and key.isdigit() and isinstance(end.get("ended"), str)):
            yield f"the end of process {key}: it does not say when"


def _process_faults(rows: StoreRows) -> Iterator[str]:
    last = rows.number("last_pid")
    if rows.processes and last is not None and max(rows.processes) > last:
        yield f"meta: last_pid is {last}, but there is a process {max(rows.processes)}"
    for pid, process in rows.processes.items():
        if process.pid != pid:
            yield f"process {pid}: its record says pid {process.pid}"
        if process.light:
            yield from _light_faults(rows, process)
        elif process.state.alive and process.name not in rows.agents:
            yield f"process {pid}: there is no agent {process.name}"
        if not {"network", "models", "write", "exec", "read"}.issuperset(process.confined):
            yield f"process {pid}: it is said to be confined from {process.confined}"
        if (process.role is Role.KERNEL) != (pid == INIT):
            yield f"process {pid} has role {process.role.value}"
        yield from _line_faults(rows, process)
    living = Counter(p.name for p in rows.processes.values() if p.state.alive)
    yield from (
        f"{count} living processes are named {name}" for name, count in living.items() if count > 1
    )


def _light_faults(rows: StoreRows, process: Process) -> Iterator[str]:
    """Whether a run or a step is where it can be."""
    what = f"process {process.pid}"
    if process.name in rows.agents:
        yield f"{what}: it is a {process.kind.value}, and has the name of agent {process.name}"
    if not process.behalf:
        yield f"{what}: it is a {process.kind.value}, and acts in nobody's name"
    if not process.state.alive:
        yield f"{what}: it is a {process.kind.value} that has ended, and is still there"
    if process.kind is ProcessKind.RUN and process.ospid is not None:
        yield f"{what}: it is a run, and has a program"
    above = rows.processes.get(process.ppid)
    is_below = above is not None and above.kind is ProcessKind.RUN
    if process.kind is ProcessKind.STEP and not (is_below or process.stopping):
        yield f"{what}: it is a step, and its parent {process.ppid} is no run"


def _line_faults(rows: StoreRows, process: Process) -> Iterator[str]:
    """Whether the line of parents ends at process 1."""
    seen = {process.pid}
    current = process
    while current.pid != INIT:
        parent = rows.processes.get(current.ppid)
        if parent is None:
            if current is process:
                yield f"process {process.pid}: its parent {process.ppid} does not exist"
            return
        if parent.pid in seen:
            yield f"process {process.pid}: its line of parents is a circle"
            return
        seen.add(parent.pid)
        current = parent
    parent = rows.processes.get(process.ppid)
    if process.pid != INIT and process.state.alive and parent and not parent.state.alive:
        yield f"process {process.pid} lives and its parent {parent.pid} does not"


def _agent_faults(rows: StoreRows) -> Iterator[str]:
    numbers = Counter(agent.id for agent in rows.agents.values() if agent.id)
    yield from (
        f"{times} agents have number {each}" for each, times in numbers.items() if times > 1
    )
    last = rows.number("last_agent")
    if numbers and last is not None and max(numbers) > last:
        yield f"meta: last_agent is {last}, but there is an agent of number {max(numbers)}"
    for name, agent in rows.agents.items():
        if agent.name != name:
            yield f"agent {name}: its record says {agent.name}"
        process = None if agent.pid is None else rows.processes.get(agent.pid)
        if agent.pid is not None and (process is None or process.name != name):
            yield f"agent {name}: there is no process {agent.pid} of it"


def _capability_faults(rows: StoreRows) -> Iterator[str]:
    """Whether what each process may, and what bounds it, is said in names that there are."""
    for process in rows.processes.values():
        what = f"process {process.pid}"
        ceiling = process.ceiling
        if process.role is Role.KERNEL and (process.allowed, process.denied, ceiling) != (
            None,
            (),
            None,
        ):
            yield f"{what}: process 1 has everything, and its record bounds it"
        names = [*(process.allowed or ()), *process.denied]
        if ceiling is not None:
            grant = ceiling.grant
            names += [*grant.denied, *(f"tool:{glob}" for each in grant.tools for glob in each)]
            yield from (
                f"{what}: it had {name!r} from above, which is no capability"
                for name in sorted(grant.names - set(PLAIN))
            )
            yield from (
                f"{what}: it came from a process of role {role!r}, which there is not"
                for role in ceiling.roles
                if role not in ROLES
            )
        for name in names:
            if not _known(name):
                yield f"{what}: there is no capability {name!r}"


def _known(name: str) -> bool:
    try:
        return canonical(name) == name
    except KernelError:
        return False
