"""`agentfs runs`: list the runs of pipelines, look at one, wait for it, control it; all of it file
operations in /proc/runs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from agentfs.tools.how import FileCommand, Given, placeholders
from agentfs.tools.run_progress import NODE_COLOURS, RUN_COLOURS, exit_code, follow
from agentfs.tools.terminal import beginning, paint, shown
from agentfs.tools.tree import (
    ToolError,
    Tree,
    TreeError,
    encoded,
    shell_question,
    shell_root,
)
from agentfs.tools.tree_commands import put, quoted

__all__ = ["runs"]

FOLDER = "proc/runs"

MOST = 1000
"""Runs that one query gives."""

POLL = 0.2
"""Seconds between two looks at the logs of a run."""


class _RunsGroup(click.Group):
    """`agentfs runs` alone lists them, and `agentfs runs 7` shows that one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        elif args[0].isascii() and args[0].isdigit():
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_RunsGroup)
def runs() -> None:
    """List the runs of pipelines, look at one, wait for it, control it.

    Without a command the newest are listed; with a number that run is shown. A run is started by
    `agentfs pipeline run`.
    """


def _about(given: Given, name: str = "") -> str:
    """A file of the run that was named."""
    run = quoted(placeholders(given, run="ID")["run"])
    return f"{FOLDER}/{run}/{name}" if name else f"{FOLDER}/{run}"


run_argument = click.argument("run", metavar="ID")


# -- list ------------------------------------------------------------------------------------------


def _query(given: Given) -> str:
    words = [f"limit={given['limit'] or 20}"]
    words += [f"{key}={given[key]}" for key in ("state", "pipeline", "ref", "since") if given[key]]
    for word in words:
        if len(word.split()) != 1:
            raise click.UsageError(f"no blank was expected in {shown(word)!r}")
    return " ".join(words)


@runs.command(
    "list", cls=FileCommand, how=lambda given: shell_question(f"{FOLDER}/query", _query(given))
)
@click.option("-s", "--state", metavar="STATE", help="Only those in this state: failed.")
@click.option("-p", "--pipeline", metavar="NAME", help="Only those of this pipeline.")
@click.option("--ref", metavar="TYPE/ID", help="Only those about this thing.")
@click.option(
    "--since", metavar="WHEN", help="Only those started since a date, or so long ago: 2h."
)
@click.option("-n", "limit", type=click.IntRange(1, MOST), default=20, help="How many at most. 20.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def list_runs(as_json: bool, **given: Any) -> None:
    """List the newest runs: id, pipeline, state, start, how long it took, and why it ended so."""
    found = Tree().ask(f"{FOLDER}/query", encoded(_query(given)))
    if as_json:
        if found:
            click.echo(found)
        return
    rows = [["ID", "PIPELINE", "STATE", "STARTED", "TOOK", "ABOUT", "WHY"]]
    rows += [_row(json.loads(line)) for line in found.splitlines()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].rjust(widths[0])
        if number:
            cells[2] = paint(cells[2], RUN_COLOURS.get(row[2], ""))
        click.echo("  ".join(cells).rstrip())


def _row(run: dict[str, Any]) -> list[str]:
    ref = f"{run['ref_type']}/{run['ref_id']}" if run["ref_type"] else "-"
    started = run["started"] or run["created"]
    return [
        str(run["id"]),
        shown(run["pipeline"]),
        run["state"],
        started[:19].replace("T", " "),
        took(run),
        beginning(ref, 30),
        beginning(run["reason"] or run["error"] or "", 60),
    ]


def took(run: dict[str, Any]) -> str:
    """How long it took, or has been going on, for people."""
    if not run["started"]:
        return "-"
    end = run["ended"] or datetime.now(UTC).isoformat()
    spent = (_time(end) - _time(run["started"])).total_seconds()
    if spent < 60:
        return f"{spent:.1f}s"
    minutes, rest = divmod(int(spent), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


# -- show ------------------------------------------------------------------------------------------


@runs.command(
    "show",
    cls=FileCommand,
    how=lambda given: (
        f"cd {shell_root()}/{_about(given)}; cat status output; grep . nodes/*/state nodes/*/error"
    ),
)
@run_argument
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show_run(run: str, as_json: bool) -> None:
    """Show one run: how it stands, its nodes, and what it gave."""
    tree = Tree()
    folder = _folder(run)
    info = json.loads(tree.read(f"{folder}/info"))
    nodes = [_node(tree, folder, name) for name in tree.names(f"{folder}/nodes")]
    output = tree.read(f"{folder}/output")
    if as_json:
        told = info | {"nodes": nodes, "output": json.loads(output) if output else None}
        click.echo(json.dumps(told, ensure_ascii=False))
        return
    state = paint(info["state"], RUN_COLOURS.get(info["state"], ""))
    click.echo(f"run {info['id']} of {shown(info['pipeline'])} version {info['version']}: {state}")
    for words, key in (
        ("by", "starter"),
        ("about", "ref_id"),
        ("part of", "parent"),
        ("retry of", "retry_of"),
        ("key", "key"),
        ("started", "started"),
        ("ended", "ended"),
        ("until", "deadline"),
        ("why", "reason"),
        ("error", "error"),
    ):
        if info[key]:
            click.echo(f"  {words:9} {shown(str(info[key]))}")
    for node in nodes:
        painted = paint(f"{node['state']:9}", NODE_COLOURS.get(node["state"], ""))
        tries = f", attempt {node['attempt']}" if node["attempt"] > 1 else ""
        words = node["error"] or node["reason"]
        told = f": {beginning(words, 100)}" if words else ""
        items = f", {node['items']} iterations" if node["items"] else ""
        click.echo(f"  {painted} {shown(node['name'])} ({node['kind']}{tries}{items}){told}")
    if output:
        click.echo(f"  output    {beginning(output, 400)}")


def _node(tree: Tree, folder: str, name: str) -> dict[str, Any]:
    said = tree.fields(f"{folder}/nodes/{name}/status")
    try:
        items = len(tree.names(f"{folder}/nodes/{name}/items"))
    except TreeError:
        items = 0  # it repeats nothing
    return {
        "name": name,
        "kind": said["Kind"],
        "state": said["State"],
        "attempt": int(said["Attempt"]),
        "reason": said["Reason"],
        "error": tree.read(f"{folder}/nodes/{name}/error"),
        "items": items,
    }


def _folder(run: str) -> str:
    if not (run.isascii() and run.isdigit()):
        raise click.UsageError(f"the number of a run was expected, not {shown(run)!r}")
    return f"{FOLDER}/{run}"


# -- wait, events, logs ----------------------------------------------------------------------------


@runs.command(
    "wait",
    cls=FileCommand,
    how=lambda given: f"cat {shell_root()}/{_about(given, 'wait')}",
    waits=lambda given: True,
)
@run_argument
def wait_for_run(run: str) -> None:
    """Wait until a run has ended, and print its output.

    The exit code is 0 if it completed, 1 if it failed, 124 if it took too long, 130 if it was
    cancelled.
    """
    ended = json.loads(Tree().read(f"{_folder(run)}/wait"))
    raise SystemExit(told_end(ended))


def told_end(ended: dict[str, Any]) -> int:
    """Print how a run ended: its output, or why there is none. The exit code."""
    if ended["state"] == "completed":
        click.echo(json.dumps(ended["output"], ensure_ascii=False))
    else:
        words = f": {ended['error']}" if ended["error"] else ""
        click.echo(f"agentfs: the run has {shown(ended['state'] + words)}", err=True)
    return exit_code(ended["state"])


@runs.command(
    "events",
    cls=FileCommand,
    how=lambda given: f"cat {shell_root()}/{_about(given, 'events')}",
    waits=lambda given: True,
)
@run_argument
def events_of_run(run: str) -> None:
    """Print what happens in a run, one JSON object a line, from its start to its end."""
    for piece in Tree().stream(f"{_folder(run)}/events"):
        put(piece)


def _logs_how(given: Given) -> str:
    node = given["node"]
    where = node_folder(node) if node else "*"
    return f"cat {shell_root()}/{_about(given)}/nodes/{where}/log"


def node_folder(path: str) -> str:
    """Where a node is below `nodes`, by its path in the run: `loop/3/fetch` is in
    loop/items/3/fetch."""
    parts = path.split("/")
    return "/".join(part if at % 2 == 0 else f"items/{part}" for at, part in enumerate(parts))


@runs.command("logs", cls=FileCommand, how=_logs_how, waits=lambda given: bool(given["follow"]))
@run_argument
@click.argument("node", metavar="[NODE]", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
def logs_of_run(run: str, node: str | None, follow: bool) -> None:
    """Print what the programs of a run wrote to their standard error.

    NODE is a node, or LOOP/ITERATION/NODE; without it those of all nodes are printed, each line
    with the name of its node before it.
    """
    tree, folder = Tree(), _folder(run)
    logs = _Logs(tree, folder, node)
    while True:
        over = not follow or json.loads(tree.read(f"{folder}/info"))["ended"] is not None
        logs.put_new()
        if over:
            return
        time.sleep(POLL)


class _Logs:
    """The logs of a run, and how far each was printed."""

    def __init__(self, tree: Tree, folder: str, node: str | None) -> None:
        self._tree = tree
        self._folder = folder
        self._node = node
        self._at: dict[str, int] = {}

    def put_new(self) -> None:
        """Print what is new of each."""
        if self._node is not None:
            put(self._new(f"nodes/{node_folder(self._node)}"))
            return
        for name, place in self._nodes("nodes", ""):
            for line in self._new(place).splitlines(keepends=True):
                put(f"{name} | ".encode() + line.removesuffix(b"\n") + b"\n")

    def _nodes(self, place: str, prefix: str) -> Iterator[tuple[str, str]]:
        for name in self._tree.names(f"{self._folder}/{place}"):
            yield f"{prefix}{name}", f"{place}/{name}"
            try:
                items = self._tree.names(f"{self._folder}/{place}/{name}/items")
            except TreeError:
                continue  # it repeats nothing
            for item in items:
                yield from self._nodes(f"{place}/{name}/items/{item}", f"{prefix}{name}/{item}/")

    def _new(self, place: str) -> bytes:
        name = f"{self._folder}/{place}/log"
        handle = self._tree.open(name, os.O_RDONLY)
        try:
            os.lseek(handle, self._at.get(place, 0), os.SEEK_SET)
            found = b""
            while part := os.read(handle, 1 << 16):
                found += part
        except OSError as failed:
            raise self._tree.failure(name, failed) from None
        finally:
            os.close(handle)
        self._at[place] = self._at.get(place, 0) + len(found)
        return found


# -- control ---------------------------------------------------------------------------------------


def _ctl_how(word: str) -> Any:
    return lambda given: f"echo {word} > {shell_root()}/{_about(given, 'ctl')}"


@runs.command("cancel", cls=FileCommand, how=_ctl_how("cancel"))
@run_argument
@click.argument("why", metavar="[WHY…]", nargs=-1)
def cancel_run(run: str, why: tuple[str, ...]) -> None:
    """End a run: its programs are ended, what it waits for is withdrawn. WHY is kept."""
    control(Tree(), run, " ".join(("cancel", *why)))


@runs.command("pause", cls=FileCommand, how=_ctl_how("pause"))
@run_argument
def pause_run(run: str) -> None:
    """Let a run begin no more nodes, until it is resumed."""
    control(Tree(), run, "pause")


@runs.command("resume", cls=FileCommand, how=_ctl_how("resume"))
@run_argument
def resume_run(run: str) -> None:
    """Let a run that was paused go on."""
    control(Tree(), run, "resume")


@runs.command("skip", cls=FileCommand, how=_ctl_how("skip NODE"))
@run_argument
@click.argument("node", metavar="NODE")
def skip_node(run: str, node: str) -> None:
    """Skip a node of a run that has not completed."""
    control(Tree(), run, f"skip {node}")


def control(tree: Tree, run: str, command: str) -> None:
    """Write a command to the run."""
    if "\n" in command:
        raise click.UsageError("one line was expected")
    tree.write(f"{_folder(run)}/ctl", encoded(f"{command}\n"))


def _retry_how(given: Given) -> str:
    asked = f"from: {given['node']}" if given["node"] else "again"
    return shell_question(_about(given, "retry"), asked)


@runs.command("retry", cls=FileCommand, how=_retry_how, tree=lambda given: None)
@run_argument
@click.option("--from", "node", metavar="NODE", help="Do this node again, and all that follow it.")
@click.option("-w", "--wait", is_flag=True, help="Show how it goes, and print what it gave.")
def retry_run(run: str, node: str | None, wait: bool) -> None:
    """Start a new run that has what completed in an ended one, and does the rest. Its id is
    printed."""
    tree = Tree()
    asked = f"from: {node}" if node else "again"
    number = tree.ask(f"{_folder(run)}/retry", encoded(asked))
    if not wait:
        click.echo(number)
        return
    sys.exit(told_end(follow(tree, number)))


def _signal_how(given: Given) -> str:
    known = placeholders(given, key="KEY")
    data = quoted(given["data"] or "")
    return f"echo {data} > {shell_root()}/{_about(given)}/signals/{quoted(known['key'])}"


@runs.command("signal", cls=FileCommand, how=_signal_how)
@run_argument
@click.argument("key", metavar="KEY")
@click.argument("data", metavar="[JSON | TEXT]", required=False)
def signal_run(run: str, key: str, data: str | None) -> None:
    """Send a run a signal: the node that waits for KEY gets the data, now or later."""
    if "/" in key:
        raise ToolError(f"a key has no slash: {shown(key)}")
    content = encoded(f"{data or ''}\n")
    Tree().write(f"{_folder(run)}/signals/{key}", content, os.O_CREAT)
