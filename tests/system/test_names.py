"""A name is no identity: whom nobody may be called, and what a name that is taken again gets."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agentfs.process.names import RESERVED
from tests.process.world import alive
from tests.puppet import Puppet
from tests.system.test_events import after
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

LOOK_ALIKES = (
    *("Operator", "OPERATOR", "0perator", "operat0r", "operator.", "operator_", "-operator"),
    *("opera-tor", "kerne1", "KERNEI", "usеr", "uѕer", "n0body", "aII", "a11", "1nit", "se1f"),
    *("operator ", "operator\n", "operator\u200b", "ｏperator"),
)


def refused(call: object, *arguments: object) -> str:
    """The name of the errno of a refusal; empty if there was none."""
    assert callable(call)
    try:
        call(*arguments)
    except OSError as failure:
        return errno.errorcode[failure.errno or 0]
    return ""


def rewrite(store: Path, old: str, new: str) -> None:
    """Let the store have an agent of another name, as an earlier release would have it."""
    with closing(sqlite3.connect(store)) as database, database:
        for table, key in (("agents", "name"), ("processes", "pid")):
            for row, text in database.execute(f"SELECT {key}, record FROM {table}").fetchall():
                record = json.loads(text)
                if record["name"] == old:
                    record["name"] = new
                    text = json.dumps(record)
                    database.execute(f"UPDATE {table} SET record = ? WHERE {key} = ?", (text, row))
        database.execute("UPDATE agents SET name = ? WHERE name = ?", (new, old))


def test_nobody_is_called_what_others_are_nor_anything_like_it(tree: Tree) -> None:
    lead = Puppet(tree, "lead", role="lead")
    try:
        for name in (*RESERVED, *LOOK_ALIKES):
            for who, pid in ((lead, lead.pid), (tree, 1)):
                said = refused(who.ask, f"proc/{pid}/spawn", json.dumps({"name": name}))
                assert said == ("EEXIST" if name == "init" else "EINVAL"), (name, pid)
            made = refused(os.mkdir, f"{tree.path}/agents/{name}")
            assert made == ("EEXIST" if name in ("init", "self") else "EINVAL"), name
        assert set(os.listdir(tree / "agents")) == {"init", "lead", "self"}
        for fine in ("users", "initial", "selfless", "all-in-one", "operators", "kernel-team"):
            tree.spawn(fine)
    finally:
        lead.close()


def test_an_agent_of_an_earlier_release_that_is_called_so_is_not_started_and_decides_nothing(
    tree: Tree,
) -> None:
    tree.spawn("oparator", exec=["sleep", "1000"], restart="always")
    program = int(tree.read(f"proc/{tree.read('agents/oparator/pid').strip()}/ospid"))
    tree.spawn("kornel")
    tree.crash()
    rewrite(tree.state / "store.db", "oparator", "operator")
    rewrite(tree.state / "store.db", "kornel", "kernel")
    tree.run("umount", str(tree.path), check=False)
    tree.mount()
    eventually(lambda: tree.read("agents/operator/state").strip() in ("zombie", "dead"))
    eventually(lambda: not alive(program))
    assert tree.read("agents/kernel/state").strip() in ("zombie", "dead")
    assert {"operator", "kernel"} <= set(os.listdir(tree / "agents")), "they are not deleted"
    assert "its name stands for 'operator'" in tree.log()
    refusals = [event["agent"] for event in after(tree, 0) if event["type"] == "agent_refused"]
    assert sorted(refusals) == ["kernel", "operator"]
    told = tree.run("doctor", "--state", str(tree.state), check=False).stdout
    assert "agent operator is not started" in told
    assert refused(tree.write, "agents/operator/ctl", "start\n") == "EINVAL"
    os.rmdir(tree / "agents/operator")
