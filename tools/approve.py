"""`agentfs approve`: what waits for a decision, and the decision; all of it file operations."""

from __future__ import annotations

import click

from agentfs.tools.how import FileCommand, Given
from agentfs.tools.tree import Tree, TreeError, encoded, shell_root
from agentfs.tools.tree_commands import quoted

__all__ = ["approve"]


def _how(given: Given) -> str:
    folder = f"{shell_root()}/dev/approvals"
    if given.get("request") is None:
        return f"grep -l pending {folder}/*/status | xargs -n1 dirname | xargs -I@ cat @/request"
    number = given["request"].zfill(6)
    return f"echo {quoted(_decision(given.get('reason')))} > {folder}/{quoted(number)}/decision"


def _decision(reason: str | None) -> str:
    return "approve" if reason is None else f"reject {reason}"


@click.command(cls=FileCommand, how=_how)
@click.argument("request", metavar="[ID]", required=False)
@click.option("--reject", "reason", metavar="REASON", help="Reject it instead, and say why.")
def approve(request: str | None, reason: str | None) -> None:
    """Approve the request ID, or reject it; without ID, list what waits for a decision."""
    tree = Tree()
    if request is not None:
        tree.write(f"dev/approvals/{request.zfill(6)}/decision", encoded(_decision(reason)))
        return
    if reason is not None:
        raise click.UsageError("which request is to be rejected? Say its ID")
    for number in sorted(tree.names("dev/approvals")):
        try:
            status = tree.fields(f"dev/approvals/{number}/status")
            if status["State"] != "pending":
                continue
            asked = tree.fields(f"dev/approvals/{number}/request")
        except TreeError:
            continue  # it is between others, or not kept any more
        click.echo(
            f"{number}  {asked['Agent']} asks to {asked['Action']} {asked['Path']}"
            f"  ({asked['By']} decides by {status['Deadline']})"
        )
