"""Capabilities on a real mount, with real programs."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from tests.puppet import Puppet
from tests.system.test_inotify import Watcher
from tests.tree import Tree

pytestmark = pytest.mark.mount


def refusal(call: Callable[[], object]) -> int:
    """The errno that it gets."""
    with pytest.raises(OSError) as refused:
        call()
    assert refused.value.errno is not None
    return refused.value.errno


def effective(tree: Tree, pid: int) -> list[str]:
    return tree.read(f"proc/{pid}/caps/effective").splitlines()


ATTEMPTS = {
    "spawn_children": "ask('proc/self/spawn', '{name: child}')",
    "kill_processes": "write('proc/CHILD/ctl', 'TERM')",
    "manage_tree": "write('proc/CHILD/ctl', 'reparent 1')",
    "broadcast": "write('dev/broadcast', 'all')",
    "escalate": "ask('proc/self/escalate', 'error it burns')",
    "memory": "os.open(me + '/memory/notes', os.O_RDONLY)",
    "datastore.read": "read('dev/shm/global/plan')",
    "datastore.write": "os.open(tree + '/dev/shm/global/new', os.O_WRONLY | os.O_CREAT)",
    "file_read": "read('shared/plan')",
    "file_write": "os.open(tree + '/shared/new', os.O_WRONLY | os.O_CREAT)",
    "secret": "read('proc/self/environ')",
}


def test_each_capability_is_asked_for_where_the_thing_happens(tree: Tree) -> None:
    """A daemon that may everything does it all; one without is refused, in words, by name."""
    (tree / "shared/plan").write_text("x")
    (tree / "dev/shm/global/plan").write_text("x")
    tree.write("etc/roles.yaml", "roles: {daemon: {capabilities: ['*']}}\n")
    everything, nothing = Puppet(tree, "boss", role="daemon"), Puppet(tree, "bob", role="daemon")
    children = {}
    for puppet in (everything, nothing):
        children[puppet] = tree.spawn(f"child-of-{puppet.name}", puppet.pid)
        (tree / f"agents/{puppet.name}/memory/notes").write_text("x")
    for name, attempt in reversed(ATTEMPTS.items()):
        nothing.write("proc/self/caps/ctl", f"-{name}\n")
        mine = attempt.replace("CHILD", str(children[nothing]))
        assert refusal(lambda mine=mine: nothing.do(mine)) == errno.EPERM, name  # type: ignore[misc]
        assert f"(rule: capability {name})" in nothing.read("proc/self/error")
        everything.do(attempt.replace("CHILD", str(children[everything])))
    audited = tree.read("sys/audit/log")
    for name in ATTEMPTS:
        assert f'"rule":"capability {name}"' in audited
    assert tree.read(f"proc/{tree.read('agents/child/pid').strip()}/ppid") == f"{everything.pid}\n"
    for puppet in (everything, nothing):
        puppet.close()


def test_a_drop_is_seen_by_watchers_and_outlives_the_program_and_the_daemon(tree: Tree) -> None:
    alice = Puppet(tree, "alice", caps=["spawner", "llm", "tool:*"], role="lead")
    path = f"proc/{alice.pid}/caps/effective"
    assert effective(tree, alice.pid) == ["spawn_children", "llm", "tool:*"]
    watcher = Watcher(tree, tree / path)
    alice.write("proc/self/caps/ctl", "-tool:web_*\n-llm\n")
    assert watcher.until("MODIFY", path)[-1] == ("MODIFY", path)
    assert effective(tree, alice.pid) == ["spawn_children", "tool:*", "-tool:web_*"]
    assert refusal(lambda: alice.write("proc/self/caps/ctl", "+llm\n")) == errno.EPERM
    child = int(alice.ask("proc/self/spawn", "{name: child, caps: ['*']}"))
    alice.close()
    tree.crash()
    tree.mount()
    for pid in (alice.pid, child):
        assert effective(tree, pid) == ["spawn_children", "tool:*", "-tool:web_*"]


def test_a_program_without_memory_does_not_begin_in_it(tree: Tree) -> None:
    for deny, where in (([], str(tree.path)), (["memory"], "/"), (["memory", "file_write"], "/")):
        puppet = Puppet(tree, f"without-{len(deny)}", deny=deny)
        found = puppet.do("os.getcwd()")
        assert found == where or (not deny and found.startswith(where))
        puppet.close()


def test_tools_and_capabilities_of_a_definition_are_checked(tree: Tree) -> None:
    task = {"role": "task", "exec": ["true"]}
    assert refusal(lambda: tree.spawn("a", tools=["bash"], **task)) == errno.EACCES
    assert refusal(lambda: tree.spawn("a", caps=["fly"], **task)) == errno.EINVAL
    assert refusal(lambda: tree.spawn("a", deny=["tool:[x]"], **task)) == errno.EINVAL
    assert not (tree / "agents/a").exists()
    pid = tree.spawn("a", tools=["web_search"], **task)
    assert "broadcast" not in effective(tree, pid)


def test_without_secret_a_program_has_no_environment_of_its_definition(tree: Tree) -> None:
    """Neither at its start, nor by what Linux shows of it, nor in its own definition."""
    script = 'echo "[$KEY$AGENT_NAME]"; cat "$AGENTFS/agents/self/spec.yaml" /proc/self/environ'
    specs: dict[str, dict[str, object]] = {
        "has": {},
        "denied": {"deny": ["secret"]},
        "listed": {"caps": ["shell_exec"]},
        "job": {"role": "task", "caps": ["*"]},
        "plain": {"deny": ["secret"], "env": {}},
    }
    for name, spec in specs.items():
        given = {"env": {"KEY": "sk-hush"}, "restart": "never", "exec": ["sh", "-c", script]}
        pid = tree.spawn(name, **{**given, **spec})
        tree.read(f"proc/{pid}/wait")
        said = tree.read(f"agents/{name}/log")
        assert ("sk-hush" in said) == (name == "has"), said
        assert said.startswith(f"[{'sk-hush' if name == 'has' else ''}{name}]"), said
        assert ("name: plain" in said) == (name == "plain"), "it has nothing to hide"
    tree.write("etc/roles.yaml", "roles:\n  worker: {capabilities: [shell_exec]}\n")
    pid = tree.spawn("late", role="worker", env={"KEY": "sk-hush"}, exec=["env"], restart="never")
    tree.read(f"proc/{pid}/wait")
    said = tree.read("agents/late/log")
    assert "AGENT_NAME=late" in said
    assert "sk-hush" not in said
    assert "late, is not handed KEY: it has no capability `secret`" in tree.log()
