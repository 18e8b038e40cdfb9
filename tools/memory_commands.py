"""`agentfs remember` and `agentfs recall`: what an agent knows, by files of its directory."""

from __future__ import annotations

import json
import sys

import click

from agentfs.tools.how import FileCommand, Given
from agentfs.tools.terminal import shown
from agentfs.tools.tree import Tree, encoded, shell_question, shell_root
from agentfs.tools.tree_commands import put, quoted

__all__ = ["recall", "remember"]


def _home(given: Given) -> str:
    return f"agents/{given.get('agent') or 'self'}"


def _headers(given: Given) -> str:
    """The headers that the options say, and a blank line, which also says that there are none."""
    named = (
        ("Type", given.get("type")),
        ("Tags", ", ".join(given.get("tags") or ())),
        ("Expires", given.get("expires")),
        ("Limit", given.get("limit")),
    )
    lines = [f"{name}: {value}\n" for name, value in named if value]
    if any(line.count("\n") > 1 for line in lines):
        raise click.UsageError("a header has to be one line")
    return "".join([*lines, "\n"])


def _remember_how(given: Given) -> str:
    text = given.get("text")
    head = quoted(_headers(given).replace("\\", "\\\\").replace("%", "%%").replace("\n", "\\n"))
    file = f"{shell_root()}/{_home(given)}/remember"
    if text in (None, "-"):
        return f"{{ printf {head}; cat; }} > {file}"
    return f"{{ printf {head}; printf '%s\\n' {quoted(text)}; }} > {file}"


agent_option = click.option("--agent", metavar="NAME", help="Whose memory; the caller's own.")
type_option = click.option("--type", metavar="WORD", help="As fact, episode, skill, preference.")
tags_option = click.option(
    "--tag", "tags", multiple=True, metavar="WORD", help="A tag. Repeatable."
)


@click.command(cls=FileCommand, how=_remember_how)
@click.argument("text", required=False, metavar="[TEXT]")
@type_option
@tags_option
@click.option("--expires", metavar="WHEN", help="When to forget it: 90d, or a date.")
@agent_option
def remember(text: str | None, **given: object) -> None:
    """Keep TEXT, or standard input, as a note, and print the path of its file."""
    content = sys.stdin.buffer.read() if text in (None, "-") else encoded(f"{text}\n")
    request = encoded(_headers(given)) + content
    click.echo(b"".join(Tree().exchange(f"{_home(given)}/remember", request)), nl=False)


def _recall_how(given: Given) -> str:
    words = " ".join(given.get("words") or ("WORDS",))
    asked = _headers(given).removeprefix("\n") + words
    return shell_question(f"{_home(given)}/recall", asked)


@click.command(cls=FileCommand, how=_recall_how)
@click.argument("words", nargs=-1, metavar="WORDS...")
@type_option
@tags_option
@click.option("-n", "--limit", type=click.IntRange(1, 1000), help="Answers at most; 10.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
@agent_option
def recall(words: tuple[str, ...], as_json: bool, **given: object) -> None:
    """Find WORDS in what an agent knows, the best first: `path:line: text`, as grep prints it.

    Words have no syntax. A path begins in the directory of the agent. With --type or --tag alone,
    the newest notes are listed.
    """
    request = encoded(_headers(given) + " ".join(words))
    found = b"".join(Tree().exchange(f"{_home(given)}/recall", request))
    if as_json:
        put(found)
        return
    for line in found.splitlines():
        hit = json.loads(line)
        click.echo(shown(f"{hit['path']}:{hit['line']}: {hit['snippet']}"))
