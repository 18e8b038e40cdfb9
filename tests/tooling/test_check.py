"""Faults of what a store has of tools, and what a kernel without a mount knows of them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.tooling.document import parse
from agentfs.tooling.events import ToolAdded, ToolChanged, ToolRemoved
from agentfs.tooling.tooling import KIND
from tests.world import OPERATOR, World

SOUND = {"of": ["mcp x", "*"], "tools": [{"name": "a", "description": "", "schema": {}}]}


@pytest.mark.parametrize(
    ("key", "record", "fault"),
    [
        ("two words", SOUND, "tools of 'two words': that is no name of a server"),
        ("p", {}, "tools of p: the record cannot be read"),
        ("p", {**SOUND, "tools": [{"name": 5, "schema": {}}]}, "is no tool"),
        ("p", {**SOUND, "of": [5]}, "no list of texts"),
        ("p", SOUND, ""),
    ],
)
async def test_each_fault_is_found(
    tmp_path: Path, key: str, record: dict[str, object], fault: str
) -> None:
    world = World(tmp_path / "state")
    world.close()
    path = tmp_path / "state/store.db"
    with sqlite3.connect(path) as store:
        given = (KIND, key, json.dumps(record))
        store.execute("INSERT INTO records (kind, key, record) VALUES (?, ?, ?)", given)
    store.close()
    found = check(path)
    assert (found == []) if not fault else any(fault in each for each in found), found


async def test_a_change_of_the_document_tells_of_each_tool(tmp_path: Path) -> None:
    world = World(tmp_path / "state")
    document = world.kernel.tooling.document
    document.replace("tools: {a: {exec: [/bin/a]}, b: {exec: [/bin/b]}}")
    document.replace("tools: {a: {exec: [/bin/other]}, c: {mcp: [/bin/c]}}")
    told = [event for event in world.seen if type(event).__name__.startswith("Tool")]
    assert sorted(map(repr, told)) == sorted(
        map(
            repr,
            [
                *(ToolAdded("a"), ToolAdded("b")),
                *(ToolRemoved("b"), ToolAdded("c"), ToolChanged("a")),
            ],
        )
    )
    assert world.kernel.tooling.names(OPERATOR) == ["a", "c"]
    world.restart()
    assert world.kernel.tooling.names(OPERATOR) == ["a", "c"]
    world.close()


def test_secrets_and_users_are_for_tools_that_run_apart() -> None:
    with pytest.raises(KernelError) as refused:
        parse("tools: {a: {exec: [/bin/a], secrets: {KEY: name}, user: bob}}")
    assert "`secrets` needs `run_as: tool`; `user` needs `run_as: tool`" in refused.value.reason
    tool = parse("tools: {a: {exec: [/bin/a], run_as: tool, secrets: {KEY: name}}}")["a"]
    assert (tool.apart, tool.secrets) == (True, {"KEY": "name"})
