"""The rules on a real mount: agents with real programs get what the tables say, and no more."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.puppet import Puppet
from tests.tree import Tree

pytestmark = pytest.mark.mount

YES, EPERM, EACCES = 0, errno.EPERM, errno.EACCES

# What each role may; the last three columns are the capabilities' of the same names.
# y yes, - no, deny, and to whom: children, parent, own.
TABLE = """
role      spawn kill     send   read_art write_art escalate read_process manage_tree read_f write_f
daemon    y     y        y      y        y         y        y            y           y      y
lead      y     y        y      y        y         y        y            -           y      y
agent     y     children y      y        y         y        y            -           y      y
worker    y     children y      y        y         y        y            -           y      y
architect -     -        y      y        y         y        y            -           y      y
task      deny  -        parent y        -         y        own          -           y      -
"""
HEAD, *ROWS = [line.split() for line in TABLE.strip().splitlines()]
CELLS = {
    (row[0], action): cell for row in ROWS for action, cell in zip(HEAD[1:], row[1:], strict=True)
}
ROLES = [row[0] for row in ROWS]

ROOT = os.geteuid() == 0
ON_PROCESSES = ("kill", "send", "read_process", "manage_tree")


def by_the_table(role: str, action: str, relation: str) -> int:
    """What must come out, worked out from the table by hand."""
    cell = CELLS[role, action]
    itself = relation == "itself" and action in ("kill", "read_process")
    if cell == "deny":
        return EPERM
    if not itself and not (
        cell == "y"
        or (cell == "children" and relation == "child")
        or (cell == "parent" and relation in ("parent", "itself"))
    ):
        return EACCES
    if relation != "other user":
        return YES
    return EACCES if action == "send" else EPERM


ALL_CAPABILITIES = "".join(f"  {role}: {{capabilities: ['*']}}\n" for role in ROLES)


class Stage:
    """A tree with one puppet of each role, children of one parent, and others around them. All have
    all capabilities: what stops them is the table of actions alone."""

    def __init__(self, tree: Tree, stack: ExitStack) -> None:
        self.tree = tree
        tree.write("etc/roles.yaml", f"roles:\n{ALL_CAPABILITIES}")
        self.pids = {"ancestor": tree.spawn("chief", role="lead", tier="tactical")}
        self.pids["parent"] = tree.spawn(
            "boss", self.pids["ancestor"], role="lead", tier="tactical"
        )
        self.pids["sibling"] = tree.spawn("sis", self.pids["parent"])
        self.pids["same user"] = tree.spawn("friend")
        if ROOT:
            self.pids["other user"] = tree.spawn("foreign", user="nobody")
        self.puppets: dict[str, Puppet] = {}
        for role in ROLES:
            made = Puppet(tree, f"the-{role}", self.pids["parent"], role=role, tier="tactical")
            self.puppets[role] = stack.enter_context(closing(made))
        self.children = {
            role: tree.spawn(f"kid-of-{role}", puppet.pid)
            for role, puppet in self.puppets.items()
            if CELLS[role, "spawn"] == "y"
        }
        (tree / "dev/shm/global/plan").write_text("x")
        (tree / "shared/notes").write_text("x")
        (tree / "shared/notes").chmod(0o666)

    def others(self, role: str) -> dict[str, int]:
        """The processes around the puppet of `role`, by what they are to it."""
        found = self.pids | {"itself": self.puppets[role].pid}
        return found | ({"child": self.children[role]} if role in self.children else {})

    def name(self, pid: int) -> str:
        return self.tree.read(f"proc/{pid}/name").strip()

    def to(self, role: str, action: str, pid: int) -> str:
        """What the puppet does to a process, as an expression."""
        if action == "kill":
            return f"write('proc/{pid}/ctl', 'HUP')"
        if action == "send":
            return f"write('agents/self/outbox/{self.name(pid)}', 'hello')"
        if action == "read_process":
            return f"read('proc/{pid}/info') and read('agents/{self.name(pid)}/log')"
        above = self.tree.read(f"proc/{pid}/ppid").strip()
        return f"write('proc/{pid}/ctl', 'reparent {above}')"

    def alone(self, role: str, action: str) -> str:
        """What it does to no process, as an expression."""
        return {
            "spawn": f"ask('proc/self/spawn', 'name: new-of-{role}')",
            "read_art": "read('dev/shm/global/plan')",
            "write_art": f"open(tree + '/dev/shm/global/{role}', 'w').close()",
            "escalate": "ask('proc/self/escalate', 'info all is well')",
            "read_f": "read('shared/notes')",
            "write_f": "write('shared/notes', 'y')",
        }[action]

    def outcome(self, role: str, expression: str) -> int:
        try:
            self.puppets[role].do(expression)
        except OSError as refused:
            return refused.errno or -1
        return YES


@pytest.fixture
def stage(tree: Tree) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tree, stack)


def test_each_role_and_action_gives_what_the_tables_say_with_real_processes(stage: Stage) -> None:
    wrong = []
    for role in ROLES:
        for action in HEAD[1:]:
            if action not in ON_PROCESSES:
                found = stage.outcome(role, stage.alone(role, action))
                if found != by_the_table(role, action, ""):
                    wrong.append((role, action, errno.errorcode.get(found, found)))
                continue
            for relation, pid in stage.others(role).items():
                if (action, relation) == ("kill", "itself"):
                    continue  # HUP ends the puppet
                found = stage.outcome(role, stage.to(role, action, pid))
                if found != by_the_table(role, action, relation):
                    wrong.append((role, action, relation, errno.errorcode.get(found, found)))
    assert wrong == []


def test_a_rule_is_live_says_itself_and_survives_kill_9(tree: Tree) -> None:
    ann = Puppet(tree, "ann", role="worker")
    tree.spawn("bob")
    with closing(ann):
        ann.send("bob", "one")
        (tree / "etc/acl.yaml.new").write_text(
            "rules:\n- {effect: deny, role: worker, action: send, path: /agents/bob/*}\n"
        )
        (tree / "etc/acl.yaml.new").rename(tree / "etc/acl.yaml")
        with pytest.raises(PermissionError) as refused:
            ann.send("bob", "two")
        assert refused.value.errno == EPERM
        why = ann.read("proc/self/error")
        assert "EPERM: ann may not send here: rule 1 of /etc/acl.yaml says {effect: deny" in why
        assert "(rule: acl.yaml: rule 1)" in why
        with pytest.raises(OSError, match="Invalid argument"):
            tree.write("etc/acl.yaml", "rules: [{effect: perhaps}]")
        answer = tree.run("can", "ann", "send", "/agents/bob/inbox", check=False)
        assert (answer.returncode, answer.stdout.splitlines()[:2]) == (
            1,
            ["Allowed:\tno", "Rule:\tacl.yaml: rule 1"],
        )
        assert tree.run("can", "ann", "send", f"{tree.path}/agents/init/inbox").returncode == 0
        how = tree.run("can", "ann", "send", "/agents/bob/inbox", "--how").stdout
        shown = subprocess.run(
            ["bash", "-c", how],
            env=os.environ | {"AGENTFS": str(tree.path)},
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert shown.stdout == answer.stdout
        before = tree.read("etc/acl.yaml")
        tree.crash()
    tree.mount()
    assert tree.read("etc/acl.yaml") == before
    with closing(Puppet(tree, "eve", role="worker")) as eve:
        eve.send("init", "hello")
        with pytest.raises(PermissionError):
            eve.send("bob", "three")


def test_what_was_read_once_is_asked_for_again_by_the_next_reader(tree: Tree) -> None:
    """The page cache has it: the rule is asked at every open all the same."""
    tree.spawn("bob")
    with (
        closing(Puppet(tree, "ann", role="worker")) as ann,
        closing(Puppet(tree, "job", ann.pid, role="task")) as job,
    ):
        info = f"proc/{tree.read('agents/bob/pid').strip()}/info"
        assert ann.read(info) == ann.read(info)
        with pytest.raises(PermissionError):
            job.read(info)
        assert job.read("proc/self/info")
        tree.write("etc/acl.yaml", "rules: [{effect: allow, agent: job, action: read_process}]\n")
        assert job.read(info) == ann.read(info)
        (tree / "shared/safe").mkdir()
        (tree / "shared/safe/key").write_text("secret")
        assert ann.read("shared/safe/key") == "secret"
        tree.write("etc/acl.yaml", "rules: [{effect: deny, path: /shared/safe/**, role: worker}]\n")
        for attempt in (
            "read('shared/safe/key')",
            "os.link(tree + '/shared/safe/key', tree + '/shared/key')",
            "mv('shared/safe/key', 'shared/key')",
            "mv('shared/safe/key', 'agents/ann/memory/key')",
            "os.link(tree + '/shared/safe/key', tree + '/agents/ann/memory/key')",
            "mv('shared/safe', 'shared/unsafe')",
            "os.symlink('safe/key', tree + '/shared/way') or read('shared/way')",
            "ls('shared/safe')",
        ):
            with pytest.raises(PermissionError):
                ann.do(attempt)
        assert job.read("shared/safe/key") == "secret"


def test_a_program_whose_process_has_ended_may_do_nothing(tree: Tree) -> None:
    """The stranger of the matrix: every action, to somebody of the same user."""
    bob = tree.spawn("bob")
    (tree / "shared/notes").write_text("x")
    (tree / "shared/notes").chmod(0o666)
    (tree / "dev/queues/jobs").mkdir()
    (tree / "dev/queues/jobs").chmod(0o777)
    (tree / "dev/shm/global/plan").write_text("x")
    with closing(Puppet(tree, "gone", role="lead")) as gone:
        gone.do("__import__('signal').signal(15, 1)")  # SIG_IGN: it stays within its grace period
        gone.do("write('proc/self/ctl', 'done 0')")
        for attempt in (
            f"ask('proc/{bob}/spawn', 'name: more')",
            f"ask('proc/{gone.pid}/spawn', 'name: more')",
            f"write('proc/{bob}/ctl', 'HUP')",
            f"write('proc/{bob}/ctl', 'reparent 1')",
            "write('agents/gone/outbox/bob', 'x')",
            "write('dev/queues/jobs/send', 'x')",
            "open(tree + '/dev/shm/global/more', 'w').close()",
            "open(tree + '/dev/shm/global/plan', 'w').close()",
            f"ask('proc/{gone.pid}/escalate', 'info x')",
            f"read('proc/{bob}/info')",
            f"read('proc/{gone.pid}/info')",
            "read('agents/bob/log')",
            "ls('agents/gone/sent')",
            "read('shared/notes')",
            "write('shared/notes', 'y')",
            "open(tree + '/shared/more', 'w').close()",
            "ask('sys/can', 'bob send /agents/bob/inbox')",
        ):
            with pytest.raises(PermissionError) as refused:
                gone.do(attempt)
            assert refused.value.errno == EACCES, attempt
