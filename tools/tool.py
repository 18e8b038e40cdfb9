"""`agentfs tool`: tools that agents may call; all of it file operations on /etc/tools.yaml and
/lib/tools."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable
from typing import Any

import click

from agentfs.tools.how import FileCommand, Given, placeholders
from agentfs.tools.tree import (
    ToolError,
    Tree,
    TreeError,
    encoded,
    shell_question,
    shell_root,
)
from agentfs.tools.tree_commands import SpawnCommand, put, quoted

__all__ = ["arguments_object", "tool"]

DOCUMENT = "etc/tools.yaml"
FOLDER = "lib/tools"

POLL = 0.2
"""Seconds between two looks at a server that is starting."""


@click.group()
def tool() -> None:
    """Add, list, remove and call tools: programs, Python functions and MCP servers."""


# -- add, rm ---------------------------------------------------------------------------------------


def _add_how(given: Given) -> str:
    return f"$EDITOR {shell_root()}/{DOCUMENT}"


@tool.command("add", cls=SpawnCommand, how=_add_how)
@click.argument("name", metavar="NAME")
@click.argument("source", metavar="[FILE.py:FUNCTION | URL]", required=False)
@click.option("--mcp", is_flag=True, help="It is an MCP server: a command, or a URL.")
@click.option("-d", "--description", metavar="TEXT", help="What it does, for models.")
@click.option(
    "--schema",
    metavar="FILE",
    help="A JSON schema of its arguments; `--schema -` has the program say it (COMMAND --schema).",
)
@click.option("--apart", is_flag=True, help="Run it as an agent of its own, and not of the caller.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="VARIABLE=SECRET",
    help="Hand it a secret (agentfs secret set) as a variable. Means --apart.",
)
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="Set a variable for it.")
@click.option("--timeout", metavar="TIME", help="How long a call takes at most: 60s.")
@click.option("--user", metavar="USER", help="Run it as this user. Means --apart.")
def add_tool(name: str, source: str | None, **given: Any) -> None:
    """Offer tool NAME: a command after `--`, a Python function, or with --mcp an MCP server, whose
    tools are NAME_TOOL.

    A server is started once, to ask for its tools.
    """
    entry = _entry(source, click.get_current_context().obj or [], given)
    tree = Tree()
    _change(tree, name, entry)
    if given["mcp"]:
        _ask_server(tree, name)


def _entry(source: str | None, command: list[str], given: Given) -> dict[str, Any]:
    """What /etc/tools.yaml is to say of the tool."""
    if (source is None) == (not command):
        raise click.UsageError(
            "say what it is: a command after `--`, or FILE.py:FUNCTION, or a URL"
        )
    entry: dict[str, Any] = {}
    if given["mcp"]:
        entry["mcp"] = source if source is not None else _found(command)
    elif source is not None:
        entry["python"] = _function(source)
    else:
        entry["exec"] = _found(command)
    if given["description"]:
        entry["description"] = given["description"]
    if given["schema"] == "-":
        entry["schema"] = "--schema"
    elif given["schema"]:
        entry["schema"] = _schema(given["schema"])
    if given["apart"] or given["secrets"] or given["user"]:
        entry["run_as"] = "tool"
    for key in ("secrets", "env"):
        if given[key]:
            entry[key] = dict(_pair(text) for text in given[key])
    entry |= {key: given[key] for key in ("timeout", "user") if given[key]}
    return entry


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.UsageError(f"NAME=VALUE was expected, not {text!r}")
    return name, value


def _found(command: list[str]) -> list[str]:
    """The command with its program, and files beside us that it names, by absolute paths: it begins
    in the memory of whoever calls it."""
    program = shutil.which(command[0])
    if program is None:
        raise ToolError(f"{command[0]}: there is no such program here")
    words = [word if not os.path.isfile(word) else os.path.abspath(word) for word in command[1:]]
    return [os.path.abspath(program), *words]


def _function(source: str) -> str:
    file, colon, function = source.rpartition(":")
    if not colon:
        raise click.UsageError(f"{source}: FILE.py:FUNCTION was expected")
    if file.endswith(".py"):
        file = os.path.abspath(file)
        if not os.path.isfile(file):
            raise ToolError(f"{file}: there is no such file")
    return f"{file}:{function}"


def _schema(file: str) -> Any:
    try:
        with open(file, "rb") as opened:
            return json.load(opened)
    except OSError as failure:
        raise ToolError(f"{file}: {failure.strerror}") from None
    except ValueError as bad:
        raise ToolError(f"{file}: not JSON: {bad}") from None


def _ask_server(tree: Tree, name: str) -> None:
    """Have a server say its tools, and print them; what it is silent about is an error."""
    tree.write(f"{FOLDER}/{name}/ctl", b"refresh")
    while True:
        said = tree.fields(f"{FOLDER}/{name}/status")
        if said.get("State") == "failed":
            raise ToolError(f"{name} was added, and does not start: {said['Failure']}")
        if said.get("State") == "running" and said.get("Tools"):
            break
        time.sleep(POLL)
    for each in sorted(tree.names(FOLDER)):
        if each.startswith(f"{name}_"):
            click.echo(each)


@tool.command("rm", cls=FileCommand, how=_add_how)
@click.argument("name", metavar="NAME")
def remove_tool(name: str) -> None:
    """Offer tool NAME no more. Its calls and servers end."""
    _change(Tree(), name, None)


def _change(tree: Tree, name: str, entry: dict[str, Any] | None) -> None:
    """Have the document say this of a tool, and of the others what it said, comments and all."""
    text = tree.read(DOCUMENT)
    tree.write(DOCUMENT, encoded(_changed(text, name, entry)))


def _changed(text: str, name: str, entry: dict[str, Any] | None) -> str:
    """The document `text` with another entry, or none."""
    import yaml  # slow to import

    from agentfs.base.yaml_text import compose

    lines = text.splitlines()
    root = compose(text)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    found = next(((key, node) for key, node in pairs if key.value == "tools"), None)
    tools: list[Any] = [] if found is None else found[1].value or []
    there = next((pair for pair in tools if pair[0].value == name), None)
    if entry is None and there is None:
        raise ToolError(f"there is no tool {name} in /{DOCUMENT}")
    line = (
        None
        if entry is None
        else f"{json.dumps(name)[1:-1]}: {json.dumps(entry, ensure_ascii=False)}"
    )
    if found is None or not tools:
        kept = lines if found is None else lines[: found[0].start_mark.line]
        return "\n".join([*kept, "tools:", f"  {line}", ""])
    if found[1].flow_style:
        said = {key.value: _plain(node) for key, node in tools if key.value != name}
        said |= {} if entry is None else {name: entry}
        rest = [*lines[: found[0].start_mark.line], *lines[found[1].end_mark.line + 1 :]]
        return "\n".join([*rest, *_block(said)])
    indent = " " * int(tools[0][0].start_mark.column)
    first = there[0].start_mark.line if there else len(lines)
    last = _end(there[1], lines) if there else first
    new = [] if line is None else [f"{indent}{line}"]
    left = [*lines[:first], *new, *lines[last:]]
    if not new and len(tools) == 1:
        left[found[0].start_mark.line] = "tools: {}"
    return "\n".join([*left, ""])


def _line(name: str, entry: Any) -> str:
    key = name if re.fullmatch(r"[\w-]+", name) else json.dumps(name)
    return f"{key}: {json.dumps(entry, ensure_ascii=False)}"


def _end(node: Any, lines: list[str]) -> int:
    """The line behind a value. That of a block ends where the next key begins, or with the text;
    comments before that are the next one's."""
    end = int(node.end_mark.line)
    if getattr(node, "flow_style", True) is not False:
        return end + 1
    while end > 0 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    return end


def _plain(node: Any) -> Any:
    from agentfs.base.yaml_text import construct

    return construct(node)


def _block(tools: dict[str, Any]) -> Iterable[str]:
    yield "tools:" if tools else "tools: {}"
    for name, entry in tools.items():
        yield f"  {_line(name, entry)}"
    yield ""


# -- ls, call --------------------------------------------------------------------------------------


@tool.command("ls", cls=FileCommand, how=lambda given: f"ls {shell_root()}/{FOLDER}")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def list_tools(as_json: bool) -> None:
    """List the tools that you may call: name, kind, as whom it runs, and what it is."""
    tree = Tree()
    rows = []
    for name in sorted(tree.names(FOLDER)):
        try:
            said = tree.fields(f"{FOLDER}/{name}/status")
            source = tree.read(f"{FOLDER}/{name}/source")
        except TreeError:
            continue  # it was removed meanwhile
        rows.append({"name": name, "run_as": said["RunAs"], "source": source})
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        if as_json:
            click.echo(json.dumps(row, ensure_ascii=False))
        else:
            click.echo(f"{row['name']:{width}}  {row['run_as']:6}  {row['source']}")


def _call_how(given: Given) -> str:
    known = placeholders(given, name="NAME")
    return shell_question(
        f"{FOLDER}/{quoted(known['name'])}/call", arguments_object(given["arguments"])
    )


@tool.command("call", cls=FileCommand, how=_call_how, waits=lambda given: True)
@click.argument("name", metavar="NAME")
@click.argument("arguments", metavar="[JSON | NAME=VALUE…]", nargs=-1)
def call_tool(name: str, arguments: tuple[str, ...]) -> None:
    """Call tool NAME, and print its result as it comes.

    The arguments are a JSON object, `-` for one on standard input, or NAME=VALUE, where a VALUE
    that is no JSON is a text.
    """
    tree = Tree()
    file = f"{FOLDER}/{name}/call"
    given = None if arguments == ("-",) else encoded(arguments_object(arguments))
    content = sys.stdin.buffer.read() if given is None else given
    for part in tree.exchange(file, content):
        put(part)


def arguments_object(words: tuple[str, ...]) -> str:
    """The JSON object that NAME=VALUE words say, where a value that is no JSON is a text; or that
    the one word is."""
    if not words:
        return "{}"
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        return words[0]
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{word}: NAME=VALUE was expected, or one JSON object")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return json.dumps(found, ensure_ascii=False)
