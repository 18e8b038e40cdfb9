"""An audit that is full, on a real mount: by default nobody notices; with `when_full: stop` nothing
is accepted that would have no record, and the operator makes room."""

from __future__ import annotations

import errno
import json
import os
from contextlib import closing

import pytest

from tests.puppet import Puppet
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

ROOM = 12


def newest(tree: Tree) -> int:
    return int(tree.read("sys/audit/head").splitlines()[0].split("\t")[1])


def kept(tree: Tree) -> int:
    return len(tree.read("sys/audit/log").splitlines())


def refused(puppet: Puppet, deed: str) -> str:
    """The errno that it gets for it; empty if it is done."""
    try:
        puppet.do(deed)
    except OSError as failure:
        return errno.errorcode.get(failure.errno or 0, "?")
    return ""


SENDING = {
    "outbox": "write('agents/self/outbox/bob', 'lost?')",
    "what needs an approval": "write('agents/self/outbox/init', 'lost?')",
    "a new file in the inbox": "write('agents/bob/inbox/new/x', 'lost?', os.O_CREAT)",
    "the Maildir way": "(write('agents/bob/inbox/tmp/x', 'lost?', os.O_CREAT),"
    " mv('agents/bob/inbox/tmp/x', 'agents/bob/inbox/new/x'))",
    "a question": "ask('agents/self/asks/new', 'To: bob\\n\\nlost?')",
    "broadcast": "write('dev/broadcast', 'lost?')",
    "queue": "write('dev/queues/jobs/send', 'lost?')",
    "a new file of the queue": "write('dev/queues/jobs/new/x', 'lost?', os.O_CREAT)",
    "topic": "write('dev/topics/news', 'lost?\\n')",
    "reminder": "ask('agents/self/reminders/new', 'in 10m lost?')",
}
APPROVAL = (
    "rules: [{effect: allow, agent: alice, action: send, path: /agents/init/**,"
    " approval: {by: operator}}]\n"
)
OTHERS = {
    "receiving": "read('agents/self/recv', flags=os.O_NONBLOCK)",
    "spawn": "ask('proc/self/spawn', 'name: kid')",
    "artifact": "write('dev/shm/global/key', 'x', os.O_CREAT)",
    "a new queue": "os.mkdir(tree + '/dev/queues/mine')",
    "a new file": "open(tree + '/shared/new', 'w').close()",
    "a new directory": "os.mkdir(tree + '/shared/dir')",
    "writing": "open(tree + '/shared/f', 'a').close()",
    "emptying": "os.truncate(tree + '/shared/f', 0)",
    "mode": "os.chmod(tree + '/shared/f', 0o600)",
    "rename": "mv('shared/f', 'shared/g')",
    "link": "os.link(tree + '/shared/f', tree + '/shared/g')",
    "removal": "rm('shared/f')",
    "signal": "write('proc/self/ctl', 'TERM')",
}


def test_to_stop_refuses_all_that_would_have_no_record_and_loses_nothing(tree: Tree) -> None:
    tree.write("etc/acl.yaml", APPROVAL)
    tree.write("etc/roles.yaml", "roles: {lead: {capabilities: ['*']}}\n")
    with closing(Puppet(tree, "alice", role="lead")) as alice, closing(Puppet(tree, "bob")) as bob:
        alice.do("open(tree + '/shared/f', 'w').write('content') and None")
        alice.do("os.mkfifo(tree + '/shared/pipe')")
        (tree / "dev/queues/jobs").mkdir()
        (tree / "dev/queues/jobs").chmod(0o777)
        (tree / "dev/topics/news").touch()
        (tree / "dev/topics/news").chmod(0o666)
        eventually(lambda: "files_changed" in tree.read("sys/audit/log"))
        tree.write(
            "etc/agentfs.yaml",
            "processes: {maid_interval: 1}\n"
            f"audit: {{max_records: {kept(tree) + ROOM}, when_full: stop}}\n",
        )
        accepted = []
        for number in range(ROOM + 1):
            if refused(alice, f"write('agents/self/outbox/bob', 'message {number}')"):
                break
            accepted.append(f"message {number}")
        assert 0 < len(accepted) < ROOM + 1
        seq = newest(tree)
        found = {what: refused(alice, deed) for what, deed in SENDING.items()}
        assert found == dict.fromkeys(SENDING, "ENOSPC")
        assert "(audit.when_full)" in alice.read("proc/self/error")
        found = {what: refused(bob, deed) for what, deed in OTHERS.items()}
        assert found == dict.fromkeys(OTHERS, "ENOSPC")
        later = [
            each
            for each in map(json.loads, tree.read("sys/audit/log").splitlines())
            if each["seq"] > seq
        ]
        actors = {each["actor"]["name"] for each in later}
        assert actors <= {"kernel"}, "nothing happened, and the refusals have no room"
        assert len(os.listdir(tree / "agents/bob/inbox/new")) == len(accepted)
        for folder in ("dev/queues/jobs/new", "agents/alice/inbox/new"):
            assert os.listdir(tree / folder) == []
        assert not {"new", "dir", "g"} & set(os.listdir(tree / "shared"))
        assert bob.read("shared/f") == "content", "reading goes on"
        assert bob.do("os.stat(tree + '/shared/pipe').st_nlink") == 1
        assert refused(bob, "write('sys/audit/ctl', 'cut 1')") == "EACCES"
        eventually(lambda: "the audit is full" in tree.read("sys/health"))
        events = tree.ask("sys/audit/query", "type=audit_full")
        assert events.count('"audit_full"') == 1

        # The operator goes on, exports and makes room.
        (tree / "shared/operator").write_text("goes on")
        tree.write("agents/init/outbox/bob", "from the operator")
        exported = tree.read("sys/audit/log").splitlines()
        last = json.loads(exported[-1])["seq"] - 1
        for wrong in ("cut", "cut 0", "cut x", f"cut {last + 100}", "forget 1"):
            with pytest.raises(OSError, match="Invalid argument"):
                tree.write("sys/audit/ctl", wrong)
        tree.run("audit", "cut", str(last))
        records = [json.loads(line) for line in tree.read("sys/audit/log").splitlines()]
        assert records[0]["seq"] == last + 1
        cut = [each for each in records if each["changes"][0]["type"] == "audit_cut"]
        assert [each["actor"]["name"] for each in cut] == ["init"]
        assert refused(alice, SENDING["outbox"]) == "", "it goes on"
        tree.write("etc/agentfs.yaml", "audit: {when_full: forget}\n")
        bodies = []
        for _ in range(len(accepted) + 1):
            bodies.append(bob.recv().partition("\n\n")[2])
        assert bodies == ["from the operator", *accepted], "in the order of delivery"
        assert tree.read("sys/audit/verify").startswith("ok ")


def test_the_default_forgets_and_refusals_go_first(tree: Tree) -> None:
    with closing(Puppet(tree, "alice")) as alice, closing(Puppet(tree, "bob")) as bob:
        tree.spawn("carol")
        tree.write("etc/agentfs.yaml", "processes: {maid_interval: 1}\n")
        alice.send("carol", "the first")
        before = newest(tree)
        tree.write(
            "etc/agentfs.yaml",
            f"processes: {{maid_interval: 1}}\naudit: {{max_records: {kept(tree) + 60}}}\n",
        )
        for number in range(200):
            assert refused(bob, f"os.mkdir(tree + '/shared/docs/{number}')") == "EACCES"
        for number in range(30):
            alice.send("carol", f"{number}")
        eventually(lambda: '"refusals_dropped"' in tree.read("sys/audit/log"))
        records = [json.loads(line) for line in tree.read("sys/audit/log").splitlines()]
        sent = [
            record["seq"]
            for record in records
            if record["actor"]["name"] == "alice"
            and record["changes"][0]["type"] == "message_arrived"
        ]
        assert len(sent) == 31, "no change is gone"
        assert sent[0] <= before
        assert records[0]["seq"] == 1
        assert tree.read("sys/audit/verify").startswith("ok ")
        assert "refusals, from record" in tree.run("audit").stdout
