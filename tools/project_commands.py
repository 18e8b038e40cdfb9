"""`agentfs project` and `agentfs seed`: make projects, plant seeds in them, and see how these come
on; all of it file operations in /projects."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from agentfs.tools.exits import INTERRUPTED
from agentfs.tools.how import FileCommand, Given, placeholders
from agentfs.tools.terminal import beginning, paint, shown
from agentfs.tools.tree import ToolError, Tree, TreeError, encoded, shell_question, shell_root
from agentfs.tools.tree_commands import put, quoted

__all__ = ["project", "seed"]

FOLDER = "projects"

COLOURS = {
    "running": "green",
    "waiting": "yellow",
    "passed": "green",
    "evolved": "dim",
    "failed": "red",
    "cancelled": "red",
}

CODES = {"passed": 0, "cancelled": INTERRUPTED}
"""Exit codes for how a seed ended; 1 for the rest."""


@click.group()
def project() -> None:
    """Make projects: what several agents work on, with a memory that they share."""


@click.group()
def seed() -> None:
    """Plant seeds in projects, and see how they come on.

    A seed is a goal that is pursued in phases until its evaluation says that it is enough. It is
    named PROJECT/ID.
    """


# -- projects --------------------------------------------------------------------------------------

name_argument = click.argument("name", metavar="NAME")
agents_argument = click.argument("agents", metavar="AGENT…", nargs=-1, required=True)


def _of(given: Given, file: str = "") -> str:
    """A file of the project that was named."""
    name = quoted(placeholders(given, name="NAME")["name"])
    return f"{shell_root()}/{FOLDER}/{name}{file}"


def _one_name(name: str) -> str:
    """A name that leads nowhere else. Raises ToolError."""
    if "/" in name or name in ("", ".", ".."):
        raise ToolError(f"{shown(name)!r} is no name of a project")
    return name


@project.command("ls", cls=FileCommand, how=lambda given: f"ls {shell_root()}/{FOLDER}")
def list_projects() -> None:
    """List the projects: name, owner, how many members and seeds each has, and what it is for."""
    tree = Tree()
    rows = [["NAME", "OWNER", "MEMBERS", "SEEDS", "OPEN", "WHAT"]]
    for name in sorted(tree.names(FOLDER)):
        try:
            said = tree.fields(f"{FOLDER}/{name}/status")
            what = tree.attribute(f"{FOLDER}/{name}", "user.agentfs.description")
        except TreeError:
            what = ""  # not ours to see, or without a description
        if said:
            counts = [said[key] for key in ("Owner", "Members", "Seeds", "Open")]
            rows.append([name, *counts, beginning(what, 60)])
    _print(rows)


@project.command("make", cls=FileCommand, how=lambda given: f"mkdir {_of(given)}")
@name_argument
def make_project(name: str) -> None:
    """Make a project. You are its owner; `spec.yaml` in it explains itself."""
    Tree().make_directory(f"{FOLDER}/{_one_name(name)}")


@project.command("rm", cls=FileCommand, how=lambda given: f"rmdir {_of(given)}")
@name_argument
@click.option("-f", "--force", is_flag=True, help="Its memory may have files: they go, too.")
def remove_project(name: str, force: bool) -> None:
    """Remove a project, with its seeds."""
    tree, path = Tree(), f"{FOLDER}/{_one_name(name)}"
    if force:
        tree.write(f"{path}/ctl", b"remove\n")
    else:
        tree.remove_directory(path)


@project.command("show", cls=FileCommand, how=lambda given: f"cat {_of(given, '/status')}")
@name_argument
def show_project(name: str) -> None:
    """Show a project: its owner, mode, members, and how its seeds stand."""
    tree, path = Tree(), f"{FOLDER}/{_one_name(name)}"
    click.echo(shown(tree.read(f"{path}/status")))
    click.echo(f"Who:\t{shown(' '.join(tree.read(f'{path}/members').split()))}")


def _members_how(verb: str) -> Any:
    def how(given: Given) -> str:
        agents = " ".join(map(quoted, given["agents"] or ("AGENT",)))
        return f"echo {verb} {agents} > {_of(given, '/ctl')}"

    return how


@project.command("add", cls=FileCommand, how=_members_how("add"))
@name_argument
@agents_argument
def add_members(name: str, agents: tuple[str, ...]) -> None:
    """Make agents members of a project."""
    _command(f"{FOLDER}/{_one_name(name)}", "add", *agents)


@project.command("drop", cls=FileCommand, how=_members_how("remove"))
@name_argument
@agents_argument
def drop_members(name: str, agents: tuple[str, ...]) -> None:
    """Take members out of a project."""
    _command(f"{FOLDER}/{_one_name(name)}", "remove", *agents)


@project.command("activate", cls=FileCommand, how=lambda given: f"echo activate > {_of(given, '/ctl')}")  # fmt: skip  # noqa: E501
@name_argument
def activate_project(name: str) -> None:
    """Say that you work on a project from now on."""
    _command(f"{FOLDER}/{_one_name(name)}", "activate")


def _command(path: str, *words: str) -> None:
    """Write a command to `ctl`."""
    if any(len(word.split()) != 1 for word in words):
        raise ToolError("an agent's name has no blanks")
    Tree().write(f"{path}/ctl", encoded(f"{' '.join(words)}\n"))


# -- seeds -----------------------------------------------------------------------------------------

seed_argument = click.argument("which", metavar="PROJECT/ID")
words_argument = click.argument("words", metavar="[WORDS…]", nargs=-1)


def _place(which: str) -> str:
    """The directory of a seed. Raises ToolError."""
    name, slash, number = which.partition("/")
    if not slash or not number.isdigit():
        raise ToolError(f"a seed is named PROJECT/ID, as bees/4, not {shown(which)!r}")
    return f"{FOLDER}/{_one_name(name)}/seeds/{number}"


def _file(given: Given, file: str) -> str:
    which = placeholders(given, which="PROJECT/ID")["which"]
    name, _, number = which.partition("/")
    return f"{shell_root()}/{FOLDER}/{quoted(name)}/seeds/{quoted(number)}/{file}"


def _request(goal: str, criteria: tuple[str, ...]) -> str:
    return json.dumps({"goal": goal, "criteria": list(criteria)}, ensure_ascii=False)


def _plant_how(given: Given) -> str:
    name = quoted(placeholders(given, name="PROJECT")["name"])
    request = _request(" ".join(given["goal"] or ("GOAL",)), tuple(given["criteria"] or ()))
    return shell_question(f"{FOLDER}/{name}/seeds/new", request)


@seed.command("plant", cls=FileCommand, how=_plant_how, waits=lambda given: bool(given["wait"]))
@click.argument("name", metavar="PROJECT")
@click.argument("goal", metavar="GOAL…", nargs=-1, required=True)
@click.option(
    "-c", "--criterion", "criteria", multiple=True, metavar="TEXT",
    help="What the result has to be like; it may be given several times.",
)  # fmt: skip
@click.option("--wait", is_flag=True, help="Wait for its end, and print the result.")
def plant(name: str, goal: tuple[str, ...], criteria: tuple[str, ...], wait: bool) -> None:
    """Plant a seed in a project, and print its number.

    It is pursued by what the project's spec.yaml says, at your cost.
    """
    tree, path = Tree(), f"{FOLDER}/{_one_name(name)}/seeds"
    number = tree.ask(f"{path}/new", encoded(_request(" ".join(goal), criteria)))
    if wait:
        _await(tree, f"{path}/{number}")
    else:
        click.echo(number)


@seed.command("ls", cls=FileCommand, how=lambda given: f"ls {_of(given, '/seeds')}")
@name_argument
def list_seeds(name: str) -> None:
    """List the seeds of a project: number, state, phase, score, parent, and the goal."""
    tree, path = Tree(), f"{FOLDER}/{_one_name(name)}/seeds"
    rows = [["ID", "STATE", "PHASE", "SCORE", "PARENT", "GOAL"]]
    for number in sorted((each for each in tree.names(path) if each.isdigit()), key=int):
        try:
            said = json.loads(tree.read(f"{path}/{number}/info"))
        except TreeError:
            continue  # it was forgotten meanwhile
        score = "" if said["evaluation"] is None else f"{said['evaluation']['score']:g}"
        parent, goal = str(said["parent"] or ""), beginning(said["goal"], 60)
        rows.append([number, said["state"], said["phase"], score, parent, goal])
    _print(rows, colour=1)


@seed.command("show", cls=FileCommand, how=lambda given: f"cat {_file(given, 'status')}")
@seed_argument
def show_seed(which: str) -> None:
    """Show a seed: where it is, its goal, its criteria, and what has become of it."""
    tree, path = Tree(), _place(which)
    click.echo(shown(tree.read(f"{path}/status")))
    for file in ("goal", "criteria", "questions", "feedback", "evaluation"):
        if text := tree.read(f"{path}/{file}"):
            click.echo(f"\n{file.capitalize()}\n{shown(text)}")
    click.echo("\nHistory")
    for line in tree.read(f"{path}/history").splitlines():
        said = json.loads(line)
        click.echo(f"{said['time']}  {said['phase']} {said['attempt']}  {shown(said['words'])}")


@seed.command(
    "wait", cls=FileCommand, how=lambda given: f"cat {_file(given, 'wait')}",
    waits=lambda given: True,
)  # fmt: skip
@seed_argument
def wait_seed(which: str) -> None:
    """Wait until a seed has ended, with all that it evolves into, and print the result.

    The exit code is 0 if it has passed, 1 if not, and 130 if it was cancelled.
    """
    _await(Tree(), _place(which))


def _await(tree: Tree, path: str) -> None:
    """Wait for the end of a seed's line, print what came of it, and end with its exit code."""
    said = json.loads(tree.read(f"{path}/wait"))
    if said["reason"] or said["words"]:
        click.echo(shown(f"{said['state']}: {said['reason'] or said['words']}"), err=True)
    result = said["result"]
    if result is not None:
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
        put(encoded(f"{text}\n"))
    sys.exit(CODES.get(said["state"], 1))


def _said_how(verb: str) -> Any:
    def how(given: Given) -> str:
        missing = ("N",) if verb == "score" else ()
        words = " ".join([verb, *(given.get("words") or missing)])
        return f"echo {quoted(words)} > {_file(given, 'ctl')}"

    return how


def _say(which: str, verb: str, words: tuple[str, ...] = ()) -> None:
    text = " ".join([verb, *words])
    if "\n" in text:
        raise ToolError("words are one line")
    Tree().write(f"{_place(which)}/ctl", encoded(f"{text}\n"))


@seed.command("score", cls=FileCommand, how=_said_how("score"))
@seed_argument
@click.argument("words", metavar="N [WORDS…]", nargs=-1, required=True)
def score_seed(which: str, words: tuple[str, ...]) -> None:
    """Say how good a result is, from 0 to 1, where nobody else evaluates it."""
    _say(which, "score", words)


@seed.command("accept", cls=FileCommand, how=_said_how("accept"))
@seed_argument
def accept_seed(which: str) -> None:
    """Go on with a goal that the interview finds unclear."""
    _say(which, "accept")


@seed.command("retry", cls=FileCommand, how=_said_how("retry"))
@seed_argument
def retry_seed(which: str) -> None:
    """Begin the phase again in which a seed has failed, or was cancelled."""
    _say(which, "retry")


@seed.command("cancel", cls=FileCommand, how=_said_how("cancel"))
@seed_argument
@words_argument
def cancel_seed(which: str, words: tuple[str, ...]) -> None:
    """End a seed, and what is under way for it."""
    _say(which, "cancel", words)


def _print(rows: list[list[str]], colour: int | None = None) -> None:
    """Rows as columns; the words in column `colour` are states."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [shown(cell).ljust(width) for cell, width in zip(row, widths, strict=True)]
        if number and colour is not None:
            cells[colour] = paint(cells[colour], COLOURS.get(row[colour], ""))
        click.echo("  ".join(cells).rstrip())
