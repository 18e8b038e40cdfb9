"""The sessions of README.md, typed as they are printed: the shell answers what stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.tree import Tree

README = (Path(__file__).parents[2] / "README.md").read_text()
END = "\x1e"
"""Stands behind the output of each command."""


def session(title: str) -> list[tuple[str, str]]:
    """The commands of the console below a title, each with what it prints."""
    console = README.split(f"\n## {title}\n")[1].split("```console\n")[1].split("```")[0]
    found: list[tuple[str, str]] = []
    document = False
    for line in console.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((re.sub(r" +# .*", "", line[2:]), ""))
            document = "<<'END'" in line
        elif document:
            found[-1] = (found[-1][0] + line, "")
            document = line != "END\n"
        else:
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def plain(output: str, path: Path) -> str:
    """An output without what differs from one run, and one machine, to the next."""
    output = output.replace(os.fspath(path), "/tmp/tree")
    output = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", output)
    output = re.sub(r"(?m)^(Date: |Node:\t|State:\t|OSPid:\t).*", r"\1…", output)
    output = re.sub(r"@[\w.-]+>", "@HOST>", output)
    output = re.sub(r"(?m)^.*: line \d+: echo: ", "bash: echo: ", output)
    output = re.sub(r" +\d+  (?=(?:mail|program) TIME)", " OSPID  ", output)
    return re.sub(r"(?m)(, 12 bytes) [( …].*", r"\1 …", output)  # the README cuts that line


def test_the_sessions_print_what_the_readme_says(trees: Callable[..., Tree]) -> None:
    tree = trees()
    (made, *first, last), flow = session("A first session"), session("Workflows")
    assert "agentfs mount $AGENTFS" in made[0]
    assert last[0] == "agentfs umount $AGENTFS\n"
    script = f'agentfs mount --state "{tree.state}" "$AGENTFS"\nprintf "{END}"\n'
    script += "".join(f'{command}printf "{END}"\n' for command, _ in (*first, *flow, last))
    done = subprocess.run(
        ["bash"],
        input=script,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        cwd=tree.path.parent,
        env=os.environ
        | {
            "AGENTFS": os.fspath(tree.path),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "LC_ALL": "C.UTF-8",
        },
    )
    answers = done.stdout.split(END)
    assert answers.pop(0) == "", "mount says nothing"
    for (command, wanted), answer in zip((*first, *flow, last), answers, strict=False):
        assert plain(answer, tree.path) == plain(wanted, tree.path), command
    assert len(answers) == len(first) + len(flow) + 2, done.stdout
    assert not os.path.ismount(tree.path)
