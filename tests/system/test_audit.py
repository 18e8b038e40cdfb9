"""The audit on a real mount: who may read it, what is in it, and that it survives kill -9."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentfs.audit.verify import verify
from tests.puppet import Puppet
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

Record = dict[str, Any]
FILES = ("log", "head", "verify", "query")
OK = re.compile(r"ok (\d+) records, head (\d+) [0-9a-f]{64}\n")


def log(tree: Tree) -> list[Record]:
    return [json.loads(line) for line in tree.read("sys/audit/log").splitlines()]


def refusals(tree: Tree, name: str) -> list[tuple[str, str]]:
    """(path, errno) of each call that was refused to `name`."""
    return [
        (change["path"], change["errno"])
        for record in log(tree)
        for change in record["changes"]
        if change["type"] == "call_refused" and record["actor"]["name"] == name
    ]


def test_the_operator_reads_it_and_an_agent_that_tries_is_in_it(tree: Tree) -> None:
    alice = Puppet(tree, "alice")
    bob = Puppet(tree, "bob")
    alice.send("bob", "a secret body")
    for name in FILES:
        with pytest.raises(PermissionError):
            alice.read(f"sys/audit/{name}")
        with pytest.raises(PermissionError):
            alice.do(f"os.stat(tree + '/sys/audit/{name}')")
    with pytest.raises(PermissionError):
        alice.ask("sys/audit/query", "type=call_refused")
    with pytest.raises(PermissionError):
        alice.ls("sys/audit")
    with pytest.raises(OSError, match=r"."):
        bob.write("proc/1/ctl", "KILL\n")
    assert refusals(tree, "bob") == [("/proc/1/ctl", "EPERM")]
    tried = [path for path, code in refusals(tree, "alice") if code == "EACCES"]
    # Reading and stat(2) are refused alike, and equal refusals are one record.
    assert tried == [*(f"/sys/audit/{name}" for name in FILES), "/sys/audit"]
    records = log(tree)
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
    (sent,) = [
        record
        for record in records
        if record["actor"]["name"] == "alice" and record["changes"][0]["type"] == "message_arrived"
    ]
    assert sent["actor"] | {"uid": 0, "gid": 0} == {
        "kind": "agent", "name": "alice", "pid": alice.pid, "uid": 0, "gid": 0
    }  # fmt: skip
    assert "secret body" not in tree.read("sys/audit/log")
    spawned = next(r for r in records if r["changes"][-1].get("child") == alice.pid)
    assert spawned["actor"]["kind"] == "operator"
    found = tree.ask("sys/audit/query", "agent=bob type=call_refused since=1h")
    assert [json.loads(line)["actor"]["name"] for line in found.splitlines()] == ["bob"]
    with pytest.raises(OSError) as refused:
        tree.ask("sys/audit/query", "colour=blue")
    assert refused.value.errno == errno.EINVAL
    for name in ("log", "head", "verify"):
        assert os.stat(tree / f"sys/audit/{name}").st_mode & 0o777 == 0o400
    head = dict(line.split(":\t") for line in tree.read("sys/audit/head").splitlines())
    assert head["Hash"] == log(tree)[-1]["hash"]
    match = OK.fullmatch(tree.read("sys/audit/verify"))
    assert match is not None
    assert match[1] == match[2] == head["Seq"]
    assert tree.run("audit", "verify").stdout.startswith("ok ")
    told = tree.run("audit", "--json").stdout
    assert told
    assert tree.read("sys/audit/log").startswith(told), "a summary may have come meanwhile"
    question = ("agent=bob", "type=call_refused")
    assert json.loads(tree.run("audit", "query", *question).stdout)["actor"]["name"] == "bob"
    shown = tree.run("audit", "query", *question, "--how").stdout
    done = subprocess.run(
        ["bash", "-c", shown], env=os.environ | {"AGENTFS": str(tree.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["actor"]["name"] == "bob"
    for puppet in (alice, bob):  # their ends are records, too
        puppet.close()


def test_another_user_who_tries_is_in_it_though_the_modes_say_no(tree: Tree) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    script = (
        "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: os.open(sys.argv[1], os.O_RDONLY)\n"
        "except PermissionError: print('refused')"
    )
    for folder in tree.path.parents:
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    path = str(tree / "sys/audit/log")
    done = subprocess.run(
        ["python3", "-c", script, path], capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stdout == "refused\n"
    last = log(tree)[-1]
    assert (last["actor"]["kind"], last["actor"]["pid"], last["actor"]["uid"]) == (
        "user", None, 65534
    )  # fmt: skip
    assert last["changes"][0]["path"] == "/sys/audit/log"


def test_a_flood_of_refusals_is_one_record_and_summaries_that_count_each(tree: Tree) -> None:
    bob = Puppet(tree, "bob")
    path = str(tree / "sys/audit/log")
    assert bob.do(f"sum(map(os.path.exists, [{path!r}] * 500))") == 0
    assert len(refusals(tree, "bob")) == 1

    def counted() -> int:
        changes = [change for record in log(tree) for change in record["changes"]]
        return sum(
            change["count"]
            for change in changes
            if change["type"] == "refusals_repeated" and change["pid"] == bob.pid
        )

    eventually(lambda: counted() >= 499)
    assert len(refusals(tree, "bob")) == 1
    assert sum("refused to bob" in line for line in tree.log().splitlines()) < 10
    assert OK.fullmatch(tree.read("sys/audit/verify"))
    bob.close()


def test_what_any_disk_answers_is_no_refusal_and_not_in_it(tree: Tree) -> None:
    bob = Puppet(tree, "bob")
    (tree / "shared/full/inner").mkdir(parents=True)
    (tree / "shared/full").chmod(0o777)
    (tree / "shared/f").touch(0o666)
    (tree / "shared/f").chmod(0o666)
    for attempt, code in (
        ("os.rmdir(tree + '/shared/full')", "ENOTEMPTY"),
        ("os.rename(tree + '/shared/full', tree + '/agents/bob/memory/full')", "EXDEV"),
        ("os.rename(tree + '/shared/f', tree + '/shared/full')", "EISDIR"),
        ("os.setxattr(tree + '/shared/f', 'security.x', b'')", "ENOTSUP"),
        ("os.removexattr(tree + '/shared/f', 'user.none')", "ENODATA"),
        ("os.mkdir(tree + '/shared/' + 'x' * 256)", "ENAMETOOLONG"),
        ("open(tree + '/shared/none/f', 'x')", "ENOENT"),
        ("os.mkdir(tree + '/shared/full/inner')", "EEXIST"),
        ("os.rmdir(tree + '/agents/bob/memory/none')", "ENOENT"),
    ):
        with pytest.raises(OSError) as failure:
            bob.do(attempt)
        assert errno.errorcode[failure.value.errno or 0] == code, attempt
    assert refusals(tree, "bob") == []
    assert "refused to bob" not in tree.log()
    with pytest.raises(OSError, match="not empty"):
        bob.do("os.rmdir(tree + '/shared/full')")
    assert "ENOTEMPTY" in bob.read("proc/self/error"), "whoever asks is told all the same"
    with pytest.raises(PermissionError):
        bob.do("os.mkdir(tree + '/shared/docs/x')")
    assert refusals(tree, "bob") == [("/shared/docs/x", "EACCES")]
    bob.close()


def test_after_kill_9_in_the_middle_of_writes_it_has_every_write_that_returned(
    trees: Callable[..., Tree],
) -> None:
    tree = trees()
    tree.mount()
    tree.write("etc/agentfs.yaml", "audit: {checkpoint_every: 10}\n")
    for life in range(3):
        if life:
            tree.mount()
        writer = tree.start(
            "sh", "-c", f"while echo hello > {tree.path}/agents/init/outbox/init; do echo; done",
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert writer.stdout is not None
        for _ in range(60):
            assert writer.stdout.readline() == b"\n"
        tree.crash()
        returned = 60 + writer.stdout.read().count(b"\n")
        writer.wait()
        verdict = verify(tree.state / "store.db", tree.state / "audit.key")
        assert not verdict.fault
        assert verdict.records > returned
    tree.mount()
    arrived = [r for r in log(tree) if r["changes"][0]["type"] == "message_arrived"]
    assert len(arrived) >= 180
    assert OK.fullmatch(tree.read("sys/audit/verify"))
    assert "the audit: ok " in tree.run("doctor", "--state", str(tree.state)).stdout


def test_the_key_may_be_elsewhere_and_the_system_does_not_start_without_it(
    trees: Callable[..., Tree], tmp_path: Path
) -> None:
    key = tmp_path / "audit.key"
    tree = trees(options=("--audit-key", str(key)))
    Tree.mount(tree)
    tree.spawn("alice")
    tree.unmount()
    assert key.exists()
    assert not (tree.state / "audit.key").exists()
    alone = tree.run("audit", "verify", str(tree.state), check=False)
    assert (alone.returncode, alone.stdout.count("cannot be verified")) == (1, 1)
    given = tree.run("audit", "verify", str(tree.state), "--audit-key", str(key))
    assert given.stdout.startswith("ok ")
    failed = tree.run("mount", str(tree.path), "--state", str(tree.state), check=False)
    assert failed.returncode == 1
    assert "--audit-key FILE says where it is" in failed.stderr
