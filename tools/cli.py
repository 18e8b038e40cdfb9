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
from agentfs.tools.approve import approve
from agentfs.tools.audit_commands import KEY, audit, key_path
from agentfs.tools.can import can
from agentfs.tools.happenings import events
from agentfs.tools.how import OWN_PROCESS, FileCommand, Given, placeholders
from agentfs.tools.inbox import inbox
from agentfs.tools.listing import ps, status, tree
from agentfs.tools.state import state
from agentfs.tools.terminal import coloured
from agentfs.tools.tree_commands import COMMANDS

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(agentfs.__version__, prog_name="agentfs")
def commands() -> None:
    """An operating system for AI agents whose whole interface is a file system.

    The commands work on the tree that $AGENTFS names, else on the only one that is mounted.
    """


for command in (status, ps, tree, *COMMANDS, inbox, events, approve, audit, can, state):
    commands.add_command(command)


@commands.command()
@click.argument("directory", metavar="DIR")
@click.option("-f", "--foreground", is_flag=True, help="Stay, and log to standard error.")
@click.option("--state", metavar="DIR", help="Where everything is kept; default: by DIR.")
@click.option(
    "--allow-other",
    is_flag=True,
    help="Let other users of the machine in (root's trees always do).",
)
@click.option("--over", is_flag=True, help="Also over a directory that is not empty.")
@click.option("-o", "--option", "options", multiple=True, metavar="OPT", help="For FUSE.")
@click.option(
    "--audit-key",
    envvar=KEY,
    metavar="FILE",
    help="The key of the audit, kept apart from the state; default: STATE/audit.key.",
)
def mount(
    directory: str,
    foreground: bool,
    state: str | None,
    allow_other: bool,
    over: bool,
    options: tuple[str, ...],
    audit_key: str | None,
) -> None:
    """Mount a tree at DIR; return when it can be used."""
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
@click.option("-l", "--lazy", is_flag=True, help="Also while other programs use it.")
def umount(directory: str, lazy: bool) -> None:
    """End the system at DIR and all its programs, and unmount it."""
    from agentfs.tools.unmounting import umount_tree

    umount_tree(directory, lazy=lazy)


@commands.command()
@click.argument("manifest")
@click.argument("directory", metavar="[DIR]", required=False)
@click.option("-d", "--detach", is_flag=True, help="Leave everything running and return.")
@click.option("--state", metavar="DIR", help="Where everything is kept, if it is mounted now.")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="For all its processes.")
@click.option(
    "--audit-key",
    envvar=KEY,
    metavar="FILE",
    help="The key of the audit, kept apart from the state; default: STATE/audit.key.",
)
def up(
    manifest: str,
    directory: str | None,
    detach: bool,
    state: str | None,
    env: tuple[str, ...],
    audit_key: str | None,
) -> None:
    """Start what MANIFEST names and follow it to its end.

    DIR is mounted if it is not yet. Without DIR: the tree there is, else a temporary one.
    """
    from agentfs.tools.up import run

    key = key_path(audit_key)
    sys.exit(run(manifest, directory, state, env, detach=detach, audit_key=key))


@commands.command()
@click.option("--state", metavar="DIR", help="Also check the store in this state directory.")
@click.option(
    "--audit-key",
    envvar=KEY,
    metavar="FILE",
    help="The key of the audit, kept apart from the state; default: STATE/audit.key.",
)
@click.option(
    "--repair",
    is_flag=True,
    help="Save what can be saved of a damaged state directory; a copy is made first.",
)
def doctor(state: str | None, audit_key: str | None, repair: bool) -> None:
    """Say what this machine lacks for AgentFS, and how to get it."""
    from agentfs.tools.doctor import mend, run

    if repair:
        if state is None:
            raise click.UsageError("--repair takes --state DIR: what is to be repaired")
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
