"""`agentfs audit`: file operations on `/sys/audit`, and `verify` of a store without a daemon."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator

import click

from agentfs.tools.happenings import moment
from agentfs.tools.how import FileCommand, Given
from agentfs.tools.sentences import Filter, audit_line, objects
from agentfs.tools.tree import CHUNK, ToolError, Tree, encoded, shell_root

__all__ = ["KEY", "audit", "key_path"]

KEY = "AGENTFS_AUDIT_KEY"
"""The environment variable that says where the audit's key is."""


POLL = 0.5
"""Seconds between two looks at the log that is followed."""

LONGEST = 1 << 20
"""Bytes of its end that are kept to find the last record."""


def key_path(given: str | None) -> str | None:
    """The key's file, as an absolute path: the daemon works in another directory."""
    return None if given is None else os.path.abspath(given)


def _how(given: Given) -> str:
    root = shell_root()
    if given.get("what") == "cut":
        return f"echo cut {shlex.quote(' '.join(given.get('words') or ()))} > {root}/sys/audit/ctl"
    if given.get("what") != "query":
        return f"cat {root}/sys/audit/{given.get('what') or 'log'}"
    question = shlex.quote(" ".join(given.get("words") or ()))
    return f"exec 3<>{root}/sys/audit/query; echo {question} >&3; cat <&3; exec 3>&-"


@click.command(cls=FileCommand, how=_how, waits=lambda given: bool(given["follow"]))
@click.argument("what", type=click.Choice(["log", "head", "verify", "query", "cut"]), default="log")
@click.argument("words", nargs=-1, metavar="[WORDS…]")
@click.option("--audit-key", envvar=KEY, metavar="FILE", help="verify: the file with the key.")
@click.option(
    "--agent",
    "agents",
    multiple=True,
    metavar="NAME",
    help="log: only what this agent did, or what was done to it.",
)
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="TYPE",
    help="log: only records with a change of this type.",
)
@click.option("--since", metavar="WHEN", help="log: only records since a date, or of the last 10m.")
@click.option("-f", "--follow", is_flag=True, help="log: go on with new records, for ever.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the records as JSON, one object a line."
)
def audit(
    what: str,
    words: tuple[str, ...],
    audit_key: str | None,
    agents: tuple[str, ...],
    types: tuple[str, ...],
    since: str | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Show who changed what, and who was refused.

    \b
    log      print every record that is kept, a sentence a line (the default)
    head     print the number, the hash and the signature of the newest record
    verify   print `ok`, or the first fault; the exit code is 1 then
    verify STATE_DIR
             the same for a system that does not run
    query agent=NAME type=TYPE since=WHEN until=WHEN limit=N
             print the newest records that match, one JSON object a line
    cut SEQ  drop the records up to number SEQ; export them first, with
             agentfs audit log --json > FILE
    """
    if (agents or types or since or follow) and what != "log":
        raise click.UsageError("--agent, --type, --since and --follow go with log only")
    most = {"query": len(words), "verify": 1, "cut": 1}.get(what, 0)
    if len(words) > most or (what == "cut" and not words):
        raise click.UsageError(f"{what} does not take {' '.join(words)!r}")
    if what == "cut":
        Tree().write("sys/audit/ctl", encoded(f"cut {words[0]}\n"))
        return
    if what == "query":
        _query(Tree(), " ".join(words))
    elif what == "verify":
        verdict = offline(words[0], audit_key) if words else Tree().read("sys/audit/verify")
        click.echo(verdict)
        if not verdict.startswith("ok "):
            sys.exit(1)
    elif what == "log":
        wanted = Filter(agents, types, moment(since) if since else "").record
        for line, said in objects(_records(Tree(), follow=follow), audit_line, wanted):
            click.echo(line if as_json else said)
    else:
        click.echo(Tree().read(f"sys/audit/{what}"))


def _records(tree: Tree, *, follow: bool) -> Iterator[bytes]:
    """The log, and what comes after it was read."""
    last = b""
    for data in tree.stream("sys/audit/log"):
        yield data
        last = (last + data)[-LONGEST:]
    while follow:
        time.sleep(POLL)
        *_, newest = [b"{}", *last.splitlines()]
        seen = json.loads(newest or b"{}")
        question = f"since={seen['time']} limit=1000" if seen else "limit=1000"
        for line in _asked(tree, question).splitlines(keepends=True):
            if json.loads(line)["seq"] > seen.get("seq", 0):
                last = line
                yield line


def _query(tree: Tree, question: str) -> None:
    sys.stdout.buffer.write(_asked(tree, question))
    sys.stdout.buffer.flush()


def _asked(tree: Tree, question: str) -> bytes:
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
    return b"".join(pieces)


def offline(state: str, key: str | None) -> str:
    """The verdict on the store in a state directory. Raises ToolError if there is none."""
    from pathlib import Path

    from agentfs.audit.verify import verify

    store = Path(state, "store.db")
    if not store.exists():
        raise ToolError(f"{store}: there is no store; a state directory was expected")
    return str(verify(store, Path(key) if key else Path(state, "audit.key")))
