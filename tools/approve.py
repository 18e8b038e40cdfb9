"""`agentfs approve`: what waits for a decision, and the decision; all of it file operations."""

from __future__ import annotations

import json

import click

from agentfs.tools.how import FileCommand, Given
from agentfs.tools.terminal import beginning, shown
from agentfs.tools.tree import Tree, TreeError, encoded, shell_root
from agentfs.tools.tree_commands import quoted

__all__ = ["approve"]


def _how(given: Given) -> str:
    folder = f"{shell_root()}/dev/approvals"
    if given.get("request") is None:
        return f"grep -l pending {folder}/*/status | xargs -n1 dirname | xargs -I@ cat @/request"
    one = f"{folder}/{quoted(given['request'].zfill(6))}"
    if given.get("reason") is None:
        digest = f"$(sed -n 's/^SHA256:\\t//p' {one}/request)"
        return f'cat {one}/body; echo "approve {digest}" > {one}/decision'
    return f"echo {quoted('reject ' + given['reason'])} > {one}/decision"


@click.command(cls=FileCommand, how=_how)
@click.argument("request", metavar="[ID]", required=False)
@click.option("--reject", "reason", metavar="REASON", help="Reject the request, for this reason.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON, one object a line.")
def approve(request: str | None, reason: str | None, as_json: bool) -> None:
    """Approve request ID, or reject it. Without ID, list the requests that wait for a decision.

    The command shows what it approves (the beginning, if it is long), and approves only that. If
    the request has changed in the meantime, the approval is refused, and you have to read it again.
    """
    tree = Tree()
    if request is not None:
        folder = f"dev/approvals/{request.zfill(6)}"
        if reason is not None:
            tree.write(f"{folder}/decision", encoded(f"reject {reason}"))
            return
        asked = tree.fields(f"{folder}/request")
        click.echo(_what(asked))
        click.echo(shown(tree.read(f"{folder}/body")))
        tree.write(f"{folder}/decision", encoded(f"approve {asked['SHA256']}"))
        return
    if reason is not None:
        raise click.UsageError("--reject needs the ID of a request")
    for number in sorted(tree.names("dev/approvals")):
        try:
            status = tree.fields(f"dev/approvals/{number}/status")
            if status["State"] != "pending":
                continue
            asked = tree.fields(f"dev/approvals/{number}/request")
            body = tree.read(f"dev/approvals/{number}/body")
        except TreeError:
            continue  # it is between others, or not kept any more
        if as_json:
            keys = {"Agent": "agent", "Action": "action", "Path": "path", "By": "by"}
            row: dict[str, object] = {"id": number}
            row |= {key: asked[name] for name, key in keys.items()}
            row |= {"deadline": status["Deadline"], "size": int(asked["Size"])}
            row |= {"sha256": asked["SHA256"], "body": body}
            click.echo(json.dumps(row, ensure_ascii=False))
            continue
        click.echo(
            f"{number}  {_what(asked)}  ({asked['By']} decides by {status['Deadline']})"
            f"  {beginning(body, 60)}"
        )


def _what(asked: dict[str, str]) -> str:
    return f"{asked['Agent']} asks to {asked['Action']} {asked['Path']}, {asked['Size']} bytes"
