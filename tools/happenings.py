"""`agentfs events`: what happens, as sentences."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import click

from agentfs.tools.how import FileCommand, Given
from agentfs.tools.sentences import Filter, event_line, objects
from agentfs.tools.terminal import shown
from agentfs.tools.tree import CHUNK, Tree, encoded, shell_root

__all__ = ["events", "moment"]

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment(text: str) -> str:
    """A time as records have it, from a date (RFC 3339) or a duration back from now (`10m`)."""
    ago = re.fullmatch(r"(\d{1,9})([smhd])", text, re.ASCII)
    try:
        if ago:
            then = datetime.now(UTC) - timedelta(seconds=int(ago[1]) * UNITS[ago[2]])
        else:
            then = datetime.fromisoformat(text)
            then = (then if then.tzinfo else then.astimezone()).astimezone(UTC)
    except (ValueError, OverflowError):
        wanted = "a date (2026-11-21T09:00) or a time ago (10m)"
        raise click.UsageError(f"--since: {wanted} was expected, not {shown(text)!r}") from None
    return then.strftime("%Y-%m-%dT%H:%M:%S.") + f"{then.microsecond // 1000:03d}Z"


# -- events ----------------------------------------------------------------------------------------


def _events_how(given: Given) -> str:
    since = given.get("since") or ""
    kept = given.get("everything") or given.get("no_follow") or (since and not since.isdigit())
    name = "events.all" if kept else "events"
    if since.isdigit() and not given.get("no_follow"):
        return f"exec 3<>{shell_root()}/dev/events; echo since {since} >&3; cat <&3"
    if given.get("no_follow"):
        return f"dd if={shell_root()}/dev/{name} iflag=nonblock bs=1M status=none 2>/dev/null"
    return f"cat {shell_root()}/dev/{name}"


@click.command(cls=FileCommand, how=_events_how, waits=lambda given: not given["no_follow"])
@click.option(
    "-a", "--all", "everything", is_flag=True, help="Begin with the oldest event that is kept."
)
@click.option("--no-follow", is_flag=True, help="Print the events that are kept, and do not wait.")
@click.option("-f", "--follow", is_flag=True, help="Go on for ever (the default).")
@click.option(
    "--since", metavar="SEQ|WHEN", help="Only events after a number or a date, or of the last 10m."
)
@click.option("--agent", "agents", multiple=True, metavar="NAME", help="Only events of this agent.")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only events of this type.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the events as JSON, one object a line."
)
def events(
    everything: bool,
    no_follow: bool,
    follow: bool,
    since: str | None,
    agents: tuple[str, ...],
    types: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print what happens, a sentence a line.

    A line has the time, the type of the event, the agent that it concerns, and what happened. With
    `--since SEQ` the first line says how many events are lost, if some are: the daemon keeps the
    last 10,000 since it was started.
    """
    number = int(since) if since and re.fullmatch("[0-9]{1,18}", since) else None
    time_since = moment(since) if since and number is None else ""
    kept = everything or no_follow or bool(time_since)
    wanted = Filter(agents, types, time_since).event
    pieces = _events(Tree(), "dev/events.all" if kept else "dev/events", number, no_follow)
    for line, words in objects(pieces, event_line, wanted):
        click.echo(line if as_json else words)


def _events(tree: Tree, name: str, number: int | None, no_follow: bool) -> Iterator[bytes]:
    flags = os.O_NONBLOCK if no_follow else 0
    if number is None:
        yield from tree.stream(name, flags)
        return
    descriptor = tree.open(name, os.O_RDWR | flags)
    try:
        os.write(descriptor, encoded(f"since {number}\n"))
        while data := os.read(descriptor, CHUNK):
            yield data
    except BlockingIOError:
        return
    except OSError as failed:
        raise tree.failure(name, failed) from None
    finally:
        os.close(descriptor)
