"""Commands that are only file operations: each can print the shell line that does the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import click

from agentfs.tools.exits import ToolError
from agentfs.tools.silent import in_child
from agentfs.tools.tree import find

__all__ = ["OWN_PROCESS", "FileCommand", "Given", "placeholders"]

Given = dict[str, Any]

HELP = "This command only reads and writes files of the tree; --how shows which."

OWN_PROCESS = "agentfs.own-process"
"""In the context's `meta` if the command is all that this process is for, so that it may fork."""


def _named(given: Given) -> str | None:
    """The tree that a command works on; None if it is to say itself what is wrong."""
    try:
        return find()
    except ToolError:
        return None


def _never(given: Given) -> bool:
    return False


class FileCommand(click.Command):
    """A click command with `--how`. `how(given)` makes the shell line from the parameters; what
    was not given is None, and `placeholders` names it.

    A daemon that does not answer is not waited for (`agentfs.tools.silent`): `tree(given)` is whose
    (None: the command sees to that itself), `waits(given)` whether it waits by its nature, so that
    a daemon which stands still for a while is no reason to end it."""

    def __init__(
        self,
        *args: Any,
        how: Callable[[Given], str],
        tree: Callable[[Given], str | None] = _named,
        waits: Callable[[Given], bool] = _never,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._how = how
        self._tree = tree
        self._waits = waits
        self.params.append(
            click.Option(["--how"], is_flag=True, help="Print the shell line that does the same.")
        )
        self.help = f"{inspect.cleandoc(self.help or '')}\n\n{HELP}"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        before = args[: args.index("--")] if "--" in args else args
        if "--how" in before:
            for param in self.params:
                param.required = False
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        if ctx.params.pop("how"):
            click.echo(self._how(ctx.params))
            return None
        root = self._tree(ctx.params) if ctx.meta.get(OWN_PROCESS) else None
        if root is not None:
            in_child(root, waits=self._waits(ctx.params))
        return super().invoke(ctx)


def placeholders(given: Given, **names: str) -> Given:
    """`given` with a capital name for each parameter that is missing."""
    return given | {key: name for key, name in names.items() if not given.get(key)}
