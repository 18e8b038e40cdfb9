"""`agentfs checkpoint`: the whole system as it was; it only uses the files of /sys/checkpoints."""

from __future__ import annotations

import json

import click

from agentfs.tools.how import FileCommand, Given, placeholders
from agentfs.tools.tree import Tree, TreeError, shell_root
from agentfs.tools.tree_commands import quoted

__all__ = ["checkpoint"]

FOLDER = "sys/checkpoints"


@click.group()
def checkpoint() -> None:
    """Make, list and remove checkpoints of the whole system, and go back to one.

    A checkpoint has everything that agents have: their mail, memory, artifacts, files, runs and
    processes. It has no secret and no log. The audit and the accounting never go back.
    """


def _place(given: Given) -> str:
    return f"{shell_root()}/{FOLDER}/{quoted(placeholders(given, name='NAME')['name'])}"


def _waits(given: Given) -> bool:
    return True


@checkpoint.command(
    "create", cls=FileCommand, how=lambda given: f"mkdir {_place(given)}", waits=_waits
)
@click.argument("name", metavar="NAME")
def create(name: str) -> None:
    """Make checkpoint NAME. Everybody stands still for less than a second."""
    Tree().make_directory(f"{FOLDER}/{name}")


@checkpoint.command("rm", cls=FileCommand, how=lambda given: f"rmdir {_place(given)}", waits=_waits)
@click.argument("name", metavar="NAME")
def remove(name: str) -> None:
    """Remove checkpoint NAME."""
    Tree().remove_directory(f"{FOLDER}/{name}")


@checkpoint.command(
    "rollback",
    cls=FileCommand,
    how=lambda given: f"echo rollback > {_place(given)}/ctl",
    waits=_waits,
)
@click.argument("name", metavar="NAME")
def rollback(name: str) -> None:
    """Make the system what it was at checkpoint NAME. All programs end, and those are started again
    that ran then and whose restart policy says so."""
    Tree().write(f"{FOLDER}/{name}/ctl", b"rollback\n")


@checkpoint.command(
    "list", cls=FileCommand, how=lambda given: f"cat {shell_root()}/{FOLDER}/*/info", waits=_waits
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def list_checkpoints(as_json: bool) -> None:
    """List the checkpoints, the oldest first: name, when it was made, its files, their megabytes,
    and those that were copied for it."""
    tree = Tree()
    found = []
    for name in tree.names(FOLDER):
        try:
            lines = tree.read(f"{FOLDER}/{name}/info").splitlines()
        except TreeError:
            continue  # it was removed meanwhile
        found.append({key: text for key, _, text in (line.partition(":\t") for line in lines)})
    for info in sorted(found, key=lambda info: info["Created"]):
        if as_json:
            click.echo(json.dumps({key.lower(): text for key, text in info.items()}))
        else:
            megabytes, copied = (int(info[key]) / 1e6 for key in ("Bytes", "Copied"))
            click.echo(
                f"{info['Name']}  {info['Created'][:16].replace('T', ' ')}  {info['Files']} files"
                f"  {megabytes:.1f} MB, {copied:.1f} copied"
            )
