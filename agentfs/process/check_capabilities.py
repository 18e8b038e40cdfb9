"""What must hold of the capabilities of the processes in a store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agentfs.base.errors import KernelError
from agentfs.model.capability import PLAIN, canonical
from agentfs.model.process import Process, Role

__all__ = ["capability_faults"]

ROLES = {role.value for role in Role if role is not Role.KERNEL}


def capability_faults(processes: Iterable[Process]) -> Iterator[str]:
    """Whether what each process may, and what bounds it, is said in names that there are."""
    for process in processes:
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
