"""Approvals on a real mount: the call waits in the kernel, somebody writes the decision."""

from __future__ import annotations

import errno
import hashlib
import json
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from tests.puppet import Puppet
from tests.tree import Tree, eventually, until

pytestmark = pytest.mark.mount

RULES = """
rules:
- {effect: allow, agent: alice, action: send, path: /agents/bob/inbox,
   approval: {by: boss, timeout: 1h}}
- {effect: allow, agent: alice, action: send, path: /dev/queues/*, approval: {timeout: 1h}}
- {effect: allow, agent: alice, action: spawn, approval: {timeout: 1h}}
- {effect: allow, agent: alice, action: write_artifact, path: /dev/shm/global/*,
   approval: {timeout: 1h}}
- {effect: allow, agent: dora, action: manage_tree, approval: {timeout: 1h}}
- {effect: allow, agent: alice, action: write_file, path: /shared/plans/*, approval: {timeout: 1h}}
"""


@pytest.fixture
def office(tree: Tree) -> Iterator[dict[str, Puppet]]:
    tree.write("etc/acl.yaml", RULES)
    puppets = {name: Puppet(tree, name) for name in ("alice", "bob", "boss")}
    yield puppets
    for puppet in puppets.values():
        puppet.close()


def in_thread(call: Any, *arguments: Any) -> Future[Any]:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call, *arguments)
    pool.shutdown(wait=False)
    return future


def asked(tree: Tree, number: int = 1) -> str:
    """The folder of a request, once it is there."""
    folder = f"dev/approvals/{number:06d}"
    eventually((tree / folder).exists)
    return folder


def status(tree: Tree, folder: str) -> dict[str, str]:
    lines = tree.read(f"{folder}/status").splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def test_a_call_waits_until_the_one_whom_the_rule_names_approves(
    tree: Tree, office: dict[str, Puppet]
) -> None:
    sending = in_thread(office["alice"].send, "bob", "may I?")
    folder = asked(tree)
    assert "Agent:\talice\n" in office["boss"].read(f"{folder}/request")
    assert "Path:\t/agents/bob/inbox\n" in tree.read(f"{folder}/request")
    assert status(tree, folder)["State"] == "pending"
    assert "Type: approval-request" in office["boss"].recv(), "whoever decides is told"
    with pytest.raises(OSError) as caught:
        office["bob"].read(f"{folder}/request")
    assert caught.value.errno == errno.EACCES, "it is nobody else's business"
    with pytest.raises(OSError) as caught:
        office["bob"].write(f"{folder}/decision", "approve")
    assert caught.value.errno == errno.ENOENT
    assert not sending.done()
    office["boss"].write(f"{folder}/decision", "approve")
    sending.result(10)
    assert office["bob"].recv().endswith("may I?")
    assert status(tree, folder)["State"] == "used"
    sending = in_thread(office["alice"].send, "bob", "again")
    second = asked(tree, 2)
    office["boss"].write(f"{second}/decision", "approve")
    sending.result(10)
    assert office["bob"].recv().endswith("again"), "each approval is for one call"


def test_a_rejection_ends_the_call_with_its_reason(tree: Tree, office: dict[str, Puppet]) -> None:
    spec = "{name: child, exec: [sleep, '1000']}"
    spawning = in_thread(office["alice"].ask, "proc/self/spawn", spec)
    folder = asked(tree)
    tree.write(f"{folder}/decision", "reject not on a Friday")
    with pytest.raises(OSError) as caught:
        spawning.result(10)
    assert caught.value.errno == errno.EACCES
    assert "rejected by init: not on a Friday" in office["alice"].read("proc/self/error")
    assert not (tree / "agents/child").exists()
    with pytest.raises(OSError) as caught:
        tree.write(f"{folder}/decision", "approve")
    assert caught.value.errno == errno.EPERM, "decided is decided"


def test_a_signal_ends_the_wait_and_withdraws_the_request(
    tree: Tree, office: dict[str, Puppet]
) -> None:
    pid = office["alice"].pid
    script = f"""
        import signal, os
        signal.alarm(1)
        os.write(os.open({str(tree / "agents/alice/send")!r}, os.O_WRONLY), b"To: bob\\n\\nhi")
    """
    program = "import textwrap; exec(textwrap.dedent(" + repr(script) + "))"
    started = office["alice"].do(
        f"__import__('subprocess').run([sys.executable, '-c', {program!r}]).returncode"
    )
    assert started == -signal.SIGALRM
    assert status(tree, asked(tree))["State"] == "withdrawn"
    assert tree.read(f"proc/{pid}/state") == "idle\n"


def test_who_does_not_wait_asks_and_tries_again(tree: Tree, office: dict[str, Puppet]) -> None:
    alice = office["alice"]
    with pytest.raises(OSError) as caught:
        alice.do("write('agents/self/send', 'To: bob\\n\\nhi', flags=os.O_NONBLOCK)")
    assert caught.value.errno == errno.EAGAIN
    folder = asked(tree)
    with pytest.raises(OSError) as caught:
        office["alice"].write(f"{folder}/decision", "approve")
    assert caught.value.errno == errno.EPERM, "not for oneself"
    office["boss"].write(f"{folder}/decision", "approve")
    alice.do("write('agents/self/send', 'To: bob\\n\\nhi', flags=os.O_NONBLOCK)")
    assert office["bob"].recv().endswith("hi")


def test_a_new_name_does_not_wait_for_it_would_lock_the_folder(
    tree: Tree, office: dict[str, Puppet]
) -> None:
    alice = office["alice"]
    with pytest.raises(OSError) as caught:
        alice.do("os.mkdir(tree + '/dev/queues/jobs')")
    assert caught.value.errno == errno.EAGAIN
    tree.write(f"{asked(tree)}/decision", "approve")
    alice.do("os.mkdir(tree + '/dev/queues/jobs')")
    assert (tree / "dev/queues/jobs").is_dir()


def test_requests_outlive_the_daemon(tree: Tree, office: dict[str, Puppet]) -> None:
    with pytest.raises(OSError):
        office["alice"].do("write('agents/self/send', 'To: bob\\n\\nhi', flags=os.O_NONBLOCK)")
    folder = asked(tree)
    tree.crash()
    tree.mount()
    assert status(tree, folder)["State"] == "pending"
    tree.write(f"{folder}/decision", "approve")
    until(tree / "agents/alice/state", "idle")
    office["alice"].do("write('agents/self/send', 'To: bob\\n\\nhi', flags=os.O_NONBLOCK)")
    assert status(tree, folder)["State"] == "used"


def test_approve_is_a_command(tree: Tree, office: dict[str, Puppet]) -> None:
    sending = in_thread(office["alice"].send, "bob", "may I?")
    asked(tree)
    listed = tree.run("approve")
    assert "alice" in listed.stdout
    assert "/agents/bob/inbox" in listed.stdout
    tree.run("approve", "1")
    sending.result(10)
    refused = tree.run("approve", "1", check=False)
    assert refused.returncode == 1
    assert "used already" in refused.stderr
    sending = in_thread(office["alice"].send, "bob", "and now?")
    asked(tree, 2)
    shown = tree.run("approve", "2", "--reject", "it's late", "--how").stdout
    subprocess.run(["bash", "-c", shown], env={"AGENTFS": str(tree.path)}, check=True)
    with pytest.raises(PermissionError):
        sending.result(10)
    assert "it's late" in office["alice"].read("proc/self/error")


def test_nothing_waits_for_ever(tree: Tree, office: dict[str, Puppet]) -> None:
    tree.write("etc/acl.yaml", RULES.replace("timeout: 1h", "timeout: 500ms"))
    with pytest.raises(OSError) as caught:
        office["alice"].send("bob", "may I?")
    assert caught.value.errno == errno.EACCES
    assert "nobody decided in time" in office["alice"].read("proc/self/error")


def request(tree: Tree, folder: str) -> dict[str, str]:
    lines = tree.read(f"{folder}/request").splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def refusal(call: Any, *arguments: Any) -> int | None:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    return caught.value.errno


def test_whoever_approves_reads_what_and_that_alone_goes_through(
    tree: Tree, office: dict[str, Puppet]
) -> None:
    alice, boss = office["alice"], office["boss"]
    pay = "Pay 100 EUR to eve.\n"
    sending = in_thread(alice.write, "agents/self/outbox/bob", pay)
    folder = asked(tree)
    assert boss.read(f"{folder}/body") == pay
    assert request(tree, folder)["Size"] == str(len(pay))
    digest = request(tree, folder)["SHA256"]
    assert digest == hashlib.sha256(pay.encode()).hexdigest()
    mail = boss.recv()
    assert pay in mail
    assert f"approve {digest}" in mail
    assert refusal(office["bob"].read, f"{folder}/body") == errno.EACCES
    assert refusal(tree.write, f"{folder}/decision", "approve me") == errno.EINVAL
    boss.write(f"{folder}/decision", f"approve {digest}")
    sending.result(30)
    assert office["bob"].recv().endswith(pay)
    assert status(tree, folder)["State"] == "used"
    assert status(tree, folder)["Decided"] == "boss", "and not who asked"

    other = in_thread(alice.write, "agents/self/outbox/bob", "Pay 900 EUR to eve.\n")
    second = asked(tree, 2)
    assert refusal(tree.write, f"{second}/decision", f"approve {digest}") == errno.ESTALE
    assert status(tree, second)["State"] == "pending"
    tree.write(f"{second}/decision", "reject too much")
    with pytest.raises(PermissionError):
        other.result(30)


def test_an_approval_does_not_cover_another_body(tree: Tree, office: dict[str, Puppet]) -> None:
    alice = office["alice"]

    def say(text: str) -> int | None:
        line = f"write('agents/self/send', 'To: bob\\n\\n{text}', flags=os.O_NONBLOCK)"
        return refusal(alice.do, line)

    assert say("one") == errno.EAGAIN
    folder = asked(tree)
    one = request(tree, folder)["SHA256"]
    assert say("two") == errno.EAGAIN, "nobody waits for the first: this takes its place"
    assert tree.read(f"{folder}/body") == "two"
    assert len(list((tree / "dev/approvals").iterdir())) == 1
    assert refusal(tree.write, f"{folder}/decision", f"approve {one}") == errno.ESTALE
    tree.write(f"{folder}/decision", "approve")
    assert say("three") == errno.EAGAIN
    assert (tree / "dev/approvals/000002").exists()
    assert tree.read("proc/self/error") is not None
    alice.do("write('agents/self/send', 'To: bob\\n\\ntwo', flags=os.O_NONBLOCK)")
    assert office["bob"].recv().endswith("two")


def test_outbox_waits_at_close_when_there_is_a_body(tree: Tree, office: dict[str, Puppet]) -> None:
    alice = office["alice"]
    alice.do("globals().update(out=os.open(me + '/outbox/bob', os.O_WRONLY))")
    alice.do("os.write(out, b'a' * 5000)")
    assert list((tree / "dev/approvals").iterdir()) == []
    closing = in_thread(alice.do, "os.close(out)")
    folder = asked(tree)
    assert tree.read(f"{folder}/body") == "a" * 4096
    assert request(tree, folder)["Size"] == "5000"
    assert not closing.done()
    tree.run("approve", "1")
    closing.result(30)
    assert office["bob"].recv().endswith("a" * 5000)


def test_a_spawn_shows_its_definition(tree: Tree, office: dict[str, Puppet]) -> None:
    spec = "{name: child, exec: [sleep, '1000']}"
    spawning = in_thread(office["alice"].ask, "proc/self/spawn", spec)
    folder = asked(tree)
    assert json.loads(tree.read(f"{folder}/body")) == {"name": "child", "exec": ["sleep", "1000"]}
    told = tree.run("approve").stdout
    assert '"name": "child"' in told
    told = tree.run("approve", "1").stdout
    assert "alice asks to spawn /agents/child" in told
    assert '"sleep"' in told
    spawning.result(30)


def test_an_artifact_waits_at_close_and_shows_its_content(
    tree: Tree, office: dict[str, Puppet]
) -> None:
    alice, plan = office["alice"], tree / "dev/shm/global/plan"
    alice.do("globals().update(out=os.open(tree + '/dev/shm/global/plan', os.O_WRONLY|os.O_CREAT))")
    alice.do("os.write(out, b'a' * 3_000_000)")
    assert list((tree / "dev/approvals").iterdir()) == []
    closing = in_thread(alice.do, "os.close(out)")
    folder = asked(tree)
    assert tree.read(f"{folder}/body") == "a" * 4096
    said = request(tree, folder)
    assert said["Size"] == "3000000"
    assert said["SHA256"] == hashlib.sha256(b"a" * 3_000_000).hexdigest()
    assert not plan.exists()
    assert not closing.done()
    other = hashlib.sha256(b"b").hexdigest()
    assert refusal(tree.write, f"{folder}/decision", f"approve {other}") == errno.ESTALE
    tree.write(f"{folder}/decision", f"approve {said['SHA256']}")
    closing.result(30)
    assert plan.read_bytes() == b"a" * 3_000_000
    assert status(tree, folder)["State"] == "used"


def test_an_artifact_that_is_rejected_is_not_stored_nor_is_another_approved_with_it(
    tree: Tree, office: dict[str, Puppet]
) -> None:
    alice = office["alice"]

    def store(text: str) -> int | None:
        flags = "os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK"
        line = f"write('dev/shm/global/plan', {text!r}, flags={flags})"
        try:
            alice.do(line)
        except OSError as failure:
            return failure.errno
        return None

    assert store("one") == errno.EAGAIN
    folder = asked(tree)
    assert tree.read(f"{folder}/body") == "one"
    tree.write(f"{folder}/decision", "approve")
    assert store("two") == errno.EAGAIN, "another content"
    assert tree.read(f"{asked(tree, 2)}/body") == "two"
    tree.write(f"{asked(tree, 2)}/decision", "reject no")
    assert store("one") is None
    assert tree.read("dev/shm/global/plan") == "one"
    waiting = in_thread(alice.do, "write('dev/shm/global/plan', 'three', flags=os.O_TRUNC)")
    tree.write(f"{asked(tree, 3)}/decision", "reject no")
    with pytest.raises(PermissionError):
        waiting.result(30)
    assert tree.read("dev/shm/global/plan") == "one"


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("os.unlink(tree + '/dev/shm/global/mine')", "remove"),
        ("os.rename(tree + '/dev/shm/global/mine', tree + '/dev/shm/global/new')", "rename to new"),
        ("os.truncate(tree + '/dev/shm/global/mine', 2)", "truncate to 2"),
        (
            "os.setxattr(tree + '/dev/shm/global/mine', 'user.mime_type', b'text/x')",
            "type text/x",
        ),
        ("os.mkdir(tree + '/dev/queues/jobs')", "make a queue"),
        ("os.mkdir(tree + '/agents/child')", "define"),
        (
            "os.close(os.open(tree + '/shared/plans/x', os.O_WRONLY | os.O_NONBLOCK))",
            "write file",
        ),
    ],
)
def test_every_other_change_says_what_it_is(
    tree: Tree, office: dict[str, Puppet], call: str, body: str
) -> None:
    tree.write("etc/acl.yaml", "rules: []\n")
    office["alice"].do(
        "os.close(os.open(tree + '/dev/shm/global/mine', os.O_WRONLY | os.O_CREAT, 0o644))"
    )
    (tree / "shared/plans").mkdir()
    (tree / "shared/plans/x").touch(0o666)
    tree.write("etc/acl.yaml", RULES)
    again = (errno.EAGAIN, errno.ENOTSUP)  # the latter is what setxattr(2) makes of the former
    assert refusal(office["alice"].do, call) in again
    folder = asked(tree)
    assert tree.read(f"{folder}/body") == body
    tree.write(f"{folder}/decision", f"approve {request(tree, folder)['SHA256']}")
    if "rename" not in call:  # the second name wants an approval of its own
        office["alice"].do(call)


def test_a_change_of_a_group_says_what_it_is(tree: Tree, office: dict[str, Puppet]) -> None:
    with closing(Puppet(tree, "dora", role="daemon")) as dora:
        tree.write("etc/acl.yaml", RULES)
        make = "os.mkdir(tree + '/sys/cgroup/team')"
        assert refusal(dora.do, make) == errno.EAGAIN
        assert tree.read(f"{asked(tree)}/body") == "make team"
        tree.write(f"{asked(tree)}/decision", "approve")
        dora.do(make)
        limiting = in_thread(dora.write, "sys/cgroup/team/tokens.max", "500")
        folder = asked(tree, 2)
        assert tree.read(f"{folder}/body") == "team: tokens.max 500"
        tree.write(f"{folder}/decision", "approve")
        limiting.result(30)
        assert tree.read("sys/cgroup/team/tokens.max") == "500\n"
