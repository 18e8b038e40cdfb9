"""Who may read what the tree shows of an agent, `info`, `log`, `sent` and its definition; and that
the rules on files are asked at every operation in /shared.

What holds is looked up when a file is opened, as everywhere in Unix: an open one stays open.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from agentfs.base.errors import KernelError
from agentfs.model.principal import Kind, Principal
from agentfs.model.process import Role
from agentfs.providers.host import HostFile
from agentfs.rights.roles import Action, Verdict
from agentfs.vfs.caller import Caller
from agentfs.vfs.node import Attributes, Directory, Link
from tests.providers.world import OPERATOR, STRANGER, UID, World, refused

WORLD_READABLE = ("status", "state", "role", "tier", "name", "ppid", "exit", "ospid")


def user(uid: int) -> Caller:
    return Caller(Principal(Kind.USER, None, f"user {uid}", uid, uid), uid, uid, os.getpid())


def rules(world: World, *lines: str) -> None:
    text = "rules:\n" + "".join(f"- {line}\n" for line in lines)
    world.kernel.acl.replace(text)


def may(call: Callable[[], object]) -> str:
    """ "" if it may, else the errno that it gets."""
    try:
        call()
    except KernelError as refusal:
        assert refusal.reason
        return refusal.code
    return ""


def reads(world: World, reader: Caller, name: str) -> tuple[str, str, str]:
    """What `reader` gets of `info`, `log` and `sent` of agent `name`."""
    info = f"/proc/{world.pid(name)}/info"
    return (
        may(lambda: world.open(info, caller=reader)),
        may(lambda: world.open(f"/agents/{name}/log", caller=reader)),
        may(lambda: world.list(f"/agents/{name}/sent", reader)),
    )


async def test_an_agent_sees_its_own_and_the_operator_everything(world: World) -> None:
    await world.spawn("tim", role="task")
    await world.spawn("archie", role="architect")
    for name in ("alice", "tim", "archie"):
        assert reads(world, world.as_agent(name), name) == ("", "", "")
        assert reads(world, OPERATOR, name) == ("", "", "")


async def test_info_and_log_of_others_follow_the_table_and_sent_does_not(world: World) -> None:
    for role in ("daemon", "lead", "agent", "worker", "architect", "task"):
        await world.spawn(f"the-{role}", role=role)
        said = world.kernel.policy.roles[Role(role)].actions[Action.READ_PROCESS]
        answer = "" if said is Verdict.ALLOW else "EACCES"
        assert reads(world, world.as_agent(f"the-{role}"), "bob") == (answer, answer, "EACCES")
    assert answer == "EACCES", "a task sees its own"
    rules(world, "{effect: allow, role: task, action: read_process, path: /agents/bob/info}")
    assert reads(world, world.as_agent("the-task"), "bob") == ("", "EACCES", "EACCES")


async def test_a_rule_opens_and_closes_each_of_them(world: World) -> None:
    await world.spawn("tim", role="task")
    tim, alice = world.as_agent("tim"), world.as_agent("alice")
    rules(
        world,
        "{effect: allow, agent: tim, action: read_process, path: /agents/bob/sent}",
        "{effect: allow, agent: tim, action: read_process, path: /agents/bob/log}",
        "{effect: deny, agent: alice, action: read_process, path: /agents/bob/info}",
    )
    assert reads(world, tim, "bob") == ("EACCES", "", "")
    assert reads(world, tim, "carol") == ("EACCES", "EACCES", "EACCES")
    assert reads(world, alice, "bob") == ("EPERM", "", "EACCES")
    assert reads(world, alice, "carol") == ("", "", "EACCES")
    rules(world, "{effect: deny, action: read_process, path: /agents/alice/log}")
    assert reads(world, alice, "alice") == ("", "EPERM", "")
    assert reads(world, OPERATOR, "alice") == ("", "", "")


async def test_a_rule_that_opens_sent_opens_the_messages_in_it_and_no_more(world: World) -> None:
    await world.mail("bob", "carol", "between us")
    [number] = world.list("/agents/bob/sent")
    alice, path = world.as_agent("alice"), f"/agents/bob/sent/{number}"
    with refused("EACCES"):
        await world.text(path, alice)
    rules(world, "{effect: allow, agent: alice, action: read_process, path: /agents/bob/sent}")
    assert world.list("/agents/bob/sent", alice) == [number]
    assert (await world.text(path, alice)).endswith("between us")
    await world.text("/agents/carol/recv", world.as_agent("carol"))
    await world.text("/agents/carol/recv", world.as_agent("carol"))
    with refused("EACCES"):
        world.unlink(path, alice)
    for other in ("inbox", "outbox", "asks", "reminders", "memory", "dead"):
        with refused("EACCES"):
            world.list(f"/agents/bob/{other}", alice)


async def test_strangers_never_and_users_what_runs_as_they_do(world: World) -> None:
    assert reads(world, STRANGER, "bob") == ("EACCES", "EACCES", "EACCES")
    assert reads(world, user(UID), "bob") == ("", "", "EACCES")
    assert reads(world, user(UID + 1), "bob") == ("EPERM", "EPERM", "EACCES")
    rules(world, "{effect: allow, action: read_process}")
    assert reads(world, STRANGER, "bob") == ("EACCES", "EACCES", "EACCES")
    assert reads(world, user(UID + 1), "bob") == ("EPERM", "EPERM", "EACCES")


async def test_another_users_agents_are_read_only_where_a_rule_says_so(world: World) -> None:
    bob = world.kernel.table.by_name("bob")
    assert bob is not None
    world.kernel.table.update(bob, uid=bob.uid + 1)
    alice = world.as_agent("alice")
    assert reads(world, alice, "bob") == ("EPERM", "EPERM", "EACCES")
    rules(world, "{effect: allow, agent: alice, action: read_process, path: /agents/bob/*}")
    assert reads(world, alice, "bob") == ("", "", "")


async def test_an_agent_without_a_process_is_under_the_same_rules(world: World) -> None:
    world.directory("/agents").mkdir("dora", 0o755, OPERATOR)
    alice, path = world.as_agent("alice"), "/agents/dora/sent"
    assert may(lambda: world.open("/agents/dora/log", caller=alice)) == ""
    assert may(lambda: world.list(path, alice)) == "EACCES"
    rules(world, "{effect: deny, agent: alice, action: read_process, path: /agents/dora/log}")
    assert may(lambda: world.open("/agents/dora/log", caller=alice)) == "EPERM"


async def test_what_is_open_stays_open_when_a_rule_closes_it(world: World) -> None:
    alice, path = world.as_agent("alice"), f"/proc/{world.pid('bob')}/info"
    world.kernel.agents.log_path("bob").write_text("it said so\n")
    log, info = world.open("/agents/bob/log", caller=alice), world.open(path, caller=alice)
    rules(world, "{effect: deny, agent: alice, action: read_process}")
    assert await log.read(0, 100) == b"it said so\n"
    assert b'"name": "bob"' in await info.read(0, 4096)
    assert reads(world, alice, "bob")[:2] == ("EPERM", "EPERM")
    log.release()


async def test_what_everybody_needs_to_know_of_a_process_stays_readable(world: World) -> None:
    rules(world, "{effect: deny, action: read_process}")
    for reader in (world.as_agent("alice"), STRANGER, user(UID + 1)):
        for name in WORLD_READABLE:
            world.open(f"/proc/{world.pid('bob')}/{name}", caller=reader)


async def test_the_definition_is_for_itself_for_whom_made_it_and_whom_a_rule_names(
    world: World,
) -> None:
    """Its environment is in there."""
    lead = await world.spawn("lead", role="lead")
    request = b"{name: kid, env: {TOKEN: hush}}"
    handle = world.open(f"/proc/{lead.pid}/spawn", os.O_RDWR, world.as_agent("lead"))
    await handle.write(0, request)
    path = "/agents/kid/spec.yaml"
    for name in ("kid", "lead"):
        assert "hush" in await world.text(path, world.as_agent(name))
    alice = world.as_agent("alice")
    for reader in (alice, STRANGER, user(UID), user(UID + 1)):
        with refused("EACCES"):
            world.open(path, caller=reader)
    rules(world, "{effect: allow, agent: alice, action: read_process, path: /agents/*/spec.yaml}")
    assert "hush" in await world.text(path, alice)
    with refused("EACCES"):
        await world.write(path, "role: lead\n", alice)


# -- /shared ---------------------------------------------------------------------------------------


VAULT = "{effect: deny, agent: alice, path: /shared/vault/**}"
READ_ONLY = "{effect: deny, agent: alice, action: write_file, path: /shared/vault/**}"


async def _vault(world: World) -> Directory:
    """/shared/vault with a file, a link and a FIFO, and a file beside it."""
    shared = world.directory("/shared")
    vault = shared.mkdir("vault", 0o777, OPERATOR)
    assert isinstance(vault, Directory)
    for folder, name in ((vault, "plan"), (shared, "mine")):
        file, handle = folder.create(name, 0o666, os.O_WRONLY, OPERATOR)
        await handle.write(0, b"text")
        handle.release()
        file.setxattr("user.colour", b"red", OPERATOR)
    vault.symlink("way", "plan", OPERATOR)
    vault.mknod("fifo", 0o010666, 0, OPERATOR)
    return vault


def rename(world: World, old: str, new: str, caller: Caller, flags: int = 0) -> None:
    """As `World.rename`, of directories that need not wait."""
    (source, _, name), (target, _, new_name) = old.rpartition("/"), new.rpartition("/")
    world.directory(source).rename(name, world.directory(target), new_name, flags, caller)


CHANGES: dict[str, Callable[[World, Caller], object]] = {
    "write": lambda w, a: w.open("/shared/vault/plan", os.O_WRONLY, a),
    "truncate at open": lambda w, a: w.open("/shared/vault/plan", os.O_RDONLY | os.O_TRUNC, a),
    "create": lambda w, a: w.create("/shared/vault/new", a),
    "mkdir": lambda w, a: w.directory("/shared/vault").mkdir("new", 0o755, a),
    "mknod": lambda w, a: w.directory("/shared/vault").mknod("new", 0o010644, 0, a),
    "symlink": lambda w, a: w.directory("/shared/vault").symlink("new", "x", a),
    "link in": lambda w, a: w.directory("/shared/vault").link(w.find("/shared/mine"), "new", a),
    "link out": lambda w, a: w.directory("/shared").link(w.find("/shared/vault/plan"), "new", a),
    "unlink": lambda w, a: w.directory("/shared/vault").unlink("plan", a),
    "rename in": lambda w, a: rename(w, "/shared/mine", "/shared/vault/new", a),
    "rename over": lambda w, a: rename(w, "/shared/mine", "/shared/vault/plan", a),
    "rename out": lambda w, a: rename(w, "/shared/vault/plan", "/shared/new", a),
    "rename the folder": lambda w, a: rename(w, "/shared/vault", "/shared/new", a),
    "exchange": lambda w, a: rename(w, "/shared/mine", "/shared/vault/plan", a, 2),
    "truncate": lambda w, a: w.find("/shared/vault/plan").chattr(a, Attributes(size=0)),
    "chmod": lambda w, a: w.find("/shared/vault/plan").chattr(a, Attributes(mode=0o600)),
    "chown": lambda w, a: w.find("/shared/vault/plan").chattr(a, Attributes(uid=UID)),
    "utime": lambda w, a: w.find("/shared/vault/plan").chattr(a, Attributes(times=(1, 1))),
    "setxattr": lambda w, a: w.find("/shared/vault/plan").setxattr("user.x", b"", a),
    "removexattr": lambda w, a: w.find("/shared/vault/plan").removexattr("user.colour", a),
    "a fifo": lambda w, a: w.find("/shared/vault/fifo").admitted(a),
}

READS: dict[str, Callable[[World, Caller], object]] = {
    "open": lambda w, a: w.open("/shared/vault/plan", os.O_RDONLY, a),
    "open for both": lambda w, a: w.open("/shared/vault/plan", os.O_RDWR, a),
    "getxattr": lambda w, a: w.find("/shared/vault/plan").inspect(a),
    "readlink": lambda w, a: _link(w).target(a),
    "a fifo": lambda w, a: w.find("/shared/vault/fifo").admitted(a),
}


def _link(world: World) -> Link:
    found = world.find("/shared/vault/way")
    assert isinstance(found, Link)
    return found


async def test_a_rule_on_files_is_asked_at_every_operation(world: World) -> None:
    vault, alice = await _vault(world), world.as_agent("alice")
    before = sorted(name for name, _ in vault.entries())
    for rule, calls in ((VAULT, READS | CHANGES), (READ_ONLY, CHANGES)):
        rules(world, rule)
        for name, call in calls.items():
            assert may(lambda call=call: call(world, alice)) == "EPERM", (rule, name)  # type: ignore[misc]
    assert sorted(name for name, _ in vault.entries()) == before
    assert await world.text("/shared/vault/plan") == "text"
    assert await world.text("/shared/vault/plan", alice) == "text", "it may be read"
    for name, call in reversed(CHANGES.items()):
        if name in ("utime", "chmod", "truncate", "setxattr", "a fifo", "write"):
            call(world, world.as_agent("bob"))


async def test_the_capabilities_for_files_are_asked_too(world: World) -> None:
    await _vault(world)
    readonly = await world.spawn("reader", caps=["file_read"])
    blind = await world.spawn("blind", caps=["file_write"])
    reader, writer = world.as_agent(readonly.name), world.as_agent(blind.name)
    for name, call in CHANGES.items():
        assert may(lambda call=call: call(world, reader)) == "EACCES", name  # type: ignore[misc]
    for name, call in READS.items():
        if name not in ("a fifo", "open for both"):
            call(world, reader)
        assert may(lambda call=call: call(world, writer)) == "EACCES", name  # type: ignore[misc]
    assert await world.text("/shared/mine", reader) == "text"


async def test_a_hard_link_is_under_the_rules_of_all_its_known_names(world: World) -> None:
    await _vault(world)
    alice = world.as_agent("alice")
    shared = world.directory("/shared")
    plan = world.find("/shared/vault/plan")  # and Linux goes on knowing it
    shared.link(plan, "alias", OPERATOR)
    assert await world.text("/shared/alias", alice) == "text"
    rules(world, VAULT)
    assert may(lambda: world.open("/shared/alias", caller=alice)) == "EPERM"
    assert world.find("/shared/alias") is plan
    assert isinstance(plan, HostFile)
    assert plan.paths() == ["vault/plan", "alias"]


async def test_a_task_reads_files_and_writes_none(world: World) -> None:
    await _vault(world)
    await world.spawn("tim", role="task")
    tim = world.as_agent("tim")
    assert await world.text("/shared/mine", tim) == "text"
    assert may(lambda: world.create("/shared/new", tim)) == "EACCES"
    assert may(lambda: world.open("/shared/mine", os.O_WRONLY, tim)) == "EACCES"


async def test_memory_is_private_by_fifo_attribute_and_link_as_well(world: World) -> None:
    """Linux opens a FIFO by itself, so the look-up is what keeps others out."""
    alice, bob = world.as_agent("alice"), world.as_agent("bob")
    memory = world.directory("/agents/bob/memory")
    memory.mknod("fifo", 0o010666, 0, bob)
    memory.symlink("way", "notes", bob)
    file, handle = memory.create("notes", 0o666, os.O_WRONLY, bob)
    handle.release()
    fifo = memory.lookup("fifo")
    assert (fifo.guarded, fifo.timeout) == (True, 0)
    fifo.admitted(bob)
    for call in (
        lambda: fifo.admitted(alice),
        lambda: file.inspect(alice),
        lambda: memory.lookup("way").inspect(alice),
        lambda: memory.lookup("notes").enter(STRANGER),
    ):
        with pytest.raises(KernelError) as caught:
            call()
        assert caught.value.errno == errno.EACCES
