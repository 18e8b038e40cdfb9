"""`agentfs approve`: what waits for a decision, and the decision; all of it file operations."""

from __future__ import annotations

import click

from agentfs.tools.how import FileCommand, Given, placeholders
from agentfs.tools.tree import Tree, TreeError, shell_root

__all__ = ["approve"]


def _how(given: Given) -> str:
    folder = f"{shell_root()}/dev/approvals"
    if given.get("request") is None:
        return f"grep -l pending {folder}/*/status | xargs -n1 dirname | xargs -I@ cat @/request"
    number = placeholders(given, request="ID")["request"]
    decision = "approve" if given.get("reason") is None else f"reject {given['reason']}"
    return f"echo '{decision}' > {folder}/{number}/decision"


@click.command(cls=FileCommand, how=_how)
@click.argument("request", metavar="[ID]", required=False)
@click.option("--reject", "reason", metavar="REASON", help="Reject it instead, and say why.")
def approve(request: str | None, reason: str | None) -> None:
    """Approve the request ID, or reject it; without ID, list what waits for a decision."""
    tree = Tree()
    if request is not None:
        decision = "approve" if reason is None else f"reject {reason}"
        tree.write(f"dev/approvals/{request.zfill(6)}/decision", f"{decision}\n".encode())
        return
    if reason is not None:
        raise click.UsageError("which request is to be rejected? Say its ID")
    for number in sorted(tree.names("dev/approvals")):
        try:
            status = _fields(tree.read(f"dev/approvals/{number}/status"))
            if status["State"] != "pending":
                continue
            asked = _fields(tree.read(f"dev/approvals/{number}/request"))
        except TreeError:
            continue  # it is between others, or not kept any more
        click.echo(
            f"{number}  {asked['Agent']} asks to {asked['Action']} {asked['Path']}"
            f"  ({asked['By']} decides by {status['Deadline']})"
        )


def _fields(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
