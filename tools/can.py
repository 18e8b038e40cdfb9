"""`agentfs can`: what the rules say of an action, before anybody tries it."""

from __future__ import annotations

import sys

import click

from agentfs.tools.how import FileCommand, Given, placeholders
from agentfs.tools.tree import Tree, encoded, shell_question

__all__ = ["can"]


def _how(given: Given) -> str:
    given = placeholders(given, agent="AGENT", action="ACTION", path="PATH")
    return shell_question("sys/can", f"{given['agent']} {given['action']} {given['path']}")


@click.command(cls=FileCommand, how=_how)
@click.argument("agent")
@click.argument("action")
@click.argument("path")
def can(agent: str, action: str, path: str) -> None:
    """Say whether AGENT may do ACTION to PATH, and which rule decides.

    The exit code is 1 if it may not. The actions are spawn, kill, send, read_artifact,
    write_artifact, escalate, read_process, manage_tree, read_file and write_file. A path begins at
    the root of the tree: /agents/bob, /agents/bob/inbox, /dev/queues/jobs, /dev/shm/global/plan,
    /shared/notes.
    """
    tree = Tree()
    root = tree.path("").rstrip("/")
    path = path.removeprefix(root) if path.startswith(f"{root}/") else path
    answer = tree.ask("sys/can", encoded(f"{agent} {action} {path}"))
    click.echo(answer)
    if not answer.startswith("Allowed:\tyes"):
        sys.exit(1)
