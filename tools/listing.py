"""`agentfs ps`, `tree` and `status`: what there is, and how it does."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import click

from agentfs.tools.how import FileCommand, Given
from agentfs.tools.terminal import beginning, paint, shown
from agentfs.tools.tree import Tree, TreeError, shell_root

__all__ = ["ps", "status", "tree"]

COLUMNS = {
    "PID": "Pid",
    "PPID": "PPid",
    "NAME": "Name",
    "ROLE": "Role",
    "TIER": "Tier",
    "STATE": "State",
    "RESTARTS": "Restarts",
    "MESSAGES": "Messages",
    "OSPID": "OSPid",
    "WHY": "Why",
}
"""Columns of `ps` and the keys of /proc/PID/status that they show; `Why` is /proc/PID/why."""

NUMBERS = frozenset({"Pid", "PPid", "OSPid", "Restarts", "Messages"})

COLOURS = {
    "running": "green",
    "idle": "dim",
    "sleeping": "dim",
    "waiting": "yellow",
    "blocked": "red",
    "hung": "red",
    "zombie": "red",
    "dead": "red",
}

Status = dict[str, str]


def _json(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)


def _object(status: Status) -> str:
    """A process as one JSON object: the keys of the columns in small letters."""
    row: dict[str, Any] = {}
    for column, key in COLUMNS.items():
        text = status.get(key, "")
        row[column.lower()] = (int(text) if text.isdigit() else None) if key in NUMBERS else text
    return _json(row)


def _with_why(tree: Tree, status: Status) -> Status:
    """`status`, and what it waits for, unless that may not be read or it has just ended."""
    try:
        return status | {"Why": tree.read(f"proc/{status['Pid']}/why")}
    except TreeError:
        return status


def _ended(tree: Tree) -> Iterator[Status]:
    """Those that have ended and are in the table no more, as /proc/ended keeps them."""
    for line in tree.read("proc/ended").splitlines():
        kept = json.loads(line)
        yield {
            "Pid": str(kept["pid"]),
            "PPid": str(kept["ppid"]),
            "Name": kept["agent"],
            "Role": kept["role"],
            "Tier": kept["tier"],
            "State": "ended",
            "Restarts": str(kept["restarts"]),
            "Why": f"ended {kept['ended']} {kept['why']}",
        }


# -- ps, tree --------------------------------------------------------------------------------------


def _ps_how(given: Given) -> str:
    values = ", ".join(f'v["{key}"]' for key in list(COLUMNS.values())[:-1])
    agents = "" if given.get("everything") else ' if ("Kind" in v) exit;'
    return (
        f"cd {shell_root()}/proc && for p in [0-9]*; do awk -F':\\t' -v w=\"$(cat $p/why"
        f' 2>/dev/null)" \'{{ v[$1] = $2 }} END {{{agents} if (w == "") w = "-";'
        f" print {values}, w }}'"
        " $p/status; done | sort -n" + ("; cat ended" if given.get("everything") else "")
    )


@click.command(cls=FileCommand, how=_ps_how)
@click.option(
    "-a",
    "--all",
    "everything",
    is_flag=True,
    help="List the runs of pipelines and their steps, too, and what ended within a week.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def ps(everything: bool, as_json: bool) -> None:
    """List the processes, and what each of them waits for.

    The last column says what a process waits for, since when, and more about it. On a terminal a
    state is green if the process works, yellow if it waits for somebody, and red if it has failed;
    NO_COLOR turns the colours off.
    """
    source = Tree()
    listed = source.processes()
    if not everything:
        listed = [status for status in listed if "Kind" not in status]
    found = [_with_why(source, status) for status in listed]
    if everything:
        known = {status["Pid"] for status in found}
        found += [status for status in _ended(source) if status["Pid"] not in known]
        found.sort(key=lambda status: int(status["Pid"]))
    if as_json:
        for status in found:
            click.echo(_object(status))
        return
    rows = [list(COLUMNS)]
    rows += [[shown(status.get(key) or "-") for key in COLUMNS.values()] for status in found]
    for line in _table(rows):
        click.echo(line)


def _table(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for number, row in enumerate(rows):
        cells: list[str] = []
        for name, cell, width in zip(COLUMNS, row, widths, strict=True):
            text = cell.rjust(width) if name.endswith(("PID", "S")) else cell.ljust(width)
            if name == "WHY":
                used = sum(widths[:-1]) + 2 * len(cells)
                text = cell if room <= used + 10 else beginning(cell, room - used)
            elif name == "STATE" and number:
                text = paint(text, COLOURS.get(cell, ""))
            cells.append(text)
        yield "  ".join(cells).rstrip()


def _tree_how(given: Given) -> str:
    return (
        't() { echo "$2$(cat $1/name) $(cat $1/state)"; for c in $1/children/*;'
        ' do if [ -e $c ]; then t $c "  $2"; fi; done; }; t ' + f"{shell_root()}/proc/1"
    )


@click.command(cls=FileCommand, how=_tree_how)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, one object a line, parents first."
)
def tree(as_json: bool) -> None:
    """Draw the tree of processes, without runs of pipelines."""
    processes = [status for status in Tree().processes() if "Kind" not in status]
    pids = {status["Pid"] for status in processes}
    children: dict[str, list[Status]] = {}
    roots = []
    for status in processes:
        if status["PPid"] in pids and status["PPid"] != status["Pid"]:
            children.setdefault(status["PPid"], []).append(status)
        else:
            roots.append(status)
    for depth, first, status in _drawn(roots, children):
        if as_json:
            row = {"depth": depth, "pid": int(status["Pid"]), "ppid": int(status["PPid"])}
            keys = ("Name", "Role", "State")
            click.echo(_json(row | {key.lower(): status[key] for key in keys}))
        else:
            state = paint(status["State"], COLOURS.get(status["State"], ""))
            click.echo(f"{first}{status['Name']} ({status['Pid']}) {status['Role']} {state}")


def _drawn(
    roots: list[Status], children: dict[str, list[Status]]
) -> Iterator[tuple[int, str, Status]]:
    """Depth, the lines to the left, and the status of each, from the top."""
    left = [(0, "", "", status) for status in reversed(roots)]
    while left:
        depth, first, rest, status = left.pop()
        yield depth, first, status
        below = children.get(status["Pid"], [])
        for child in reversed(below):
            last = child is below[-1]
            branch, line = ("└─ ", "   ") if last else ("├─ ", "│  ")
            left.append((depth + 1, rest + branch, rest + line, child))


# -- status ----------------------------------------------------------------------------------------


def _status_how(given: Given) -> str:
    root = shell_root()
    return f"cat {root}/sys/health {root}/proc/stat; ls {root}/agents/self/inbox/new"


@click.command(cls=FileCommand, how=_status_how)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool) -> None:
    """Show in a few lines how the system is, and what waits for you."""
    source = Tree()
    found = summary(source)
    if as_json:
        click.echo(_json(found))
        return
    health = "well" if found["ok"] else f"not well: {found['faults']}"
    states = ", ".join(f"{count} {state}" for state, count in found["states"].items())
    click.echo(f"{found['tree']}  agentfs {found['version']}, up {found['uptime']:.0f} s, {health}")
    click.echo(f"{found['processes']} processes: {states}")
    waiting = f"{len(found['approvals'])} approvals wait for a decision"
    click.echo(paint(waiting, "yellow" if found["approvals"] else "dim"))
    click.echo(f"{found['mail']} messages wait for you")
    for each in found["stuck"]:
        click.echo(shown(f"{each['name']} ({each['pid']}) {each['state']}: {each['why']}"))


STUCK = frozenset({"waiting", "hung", "blocked", "sleeping"})


def summary(source: Tree) -> dict[str, Any]:
    """The state of the system, as `status --json` prints it."""
    health = source.fields("sys/health")
    processes = source.processes()
    states: dict[str, int] = {}
    for each in processes:
        states[each["State"]] = states.get(each["State"], 0) + 1
    stuck = [_with_why(source, each) for each in processes if each["State"] in STUCK]
    approvals = []
    for number in sorted(source.names("dev/approvals")):
        try:
            if source.fields(f"dev/approvals/{number}/status")["State"] == "pending":
                approvals.append(number)
        except TreeError:
            continue  # it is not kept any more
    try:
        mail = len(source.names("agents/self/inbox/new"))
    except TreeError:
        mail = 0  # who is nobody has none
    return {
        "tree": source.root,
        "version": source.read("sys/version"),
        "uptime": float(source.read("proc/uptime")),
        "boot": source.read("sys/boot_id"),
        "ok": health.get("Ok", "yes") == "yes",
        "faults": health.get("Faults", ""),
        "processes": len(processes),
        "states": dict(sorted(states.items())),
        "approvals": approvals,
        "mail": mail,
        "stuck": [
            {
                "pid": int(each["Pid"]),
                "name": each["Name"],
                "state": each["State"],
                "why": each.get("Why", ""),
            }
            for each in stuck
        ],
    }
