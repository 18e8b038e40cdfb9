"""`agentfs run`: what can be said on its command line. `agentfs.tools.run` does it."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import click

__all__ = ["RunOptions", "run"]


class RunOptions(NamedTuple):
    """The options and arguments of the command line."""

    words: tuple[str, ...]
    command: list[str]
    model: str | None
    tools: tuple[str, ...]
    budget: int | None
    cost: float | None
    system: str | None
    name: str | None
    again: str | None
    harness: str | None
    steps: int
    timeout: str | None
    env: tuple[str, ...]
    cwd: str | None
    serve: bool
    as_json: bool
    network: bool
    write: bool


class RunCommand(click.Command):
    """`--` ends the options; the command of the agent follows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = []
        if "--" in args:
            at = args.index("--")
            args, ctx.obj = args[:at], args[at + 1 :]
            if not ctx.obj:
                raise click.UsageError("a command was expected after --")
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "| -- COMMAND…"]


@click.command(cls=RunCommand)
@click.option("-m", "--model", help="Default: the model of its tier, or one that needs no key.")
@click.option(
    "--tool", "tools", multiple=True, metavar="GLOB", help="Tools of /lib/tools that it may call."
)
@click.option("--budget", type=click.IntRange(1), metavar="N", help="Tokens that it may use.")
@click.option("--cost", type=click.FloatRange(0), metavar="USD", help="Dollars that it may cost.")
@click.option("--system", metavar="TEXT", help="What it is to do, and how.")
@click.option("--name", help="Its name; without one the agent is removed at its end.")
@click.option("--continue", "again", metavar="NAME", help="Go on with the conversation of NAME.")
@click.option("--serve", is_flag=True, help="Each message is a turn, and its answer the reply.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as a JSON object.")
@click.option(
    "--steps", type=click.IntRange(1, 1000), default=20, help="Calls of the model in a turn: 20."
)
@click.option("--timeout", metavar="DURATION", help="How long a turn may take: 30m.")
@click.option("--harness", metavar="NAME", help="The entry of /etc/harnesses.yaml for --serve.")
@click.option("--network", is_flag=True, help="Let it use the network, not only the models.")
@click.option("--write", is_flag=True, help="Let the model change files of the machine.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="Set a variable.")
@click.option("-C", "--cwd", metavar="DIR", help="Where it starts. Default: here.")
@click.argument("words", metavar="[PROMPT]", nargs=-1)
def run(**given: Any) -> None:
    """Run an agent: PROMPT by our own program, or any COMMAND.

    PROMPT (- or nothing: standard input) is worked on with a model of /dev/llm, the files of the
    tree and tools. COMMAND is any program, unmodified: it is an agent in all that it does, reaches
    no network but the models, and has its home in its memory. The answer is on standard output,
    the rest on standard error. With --serve it works on its mail, from now on.
    """
    wanted = RunOptions(command=click.get_current_context().obj, **given)
    if wanted.command and wanted.words:
        raise click.UsageError("either PROMPT or -- COMMAND")
    if wanted.again and wanted.name:
        raise click.UsageError("--continue says the name already")
    if wanted.harness and not (wanted.serve and wanted.command):
        raise click.UsageError("--harness is for --serve -- COMMAND")
    if wanted.serve and wanted.words:
        raise click.UsageError("with --serve its mail says what is to be done; see --system")
    from agentfs.tools.run import run_agent  # slow to import

    sys.exit(run_agent(wanted))
