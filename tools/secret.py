"""`agentfs secret`: keys of providers and tools; all of it file operations on /etc/secrets."""

from __future__ import annotations

import json
import os
import sys
import time

import click

from agentfs.tools.how import FileCommand, Given, placeholders
from agentfs.tools.tree import ToolError, Tree, TreeError, shell_root
from agentfs.tools.tree_commands import quoted

__all__ = ["secret"]

FOLDER = "etc/secrets"
FINGERPRINT = "user.fingerprint"


@click.group()
def secret() -> None:
    """Set, list and remove secrets, such as the keys of providers of models.

    A secret is never read back, and is in no list, no log and no event. It lies in the state
    directory, in a file that only its owner reads.
    """


def _file(given: Given) -> str:
    return f"{shell_root()}/{FOLDER}/{quoted(placeholders(given, name='NAME')['name'])}"


@secret.command("set", cls=FileCommand, how=lambda given: f"cat > {_file(given)}")
@click.argument("name", metavar="NAME")
def set_secret(name: str) -> None:
    """Set secret NAME to standard input; on a terminal it is asked for, and not shown."""
    if sys.stdin.isatty():
        content = str(click.prompt(name, hide_input=True, err=True)).encode()
    else:
        content = sys.stdin.buffer.read()
    if "/" in name:
        raise ToolError(f"{name}: a secret is called by a plain name")
    Tree().write(f"{FOLDER}/{name}", content, flags=os.O_CREAT)


@secret.command("rm", cls=FileCommand, how=lambda given: f"rm {_file(given)}")
@click.argument("name", metavar="NAME")
def remove_secret(name: str) -> None:
    """Remove secret NAME."""
    Tree().remove(f"{FOLDER}/{name}")


def _ls_how(given: Given) -> str:
    return f"getfattr -n {FINGERPRINT} {shell_root()}/{FOLDER}/*"


@secret.command("ls", cls=FileCommand, how=_ls_how)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def list_secrets(as_json: bool) -> None:
    """List the secrets: name, when it was set, and its fingerprint, the first 12 digits of its
    SHA-256."""
    tree = Tree()
    for name in sorted(tree.names(FOLDER)):
        try:
            fingerprint = tree.attribute(f"{FOLDER}/{name}", FINGERPRINT)
            changed = tree.changed(f"{FOLDER}/{name}")
        except TreeError:
            continue  # it was removed meanwhile
        if as_json:
            row = {"name": name, "set": changed, "fingerprint": fingerprint}
            click.echo(json.dumps(row, ensure_ascii=False))
        else:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(changed))
            click.echo(f"{name}  {when}  {fingerprint}")
