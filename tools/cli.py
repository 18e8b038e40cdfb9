"""`agentfs`: the command. Imports only click and the standard library, so that it starts fast;
what mounts, runs manifests or examines the machine is imported by its own command.
"""

from __future__ import annotations

from agentfs.tools.exits import ended, finish, outputs

# isort: split
import shlex
import sys

import click

import agentfs
from agentfs.base.build import build
from agentfs.tools.approve import approve
from agentfs.tools.audit_commands import KEY, audit, key_path
from agentfs.tools.can import can
from agentfs.tools.checkpoint import checkpoint
from agentfs.tools.happenings import events
from agentfs.tools.how import OWN_PROCESS, FileCommand, Given, placeholders
from agentfs.tools.inbox import inbox
from agentfs.tools.listing import ps, status, tree
from agentfs.tools.memory_commands import recall, remember
from agentfs.tools.model import model
from agentfs.tools.pipeline_commands import pipeline
from agentfs.tools.project_commands import project, seed
from agentfs.tools.run_command import run
from agentfs.tools.run_commands import runs
from agentfs.tools.secret import secret
from agentfs.tools.state import state
from agentfs.tools.task_commands import task, tasks, workers
from agentfs.tools.terminal import coloured
from agentfs.tools.tool import tool
from agentfs.tools.tree_commands import COMMANDS

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(f"{agentfs.__version__} ({build()})", prog_name="agentfs")
def commands() -> None:
    """An operating system for AI agents whose whole interface is a file system.

    Each command works on the tree that $AGENTFS names. Without that it works on the tree that you
    are in, or on the only one that is mounted.
    """


audit_key_option = click.option(
    "--audit-key",
    envvar=KEY,
    metavar="FILE",
    help="The file with the audit's key. Default: audit.key in the state directory.",
)

for command in (
    status,
    ps,
    tree,
    *COMMANDS,
    run,
    pipeline,
    runs,
    project,
    seed,
    tasks,
    task,
    workers,
    inbox,
    events,
    approve,
    audit,
    can,
    checkpoint,
    model,
    remember,
    recall,
    secret,
    state,
    tool,
):
    commands.add_command(command)


@commands.command()
@click.argument("directory", metavar="DIR")
@click.option(
    "-f", "--foreground", is_flag=True, help="Stay in the foreground and log to standard error."
)
@click.option("--state", metavar="DIR", help="The directory that keeps everything.")
@click.option(
    "--allow-other",
    is_flag=True,
    help="Let other users of this machine in. A tree of root always does.",
)
@click.option("--over", is_flag=True, help="Mount over a directory that is not empty.")
@click.option(
    "-o", "--option", "options", multiple=True, metavar="OPT", help="Give FUSE an option."
)
@audit_key_option
def mount(
    directory: str,
    foreground: bool,
    state: str | None,
    allow_other: bool,
    over: bool,
    options: tuple[str, ...],
    audit_key: str | None,
) -> None:
    """Mount a tree at DIR, and return when it can be used.

    Without --state everything is kept in a directory of its own for each DIR, which `agentfs state`
    lists.
    """
    from agentfs.tools.mounting import mount_tree

    given = [part for option in options for part in option.split(",") if part]
    if "nonempty" in given:  # what FUSE called it before version 3
        given.remove("nonempty")
        over = True
    if allow_other:
        given.append("allow_other")
    key = key_path(audit_key)
    code = mount_tree(directory, state, given, foreground=foreground, audit_key=key, over=over)
    if code:
        sys.exit(code)


def _umount_how(given: Given) -> str:
    path = placeholders(given, directory="DIR")["directory"]
    return f"kill $(cat {shlex.quote(path)}/proc/1/ospid)"


@commands.command(cls=FileCommand, how=_umount_how, tree=lambda given: None)
@click.argument("directory", metavar="DIR")
@click.option("-l", "--lazy", is_flag=True, help="Unmount even while other programs use the tree.")
def umount(directory: str, lazy: bool) -> None:
    """End all programs of the tree at DIR, and unmount it."""
    from agentfs.tools.unmounting import umount_tree

    umount_tree(directory, lazy=lazy)


@commands.command()
@click.argument("manifest")
@click.argument("directory", metavar="[DIR]", required=False)
@click.option("-d", "--detach", is_flag=True, help="Return at once, and leave everything running.")
@click.option("--state", metavar="DIR", help="The state directory, if DIR has to be mounted.")
@click.option(
    "-e", "--env", multiple=True, metavar="NAME=VALUE", help="Set a variable for all processes."
)
@click.option("--check", is_flag=True, help="Only say what is wrong with MANIFEST.")
@click.option(
    "-i",
    "--input",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="A field of the input of a system of runs; or all of it, as JSON.",
)
@audit_key_option
def up(
    manifest: str,
    directory: str | None,
    detach: bool,
    state: str | None,
    env: tuple[str, ...],
    check: bool,
    given: tuple[str, ...],
    audit_key: str | None,
) -> None:
    """Put the documents of MANIFEST into /etc, start its systems, and follow them to their end.

    Documents of every kind may be in it, several in one file; of a System of programs the processes
    are started. If no tree is mounted at DIR, one is mounted there for as long as they run. Without
    DIR they run in the tree that is mounted, or in a temporary one.
    """
    from agentfs.tools.tool import arguments_object
    from agentfs.tools.up import run

    key = key_path(audit_key)
    said = arguments_object(given)
    code = run(
        manifest, directory, state, env, detach=detach, audit_key=key, check=check, given=said
    )
    sys.exit(code)


@commands.command()
@click.option("--state", metavar="DIR", help="Check the store in this state directory, too.")
@audit_key_option
@click.option(
    "--repair",
    is_flag=True,
    help="Repair a damaged state directory, after a copy of it is made.",
)
def doctor(state: str | None, audit_key: str | None, repair: bool) -> None:
    """Say what this machine lacks for AgentFS, and how to get it."""
    from agentfs.tools.doctor import mend, run

    if repair:
        if state is None:
            raise click.UsageError("--repair needs --state DIR, the directory to repair")
        sys.exit(mend(state, audit_key))
    sys.exit(run(state, audit_key))


def main() -> None:
    """The entry point. The exit codes: `agentfs.tools.exits`."""
    outputs()
    finish(ended(_run))


def _run() -> int:
    try:
        with commands.make_context("agentfs", sys.argv[1:], color=coloured()) as context:
            context.meta[OWN_PROCESS] = True
            code = commands.invoke(context)
    except SystemExit as end:
        code = end.code
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
