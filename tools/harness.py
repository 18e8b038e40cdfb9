"""A command as one of /etc/harnesses.yaml: on the terminal, and turn by turn."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from agentfs.tools.tree import ToolError, Tree
from agentfs.turns.harnesses import Harness, parse_harnesses

__all__ = ["Chosen", "chosen"]

ANY = Harness(turn=["{arguments}"])
"""A program that nobody has described: it reads what is to be done, and prints the answer."""


@dataclass(frozen=True)
class Chosen:
    """A command, how it does a turn, and the model that it is to use ("": its own choice)."""

    command: list[str]
    harness: Harness
    model: str

    @property
    def options(self) -> list[str]:
        """The words that every call of it gets."""
        model = self.harness.model if self.model else []
        return self.harness.options + [word.replace("{model}", self.model) for word in model]

    @property
    def env(self) -> dict[str, str]:
        """The variables of every call."""
        return {
            name: text.replace("{model}", self.model)
            for name, text in self.harness.env.items()
            if self.model or "{model}" not in text
        }

    def on_terminal(self) -> tuple[list[str], int]:
        """The command with its options, and how many these are."""
        program, *rest = self.command
        return [program, *self.options, *rest], len(self.options)

    def task(self, timeout: float | None) -> dict[str, Any]:
        """What `agentfs.runner.harness` is told."""
        program, *rest = self.command
        told = self.harness.model_dump(exclude={"drop", "model", "env"})
        return told | {
            "program": program,
            "arguments": [word for word in rest if word not in self.harness.drop],
            "options": self.options,
            "resume": self.harness.resume or self.harness.turn,
            "timeout": timeout or self.harness.timeout,
        }


def chosen(tree: Tree, command: list[str], name: str | None, model: str) -> Chosen:
    """The entry called `name`, or that of the program; of a program that has none, `ANY`. Raises
    ToolError."""
    known = parse_harnesses(tree.read("etc/harnesses.yaml")).harnesses
    if name is not None and name not in known:
        raise ToolError(f"/etc/harnesses.yaml has no {name!r}; it has {', '.join(known)}")
    harness = known.get(name or os.path.basename(command[0]), ANY)
    if model and not harness.model:
        raise ToolError(
            f"/etc/harnesses.yaml does not say how {command[0]} is told its model: leave -m out,"
            " and say it in its own words"
        )
    return Chosen(command, harness, model)
