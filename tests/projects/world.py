"""A world with a project whose phases are runs that wait for a signal, which a test sends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agentfs.model.principal import Principal
from agentfs.projects.events import (
    EvaluationComplete,
    EvolutionMaxReached,
    EvolutionStarted,
    PhaseCompleted,
    PhaseStarted,
    SeedCreated,
)
from agentfs.projects.projects import Project
from agentfs.projects.seed import Seed
from tests.world import OPERATOR, World

PHASES = ("interview", "seed", "execute", "evaluate", "evolve")

TOLD = (
    *(SeedCreated, PhaseStarted, PhaseCompleted),
    *(EvaluationComplete, EvolutionStarted, EvolutionMaxReached),
)


class Nursery(World):
    """The world, with alice's project `bees`, of which bob is a member, and dave is not."""

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        if self.kernel.projects.find("bees") is None:
            for name in ("alice", "bob", "dave"):
                self.process(name)
            self.kernel.projects.create(self.alice, "bees", 0o755)
            self.kernel.projects.set_members(self.alice, "bees", ["bob"])

    @property
    def alice(self) -> Principal:
        return self.principal("alice")

    @property
    def project(self) -> Project:
        return self.kernel.projects.get("bees")

    def specify(self, *phases: str, **more: Any) -> None:
        """Have these phases done by runs that wait for the signal of their name."""
        nodes = {phase: {"wait": phase} for phase in phases}
        text = json.dumps({"phases": nodes | more.pop("nodes", {}), **more})
        self.kernel.projects.write(self.alice, "bees", text)

    def plant(self, goal: str = "a page on bees", who: str = "alice") -> Seed:
        principal = OPERATOR if who == "init" else self.principal(who)
        seed = self.kernel.seeds.plant(principal, "bees", goal)
        self.settle()
        return seed

    def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(1000):
            waits = self.kernel.seeds.run_due()
            busy = self.kernel.engine.turn()
            if not busy and self.timers.run_due() > 0 and waits > 0.005:
                return
        raise AssertionError("it never settles")

    def answer(self, seed: Seed, output: Any) -> None:
        """The run of its present phase gives this."""
        assert seed.run, f"{seed} has no run: it is {seed.state.value} in {seed.phase.value}"
        self.kernel.runs.signal(OPERATOR, seed.run, seed.phase.value, output)
        self.settle()

    def seed(self, number: int) -> Seed:
        found = self.kernel.seeds.table.find(number)
        assert found is not None
        return found

    def told(self) -> list[str]:
        """What was told since the last call of seeds and phases, in a word or two each."""
        found = [event for event in self.seen if isinstance(event, TOLD)]
        self.seen.clear()
        return [
            f"{event.type.removesuffix('_complete')}"
            + (f" {event.phase}" if isinstance(event, PhaseStarted | PhaseCompleted) else "")
            + f" {event.seed}"
            for event in found
        ]
