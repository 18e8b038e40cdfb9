"""`agentfs run`: an agent in one command, on the terminal or waiting for mail.

All of it is file operations: a definition into /proc/self/spawn, /proc/PID/wait for the end. The
program is ours (`agentfs.runner`) or any command. Both are told nothing that is not in the
definition: what they may use is for the kernel to see to.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from agentfs.tools.assignments import assignment
from agentfs.tools.attached import attach
from agentfs.tools.harness import chosen
from agentfs.tools.models import Choice, choose
from agentfs.tools.placing import existing, place
from agentfs.tools.run_command import RunOptions
from agentfs.tools.tree import ToolError, Tree, TreeError, encoded

__all__ = ["run_agent"]

PYTHON = [sys.executable, "-P", "-m"]

PASSED = ("PATH", "PYTHONPATH", "TERM", "COLORTERM", "LANG", "LANGUAGE", "TZ", "NO_COLOR", "EDITOR")
"""What a program gets of our environment, and every LC_*. No key is among it."""

PLAIN = (
    *("spawn_children", "kill_processes", "manage_tree", "shell_exec", "network_access"),
    *("file_write", "file_read", "host_read", "budget_allocate", "escalate", "broadcast", "llm"),
    *("memory", "datastore.read", "datastore.write", "secret"),
)
"""Every capability but those of tools."""

MOST_WAITING = 100
"""Messages of one turn."""

TIMEOUT = 1800.0
"""Seconds of a turn of our own program."""

GRACE = 30
"""Seconds that a message may take longer than its turn, until it is taken from the agent."""


def run_agent(wanted: RunOptions) -> int:
    """Do it; the exit code. Raises ToolError."""
    with _tree(wanted) as tree:
        return _Run(tree, wanted).run()


@contextmanager
def _tree(wanted: RunOptions) -> Iterator[Tree]:
    """The tree to run in: a private one if there is none."""
    if os.environ.get("AGENTFS") or existing(None) is not None:
        yield Tree()
        return
    if wanted.serve or wanted.name or wanted.again:
        Tree()  # it says what to type
    say("no tree is mounted: this runs in a private one, which is gone afterwards")
    with place(None, None, None, detach=False) as tree:
        yield tree


def say(text: str) -> None:
    print(f"agentfs: {text}", file=sys.stderr, flush=True)


class _Run:
    """One `agentfs run`."""

    def __init__(self, tree: Tree, wanted: RunOptions) -> None:
        self._tree = tree
        self._wanted = wanted
        self._name = wanted.again or wanted.name or self._free_name()

    def _free_name(self) -> str:
        if not self._wanted.serve:
            return f"run-{secrets.token_hex(3)}"
        program = self._wanted.command[0] if self._wanted.command else "assistant"
        return re.sub("[^A-Za-z0-9._-]", "-", os.path.basename(program))[:64] or "assistant"

    def run(self) -> int:
        if self._wanted.command:
            return self._run_command(self._wanted.command)
        return self._run_prompt()

    # -- our own program -------------------------------------------------------------------------

    def _run_prompt(self) -> int:
        wanted = self._wanted
        prompt = "" if wanted.serve else _prompt(wanted.words)
        model = choose(self._tree, wanted.model)
        if model.why:
            say(model.why)
        task = {
            "model": model.name,
            "dialect": model.dialect,
            "schema": model.schema,
            "context": model.context,
            "system": wanted.system or "",
            "tools": list(wanted.tools),
            "steps": wanted.steps,
            "timeout": _seconds(wanted.timeout) or TIMEOUT,
            "json": wanted.as_json,
            "continue": bool(wanted.again),
            "stdin": not prompt,
            "serve": wanted.serve,
        }
        deny = [] if wanted.network else ["network_access"]
        deny += [] if wanted.write else ["file_write"]
        spec = self._spec(model, deny)
        spec["caps"] = [*PLAIN, *(f"tool:{glob}" for glob in wanted.tools)]
        program = [*PYTHON, "agentfs.runner.agent", json.dumps(task)]
        if wanted.serve:
            return self._serve(spec, program, task)
        spec["prompt"] = prompt
        return self._attach(spec, program)

    # -- any program -----------------------------------------------------------------------------

    def _run_command(self, command: list[str]) -> int:
        wanted = self._wanted
        if wanted.tools or wanted.system or wanted.as_json:
            raise click.UsageError("--tool, --system and --json are for PROMPT, not for COMMAND")
        if shutil.which(command[0]) is None:
            raise ToolError(f"there is no program {command[0]} in the PATH")
        model = choose(self._tree, wanted.model) if wanted.model else Choice(tier=self._tier())
        program = chosen(self._tree, command, wanted.harness, model.name)
        spec = self._spec(model, [] if wanted.network else ["network_access"])
        spec["env"] = program.env | spec["env"]
        if not wanted.serve:
            return self._attach(spec, *program.on_terminal())
        task = program.task(_seconds(wanted.timeout))
        return self._serve(spec, [*PYTHON, "agentfs.runner.harness", json.dumps(task)], task)

    def _tier(self) -> str:
        """That of a program which names its models itself: tactical, where we may give that."""
        own = self._tree.read("proc/self/tier")
        return "operational" if own == "operational" else "tactical"

    # -- both ------------------------------------------------------------------------------------

    def _spec(self, model: Choice, deny: list[str]) -> dict[str, Any]:
        wanted = self._wanted
        home = self._tree.path(f"agents/{self._name}/memory")
        env = {
            name: text
            for name, text in os.environ.items()
            if name in PASSED or name.startswith("LC_")
        }
        env["HOME"] = home
        env |= dict(assignment(text) for text in wanted.env)
        spec: dict[str, Any] = {
            "name": self._name,
            "restart": "never",
            "cwd": os.path.abspath(wanted.cwd or os.getcwd()),
            "env": env,
            "deny": deny,
        }
        if model.tier:
            spec["tier"] = model.tier
        if model.name:
            spec["model"] = model.name
        limits: dict[str, float] = {}
        if wanted.budget is not None:
            spec["budget"] = {model.tier or "operational": wanted.budget}
            limits["max_tokens_total"] = wanted.budget  # of all tiers together
        if wanted.cost is not None:
            limits["max_cost_usd"] = wanted.cost
        if limits:
            spec["limits"] = limits
        return spec

    def _serve(self, spec: dict[str, Any], program: list[str], task: dict[str, Any]) -> int:
        """Start it, and leave it to its mail."""
        seconds = int(task["timeout"])
        limits = {"max_concurrent_tasks": MOST_WAITING, "timeout_seconds": seconds + GRACE}
        spec["limits"] = spec.get("limits", {}) | limits
        spec |= {"exec": program, "restart": "on-failure"}
        print(self._spawn(spec))
        say(f"{self._name} works on its mail: agentfs send {self._name} …")
        return 0

    def _attach(self, spec: dict[str, Any], program: list[str], options: int = 0) -> int:
        """Run it on our terminal; its exit code."""
        try:
            return attach(
                self._tree, program, lambda words: self._spawn(spec | {"exec": words}), options
            )
        finally:
            if not (self._wanted.name or self._wanted.again):
                with suppress(OSError):
                    os.rmdir(self._tree.path(f"agents/{self._name}"))

    def _spawn(self, spec: dict[str, Any]) -> int:
        try:
            return int(self._tree.ask("proc/self/spawn", encoded(json.dumps(spec))))
        except TreeError as refused:
            words = str(refused).partition(": ")[2] or str(refused)
            raise ToolError(f"{self._name} cannot be started: {words}") from None


def _prompt(words: tuple[str, ...]) -> str:
    """The prompt; empty if it is on standard input, which the agent reads itself."""
    text = "" if words == ("-",) else " ".join(words)
    if not words and sys.stdin.isatty():
        raise click.UsageError("a PROMPT was expected, or -- COMMAND")
    if words and words != ("-",) and not text.strip():
        raise click.UsageError("the PROMPT is empty")
    return text


def _seconds(text: str | None) -> float | None:
    """A duration as the tree writes it."""
    if text is None:
        return None
    from agentfs.model.spec import seconds  # slow to import

    try:
        return seconds(text)
    except ValueError as bad:
        raise click.BadParameter(str(bad), param_hint="--timeout") from None
