"""A name is no identity: whom nobody may be called, and what a name that is taken again gets."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from agentfs.model.names import RESERVED
from tests.process.world import alive
from tests.puppet import Puppet
from tests.storage import edited
from tests.system.test_events import after
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

LOOK_ALIKES = (
    *("Operator", "OPERATOR", "0perator", "operat0r", "operator.", "operator_", "-operator"),
    *("opera-tor", "kerne1", "KERNEI", "usеr", "uѕer", "n0body", "aII", "a1l", "1nit", "se1f"),
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
    with edited(store) as database:
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
        for fine in ("users", "initial", "selfless", "all-in-one", "kernel-team", "a11"):
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
    told = tree.doctor().stdout
    assert "agent operator is not started" in told
    assert refused(tree.write, "agents/operator/ctl", "start\n") == "EINVAL"
    os.rmdir(tree / "agents/operator")


SECRET = "sk-only-for-the-first-alice"

TWO_RULES = """
rules:
- {effect: allow, action: send, path: /dev/queues/paid, agent: alice,
   approval: {by: boss, timeout: 1h}}
- {effect: allow, action: send, path: /dev/queues/held, agent: other,
   approval: {by: alice, timeout: 1h}}
"""


def first_and_second(tree: Tree, first: Puppet, other: Puppet) -> Puppet:
    """The operator removes the agent, and a child of somebody else takes its name."""
    first.close()
    eventually(lambda: tree.read(f"agents/{first.name}/state").strip() in ("", "zombie", "dead"))
    os.rmdir(tree / f"agents/{first.name}")
    spec = {"role": "worker", "restart": "never"}
    puppet = Puppet(tree, first.name, other.pid, **spec)
    assert tree.read(f"proc/{puppet.pid}/ppid").strip() == str(other.pid)
    return puppet


def file_request(who: Puppet, queue: str) -> None:
    assert refused(who.do, f"write('dev/queues/{queue}/send', 'pay', os.O_NONBLOCK)") == "EAGAIN"


def pending(tree: Tree, agent: str) -> list[str]:
    """The folders of its requests that wait or are approved."""
    found = [f"dev/approvals/{name}" for name in sorted(os.listdir(tree / "dev/approvals"))]
    return [
        folder
        for folder in found
        if f":\t{agent}\n" in tree.read(f"{folder}/request")
        and any(f":\t{state}\n" in tree.read(f"{folder}/status") for state in OPEN)
    ]


OPEN = ("pending", "approved")
NO = ("EPERM", "EACCES")


@pytest.mark.parametrize("earlier", [False, True], ids=["now", "store of an earlier release"])
def test_who_made_something_is_no_name_that_another_may_take(tree: Tree, earlier: bool) -> None:
    tree.write("etc/acl.yaml", TWO_RULES)
    for queue in ("paid", "held"):
        os.mkdir(tree / f"dev/queues/{queue}", 0o777)
    boss, first, other = Puppet(tree, "boss"), Puppet(tree, "alice"), Puppet(tree, "other")
    second = None
    try:
        first.do("os.mkdir(tree + '/agents/plan')")
        first.write("agents/plan/spec.yaml", f"prompt: Count.\nenv: {{API_KEY: {SECRET}}}\n")
        spec = {"name": "idle", "env": {"API_KEY": SECRET}, "prompt": "Count."}
        idle = first.ask(f"proc/{first.pid}/spawn", json.dumps(spec)).strip()
        for made in ("plan", "idle"):
            assert SECRET in first.read(f"agents/{made}/spec.yaml"), "who made it may read it"
        first.do("os.mkdir(tree + '/dev/queues/mine', 0o700)")
        first.do("os.close(os.open(tree + '/dev/topics/mine', os.O_CREAT | os.O_WRONLY, 0o700))")
        first.do("[f := open(tree + '/dev/shm/private/k', 'w'), f.write('k'), f.close()] and None")
        first.ask("agents/alice/reminders/new", "in 2h pay\n")
        file_request(first, "paid")
        boss.write(f"{pending(tree, 'alice')[0]}/decision", "approve\n")
        file_request(other, "held")
        held = pending(tree, "other")[0]
        assert "held" in first.read(f"{held}/request")

        if earlier:
            tree.crash()
            without_numbers(tree.state / "store.db")
            tree.run("umount", str(tree.path), check=False)
            tree.mount()
            assert SECRET in first.read("agents/plan/spec.yaml"), "it is still the one who made it"
        tree.write("etc/acl.yaml", TWO_RULES.replace("alice", "alic?"))
        second = first_and_second(tree, first, other)

        for made in ("plan", "idle"):
            for file in ("spec.yaml", "prompt"):
                assert refused(second.read, f"agents/{made}/{file}") == "EACCES", (made, file)
            assert refused(second.write, f"agents/{made}/spec.yaml", "env: {A: b}\n") == "EACCES"
            assert refused(second.do, f"os.rmdir(tree + '/agents/{made}')") == "EACCES"
        tree.write(f"proc/{idle}/ctl", "kill\n")
        for made in ("plan", "idle"):
            again = json.dumps({"name": made})
            assert refused(second.ask, f"proc/{second.pid}/spawn", again) == "EEXIST"
            assert refused(second.write, f"agents/{made}/ctl", "start\n") == "EEXIST"
            assert SECRET in tree.read(f"agents/{made}/spec.yaml"), "nothing was redefined"
        for made, remove in (("queues/mine", "rmdir"), ("topics/mine", "unlink")):
            assert refused(second.do, f"os.chmod(tree + '/dev/{made}', 0o777)") in NO, made
            assert refused(second.do, f"os.{remove}(tree + '/dev/{made}')") in NO, made
        assert refused(second.do, "read('dev/queues/mine/recv', flags=os.O_NONBLOCK)") == "EACCES"
        assert second.ls("dev/shm/private") == []
        assert "pay" not in "".join(second.ls("agents/alice/reminders"))
        assert pending(tree, "alice") == [], "what the first one was allowed is void"
        file_request(second, "paid")
        assert refused(second.write, f"{held}/decision", "approve\n") in ("ENOENT", "EACCES")
        assert "by:\toperator" in tree.read(f"{held}/request").lower()
    finally:
        for puppet in filter(None, (boss, first, other, second)):
            puppet.close()


def without_numbers(store: Path) -> None:
    """Let the store be as an earlier release left it."""
    with edited(store) as database:
        for name, text in database.execute("SELECT name, record FROM agents").fetchall():
            record = json.loads(text)
            del record["id"], record["creator_id"]
            text = json.dumps(record)
            database.execute("UPDATE agents SET record = ? WHERE name = ?", (text, name))
        database.execute("DELETE FROM meta WHERE key = 'last_agent'")


ODD = ("-x", ".x", "_x", "7", "007", "1.5", "1_000", "10-", "0x1F", "...")


def test_a_name_begins_with_a_letter_or_digit_is_no_number_and_differs_by_more_than_case(
    tree: Tree,
) -> None:
    lead = Puppet(tree, "lead", role="lead")
    try:
        tree.spawn("alice")
        for who, pid in ((tree, 1), (lead, lead.pid)):
            for name in ODD:
                asked = json.dumps({"name": name})
                assert refused(who.ask, f"proc/{pid}/spawn", asked) == "EINVAL", name
            for name in ("Alice", "ALICE", "alicE", "Lead"):
                asked = json.dumps({"name": name})
                assert refused(who.ask, f"proc/{pid}/spawn", asked) == "EEXIST", name
        assert refused(os.mkdir, tree / "agents/-x") == "EINVAL"
        assert refused(os.mkdir, tree / "agents/12") == "EINVAL"
        assert refused(lead.do, "os.mkdir(tree + '/agents/aLICE')") == "EEXIST"
        for name in ("2nd", "3d-printer", "v1.5", "x0x1F", "1e5"):
            tree.spawn(name)
        tree.write(f"proc/{tree.read('agents/alice/pid').strip()}/ctl", "kill\n")
        eventually(lambda: tree.read("agents/alice/state").strip() in ("", "zombie", "dead"))
        os.rmdir(tree / "agents/alice")
        tree.spawn("Alice")
    finally:
        lead.close()


def test_agents_of_an_earlier_release_keep_names_that_new_ones_cannot_have(tree: Tree) -> None:
    for name in ("one", "two", "three"):
        tree.spawn(name)
    tree.crash()
    for old, new in (("one", "_x"), ("two", "42"), ("three", "_X")):
        rewrite(tree.state / "store.db", old, new)
    tree.run("umount", str(tree.path), check=False)
    tree.mount()
    for name in ("_x", "42", "_X"):
        pid = tree.read(f"agents/{name}/pid").strip()
        assert tree.read(f"proc/{pid}/name").strip() == name
        tree.write(f"proc/{pid}/ctl", "kill\n")
        tree.spawn(name)
    assert refused(tree.spawn, "_y") == "EINVAL"


def test_the_sender_of_a_file_has_no_name_that_the_kernel_gives_or_that_sorts_before(
    tree: Tree,
) -> None:
    bob, eve = Puppet(tree, "bob"), Puppet(tree, "eve")
    os.mkdir(tree / "dev/queues/jobs", 0o777)
    try:
        for box in ("agents/bob/inbox", "dev/queues/jobs"):
            for name in ("000000000001.x", "000000000001.init", "0", "0.x", "!x", "-1", " x", "+"):
                eve.do(f"open(tree + '/{box}/tmp/t', 'w').write('hi') and None")
                move = f"os.rename(tree + '/{box}/tmp/t', tree + {f'/{box}/new/{name}'!r})"
                link = move.replace("rename", "link")
                make = (
                    f"os.close(os.open(tree + {f'/{box}/new/{name}'!r}, os.O_CREAT | os.O_WRONLY))"
                )
                for call in (move, link, make):
                    assert refused(eve.do, call) == "EINVAL", call
                eve.do(f"os.unlink(tree + '/{box}/tmp/t')")
            assert os.listdir(tree / box / "new") == []
            eve.do(f"open(tree + '/{box}/tmp/t', 'w').write('hi') and None")
            name = "1700000000.M1P2.host"
            eve.do(f"os.rename(tree + '/{box}/tmp/t', tree + '/{box}/new/{name}')")
        tree.write("agents/init/outbox/bob", "first?")
        assert [name[0] for name in sorted(os.listdir(tree / "agents/bob/inbox/new"))] == ["0", "1"]
        mine = next(name for name in bob.ls("agents/bob/inbox/new") if name[0] == "0")
        bob.mv(f"agents/bob/inbox/new/{mine}", f"agents/bob/inbox/cur/{mine}:2,S")
        bob.mv(f"agents/bob/inbox/cur/{mine}:2,S", f"agents/bob/inbox/new/{mine}")
    finally:
        bob.close()
        eve.close()


def test_a_name_that_a_rule_speaks_of_is_taken_by_the_operator_alone(tree: Tree) -> None:
    lead = Puppet(tree, "lead", role="lead")
    rules = """rules:
- {effect: allow, agent: auditor, action: read_process, path: /agents/*/sent}
- {effect: allow, agent: lead, action: spawn, path: /agents/asked, approval: {by: boss}}
- {effect: allow, agent: x-*, action: send, approval: {}}
"""
    try:
        tree.write("etc/acl.yaml", rules)
        told = tree.run("can", "lead", "send", "/agents/init/inbox", check=False).stdout
        for name in ("auditor", "boss"):
            asked = json.dumps({"name": name})
            assert refused(lead.ask, f"proc/{lead.pid}/spawn", asked) == "EACCES", name
            assert refused(lead.do, f"os.mkdir(tree + '/agents/{name}')") == "EACCES", name
            assert f"speaks of {name}, and there is no such agent" in told
            doctor = tree.doctor().stdout
            assert f"speaks of {name}, and there is no such agent" in doctor
        assert "speaks of lead" not in told
        assert "speaks of x-" not in told
        assert "speaks of operator" not in told
        lead.ask(f"proc/{lead.pid}/spawn", json.dumps({"name": "x-1"}))
        tree.spawn("auditor")
        tree.spawn("boss", lead.pid)
        told = tree.run("can", "lead", "send", "/agents/init/inbox", check=False).stdout
        assert "Warning" not in told
        tree.write("etc/acl.yaml", "rules: []\n")
        lead.ask(f"proc/{lead.pid}/spawn", json.dumps({"name": "free"}))
    finally:
        lead.close()
