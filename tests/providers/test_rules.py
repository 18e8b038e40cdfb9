"""The rules where things happen: /etc/roles.yaml and /etc/acl.yaml written, and what they stop."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest

from agentfs.model.principal import Kind, Principal
from agentfs.store.defaults import without_defaults
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Modified
from agentfs.vfs.node import StreamHandle
from tests.providers.test_shm import get, put
from tests.providers.world import GID, OPERATOR, STRANGER, UID, World, refused

ROLES, ACL, CONFIG = "/etc/roles.yaml", "/etc/acl.yaml", "/etc/agentfs.yaml"
DENY_BEN = "rules:\n- {effect: deny, action: send, path: /agents/ben/**}\n"


async def rules(world: World, *given: str) -> None:
    await world.write(ACL, "rules:\n" + "".join(f"- {{{rule}}}\n" for rule in given))


async def post(world: World, path: str, caller: Caller) -> None:
    """One record into a queue or topic."""
    handle = world.open(path, os.O_WRONLY, caller)
    assert isinstance(handle, StreamHandle)
    try:
        assert handle.try_write(b"x") == 1
    finally:
        handle.release()


@pytest.fixture
async def people(world: World) -> World:
    """init > boss (lead) > ann > (kid, errand (task)), ben."""
    await world.spawn("boss", role="lead")
    for name, parent, role in (
        ("ann", "boss", "worker"),
        ("ben", "boss", "worker"),
        ("kid", "ann", "worker"),
        ("errand", "ann", "task"),
    ):
        await world.spawn(name, world.pid(parent), role=role)
    return world


# -- the documents ---------------------------------------------------------------------------------


async def test_a_rule_holds_as_soon_as_it_is_written_and_no_longer_than_it_is_there(
    people: World,
) -> None:
    await people.mail("ann", "ben")
    before = people.find(ACL).stat().mtime, people.find(ROLES).stat().mtime
    await people.write(ACL, DENY_BEN)
    assert await people.text(ACL) == DENY_BEN
    with refused("EPERM"):
        await people.mail("ann", "ben")
    await people.mail("ann", "boss")
    assert Modified((("etc",), "acl.yaml")) in people.changes
    assert Modified((("etc",), "roles.yaml")) not in people.changes
    assert people.find(ACL).stat().mtime > before[0]
    assert people.find(ROLES).stat().mtime == before[1], "no other document has changed"
    await people.write(ACL, "rules: []\n")
    await people.mail("ann", "ben")


async def test_an_invalid_document_changes_nothing(people: World) -> None:
    await people.write(ACL, DENY_BEN)
    roles = await people.text(ROLES)
    for path, text in (
        (ACL, "rules: [{effect: maybe}]\n"),
        (ACL, "rules: 5"),
        (ROLES, "roles: {worker: {actions: {send: perhaps}}}"),
        (ROLES, b"\xff"),
    ):
        with refused("EINVAL"):
            await people.write(path, text)
    assert (await people.text(ACL), await people.text(ROLES)) == (DENY_BEN, roles)
    with refused("EPERM"):
        await people.mail("ann", "ben")


async def test_only_the_operator_writes_them_and_everybody_reads_them(people: World) -> None:
    boss = people.as_agent("boss")
    for path in (ROLES, ACL):
        assert await people.read(path, boss)
        with refused("EACCES"):
            people.open(path, os.O_WRONLY, boss)
        with refused("EACCES"):
            await people.rename(path, f"{path}~", boss)


async def test_editors_save_each_document_by_rename(people: World) -> None:
    for path, text in ((ACL, DENY_BEN), (ROLES, "roles: {}\n"), (CONFIG, "messages: {}\n")):
        await people.write("/etc/4913", text, create=True)
        await people.rename("/etc/4913", path)
        assert without_defaults(await people.text(path)) == text
    await people.rename(ACL, "/etc/acl.yaml~")
    assert await people.text("/etc/acl.yaml~") == people.kernel.acl.text == DENY_BEN
    await people.rename("/etc/acl.yaml~", ACL)
    assert await people.text(ACL) == DENY_BEN
    with refused("EINVAL"):
        await people.rename(ACL, ROLES)  # a document of rules is no table of roles
    assert await people.text(ROLES) == "roles: {}\n"


async def test_another_table_of_roles_is_another_system(people: World) -> None:
    await people.write(
        ROLES,
        "tiers: {tactical: {model: haiku}}\n"
        "roles:\n"
        "  worker: {actions: {send: parent, spawn: deny}, tiers: [operational]}\n"
        "  architect: {actions: {spawn: allow}, capabilities: ['*']}\n",
    )
    await people.mail("ann", "boss")
    with refused("EACCES"):
        await people.mail("ann", "ben")
    assert people.list("/agents/ann/outbox", people.as_agent("ann")) == ["ann", "boss"]
    with refused("EPERM"):
        people.directory("/agents").mkdir("new", 0o755, people.as_agent("ann"))
    plan = await people.spawn("plan", role="architect", tier="tactical")
    drawer = await people.spawn("drawer", plan.pid, role="agent")
    assert (plan.model, drawer.ppid) == ("haiku", plan.pid)
    with refused("EPERM"):
        await people.spawn("high", role="worker", tier="tactical")
    assert (await people.spawn("low", plan.pid, role="worker")).tier.value == "operational"


# -- where things happen ---------------------------------------------------------------------------


async def test_every_call_names_what_it_is_done_to(people: World) -> None:
    """One rule a call: it stops exactly that."""
    pid, ann = people.pid, people.as_agent("ann")
    await put(people, "global/plan", b"x", ann)
    await people.write("/shared/notes", "x", ann, create=True)
    people.directory("/dev/queues").mkdir("jobs", 0o777, OPERATOR)
    people.create("/dev/topics/news", mode=0o666).release()

    async def spawn(name: str) -> None:
        request = people.open(f"/proc/{pid('ann')}/spawn", os.O_RDWR, ann)
        await request.write(0, f"name: {name}".encode())

    write, read = people.write, people.read
    calls: dict[str, tuple[Callable[[], Awaitable[object]], ...]] = {
        "action: spawn, path: /agents/new": (
            lambda: spawn("new"),
            lambda: spawn("old"),
        ),
        "action: kill, path: /agents/kid": (
            lambda: write(f"/proc/{pid('kid')}/ctl", "HUP", ann),
            lambda: write(f"/proc/{pid('errand')}/ctl", "HUP", ann),
        ),
        "action: send, path: /agents/ben/inbox": (
            lambda: people.mail("ann", "ben"),
            lambda: people.mail("ann", "boss"),
        ),
        "action: send, path: /dev/queues/jobs": (
            lambda: post(people, "/dev/queues/jobs/send", ann),
            lambda: people.mail("ann", "ben"),
        ),
        "action: send, path: /dev/topics/news": (
            lambda: write("/dev/topics/news", "x", ann),
            lambda: people.mail("ann", "ben"),
        ),
        "action: escalate, path: /agents/boss": (
            lambda: write(f"/proc/{pid('ann')}/escalate", "info x", ann),
            lambda: people.mail("ann", "boss"),
        ),
        "action: read_process, path: /agents/ben/info": (
            lambda: read(f"/proc/{pid('ben')}/info", ann),
            lambda: read(f"/proc/{pid('boss')}/info", ann),
            lambda: read("/agents/ben/log", ann),
        ),
        "action: read_artifact, path: /dev/shm/global/plan": (
            lambda: get(people, "global/plan", ann),
            lambda: put(people, "global/plan", b"y", ann),
        ),
        "action: write_artifact, path: /dev/shm/global/plan": (
            lambda: put(people, "global/plan", b"y", ann),
            lambda: get(people, "global/plan", ann),
        ),
        "action: read_file, path: /shared/notes": (
            lambda: read("/shared/notes", ann),
            lambda: write("/shared/notes", "y", ann),
        ),
        "action: write_file, path: /shared/notes": (
            lambda: write("/shared/notes", "y", ann),
            lambda: read("/shared/notes", ann),
        ),
    }
    for rule, (denied, *others) in calls.items():
        await rules(people, f"effect: deny, agent: ann, {rule}")
        with refused("EPERM"):
            await denied()
        for other in others:
            await other()
        await rules(people)
        await denied()


async def test_a_rule_for_process_1_stops_a_broadcast_and_a_move(people: World) -> None:
    await rules(people, "effect: deny, role: kernel, action: send, path: /dev/broadcast")
    with refused("EPERM"):
        await people.write("/dev/broadcast", "x")
    await rules(people, "effect: deny, role: kernel, action: manage_tree, path: /agents/kid")
    with refused("EPERM"):
        await people.write(f"/proc/{people.pid('kid')}/ctl", f"reparent {people.pid('ben')}")
    await people.write(f"/proc/{people.pid('errand')}/ctl", f"reparent {people.pid('ben')}")


async def test_fault_s6_a_task_does_not_get_around_its_parent_through_a_queue(
    people: World,
) -> None:
    errand, ann = people.as_agent("errand"), people.as_agent("ann")
    people.directory("/dev/queues").mkdir("hers", 0o777, ann)
    people.directory("/dev/queues").mkdir("inits", 0o777, OPERATOR)
    await post(people, "/dev/queues/hers/send", errand)
    with refused("EACCES"):
        await post(people, "/dev/queues/inits/send", errand)
    with refused("EACCES"):
        people.directory("/dev/queues").mkdir("own", 0o777, errand)
    with refused("EACCES"):
        await people.write("/dev/broadcast", "x", errand)


# -- reading (fault S3: everything can be read by anybody) -----------------------------------------


def user(uid: int) -> Caller:
    return Caller(Principal(Kind.USER, None, f"user {uid}", uid, GID), uid, GID, os.getpid())


async def test_fault_s3_info_and_log_follow_read_process(people: World) -> None:
    ben = (f"/proc/{people.pid('ben')}/info", "/agents/ben/log")
    for name, code in (("ann", ""), ("boss", ""), ("errand", "EACCES")):
        for path in ben:
            if code:
                with refused(code):
                    await people.read(path, people.as_agent(name))
            else:
                await people.read(path, people.as_agent(name))
    own = people.as_agent("errand")
    await people.read(f"/proc/{people.pid('errand')}/info", own)
    await people.read("/agents/errand/log", own)
    for path in ben:
        await people.read(path, OPERATOR)
        await people.read(path, user(UID))
        with refused("EACCES"):
            await people.read(path, STRANGER)
        with refused("EPERM"):
            await people.read(path, user(UID + 1))


async def test_sent_is_private_unless_a_rule_says_otherwise(people: World) -> None:
    await people.mail("ann", "ben")
    boss, ann = people.as_agent("boss"), people.as_agent("ann")
    [name] = people.list("/agents/ann/sent", ann)
    path = f"/agents/ann/sent/{name}"
    with refused("EACCES"):
        people.list("/agents/ann/sent", boss)
    with refused("EACCES"):
        await people.read(path, boss)
    await rules(people, "effect: allow, agent: boss, action: read_process, path: /agents/*/sent")
    assert people.list("/agents/ann/sent", boss) == [name]
    assert b"hello" in await people.read(path, boss)
    with refused("EACCES"):
        await people.read(path, people.as_agent("ben"))
    with refused("EACCES"):
        people.unlink(path, boss)
    await rules(people, "effect: deny, agent: ann, action: read_process, path: /agents/*/sent")
    with refused("EPERM"):
        await people.read(path, ann)
    with refused("EACCES"):
        await people.read(path, STRANGER)


# -- files -----------------------------------------------------------------------------------------


async def test_no_name_of_a_file_gets_around_a_rule(people: World) -> None:
    ann, shared = people.as_agent("ann"), people.directory("/shared")
    shared.mkdir("safe", 0o777, OPERATOR)
    shared.mkdir("open", 0o777, OPERATOR)
    await people.write("/shared/safe/key", "secret", create=True)
    people.directory("/shared/safe").mkdir("deep", 0o777, OPERATOR)
    await rules(people, "effect: deny, action: read_file, role: worker, path: /shared/safe/*")
    safe, free = people.directory("/shared/safe"), people.directory("/shared/open")
    with refused("EPERM"):
        await people.read("/shared/safe/key", ann)
    with refused("EPERM"):
        free.link(people.find("/shared/safe/key"), "link", ann)
    with refused("EPERM"):
        await people.rename("/shared/safe/key", "/shared/open/key", ann)
    with refused("EPERM"):
        await people.rename("/shared/safe", "/shared/unsafe", ann)
    await people.write("/shared/open/mine", "x", ann, create=True)
    with refused("EPERM"):
        await people.rename("/shared/safe/key", "/shared/open/mine", ann, flags=2)
    with refused("EPERM"):
        list(people.list("/shared/safe/deep", ann))
    assert sorted(people.list("/shared/safe", ann)) == ["deep", "key"]
    await people.write("/shared/safe/new", "x", ann, create=True)  # writing is not denied
    await people.rename("/shared/open", "/shared/opened", ann)
    assert safe.key == people.directory("/shared/safe").key
    with refused("EACCES"):
        await people.read("/shared/opened/mine", STRANGER)


async def test_what_may_not_be_written_is_not_made_removed_or_replaced(people: World) -> None:
    ann = people.as_agent("ann")
    people.directory("/shared").mkdir("list", 0o777, OPERATOR)
    await people.write("/shared/list/kept", "x", create=True)
    await people.write("/shared/mine", "x", ann, create=True)
    folder = people.directory("/shared/list")
    await rules(people, "effect: deny, action: write_file, agent: ann, path: /shared/list/**")
    for attempt in (
        lambda: people.open("/shared/list/kept", os.O_WRONLY, ann),
        lambda: people.open("/shared/list/kept", os.O_RDONLY | os.O_TRUNC, ann),
        lambda: people.create("/shared/list/new", ann),
        lambda: folder.mkdir("new", 0o755, ann),
        lambda: folder.symlink("new", "kept", ann),
        lambda: folder.mknod("new", 0o010644, 0, ann),
        lambda: folder.link(people.find("/shared/mine"), "new", ann),
        lambda: people.unlink("/shared/list/kept", ann),
        lambda: people.find("/shared/list/kept").setxattr("user.x", b"1", ann),
        lambda: people.directory("/shared").rmdir("list", ann),
    ):
        with refused("EPERM"):
            attempt()
    for old, new in (("list/kept", "taken"), ("mine", "list/kept"), ("list", "other")):
        with refused("EPERM"):
            await people.rename(f"/shared/{old}", f"/shared/{new}", ann)
    assert people.list("/shared/list", ann) == ["kept"]
    assert await people.read("/shared/list/kept", ann) == b"x"


# -- agentfs can -----------------------------------------------------------------------------------


async def can(world: World, question: str, caller: Caller = OPERATOR) -> dict[str, str]:
    handle = world.open("/sys/can", os.O_RDWR, caller)
    await handle.write(0, question.encode())
    answer = (await handle.read(0, 65536)).decode()
    return dict(line.split(":\t", 1) for line in answer.splitlines())


async def test_can_tells_the_rule_that_decides_with_its_text(people: World) -> None:
    assert await can(people, "ann send /agents/ben/inbox") == {
        "Allowed": "yes",
        "Rule": "roles.yaml: worker send",
        "Text": "worker: send: allow",
    }
    await people.write(ACL, DENY_BEN)
    found = await can(people, "ann send /agents/ben/inbox")
    assert (found["Allowed"], found["Rule"]) == ("no", "acl.yaml: rule 1")
    assert found["Text"] == "{effect: deny, action: send, path: /agents/ben/**}"
    assert "ann may not send here" in found["Reason"]
    await rules(
        people, "effect: allow, user: '*', action: spawn, approval: {by: boss, timeout: 5s}"
    )
    found = await can(people, "ann spawn /agents/new")
    assert (found["Allowed"], found["Approval"]) == ("yes", "boss, within 5 s")


async def test_can_knows_whom_a_path_means(people: World) -> None:
    people.directory("/dev/queues").mkdir("hers", 0o777, people.as_agent("ann"))
    for question, answer in (
        ("ann kill /agents/kid", "yes"),
        ("ann kill /agents/ben", "no"),
        ("ann kill /agents/ann", "yes"),
        ("errand send /agents/ann/inbox", "yes"),
        ("errand send /agents/ben/inbox", "no"),
        ("errand send /dev/queues/hers", "yes"),
        ("errand send /dev/queues/none", "no"),
        ("errand read_process /agents/errand/info", "yes"),
        ("errand read_process /agents/ben/info", "no"),
        ("errand read_file /shared/a name with spaces", "yes"),
        ("errand write_file /shared/notes", "no"),
    ):
        assert (await can(people, question))["Allowed"] == answer, question


async def test_can_tells_of_the_capability_that_is_needed_as_well(people: World) -> None:
    assert (await can(people, "ann spawn /agents/new"))["Capability"] == "spawn_children: yes"
    await people.write(f"/proc/{people.pid('ann')}/caps/ctl", "-spawn_children")
    found = await can(people, "ann spawn /agents/new")
    assert (found["Allowed"], found["Capability"]) == ("no", "spawn_children: no")
    assert found["Rule"] == "roles.yaml: worker spawn"
    assert "spawn_children" in found["Reason"]
    found = await can(people, "boss send /dev/broadcast")
    assert (found["Allowed"], found["Capability"]) == ("no", "broadcast: no")


async def test_a_question_that_makes_no_sense_is_refused(people: World) -> None:
    people.directory("/agents").mkdir("idle", 0o755, OPERATOR)
    for question, code in (
        ("ann send", "EINVAL"),
        ("ann fly /agents/ben", "EINVAL"),
        ("ann send agents/ben", "EINVAL"),
        ("nobody send /agents/ben/inbox", "ENOENT"),
        ("idle send /agents/ben/inbox", "ESRCH"),
    ):
        with refused(code):
            await can(people, question)
    with refused("EACCES"):
        await can(people, "ann send /agents/ben/inbox", STRANGER)
    before = people.kernel.events.last
    await can(people, "errand spawn /agents/new", people.as_agent("errand"))
    assert people.kernel.events.last == before
