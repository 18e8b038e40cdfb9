"""`agentfs pipeline`: put, check and run manifests; all of it file operations in /etc."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

import click

from agentfs.manifests.folders import FOLDERS
from agentfs.tools.how import FileCommand, Given, placeholders
from agentfs.tools.run_commands import told_end
from agentfs.tools.run_progress import follow
from agentfs.tools.terminal import paint, shown
from agentfs.tools.tool import arguments_object
from agentfs.tools.tree import ToolError, Tree, TreeError, encoded, shell_question, shell_root
from agentfs.tools.tree_commands import quoted

__all__ = ["pipeline"]

SEVERITIES = {"error": "red", "warning": "yellow", "info": "dim"}


@click.group()
def pipeline() -> None:
    """Put pipelines and other manifests into /etc, check them, and run them."""


# -- put, check ------------------------------------------------------------------------------------


def _read(file: str) -> bytes:
    try:
        with click.open_file(file, "rb") as opened:
            content: bytes = opened.read()
            return content
    except OSError as failed:
        raise ToolError(f"{file}: {failed.strerror}") from None


def _folder_for(content: bytes, file: str) -> str:
    """The folder of /etc for a manifest, by its `kind`."""
    kinds = re.findall(rb"^kind:\s*([A-Za-z]+)", content, re.MULTILINE)
    known = [FOLDERS[kind.decode()] for kind in kinds if kind.decode() in FOLDERS]
    if known:
        return known[0]
    return "configs" if os.path.basename(file).startswith("config") else "pipelines"


def _put_how(given: Given) -> str:
    file = quoted((given["files"] or ("FILE.yaml",))[0])
    return f"cp {file} {shell_root()}/etc/pipelines/"


@pipeline.command("put", cls=FileCommand, how=_put_how)
@click.argument("files", metavar="FILE.yaml…", nargs=-1, required=True)
def put_manifests(files: tuple[str, ...]) -> None:
    """Put manifests of any kind where they belong in /etc, and print where that is.

    Faults are printed with line and column, and then the one that was there stays.
    """
    tree = Tree()
    for file in files:
        click.echo(f"/{put_file(tree, file)}")


def put_file(tree: Tree, file: str) -> str:
    """Put a manifest into its folder; its path in the tree."""
    name = os.path.splitext(os.path.basename(file))[0]
    content = _read(file)
    path = f"etc/{_folder_for(content, file)}/{name}.yaml"
    try:
        tree.write(path, content, os.O_CREAT)
    except TreeError as refused:
        words = str(refused).removeprefix(f"{tree.path(path)}: ")
        raise ToolError(f"{file} is refused\n{words}" if "\n" in words else words) from None
    return path


def _check_how(given: Given) -> str:
    file = quoted((given["files"] or ("FILE.yaml",))[0])
    check = f"{shell_root()}/etc/pipelines/check"
    return f"exec 3<>{check}; dd bs=1M iflag=fullblock status=none < {file} >&3; cat <&3"


@pipeline.command("check", cls=FileCommand, how=_check_how)
@click.argument("files", metavar="FILE.yaml…", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def check_manifests(files: tuple[str, ...], as_json: bool) -> None:
    """Say what is wrong with manifests, without putting them anywhere. `-` is standard input.

    The exit code is 1 if there is an error in one.
    """
    tree = Tree()
    wrong = False
    for file in files:
        content = _read(file)
        found = tree.ask(f"etc/{_folder_for(content, file)}/check", content)
        for line in found.splitlines():
            fault = json.loads(line)
            wrong = wrong or fault["severity"] == "error"
            click.echo(line if as_json else _fault_line(file, fault))
    if wrong:
        raise SystemExit(1)


def _fault_line(file: str, fault: dict[str, Any]) -> str:
    severity = paint(fault["severity"], SEVERITIES.get(fault["severity"], ""))
    hint = f" ({fault['hint']})" if fault.get("hint") else ""
    where = f"{shown(file)}:{fault['line']}:{fault.get('column') or 1}"
    return f"{where}: {severity} {fault['code']} {shown(fault['message'])}{shown(hint)}"


# -- ls, plan --------------------------------------------------------------------------------------


@pipeline.command("ls", cls=FileCommand, how=lambda given: f"ls {shell_root()}/etc/pipelines")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def list_pipelines(as_json: bool) -> None:
    """List the pipelines: name, version, what it does."""
    tree = Tree()
    rows: list[dict[str, Any]] = []
    for file in sorted(tree.names("etc/pipelines")):
        name = file.removesuffix(".yaml")
        if name == file:
            continue
        try:
            version = int(tree.read(f"etc/pipelines/{name}/version"))
        except TreeError:
            continue  # it was removed meanwhile
        rows.append({"name": name, "version": version, "description": _description(tree, name)})
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        if as_json:
            click.echo(json.dumps(row, ensure_ascii=False))
        else:
            line = f"{row['name']:{width}}  {row['version']:3}  {row['description']}"
            click.echo(shown(line).rstrip())


def _description(tree: Tree, name: str) -> str:
    try:
        return tree.attribute(f"etc/pipelines/{name}", "user.agentfs.description")
    except TreeError:
        return ""


def _plan_how(given: Given) -> str:
    return (
        f"cat {shell_root()}/etc/pipelines/{quoted(placeholders(given, name='NAME')['name'])}/plan"
    )


@pipeline.command("plan", cls=FileCommand, how=_plan_how)
@click.argument("name", metavar="NAME")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show_plan(name: str, as_json: bool) -> None:
    """Show what a pipeline comes to: its nodes, in waves that could run at the same time."""
    plan = Tree().read(f"etc/pipelines/{name}/plan")
    if as_json:
        click.echo(plan)
        return
    said = json.loads(plan)
    nodes = {node["name"]: node for node in said["nodes"]}
    for number, wave in enumerate(said["waves"], start=1):
        click.echo(f"wave {number}")
        for each in wave:
            node = nodes[each]
            after = f" after {', '.join(node['needs'])}" if node["needs"] else ""
            when = f" when {node['when']}" if node.get("when") else ""
            click.echo(shown(f"  {each} ({node['kind']}){after}{when}"))


# -- run -------------------------------------------------------------------------------------------


def _request(given: Given) -> str:
    """What is written to `run`."""
    headers = [
        (name, given[key])
        for name, key in (
            ("Key", "key"),
            ("Ref", "ref"),
            ("Env", "env"),
            ("Deadline", "deadline"),
            ("Caps", "caps"),
            ("Version", "version"),
        )
        if given[key] is not None
    ]
    if given["limits"]:
        headers.append(("Limits", " ".join(given["limits"])))
    if given["sync"]:
        headers.append(("Sync", "yes"))
    if any("\n" in str(value) for _, value in headers):
        raise click.UsageError("one line was expected for each option")
    head = "".join(f"{name}: {value}\n" for name, value in headers)
    return f"{head}\n{_input(given)}" if head else _input(given)


def _input(given: Given) -> str:
    text = given["input"]
    if text is None:
        return arguments_object(given["words"])
    if given["words"]:
        raise click.UsageError("the input is --input, or NAME=VALUE, and not both")
    if text == "-" or text.startswith("@"):
        return _read(text.removeprefix("@")).decode("utf-8", "surrogateescape")
    return str(text)


def _run_how(given: Given) -> str:
    name = quoted(placeholders(given, name="NAME")["name"])
    return shell_question(f"etc/pipelines/{name}/run", _request(given))


@pipeline.command("run", cls=FileCommand, how=_run_how, tree=lambda given: None)
@click.argument("name", metavar="NAME | FILE.yaml")
@click.argument("words", metavar="[NAME=VALUE…]", nargs=-1)
@click.option(
    "-i", "--input", metavar="JSON|@FILE|-", help="The input: JSON, a file of it, standard input."
)
@click.option("-w", "--wait", is_flag=True, help="Show how it goes, and print what it gave.")
@click.option("--key", metavar="KEY", help="Start one run only for this key, however often.")
@click.option("--ref", metavar="TYPE/ID", help="The thing that the run is about.")
@click.option("-e", "--env", metavar="NAME", help="The environment: a namespace of the document.")
@click.option("--deadline", metavar="TIME", help="How long it may take in all: 10m.")
@click.option(
    "--limit", "limits", multiple=True, metavar="NAME=N", help="A limit: max_llm_calls=5."
)
@click.option("--caps", metavar="NAMES", help="What it may do at most: `llm tool:search`, `none`.")
@click.option("--version", metavar="N", help="An older version of the document.")
@click.option("--sync", is_flag=True, help="Have each step survive a power cut.")
def run_pipeline(name: str, wait: bool, **given: Any) -> None:
    """Start a pipeline, and print the id of the run. A FILE.yaml is put into /etc first.

    The input is a JSON object, or NAME=VALUE words, where a VALUE that is no JSON is a text.

    With --wait the exit code is 0 if the run completed, 1 if it failed, 124 if it took too long,
    130 if it was cancelled. Ctrl-C leaves it running, and says how to go on with it.
    """
    tree = Tree()
    request = encoded(_request(given))
    folder = "etc/pipelines"
    if name.endswith((".yaml", ".yml")):
        folder, _, name = put_file(tree, name).removesuffix(".yaml").rpartition("/")
    run = tree.ask(f"{folder}/{name}/run", request)
    if not wait:
        click.echo(run)
        return
    if folder != "etc/pipelines":
        raise ToolError(f"{name} is started as {run}: see {tree.path(f'proc/systems/{run}')}")
    click.echo(f"run {run} of {shown(name)}", err=True)
    sys.exit(told_end(follow(tree, run)))
