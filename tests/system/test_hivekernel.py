"""What HiveKernel's own tests assert of its IPC holds here, and what was wrong with it is not.

Each test is named after the behaviour, or the fault, that it is about; all of it goes through the
mount, with agents that are real programs.
"""

from __future__ import annotations

import email
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.message import Message

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.puppet import Puppet
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def shared_tree(hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """One tree for the tests that leave it as they found it."""
    tree = QuickTree(tmp_path_factory.mktemp("hivekernel") / "tree", hatchery=hatchery)
    try:
        tree.mount()
        yield tree
    finally:
        tree.clean_up()


@pytest.fixture(scope="module")
def relatives(shared_tree: Tree) -> Iterator[dict[str, Puppet]]:
    """init -> lead -> (ann, ben -> task), and init -> uncle."""
    lead = Puppet(shared_tree, "lead", role="lead")
    ben = Puppet(shared_tree, "ben", lead.pid)
    made = [
        lead,
        ben,
        Puppet(shared_tree, "ann", lead.pid),
        Puppet(shared_tree, "task", ben.pid, role="task", tier="operational"),
        Puppet(shared_tree, "uncle"),
    ]
    yield {puppet.name: puppet for puppet in made}
    for puppet in made:
        puppet.close()


@pytest.fixture
def family(relatives: dict[str, Puppet]) -> Iterator[dict[str, Puppet]]:
    """The relatives, with empty inboxes before and after."""
    yield relatives
    for puppet in relatives.values():
        with suppress(BlockingIOError):
            while True:
                puppet.recv()


def refused(call: Callable[[], object]) -> int | None:
    """The errno of a call that is to fail."""
    with pytest.raises(OSError) as caught:
        call()
    return caught.value.errno


def received(puppet: Puppet) -> Message:
    return email.message_from_string(puppet.recv())


# -- what its tests assert -------------------------------------------------------------------------


def test_broker_parent_to_child_and_child_to_parent(family: dict[str, Puppet]) -> None:
    family["lead"].send("ben", "down")
    family["ben"].send("lead", "up")
    down, up = received(family["ben"]), received(family["lead"])
    assert (down["From"], down["Relation"], down.get_payload()) == ("lead", "parent", "down")
    assert (up["From"], up["Relation"], up.get_payload()) == ("ben", "child", "up")
    assert refused(family["ben"].recv) == refused(family["lead"].recv) == errno.EAGAIN


def test_broker_siblings_and_one_copy_for_the_parent(family: dict[str, Puppet]) -> None:
    """There the copy is mail, and takes the room of it: here it is `overheard`."""
    family["ann"].send("ben", "Expires: 1h\n\nbetween us")
    message = received(family["ben"])
    assert (message["Relation"], message.get_payload()) == ("sibling", "between us")
    [record] = map(json.loads, family["lead"].poll("agents/self/overheard").splitlines())
    assert (record["from"], record["to"]) == ("ann", "ben")
    copy = email.message_from_string(record["data"])
    for name in ("Message-ID", "From", "To", "Relation", "Expires"):
        assert copy[name] == message[name] is not None
    assert copy.get_payload() == "between us"
    assert refused(family["lead"].recv) == errno.EAGAIN


def test_broker_a_task_can_only_send_to_its_parent(
    family: dict[str, Puppet], shared_tree: Tree
) -> None:
    family["task"].send("ben", "done")
    assert received(family["ben"])["From"] == "task"
    for other in ("lead", "uncle", "ann", "init"):
        assert refused(lambda other=other: family["task"].send(other, "hello")) == errno.EACCES
    assert "may only write to its parent ben" in shared_tree.read(
        f"proc/{family['task'].pid}/error"
    )
    assert family["task"].ls("agents/self/outbox") == ["ben", "task"]


def test_broker_cross_branch(family: dict[str, Puppet]) -> None:
    family["uncle"].send("ben", "across")
    assert received(family["ben"])["Relation"] == "other"
    for overseer in ("lead", "ann"):
        assert refused(family[overseer].recv) == errno.EAGAIN


def test_broker_list_inbox_does_not_take_anything_out(family: dict[str, Puppet]) -> None:
    for text in "abc":
        family["lead"].send("ben", text)
    ben = family["ben"]
    assert len(ben.ls("agents/self/inbox/new")) == 3
    assert len(ben.ls("agents/self/inbox/new")) == 3
    assert "Messages:\t3\n" in ben.read("proc/self/status")
    assert refused(lambda: ben.ls("agents/nobody/inbox/new")) == errno.ENOENT


def test_priority_queue_critical_then_normal_then_low_then_none(family: dict[str, Puppet]) -> None:
    for priority in ("low", "critical", "normal"):
        family["uncle"].send("ben", f"Priority: {priority}\n\n{priority}")
    ben = family["ben"]
    assert [received(ben).get_payload() for _ in range(3)] == ["critical", "normal", "low"]
    assert refused(ben.recv) == errno.EAGAIN


def test_priority_queue_ttl_an_expired_message_is_not_delivered_nor_counted(
    family: dict[str, Puppet],
) -> None:
    family["uncle"].send("ben", "Expires: 1s\nPriority: critical\n\ntoo late")
    family["uncle"].send("ben", "in time")
    ben = family["ben"]
    eventually(lambda: "Messages:\t1\n" in ben.read("proc/self/status"))
    assert len(ben.ls("agents/self/inbox/new")) == 1
    assert received(ben).get_payload() == "in time"


def test_priority_queue_pop_wait_wakes_on_push(tree: Tree) -> None:
    reader = tree.start("cat", str(tree / "agents/init/recv"), stdout=-1)
    eventually(lambda: "\nagentfs_mount_parked 1" in tree.read("sys/metrics"))
    tree.write("agents/init/outbox/init", "wake up")
    assert reader.communicate(timeout=20)[0].endswith(b"\n\nwake up")


def test_priority_queue_pop_wait_cancelled_takes_nothing(tree: Tree) -> None:
    reader = tree.start("cat", str(tree / "agents/init/recv"), stdout=-1)
    eventually(lambda: "\nagentfs_mount_parked 1" in tree.read("sys/metrics"))
    reader.terminate()
    assert reader.wait(20) == -15
    tree.write("agents/init/outbox/init", "still there")
    assert tree.read("agents/init/recv").endswith("\n\nstill there")


# -- what was wrong with it (reference: faults I1 to I18 of its IPC) -------------------------------


def test_i1_a_delivered_message_is_not_delivered_again(family: dict[str, Puppet]) -> None:
    """There, what was pushed stayed in the inbox and a flush delivered it twice."""
    for number in range(5):
        family["lead"].send("ben", str(number))
    ben = family["ben"]
    assert [received(ben).get_payload() for _ in range(5)] == list("01234")
    assert refused(ben.recv) == errno.EAGAIN
    assert ben.ls("agents/self/inbox/new") == []


def test_i2_what_was_not_acknowledged_is_delivered_again_until_it_is(tree: Tree) -> None:
    """There, a push that failed was logged and forgotten."""
    pid = tree.spawn("bob", exec=["sh", "-c", 'cat "$AGENTFS/agents/self/recv"; exit 1'],
                     restart="never")  # fmt: skip
    tree.write("agents/init/outbox/bob", "try hard")
    assert tree.read(f"proc/{pid}/wait") == "1\n"
    again = Puppet(tree, "bob")
    message = received(again)
    assert (message.get_payload(), message["Delivery-Attempt"]) == ("try hard", "2")
    assert refused(again.recv) == errno.EAGAIN
    again.close()
    eventually(lambda: tree.read("agents/bob/state") != "idle\n")


def test_i3_messages_to_process_1_are_read_where_they_arrive(
    family: dict[str, Puppet], shared_tree: Tree
) -> None:
    family["uncle"].send("init", "hello king")
    assert shared_tree.read("agents/init/recv").endswith("\n\nhello king")


def test_i4_a_slow_receiver_is_not_cancelled(tree: Tree) -> None:
    """There, the handler ran inside a push with a deadline."""
    slow = 'cat "$AGENTFS/agents/self/recv" > /dev/null; sleep 2; echo finished'
    pid = tree.spawn("slow", exec=["sh", "-c", slow], restart="never")
    tree.write("agents/init/outbox/slow", "take your time")
    assert tree.read(f"proc/{pid}/wait") == "0\n"
    assert tree.read("agents/slow/log") == "finished\n"


def test_i7_ids_are_unique_in_the_whole_system_and_sort(family: dict[str, Puppet]) -> None:
    for receiver in ("ben", "uncle", "lead"):
        family["lead"].send(receiver, "x")
    ids = [received(family[name])["Message-ID"] for name in ("ben", "uncle", "lead")]
    assert len(set(ids)) == 3
    assert sorted(ids) == ids


def test_i8_equal_priorities_are_first_in_first_out(family: dict[str, Puppet]) -> None:
    for number in range(10):
        family["uncle"].send("ben", str(number))
    assert "".join(received(family["ben"]).get_payload() for _ in range(10)) == "0123456789"


def test_i9_looking_for_one_message_does_not_reorder_the_others(family: dict[str, Puppet]) -> None:
    """There, filtering took what did not match out and put it back."""
    for kind in ("a", "b", "c"):
        family["uncle"].send("ben", f"Type: {kind}\n\n{kind}")
    ben = family["ben"]
    wanted = next(
        file
        for file in ben.ls("agents/self/inbox/new")
        if "\nType: b\n" in ben.read(f"agents/self/inbox/new/{file}")
    )
    ben.mv(f"agents/self/inbox/new/{wanted}", f"agents/self/inbox/cur/{wanted}:2,")
    ben.rm(f"agents/self/inbox/cur/{wanted}:2,")
    assert [received(ben).get_payload() for _ in range(2)] == ["a", "c"]


def test_i10_an_inbox_is_bounded_and_who_is_not_there_gets_no_mail(tree: Tree) -> None:
    tree.write("etc/agentfs.yaml", "messages: {max_waiting: 3, max_size: 2048}\n")
    tree.spawn("bob")
    for _ in range(3):
        tree.write("agents/init/outbox/bob", "x")
    assert refused(lambda: tree.write("agents/init/outbox/bob", "x")) == errno.ENOSPC
    assert refused(lambda: tree.write("agents/init/outbox/init", "x" * 3000)) == errno.EMSGSIZE
    assert refused(lambda: tree.write("agents/init/outbox/nobody", "x")) == errno.ENOENT


def test_i11_subscribers_that_go_away_harm_nobody(tree: Tree) -> None:
    """There, an unsubscribe beside a publish brought the kernel down."""
    tree.spawn("bob")
    for _ in range(20):
        readers = [tree.start("cat", str(tree / "dev/events"), stdout=-3) for _ in range(3)]
        for _ in range(10):
            tree.write("agents/init/outbox/bob", "x")
        for reader in readers:
            reader.kill()
        for _ in range(10):
            tree.write("agents/init/outbox/bob", "x")
        for reader in readers:
            reader.wait(20)
    assert len(os.listdir(tree / "agents/bob/inbox/new")) == 400
    assert "Traceback" not in tree.log()


def test_i12_a_reader_of_events_knows_of_every_number(tree: Tree) -> None:
    """There, slow readers lost events silently and numbers came out of order."""
    descriptor = os.open(tree / "dev/events", os.O_RDONLY | os.O_NONBLOCK)
    try:
        tree.spawn("bob")
        for _ in range(200):
            tree.write("agents/init/outbox/bob", "x")
        text = b""
        while chunk := _nonblocking(descriptor):
            text += chunk
    finally:
        os.close(descriptor)
    numbers = [json.loads(line)["seq"] for line in text.splitlines()]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert len(numbers) >= 200


def _nonblocking(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 20)
    except BlockingIOError:
        return b""


def test_i13_calls_of_one_agent_run_side_by_side(tree: Tree) -> None:
    """There, the system calls of one task ran one after the other: two waits took their sum."""
    script = (
        'cat "$AGENTFS/agents/self/recv" > /dev/null & first=$!;'
        ' (readlink "$AGENTFS/proc/self"; echo hello > "$AGENTFS/agents/self/outbox/busy");'
        " wait $first; echo both"
    )
    pid = tree.spawn("busy", exec=["sh", "-c", script], restart="never")
    assert tree.read(f"proc/{pid}/wait") == "0\n"
    assert tree.read("agents/busy/log") == f"{pid}\nboth\n"


def test_i14_events_about_a_message_say_which(tree: Tree) -> None:
    tree.spawn("bob")
    tree.write("agents/init/outbox/bob", "x")
    descriptor = os.open(tree / "dev/events.all", os.O_RDONLY | os.O_NONBLOCK)
    try:
        events = [json.loads(line) for line in _nonblocking(descriptor).splitlines()]
    finally:
        os.close(descriptor)
    arrived = next(event for event in events if event["type"] == "message_arrived")
    message = (tree / "agents/bob/inbox/new" / arrived["file"]).read_text()
    assert f"Message-ID: <{arrived['id']}@" in message


def test_i17_no_wake_up_is_lost_among_several_waiters(tree: Tree) -> None:
    readers = [tree.start("cat", str(tree / "agents/init/recv"), stdout=-1) for _ in range(8)]
    eventually(lambda: "\nagentfs_mount_parked 8" in tree.read("sys/metrics"))
    for number in range(8):
        tree.write("agents/init/outbox/init", f"{number}")
    bodies = {reader.communicate(timeout=20)[0].rpartition(b"\n\n")[2] for reader in readers}
    assert bodies == {b"%d" % number for number in range(8)}


def test_i18_a_message_without_a_priority_is_normal(family: dict[str, Puppet]) -> None:
    family["uncle"].send("ben", "no hurry")
    assert received(family["ben"])["Priority"] == "normal"


# -- named queues, shared memory, pipes and the event bus ------------------------------------------


def test_broker_named_queue_the_payload_is_readable_from_the_queue(
    family: dict[str, Puppet], shared_tree: Tree
) -> None:
    family["lead"].do("os.mkdir(tree + '/dev/queues/named')")
    family["ann"].write("dev/queues/named/send", "payload")
    assert family["uncle"].poll("dev/queues/named/recv").endswith("\n\npayload")
    assert refused(lambda: family["ben"].poll("dev/queues/named/recv")) == errno.EAGAIN
    # There, even a task and an unknown sender could fill any queue.
    assert refused(lambda: family["task"].write("dev/queues/named/send", "x")) == errno.EACCES


def test_shared_memory_is_read_by_whom_its_visibility_names(family: dict[str, Puppet]) -> None:
    lead, ben, uncle = family["lead"], family["ben"], family["uncle"]
    for visibility in ("private", "subtree", "global"):
        path = f"dev/shm/{visibility}/plan"
        lead.do(f"write({path!r}, {visibility!r}, flags=os.O_CREAT)")
    readers = {
        visibility: {
            puppet.name
            for puppet in family.values()
            if puppet.do(f"os.path.exists(tree + '/dev/shm/{visibility}/plan')")
        }
        for visibility in ("private", "subtree", "global")
    }
    assert readers == {
        "private": {"lead"},
        "subtree": {"lead", "ann", "ben", "task"},
        "global": set(family),
    }
    assert refused(lambda: ben.rm("dev/shm/global/plan")) == errno.EACCES
    assert refused(lambda: uncle.rm("dev/shm/subtree/plan")) == errno.ENOENT
    for visibility in readers:
        lead.rm(f"dev/shm/{visibility}/plan")


def test_i15_pipes_and_the_event_bus_can_be_reached_by_agents(family: dict[str, Puppet]) -> None:
    """There, neither had a way in for an agent."""
    lead, ben, ann = family["lead"], family["ben"], family["ann"]
    for puppet, path, flags in (
        (lead, f"proc/{ben.pid}/pipes/up", "os.O_RDONLY | os.O_NONBLOCK"),
        (ben, "proc/self/pipes/up", "os.O_WRONLY"),
    ):
        puppet.do(f"globals().__setitem__('end', os.open(tree + '/{path}', {flags}))")
    ben.do("os.write(end, b'up the pipe')")
    assert lead.do("os.read(end, 100).decode()") == "up the pipe"
    assert refused(lambda: ann.do(f"os.open(tree + '/proc/{ben.pid}/pipes/up', 0)")) == errno.EACCES
    for puppet in (lead, ben):
        puppet.do("os.close(end)")

    lead.do("os.close(os.open(tree + '/dev/topics/bus', os.O_CREAT | os.O_WRONLY, 0o666))")
    subscribe = "os.open(tree + '/dev/topics/bus', os.O_RDONLY | os.O_NONBLOCK)"
    for subscriber in (ann, ben):
        subscriber.do(f"globals().__setitem__('bus', {subscribe})")
    lead.write("dev/topics/bus", "to all")
    for subscriber in (ann, ben):
        record = json.loads(subscriber.do("os.read(bus, 1000).decode()"))
        assert (record["from"], record["data"]) == ("lead", "to all")
        subscriber.do("os.close(bus)")


def test_i5_a_reply_reaches_the_one_that_waits_for_it(family: dict[str, Puppet]) -> None:
    """There, the helper for replies named another message than the one that was waited for."""
    lead, ben = family["lead"], family["ben"]
    number = lead.ask("agents/self/asks/new", "To: ben\n\nhow?").strip()
    question = received(ben)
    ben.send("lead", f"In-Reply-To: {question['Message-ID']}\n\nlike this")
    answer = email.message_from_string(lead.read(f"agents/self/asks/{number}/answer"))
    assert (answer["From"], answer.get_payload()) == ("ben", "like this")
    lead.do(f"os.rmdir(me + '/asks/{number}')")


def test_i6_an_expiry_can_be_set_and_is_honoured_everywhere(
    family: dict[str, Puppet], shared_tree: Tree
) -> None:
    """There, no way of sending could set it, and what had expired was counted."""
    lead, ann, ben = family["lead"], family["ann"], family["ben"]
    lead.do("os.mkdir(tree + '/dev/queues/brief')")
    ann.send("ben", "Expires: 300ms\n\nbrief")
    ann.write("dev/queues/brief/send", "Expires: 300ms\n\nbrief")
    eventually(lambda: ben.ls("agents/self/inbox/new") == [])
    eventually(lambda: lead.ls("dev/queues/brief/new") == [])
    assert refused(lambda: ben.poll("dev/queues/brief/recv")) == errno.EAGAIN
    assert lead.read("dev/queues/brief/length") == "0\n"
    states = [ann.read(f"agents/self/sent/{number}") for number in ann.ls("agents/self/sent")]
    expired = [text for text in states if text.startswith("State: expired\n")]
    assert len(expired) == 2
    assert all("\nExpires: " in text for text in expired)


CROWD = """
import os, sys
tree, me = os.environ["AGENTFS"], os.environ["AGENT_NAME"]
for number in range(60):
    with open(f"{tree}/agents/{me}/outbox/init", "w") as outbox:
        outbox.write(f"{me} {number}")
    with open(f"{tree}/proc/self/status") as status:
        fields = dict(line.split(":\\t", 1) for line in status)
    assert (fields["Name"].strip(), fields["Pid"].strip()) == (me, os.environ["AGENT_PID"]), fields
"""


def test_i16_what_many_do_at_once_leaves_one_consistent_state(tree: Tree) -> None:
    """There, live records were shared between threads without locks."""
    names = [f"agent{number}" for number in range(12)]
    for name in names:
        tree.spawn(name, exec=[sys.executable, "-c", CROWD], restart="never")
    pids = [tree.read(f"agents/{name}/pid").strip() for name in names]
    codes = {tree.read(f"proc/{pid}/wait") for pid in pids if pid}
    assert codes == {"0\n"}
    sent = [path.read_text().partition("\n\n")[2] for path in
            sorted((tree / "agents/init/inbox/new").iterdir())]  # fmt: skip
    for name in names:
        assert [text for text in sent if text.startswith(f"{name} ")] == [
            f"{name} {number}" for number in range(60)
        ]
    tree.unmount()
    assert tree.doctor().returncode == 0
