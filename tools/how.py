"""Commands that are only file operations: each can print the shell line that does the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

__all__ = ["FileCommand", "Given", "placeholders"]

Given = dict[str, Any]


class FileCommand(click.Command):
    """A click command with `--how`. `how(given)` makes the shell line from the parameters; what
    was not given is None, and `placeholders` names it."""

    def __init__(self, *args: Any, how: Callable[[Given], str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._how = how
        self.params.append(
            click.Option(["--how"], is_flag=True, help="Print the shell line that does the same.")
        )
        self.help = f"{self.help}\n\nOnly file operations on the tree: see --how."

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
        return super().invoke(ctx)


def placeholders(given: Given, **names: str) -> Given:
    """`given` with a capital name for each parameter that is missing."""
    return given | {key: name for key, name in names.items() if not given.get(key)}
