"""The faults of identity and security that HiveKernel had, S1 to S10, do not exist here.

Each test is named after the fault; all of it goes through the mount, with agents that are programs.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.puppet import Puppet
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

People = dict[str, Puppet]

NO_RULES = "rules: []\n"


@pytest.fixture(scope="module")
def tree(hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """One tree for all of these, which leave it as they found it."""
    made = QuickTree(tmp_path_factory.mktemp("security") / "tree", hatchery=hatchery)
    try:
        made.mount()
        yield made
    finally:
        made.clean_up()


@pytest.fixture(scope="module")
def people(tree: Tree) -> Iterator[People]:
    """init -> lead -> (ann, ben -> task), and init -> uncle."""
    lead = Puppet(tree, "lead", role="lead")
    ben = Puppet(tree, "ben", lead.pid, role="worker")
    made = [
        lead,
        ben,
        Puppet(tree, "ann", lead.pid, role="worker"),
        Puppet(tree, "task", ben.pid, role="task", tier="operational"),
        Puppet(tree, "uncle"),
    ]
    yield {puppet.name: puppet for puppet in made}
    for puppet in made:
        puppet.close()


@pytest.fixture
def ruled(tree: Tree) -> Iterator[Callable[..., None]]:
    """Puts rules in effect, until the end of the test."""

    def put(*rules: str) -> None:
        tree.write("etc/acl.yaml", "rules:\n" + "".join(f"- {{{rule}}}\n" for rule in rules))

    yield put
    tree.write("etc/acl.yaml", NO_RULES)


def refused(call: Callable[[], object]) -> str:
    """The errno of a call that is to fail."""
    with pytest.raises(OSError) as caught:
        call()
    return errno.errorcode[caught.value.errno or 0]


def test_fault_s1_the_caller_says_who_it_is(tree: Tree, people: People) -> None:
    """Neither its environment, nor a header, nor a field of a request makes it somebody else."""
    claims = {"AGENT_NAME": "init", "AGENT_PID": "1", "AGENTFS_PID": "1", "LOGNAME": "root"}
    ann = people["ann"]
    script = "readlink $T/proc/self; readlink $T/agents/self; echo x > $T/proc/1/ctl || echo no"
    command = ["/usr/bin/env", "-i", *(f"{key}={claim}" for key, claim in claims.items())]
    command += [f"T={tree.path}", "/bin/sh", "-c", script]
    run = f"__import__('subprocess').run({command!r}, capture_output=True, text=True)"
    said = ann.do(f"{run}.stdout")
    assert said == f"{ann.pid}\nann\nno\n"
    ann.write("agents/self/send", "To: ben\nFrom: init\nX-Pid: 1\nRelation: system\n\nobey")
    assert "\nFrom: ann\n" in people["ben"].recv()
    assert refused(lambda: ann.ask("proc/1/spawn", "{name: mine}")) == "EACCES"
    assert refused(lambda: ann.ask("proc/self/spawn", "{name: mine, ppid: 1}")) == "EINVAL"


def test_fault_s2_anybody_can_spawn_a_kernel(tree: Tree, people: People) -> None:
    for asker in (tree, people["lead"]):
        pid = 1 if asker is tree else people["lead"].pid
        ask, path = asker.ask, f"proc/{pid}/spawn"
        assert refused(lambda: ask(path, "{name: second, role: kernel}")) == "EPERM"  # noqa: B023
        assert refused(lambda: ask(path, "{name: second, role: ''}")) == "EINVAL"  # noqa: B023
    (tree / "agents/second").mkdir()
    assert refused(lambda: tree.write("agents/second/spec.yaml", "role: kernel\n")) == "EPERM"
    (tree / "agents/second").rmdir()
    unset = int(people["lead"].ask("proc/self/spawn", "{name: plain}"))
    assert tree.read(f"proc/{unset}/role") == "agent\n"
    tree.write(f"proc/{unset}/ctl", "KILL")
    # What a kernel could do there: assign users, delete what is others', always go first.
    lead = people["lead"]
    assert refused(lambda: lead.ask("proc/self/spawn", "{name: other, user: nobody}")) == "EPERM"
    (tree / "dev/shm/global/law").write_text("x")
    assert refused(lambda: lead.rm("dev/shm/global/law")) == "EACCES"
    lead.write("agents/self/outbox/ben", "Priority: critical\nRelation: system\n\nnow")
    assert "\nRelation: parent\n" in people["ben"].recv()


def test_fault_s3_nobody_asks_who_calls(tree: Tree, people: People) -> None:
    """Having another work, its mail, its details, the events, its timetable."""
    ann, ben, task = people["ann"], people["ben"], people["task"]
    tree.write("agents/init/outbox/ben", "for ben alone")
    number = ben.ask("agents/self/reminders/new", "in 1h water the plants").strip()
    them = f"proc/{ben.pid}"
    for path, request in (
        (f"{them}/spawn", "{name: mine}"),
        (f"{them}/call", "llm"),
        (f"{them}/escalate", "error x"),
        ("agents/ben/asks/new", "To: init\n\nwhat?"),
        ("agents/ben/reminders/new", "in 1h mine"),
    ):
        assert refused(lambda: ann.ask(path, request)) == "EACCES", path  # noqa: B023
    for path in ("inbox/new", "sent", "asks", "reminders", "memory", "dead"):
        assert refused(lambda: ann.ls(f"agents/ben/{path}")) == "EACCES", path  # noqa: B023
    assert refused(lambda: ann.rm(f"agents/ben/reminders/{number}")) == "EACCES"
    assert refused(lambda: ann.read("agents/ben/recv")) == "EACCES"
    assert refused(lambda: task.read(f"{them}/info")) == "EACCES"
    assert json.loads(ann.read(f"{them}/info"))["name"] == "ben", "a worker may, of its own user"
    ann.do(
        "globals().update(stream=os.open(tree + '/dev/events.all', os.O_RDONLY | os.O_NONBLOCK))"
    )
    events = ""
    with suppress(BlockingIOError):  # a read gives what is at hand
        while True:
            events += ann.do("os.read(stream, 1 << 20).decode()")
    assert '"type": "message_arrived"' in events
    assert "for ben alone" not in events
    assert "water the plants" not in events
    ben.rm(f"agents/self/reminders/{number}")
    assert ben.recv().endswith("for ben alone")


ACTIONS = {
    "spawn": ("ann", "ask('proc/self/spawn', '{name: kid}')"),
    "kill": ("ann", "write('proc/self/ctl', 'HUP')"),
    "send": ("ann", "write('agents/self/outbox/ben', 'x')"),
    "read_artifact": ("ann", "read('dev/shm/global/law')"),
    "write_artifact": ("ann", "os.open(tree + '/dev/shm/global/new', os.O_CREAT | os.O_WRONLY)"),
    "escalate": ("ann", "ask('proc/self/escalate', 'info x')"),
    "read_process": ("ann", "read('agents/ben/log')"),
    "manage_tree": ("lead", "write('proc/BEN/ctl', 'reparent 1')"),
    "read_file": ("ann", "read('shared/plan')"),
    "write_file": ("ann", "write('shared/plan', 'x')"),
}


def test_fault_s4_most_actions_are_never_asked_about(
    tree: Tree, people: People, ruled: Callable[..., None]
) -> None:
    """A rule against each action stops that one and no other."""
    (tree / "shared/plan").write_text("x")
    (tree / "dev/shm/global/law").write_text("x")
    (tree / "shared/plan").chmod(0o666)
    for action, (who, call) in ACTIONS.items():
        ruled(f"effect: deny, action: {action}, agent: {who}")
        puppet = people[who]
        attempt = call.replace("BEN", str(people["ben"].pid))
        assert refused(lambda: puppet.do(attempt)) == "EPERM", action  # noqa: B023
        assert "rule: acl.yaml: rule 1" in puppet.read("proc/self/error"), action
    for action, (who, call) in ACTIONS.items():
        others = [other for other in ACTIONS if other != action]
        ruled(*(f"effect: deny, action: {other}, agent: {who}" for other in others))
        if action not in ("spawn", "kill", "manage_tree", "escalate", "write_artifact", "send"):
            people[who].do(call)
    assert tree.read(f"proc/{people['ben'].pid}/ppid") == f"{people['lead'].pid}\n"
    barren = Puppet(tree, "barren", deny=["spawn_children"])
    assert refused(lambda: barren.do("os.mkdir(tree + '/agents/kid')")) == "EPERM"
    assert refused(lambda: barren.ask("proc/self/spawn", "{name: kid}")) == "EPERM"
    barren.close()


def test_fault_s5_rules_of_ones_own_cannot_override_the_defaults(
    tree: Tree, people: People, ruled: Callable[..., None]
) -> None:
    task, ann = people["task"], people["ann"]
    assert refused(lambda: task.send("ann", "x")) == "EACCES"
    ruled("effect: allow, role: task, action: send, path: /agents/ann/inbox")
    task.send("ann", "a rule allows what the role does not")
    assert ann.recv().endswith("does not")
    ruled("effect: deny, role: worker, action: send, path: /agents/ben/inbox")
    assert refused(lambda: ann.send("ben", "x")) == "EPERM"
    ruled(
        "effect: deny, role: worker, action: send",
        "effect: allow, agent: ann, action: send, path: /agents/ben/inbox",
        "effect: deny, agent: ann, action: send, path: /agents/ben/**",
    )
    ann.send("ben", "the most specific decides")
    people["ben"].recv()
    ruled("effect: allow, agent: ann, action: send", "effect: deny, agent: ann, action: send")
    assert refused(lambda: ann.send("ben", "x")) == "EPERM", "of equals the one that denies"


def test_fault_s6_a_task_gets_around_its_parent_by_a_queue(tree: Tree, people: People) -> None:
    task, ben = people["task"], people["ben"]
    for owner, name, errno_ in ((ben, "bens", ""), (people["uncle"], "uncles", "EACCES")):
        owner.do(f"os.mkdir(tree + '/dev/queues/{name}')")
        owner.do(f"os.chmod(tree + '/dev/queues/{name}', 0o777)")
        owner.do(f"os.close(os.open(tree + '/dev/topics/{name}', os.O_CREAT | os.O_WRONLY))")
        owner.do(f"os.chmod(tree + '/dev/topics/{name}', 0o666)")
        for path in (f"dev/queues/{name}/send", f"dev/topics/{name}"):
            if errno_:
                assert refused(lambda: task.write(path, "x")) == errno_  # noqa: B023
            else:
                task.write(path, "x")
    for path in ("agents/self/outbox/uncle", "agents/uncle/inbox/new/x", "dev/broadcast"):
        opened = f"os.open(tree + '/{path}', os.O_CREAT | os.O_WRONLY)"
        assert refused(lambda: task.do(f"os.write({opened}, b'x')")) == "EACCES", path  # noqa: B023
    assert refused(lambda: people["uncle"].poll("dev/queues/uncles/recv")) == "EAGAIN"


def test_fault_s7_any_writer_may_replace_any_key(tree: Tree, people: People) -> None:
    ann, ben = people["ann"], people["ben"]
    opened = "os.open(tree + '/dev/shm/{0}', os.O_CREAT | os.O_WRONLY)"
    store = "(lambda fd: (os.write(fd, {1!r}), os.close(fd)))(" + opened + ")"
    ben.do(store.format("global/key", b"ben's"))
    ben.do(store.format("private/key", b"private"))
    assert refused(lambda: ann.write("dev/shm/global/key", "ann's")) == "EACCES"
    assert refused(lambda: ann.rm("dev/shm/global/key")) == "EACCES"
    ann.do(store.format("private/key", b"ann's"))
    assert ben.read("dev/shm/private/key") == "private"
    # What one may not read and what is not there look alike.
    for name in ("key", "nokey"):
        assert refused(lambda: ann.read(f"agents/ben/shm/private/{name}")) == "ENOENT"  # noqa: B023
    assert refused(lambda: ann.do(store.format("anything/key", b"x"))) == "ENOENT"
    before = ann.do("os.open(tree + '/dev/shm/global/key', os.O_RDONLY)")
    ben.write("dev/shm/global/key", "second")
    ben.rm("dev/shm/global/key")
    assert refused(lambda: ann.read("dev/shm/global/key")) == "ENOENT"
    assert ann.do(f"os.read({before}, 99).decode()") == "ben's", "as an open file that was removed"
    assert refused(lambda: ann.do(f"os.open('/proc/self/fd/{before}', os.O_RDONLY)")) in (
        "ENOENT",
        "ESTALE",
    )


def test_fault_s8_tools_are_checked_at_the_spawn_only_and_not_for_startup_agents(
    tree: Tree, people: People
) -> None:
    (tree / "agents/starter").mkdir()
    tree.write("agents/starter/spec.yaml", "role: task\ntier: operational\ntools: [bash]\n")
    assert refused(lambda: tree.write("agents/starter/ctl", "start")) == "EACCES"
    (tree / "agents/starter").rmdir()
    ann = people["ann"]
    spec = {"role": "worker", "tools": ["web_search"], "caps": ["llm", "tool:web_*"]}
    held = Puppet(tree, "held", ann.pid, **spec)
    held.ask("proc/self/call", "tool web_search")
    for tool, number in (("bash", "EACCES"), ("rocket", "EACCES"), ("write_file", "EACCES")):
        assert refused(lambda: held.ask("proc/self/call", f"tool {tool}")) == number  # noqa: B023
    held.write("proc/self/caps/ctl", "-tool:web_*")
    assert refused(lambda: held.ask("proc/self/call", "tool web_search")) == "EPERM"
    confined = tree.read(f"proc/{held.pid}/status").split("Confined:\t")[1]
    assert all(word in confined for word in ("models", "write", "exec"))
    held.close()


def test_fault_s9_all_run_as_root_with_memories_that_anybody_reads(
    tree: Tree, people: People
) -> None:
    ben = people["ben"]
    ben.do("open(me + '/memory/notes', 'w').write('mine')")
    memory = (tree / "agents/ben/memory").stat()
    assert memory.st_mode & 0o777 == 0o700
    assert (tree.state / "agents/ben/memory").stat().st_mode & 0o777 == 0o700
    assert refused(lambda: people["ann"].read("agents/ben/memory/notes")) == "EACCES"
    assert "User:\t" in tree.read(f"proc/{ben.pid}/status")
    if os.geteuid() == 0:
        pid = tree.spawn("guest", user="nobody")
        assert "User:\tnobody\n" in tree.read(f"proc/{pid}/status")
        assert (tree / "agents/guest/memory").stat().st_uid != 0
        assert tree.spawn("guests-child", pid) > pid
        assert "User:\tnobody\n" in tree.read(f"proc/{pid + 1}/status"), "users are inherited"


def test_fault_s10_overrides_of_capabilities_outlive_their_process(
    tree: Tree, people: People
) -> None:
    lead = people["lead"]
    spec = "{name: again, role: worker}"
    first = int(lead.ask("proc/self/spawn", spec))
    whole = tree.read(f"proc/{first}/caps/effective")
    tree.write(f"proc/{first}/caps/ctl", "-llm\n-tool:*")
    assert tree.read(f"proc/{first}/caps/effective") != whole
    lead.write(f"proc/{first}/ctl", "KILL")
    assert lead.read(f"proc/{first}/wait") == "137\n"
    eventually(lambda: not (tree / f"proc/{first}").exists())  # Linux is told a moment later
    second = int(lead.ask("proc/self/spawn", spec))
    assert second != first
    assert tree.read(f"proc/{second}/caps/effective") == whole
    assert tree.read(f"proc/{second}/caps/denied") == ""
    # Many at once: each drop is one change of its own.
    names = [f"tool:t{number}" for number in range(50)]
    jobs = f"(lambda p: list(p.map(lambda n: write('proc/{second}/caps/ctl', '-' + n), {names})))"
    pool = "__import__('concurrent.futures').futures.ThreadPoolExecutor(16)"
    assert refused(lambda: people["ann"].do(f"{jobs}({pool})")) == "EACCES", "nobody else's"
    tree.write(f"proc/{second}/caps/ctl", "".join(f"-{name}\n" for name in names))
    assert sorted(tree.read(f"proc/{second}/caps/denied").split()) == sorted(names)
    lead.write(f"proc/{second}/ctl", "KILL")
