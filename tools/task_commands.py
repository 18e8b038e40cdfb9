"""`agentfs tasks`, `task` and `workers`: submit work, look at it, wait for it, cancel it, and see
who does it; all of it file operations in /dev/tasks and /dev/workers."""

from __future__ import annotations

import errno
import json
import os
import select
import shlex
import shutil
import sys
from typing import Any

import click

from agentfs.tools.exits import INTERRUPTED
from agentfs.tools.how import FileCommand, Given, placeholders
from agentfs.tools.terminal import beginning, paint, shown
from agentfs.tools.tree import (
    CHUNK,
    ToolError,
    Tree,
    TreeError,
    encoded,
    shell_question,
    shell_root,
)
from agentfs.tools.tree_commands import SpawnCommand, quoted

__all__ = ["task", "tasks", "workers"]

FOLDER = "dev/tasks"
WORKERS = "dev/workers"

MOST = 1000
"""Tasks that one query gives."""

POLL = 200
"""Milliseconds between two looks at the history of a task."""

COLOURS = {
    "pending": "dim",
    "validated": "yellow",
    "assigned": "yellow",
    "running": "green",
    "completed": "green",
    "failed": "red",
    "rejected": "red",
    "cancelled": "red",
    "dead": "red",
    "active": "green",
    "lost": "red",
}

CODES = {"completed": 0, "cancelled": INTERRUPTED}
"""Exit codes for how a task ended; 1 for the rest."""


# -- tasks -----------------------------------------------------------------------------------------


def _query(given: Given) -> str:
    words = [f"limit={given['limit'] or 20}"]
    words += [f"{key}={given[key]}" for key in ("state", "submitter", "worker") if given[key]]
    for word in words:
        if len(word.split()) != 1:
            raise click.UsageError(f"no blank was expected in {shown(word)!r}")
    return " ".join(words)


@click.command(cls=FileCommand, how=lambda given: shell_question(f"{FOLDER}/query", _query(given)))
@click.option("-s", "--state", metavar="STATE", help="Only those in this state: running.")
@click.option("-b", "--submitter", metavar="NAME", help="Only those that NAME has submitted.")
@click.option("-w", "--worker", metavar="NAME", help="Only those of this worker.")
@click.option("-n", "limit", type=click.IntRange(1, MOST), default=20, help="How many at most. 20.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def tasks(as_json: bool, **given: Any) -> None:
    """List the newest tasks: id, state, priority, worker, attempt, what is to be done, and why it
    waits or has failed."""
    found = Tree().ask(f"{FOLDER}/query", encoded(_query(given)))
    if as_json:
        if found:
            click.echo(found)
        return
    rows = [["ID", "STATE", "PRI", "WORKER", "TRY", "BY", "WHAT", "WHY"]]
    rows += [_row(json.loads(line)) for line in found.splitlines()]
    _table(rows, {1})


def _row(said: dict[str, Any]) -> list[str]:
    return [
        str(said["id"]),
        said["state"],
        str(said["priority"]),
        shown(said["worker"] or "-"),
        str(said["attempt"] or "-"),
        shown(said["submitter"]),
        beginning(_what(said), 40),
        beginning(said["error"] or said["reason"] or "", 60),
    ]


def _what(said: dict[str, Any]) -> str:
    return str(said["description"] or " ".join(said["program"] or ()))


def _table(rows: list[list[str]], painted: set[int]) -> None:
    """Print rows below their headline; the columns of states are coloured."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        for at in painted if number else ():
            cells[at] = paint(cells[at], COLOURS.get(row[at], ""))
        click.echo("  ".join(cells).rstrip())


# -- task ------------------------------------------------------------------------------------------


class _TaskGroup(click.Group):
    """`agentfs task 7` shows that one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].isascii() and args[0].isdigit():
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_TaskGroup)
def task() -> None:
    """Submit a task, look at one, wait for it, cancel it. `agentfs tasks` lists them."""


task_argument = click.argument("number", metavar="ID")


def _about(given: Given, name: str) -> str:
    return f"{FOLDER}/{quoted(placeholders(given, number='ID')['number'])}/{name}"


def _folder(number: str) -> str:
    if not (number.isascii() and number.isdigit()):
        raise click.UsageError(f"the number of a task was expected, not {shown(number)!r}")
    return f"{FOLDER}/{number}"


def _request(given: Given) -> str:
    """What is written to `new`."""
    command = click.get_current_context().obj
    words = " ".join(given["words"] or ()) or shlex.join(command or ())
    asked: dict[str, Any] = {"description": words}
    asked |= {
        name: given[name]
        for name in ("priority", "key", "timeout", "group", "max_attempts")
        if given[name] is not None
    }
    if given["requirements"]:
        asked["requirements"] = dict(_pair(text) for text in given["requirements"])
    if given["input"] is not None:
        asked["input"] = _json(given["input"])
    if command:
        asked["program"] = command
    return json.dumps(asked, ensure_ascii=False)


def _pair(text: str) -> tuple[str, Any]:
    """NAME=VALUE, where a value that is no JSON is a text."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.UsageError(f"--require takes NAME=VALUE, not {shown(text)!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _json(text: str) -> Any:
    if text == "-" or text.startswith("@"):
        try:
            with click.open_file(text.removeprefix("@")) as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as failed:
            raise ToolError(f"{shown(text)}: {failed}") from None
    try:
        return json.loads(text)
    except ValueError as bad:
        raise click.UsageError(f"--input: JSON was expected: {bad}") from None


@task.command(
    "submit",
    cls=SpawnCommand,
    how=lambda given: shell_question(f"{FOLDER}/new", _request(given)),
    waits=lambda given: bool(given["wait"]),
)
@click.argument("words", metavar="[TEXT…]", nargs=-1)
@click.option(
    "-r",
    "--require",
    "requirements",
    multiple=True,
    metavar="NAME=VALUE",
    help="What its worker must be capable of: gpu=true, memory=8, cpu=high.",
)
@click.option("-p", "--priority", type=click.IntRange(0, 9), help="0 to 9; 9 is done first. 5.")
@click.option(
    "-i", "--input", metavar="JSON|@FILE|-", help="The input: JSON, a file of it, standard input."
)
@click.option("--timeout", metavar="TIME", help="How long one attempt may take: 10m.")
@click.option("--attempts", "max_attempts", type=click.IntRange(1), help="How many there may be.")
@click.option("--key", metavar="KEY", help="The same key again gives the same task.")
@click.option("--group", metavar="NAME", help="The group that it belongs to.")
@click.option("-w", "--wait", is_flag=True, help="Show how it goes, and print its result.")
def submit(wait: bool, **given: Any) -> None:
    """Submit a task, and print its id: TEXT says what is to be done. With `-- COMMAND` the kernel
    does it: the command is run with your rights.

    With --wait the exit code is 0 if it completed, 130 if it was cancelled, else 1. Ctrl-C leaves
    the task as it is, and says how to go on with it.
    """
    tree = Tree()
    number = tree.ask(f"{FOLDER}/new", encoded(_request(given)))
    if not wait:
        click.echo(number)
        return
    click.echo(f"task {number}", err=True)
    sys.exit(_told(_followed(tree, number)))


@task.command(
    "show",
    cls=FileCommand,
    how=lambda given: f"cd {shell_root()}/{_about(given, '')}; cat status history result",
)
@task_argument
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(number: str, as_json: bool) -> None:
    """Show one task: how it stands, what became of it, and its result."""
    tree, folder = Tree(), _folder(number)
    info = json.loads(tree.read(f"{folder}/info"))
    history = [json.loads(line) for line in tree.read(f"{folder}/history").splitlines()]
    given, result = (tree.read(f"{folder}/{name}") for name in ("input", "result"))
    if as_json:
        more = {"input": json.loads(given or "null"), "result": _value(result), "history": history}
        click.echo(json.dumps(info | more, ensure_ascii=False))
        return
    state = paint(info["state"], COLOURS.get(info["state"], ""))
    click.echo(f"task {info['id']}: {state}  {beginning(_what(info), 100)}")
    needs = ", ".join(f"{name} {value}" for name, value in info["requirements"].items())
    for words, value in (
        ("by", info["submitter"]),
        ("priority", info["priority"]),
        ("needs", needs),
        ("worker", info["worker"]),
        ("attempt", f"{info['attempt']} of {info['max_attempts']}" if info["attempt"] else ""),
        ("group", info["group"]),
        ("key", info["key"]),
        ("why", info["reason"]),
        ("error", info["error"]),
        ("input", beginning(given, 200) if given != "null" else ""),
    ):
        if value not in ("", None):
            click.echo(f"  {words:9} {shown(str(value))}")
    for entry in history:
        click.echo(f"  {_entry(entry)}")
    if result:
        click.echo(f"  result    {beginning(result, 400)}")


def _value(text: str) -> Any:
    """A result: JSON, or a text; null is none."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text


def _entry(entry: dict[str, Any]) -> str:
    state = paint(f"{entry['state']:9}", COLOURS.get(entry["state"], ""))
    words = f": {beginning(entry['words'], 100)}" if entry["words"] else ""
    return f"{state} {entry['at'][11:19]} {shown(entry['by'] or '-')}{words}"


@task.command(
    "wait",
    cls=FileCommand,
    how=lambda given: f"cat {shell_root()}/{_about(given, 'wait')}",
    waits=lambda given: True,
)
@task_argument
def wait_for(number: str) -> None:
    """Wait until a task has ended, and print its result.

    The exit code is 0 if it completed, 130 if it was cancelled, else 1.
    """
    _folder(number)
    raise SystemExit(_told(_followed(Tree(), number)))


@task.command(
    "cancel",
    cls=FileCommand,
    how=lambda given: f"echo cancel > {shell_root()}/{_about(given, 'ctl')}",
)
@task_argument
@click.argument("why", metavar="[WHY…]", nargs=-1)
def cancel(number: str, why: tuple[str, ...]) -> None:
    """Cancel a task: who works at it is told, and what the kernel runs for it is ended. WHY is
    kept."""
    command = " ".join(("cancel", *why))
    if "\n" in command:
        raise click.UsageError("one line was expected")
    Tree().write(f"{_folder(number)}/ctl", encoded(f"{command}\n"))


# -- how it goes -----------------------------------------------------------------------------------


def _followed(tree: Tree, number: str) -> dict[str, Any]:
    """Show on a terminal how a task goes until it has ended; what its `wait` gives then."""
    folder = _folder(number)
    end = tree.open(f"{folder}/wait", os.O_RDONLY)
    screen = _Screen(tree, folder)
    try:
        poll = select.poll()
        poll.register(end, select.POLLIN)
        while not poll.poll(POLL if screen.terminal else None):
            screen.look()
        screen.look()
        content = b"".join(iter(lambda: os.read(end, CHUNK), b""))
    except OSError as failed:
        raise tree.failure(f"{folder}/wait", failed) from None
    except KeyboardInterrupt:
        click.echo(f"\nagentfs: task {number} goes on", err=True)
        for words in ("wait", "cancel"):
            click.echo(f"  agentfs task {words} {number}", err=True)
        raise SystemExit(INTERRUPTED) from None
    finally:
        screen.clear()
        os.close(end)
    ended: dict[str, Any] = json.loads(content)
    return ended


class _Screen:
    """What a person at a terminal sees of a task: a line for each thing that became of it, and
    below them how it stands."""

    def __init__(self, tree: Tree, folder: str) -> None:
        self._tree = tree
        self._folder = folder
        self._seen = 0
        self.terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def look(self) -> None:
        """Show what is new."""
        if not self.terminal:
            return
        entries = self._tree.read(f"{self._folder}/history").splitlines()
        new = entries[self._seen :]
        self._seen = len(entries)
        if new:
            self.clear()
        for line in new:
            click.echo(_entry(json.loads(line)), err=True)
        room = shutil.get_terminal_size().columns - 2
        info = json.loads(self._tree.read(f"{self._folder}/info"))
        at_work = f" at {info['worker']}" if info["worker"] else ""
        why = f": {info['reason']}" if info["reason"] else ""
        sys.stderr.write(f"\r\x1b[2K{beginning(info['state'] + at_work + why, room)}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the last line away."""
        if self.terminal:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()


def _told(ended: dict[str, Any]) -> int:
    """Print how a task ended: its result, or why there is none. The exit code."""
    state, result = ended["state"], ended["result"]
    if state == "completed":
        click.echo(result if isinstance(result, str) else json.dumps(result, ensure_ascii=False))
    else:
        words = f": {ended['error']}" if ended["error"] else ""
        click.echo(f"agentfs: the task is {shown(state + words)}", err=True)
    return CODES.get(state, 1)


# -- workers ---------------------------------------------------------------------------------------


def _workers_how(given: Given) -> str:
    name = "info" if given["as_json"] else "status"
    return f"cat {shell_root()}/{WORKERS}/*/{name}"


@click.command(cls=FileCommand, how=_workers_how)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def workers(as_json: bool) -> None:
    """List the workers: name, kind, state, when each was heard of last, how many tasks it has of
    those that it may have, and what it is capable of."""
    tree = Tree()
    rows = [["NAME", "KIND", "STATE", "BEAT", "TASKS", "CAPABLE OF"]]
    for name in sorted(tree.names(WORKERS)):
        try:
            line = tree.read(f"{WORKERS}/{name}/info")
        except TreeError as gone:
            if gone.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
                continue  # it is no worker, or it was removed meanwhile
            raise
        if as_json:
            click.echo(line)
            continue
        said = json.loads(line)
        able = ", ".join(f"{key} {_short(value)}" for key, value in said["capabilities"].items())
        rows.append(
            [
                shown(name),
                said["kind"],
                said["state"],
                (said["heartbeat"] or "-")[:19].replace("T", " "),
                f"{len(said['tasks'])}/{said['capacity']}",
                beginning(able or "-", 60),
            ]
        )
    if not as_json:
        _table(rows, {2})


def _short(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value).lower()
