"""`agentfs audit`: file operations on `/sys/audit`, and `verify` of a store without a daemon."""

from __future__ import annotations

import os
import shlex
import sys

import click

from agentfs.tools.how import FileCommand, Given
from agentfs.tools.tree import CHUNK, ToolError, Tree, encoded, shell_root

__all__ = ["KEY", "audit", "key_path"]

KEY = "AGENTFS_AUDIT_KEY"
"""The environment variable that says where the audit's key is."""


def key_path(given: str | None) -> str | None:
    """The key's file, as an absolute path: the daemon works in another directory."""
    return None if given is None else os.path.abspath(given)


def _how(given: Given) -> str:
    root = shell_root()
    if given.get("what") != "query":
        return f"cat {root}/sys/audit/{given.get('what') or 'log'}"
    question = shlex.quote(" ".join(given.get("words") or ()))
    return f"exec 3<>{root}/sys/audit/query; echo {question} >&3; cat <&3; exec 3>&-"


@click.command(cls=FileCommand, how=_how)
@click.argument("what", type=click.Choice(["log", "head", "verify", "query"]), default="log")
@click.argument("words", nargs=-1, metavar="[WORDS…]")
@click.option("--audit-key", envvar=KEY, metavar="FILE", help="For STATE_DIR; it has audit.key.")
def audit(what: str, words: tuple[str, ...], audit_key: str | None) -> None:
    """Who changed what, and who was refused.

    \b
    log     print every record that is kept, one JSON object a line
    head    print number, hash and signature of the newest one
    verify  say `ok`, or what is wrong first; the exit code is 1 then
    verify STATE_DIR  the same of a system that does not run
    query agent=NAME type=TYPE since=WHEN until=WHEN limit=N
            print the newest records that are so
    """
    if (words and what not in ("query", "verify")) or (len(words) > 1 and what == "verify"):
        raise click.UsageError(f"{what} does not take {' '.join(words)!r}")
    if what == "query":
        _query(Tree(), " ".join(words))
    elif what == "verify":
        verdict = offline(words[0], audit_key) if words else Tree().read("sys/audit/verify")
        click.echo(verdict)
        if not verdict.startswith("ok "):
            sys.exit(1)
    else:
        for data in Tree().stream(f"sys/audit/{what}"):
            sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _query(tree: Tree, question: str) -> None:
    name = "sys/audit/query"
    try:
        descriptor = os.open(tree.path(name), os.O_RDWR | os.O_CLOEXEC)
        try:
            os.write(descriptor, encoded(question) + b"\n")
            pieces = list(iter(lambda: os.read(descriptor, CHUNK), b""))
        finally:
            os.close(descriptor)
    except OSError as failed:
        raise tree.failure(name, failed) from None
    sys.stdout.buffer.write(b"".join(pieces))
    sys.stdout.buffer.flush()


def offline(state: str, key: str | None) -> str:
    """The verdict on the store in a state directory. Raises ToolError if there is none."""
    from pathlib import Path

    from agentfs.security.verify import verify

    store = Path(state, "store.db")
    if not store.exists():
        raise ToolError(f"{store}: there is no store; a state directory is wanted")
    return str(verify(store, Path(key) if key else Path(state, "audit.key")))
