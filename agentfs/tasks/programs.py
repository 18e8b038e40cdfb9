"""Programs that decide about tasks: of /etc/guardian.yaml and /etc/mind.yaml.

Each runs beside an agent of its own, with what that may and no more: so none is a program of the
submitter, who could lead it, nor of the operator, who may everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from agentfs.base.errors import KernelError
from agentfs.machine.sidecar import Sidecar
from agentfs.model.process import Process
from agentfs.process.calls import Processes
from agentfs.process.light import Light
from agentfs.tooling.commands import Commands
from agentfs.tooling.own_agents import OwnAgent, OwnAgents
from agentfs.tooling.sidecars import Sidecars

__all__ = ["PolicyPrograms", "ProgramAnswer"]

MOST = 64 * 1024
"""Bytes that one may print."""

LONGEST_REASON = 500
"""Characters of a reason."""


@dataclass(frozen=True, slots=True)
class ProgramAnswer:
    """What a program has said: `well` if it ended with exit code 0 in time. `failure` says why it
    did not."""

    well: bool
    text: str
    failure: str = ""

    @property
    def reason(self) -> str:
        """In one line, what it gives as a reason, or how it has failed."""
        words = " ".join(self.text.split())
        return words[:LONGEST_REASON] or self.failure[:LONGEST_REASON]


class PolicyPrograms:
    """Runs them."""

    def __init__(self, sidecars: Sidecars, processes: Processes, light: Light) -> None:
        self._light = light
        self._agents = OwnAgents(sidecars.table, processes)
        self._commands = Commands(sidecars)

    async def process_of(self, agent: OwnAgent) -> Process:
        """The process beside which its programs run. Raises what a spawn raises."""
        return await self._agents.process_of(agent)

    async def run(
        self, agent: OwnAgent, command: Sequence[str], given: str, seconds: float
    ) -> ProgramAnswer:
        """Run one to its end, or until its time is over. Raises nothing but cancellation: a program
        that cannot be started has failed."""
        found = bytearray()
        too_much = trio.CancelScope()

        async def keep(piece: bytes) -> None:
            found.extend(piece)
            if len(found) > MOST:
                too_much.cancel()

        failure = ""
        with trio.move_on_after(seconds) as clock, too_much:
            try:
                process = await self._agents.process_of(agent)
                sidecar = Sidecar(exec=tuple(command))
                data = given.encode("utf-8", "surrogatepass")
                await self._commands.run(process, sidecar, data, keep)
            except KernelError as bad:
                failure = bad.reason
            except OSError as bad:
                failure = KernelError.from_os(bad, f"{command[0]} cannot be run").reason
        if self._light.closing:  # it was ended, too: the next daemon asks again
            await trio.sleep_forever()
        text = found[:MOST].decode(errors="replace")
        if clock.cancelled_caught:
            failure = f"{command[0]} did not answer within {seconds:g} s"
        elif too_much.cancelled_caught:
            failure = f"{command[0]} printed more than {MOST:,} bytes"
        if clock.cancelled_caught or too_much.cancelled_caught:
            text = ""  # not all that it had to say
        return ProgramAnswer(not failure, text, failure)
