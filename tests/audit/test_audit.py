"""The audit: what it has, that it has all of it, and that nobody edits it unseen."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agentfs.audit import records
from agentfs.audit.audit import MOST_ACTORS
from agentfs.audit.pruning import BATCH
from agentfs.audit.query import Query
from agentfs.audit.seal import Seal
from agentfs.audit.verify import verify
from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.mail.events import SentForgotten
from agentfs.model.principal import Kind, Principal
from agentfs.process.events import AgentDefined
from agentfs.shared.events import ArtifactStored
from agentfs.store.event import Event, vocabulary
from agentfs.store.event_log import Record
from agentfs.store.layout import StateError
from agentfs.store.part import Part
from agentfs.store.store import Store
from tests.audit.world import ALICE, BOB, STRANGER, System, edit
from tests.storage import without_log


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path / "state")
    yield made
    made.close()
    assert made.verdict().startswith("ok ") or not made.audit.seq
    assert check(made.path) == []


@pytest.fixture
def ended(tmp_path: Path) -> System:
    """One that made ten records and three checkpoints, and was put down cleanly."""
    made = System(tmp_path / "state")
    made.define("a", "b", "c", by=ALICE)
    made.refusals.record(BOB, "/agents/a/spec.yaml", KernelError(13, "not yours", rule="owner"))
    made.define("d", "e", "f", "g", "h")
    made.close()
    assert made.verdict().startswith("ok 10 records, head 10 "), made.verdict()
    assert check(made.path) == []
    return made


# -- what is in it -------------------------------------------------------------------------------


def test_each_committed_transaction_with_events_is_one_record_that_says_who_and_what(
    system: System,
) -> None:
    with system.gate.enter(ALICE):
        system.events.emit(AgentDefined("x"))
        system.events.emit(AgentDefined("y"))
    last = system.records()[-1]
    assert last == {
        "seq": 2,
        "time": "2027-01-15T08:00:00.000000Z",
        "actor": {"kind": "agent", "name": "alice", "pid": 2, "uid": 1000, "gid": 100},
        "changes": [
            {"type": "agent_defined", "agent": "x"},
            {"type": "agent_defined", "agent": "y"},
        ],
    }


def test_a_transaction_that_says_nothing_or_fails_leaves_no_record(system: System) -> None:
    before = system.audit.seq
    with system.gate.enter(ALICE):
        system.store.set_meta("silent", "1")
    with pytest.raises(ValueError), system.gate.enter(ALICE):
        system.events.emit(AgentDefined("x"))
        raise ValueError
    assert system.audit.seq == before
    system.define("y")
    assert system.records()[-1]["seq"] == before + 1
    assert system.verdict().startswith("ok")


def test_the_first_principal_of_a_transaction_acts_and_without_one_it_is_the_kernel(
    system: System,
) -> None:
    with system.gate.enter(ALICE), system.gate.enter(BOB):
        system.events.emit(AgentDefined("x"))
    system.events.emit(AgentDefined("y"))
    with system.store.transaction():
        system.events.emit(AgentDefined("z"))
        with system.gate.enter(BOB):
            pass
    names = [record["actor"]["name"] for record in system.records()]  # type: ignore[index]
    assert names[-3:] == ["alice", "kernel", "bob"]
    kernel = system.records()[-2]["actor"]
    assert kernel == {
        "kind": "kernel", "name": "kernel", "pid": None, "uid": os.geteuid(), "gid": os.getegid()
    }  # fmt: skip


def test_what_a_listener_does_after_the_commit_is_the_kernels_own_work(system: System) -> None:
    def listener(record: Record) -> None:
        if record.event == AgentDefined("x"):
            system.events.emit(AgentDefined("consequence"))

    system.events.listen(listener)
    with system.gate.enter(ALICE):
        system.events.emit(AgentDefined("x"))
    assert [r["actor"]["name"] for r in system.records()[-2:]] == ["alice", "kernel"]  # type: ignore[index]
    assert system.verdict().startswith("ok")


@pytest.mark.parametrize(
    ("principal", "pid"), [(ALICE, 2), (STRANGER, None)], ids=["agent", "stranger"]
)
def test_a_refusal_is_a_record_with_its_words_and_rule(
    system: System, principal: Principal, pid: int | None
) -> None:
    refusal = KernelError(13, "alice may not", rule="role worker")
    system.refusals.record(principal, "/agents/bob/ctl", refusal)
    last = system.records()[-1]
    assert last["actor"]["name"] == principal.name  # type: ignore[index]
    assert last["changes"] == [
        {
            "type": "call_refused",
            "pid": pid,
            "path": "/agents/bob/ctl",
            "errno": "EACCES",
            "reason": "alice may not",
            "rule": "role worker",
        }
    ]
    assert bool(system.refusals.text(2)) == (principal is ALICE)


def test_a_discreet_refusal_says_no_more_than_errno_and_rule(system: System) -> None:
    refusal = KernelError(2, "there is no key secret", rule="visibility")
    refusal.discreet = True
    system.refusals.record(ALICE, "/dev/shm/private/secret", refusal)
    assert "secret" not in json.dumps(system.records()[-1])
    assert system.records()[-1]["changes"] == [
        {"type": "call_refused", "pid": 2, "path": "", "errno": "ENOENT", "reason": "",
         "rule": "visibility"}
    ]  # fmt: skip


def test_an_audit_that_is_half_full_says_so_once(system: System) -> None:
    system.settings.replace("audit: {max_records: 10}")
    for _ in range(20):
        system.define("a", by=ALICE)
        system.timers.run_due()
    changes = [change for record in system.records() for change in record["changes"]]
    told = [change for change in changes if change["type"] == "audit_half_full"]
    assert told == [{"type": "audit_half_full", "records": 5, "most": 10}]
    assert verify(system.path, system.key).fault == ""


def test_equal_refusals_are_one_record_and_then_a_summary(system: System) -> None:
    refusal = KernelError(13, "not yours", rule="owner")
    repeated: list[tuple[int, str, str, str]] = []

    class Repeats(Part):
        def refusal_repeated(self, pid: int, code: str, reason: str, rule: str) -> None:
            repeated.append((pid, code, reason, rule))

    system.kernel.ground.parts.add(Repeats())
    for _ in range(1000):
        system.refusals.record(ALICE, "/agents/bob/ctl", refusal)
        system.clock.advance(0.0005)
    system.refusals.record(BOB, "/agents/bob/ctl", refusal)  # another actor's is no equal one
    told = [change["type"] for record in system.records() for change in record["changes"]]
    assert told.count("call_refused") == 2
    assert repeated == [(2, "EACCES", "not yours", "owner")] * 999
    assert system.refusals.count == 1001
    system.clock.advance(1)
    system.timers.run_due()
    *_, summary = system.records()
    assert summary["actor"]["name"] == "alice"
    [change] = summary["changes"]
    assert change["first"] < change["last"]
    assert (change["type"], change["count"]) == ("refusals_repeated", 999)
    assert (change["path"], change["errno"]) == ("/agents/bob/ctl", "EACCES")


def test_an_hour_of_refusals_is_a_hundred_records_and_counts_each(system: System) -> None:
    refusal = KernelError(13, "no")
    before = len(system.records())
    for _ in range(3600):
        system.refusals.record(ALICE, "/x", refusal)
        system.clock.advance(1)
        system.timers.run_due()
    system.refusals.flush()
    changes = [change for record in system.records()[before:] for change in record["changes"]]
    assert len(changes) < 100
    assert sum(change.get("count", 1) for change in changes) == 3600
    for _ in range(10):  # quiet: the next one is new
        system.clock.advance(60)
        system.timers.run_due()
    system.refusals.record(ALICE, "/x", refusal)
    assert system.records()[-1]["changes"][0]["type"] == "call_refused"


def test_who_tries_another_path_each_time_is_bounded_too(system: System) -> None:
    before = len(system.records())
    for number in range(5000):
        system.refusals.record(ALICE, f"/x{number}", KernelError(13, f"no {number}"))
    system.refusals.flush()
    changes = [change for record in system.records()[before:] for change in record["changes"]]
    assert len(changes) <= 260
    assert changes[-1]["path"] == ""
    assert sum(change.get("count", 1) for change in changes) == 5000


def test_fields_that_are_nobody_elses_business_stay_out(system: System) -> None:
    system.events.emit(ArtifactStored("alice", "private", "", ("private", "alice"), "my-secret"))
    assert "my-secret" not in json.dumps(system.records()[-1])


def _sample(kind: type[Event]) -> Event:
    values: dict[str, object] = {"str": 'a"ü\u2028\udcff%s', "int": 7, "bool": True, "float": 0.5}
    given = {}
    for field in dataclasses.fields(kind):
        name = str(field.type)
        given[field.name] = values.get(name, ("x", "y") if name.startswith("tuple") else None)
    return kind(**given)


EVENTS = list(vocabulary().values())


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_a_record_is_what_the_standard_library_makes_canonical(kind: type[Event]) -> None:
    changes = [_sample(kind), SentForgotten("a", ())]
    text = records.record(7, records.stamp(1.5), records.actor(ALICE), changes)
    assert text.isascii()
    assert text == records.canonical(json.loads(text))
    assert json.loads(text)["changes"][0]["type"] == kind.type


def test_two_records_of_a_transaction_have_one_head_and_a_failure_takes_back_both(
    tmp_path: Path,
) -> None:
    system = System(tmp_path, every=1)
    before = len(system.records())

    def hand_over() -> None:
        with system.gate.enter(ALICE):
            system.events.emit(AgentDefined("a"))
            system.events.apart(BOB, lambda: system.events.emit(AgentDefined("b")))

    def fail() -> None:
        raise RuntimeError("behind the audit")

    system.store.prepare(fail)
    with pytest.raises(RuntimeError):
        hand_over()
    system.store.before_commit.remove(fail)
    assert len(system.records()) == before
    hand_over()
    assert [each["actor"]["name"] for each in system.records()[before:]] == ["alice", "bob"]
    assert system.audit.head().split()[0] == str(before + 2)
    assert system.verdict().startswith(f"ok {before + 2} records, head {before + 2} ")
    system.close()


def test_who_acts_is_not_mistaken_however_many_there_are(tmp_path: Path) -> None:
    """Principals are told apart as objects: one that is gone leaves its address to the next."""
    system = System(tmp_path)
    names = [f"agent-{number}" for number in range(2 * MOST_ACTORS + 1)]
    for number, name in enumerate(names):
        with system.store.transaction():
            system.store.act_for(Principal(Kind.AGENT, number + 2, name, 1000, 100))
            system.events.emit(AgentDefined(name))
    records = [each for each in system.records() if each["changes"][0].get("agent") in names]
    assert [each["actor"]["name"] for each in records] == names
    system.close()


# -- tampering -----------------------------------------------------------------------------------


def test_every_flipped_byte_of_every_record_and_hash_is_found(tmp_path: Path) -> None:
    ended = System(tmp_path)
    ended.define("a", by=ALICE)
    ended.refusals.record(STRANGER, "/", KernelError(13, "no"))
    ended.define("b")
    ended.close()
    with closing(sqlite3.connect(ended.path, isolation_level=None)) as connection:
        connection.text_factory = bytes
        query = "SELECT seq, CAST(record AS BLOB), hash FROM audit"
        for seq, record, digest in connection.execute(query).fetchall():
            for column, content in (("record", record), ("hash", digest)):
                kind = "TEXT" if column == "record" else "BLOB"
                statement = f"UPDATE audit SET {column} = CAST(? AS {kind}) WHERE seq = ?"
                for at in range(len(content)):
                    flipped = bytearray(content)
                    flipped[at] ^= 1 << (at % 8)
                    connection.execute("BEGIN")
                    connection.execute(statement, (bytes(flipped), seq))
                    connection.execute("COMMIT")
                    assert ended.verdict().startswith(f"bad: record {seq}: its hash"), (seq, at)
                connection.execute(statement, (content, seq))
    assert ended.verdict().startswith("ok 4 records")


def test_every_deleted_record_is_found(ended: System) -> None:
    copy = ended.path.read_bytes()
    for seq in range(1, 11):
        edit(ended, f"DELETE FROM audit WHERE seq = {seq}")
        assert ended.verdict().startswith(f"bad: record {seq}: it is missing")
        assert any(fault.startswith("audit: ") for fault in check(ended.path))
        ended.path.write_bytes(copy)


def test_every_swap_of_two_records_is_found(ended: System) -> None:
    copy = ended.path.read_bytes()
    for one in range(1, 11):
        for other in range(one + 1, 11):
            edit(
                ended,
                f"UPDATE audit SET seq = -1 WHERE seq = {one}",
                f"UPDATE audit SET seq = {one} WHERE seq = {other}",
                f"UPDATE audit SET seq = {other} WHERE seq = -1",
            )
            assert ended.verdict().startswith(f"bad: record {one}: ")
            ended.path.write_bytes(copy)


@pytest.mark.parametrize("left", range(10))
def test_a_cut_head_and_a_cut_tail_are_found(ended: System, left: int) -> None:
    copy = ended.path.read_bytes()
    edit(ended, f"DELETE FROM audit WHERE seq <= {10 - left}")
    assert ended.verdict().startswith("bad: record 1: it is missing")
    ended.path.write_bytes(copy)
    edit(ended, f"DELETE FROM audit WHERE seq > {left}")
    assert ended.verdict().startswith(f"bad: record {left + 1}: it is missing")
    edit(ended, f"DELETE FROM checkpoints WHERE seq > {left}")
    assert ended.verdict().startswith(f"bad: record {left + 1}: it is missing")


def test_a_tail_that_is_cut_down_to_a_checkpoint_with_its_signature_for_a_head_is_found(
    ended: System,
) -> None:
    edit(ended, "DELETE FROM audit WHERE seq > 4", "DELETE FROM checkpoints WHERE seq > 4")
    with closing(sqlite3.connect(ended.path)) as connection:
        (text,) = connection.execute("SELECT record FROM checkpoints WHERE seq = 4").fetchone()
    mark = json.loads(text)
    head = f"4 {mark['hash']} {mark['signature']}"
    edit(ended, ("UPDATE meta SET value = ? WHERE key = 'audit_head'", (head,)))
    assert "not signed with this key" in ended.verdict()


def test_a_head_cut_at_a_checkpoint_does_not_pass_as_the_kernels_own_cut(ended: System) -> None:
    edit(ended, "DELETE FROM audit WHERE seq <= 4", "DELETE FROM checkpoints WHERE seq < 4")
    assert ended.verdict().startswith("bad: record 1: it is missing; the next one is record 5")
    with closing(sqlite3.connect(ended.path)) as connection:
        (text,) = connection.execute("SELECT record FROM checkpoints WHERE seq = 4").fetchone()
    forged = text.replace('"cut":false', '"cut":true')
    edit(ended, ("UPDATE checkpoints SET record = ? WHERE seq = 4", (forged,)))
    assert ended.verdict() == "bad: checkpoint 4: its signature is not by this key"


def _rebuilt(system: System, seal: Seal) -> None:
    """Every record told otherwise, with all hashes and signatures that go with that."""
    import hashlib

    digest, head = bytes(32), ""
    with closing(sqlite3.connect(system.path)) as connection, connection:
        for seq, text in connection.execute("SELECT seq, record FROM audit ORDER BY seq"):
            told = text.replace("alice", "nobody")
            digest = hashlib.sha256(digest + told.encode()).digest()
            connection.execute(
                "UPDATE audit SET record = ?, hash = ? WHERE seq = ?", (told, digest, seq)
            )
            head = seal.head(seq, digest)
        connection.execute("UPDATE meta SET value = ? WHERE key = 'audit_head'", (head,))


def test_a_table_rebuilt_without_the_key_is_found(ended: System, tmp_path: Path) -> None:
    other = System(tmp_path / "other")
    other.store.close()
    genuine = ended.path.read_bytes()
    _rebuilt(ended, Seal(other.key))
    assert ended.verdict().startswith("bad: record 4: it is not the one")
    edit(ended, "DELETE FROM checkpoints")
    assert ended.verdict().startswith("bad: the head: it is not signed with this key")
    ended.path.write_bytes(genuine)
    edit(ended, "DELETE FROM meta WHERE key = 'audit_head'")
    assert ended.verdict() == "bad: record 10: it is the last one, and there is no signed head"
    edit(ended, "DELETE FROM audit", "DELETE FROM checkpoints")
    assert ended.verdict().startswith("bad: record 1: it is missing")


def test_even_with_a_signed_head_a_rebuilt_table_is_not_what_the_checkpoints_say(
    ended: System,
) -> None:
    _rebuilt(ended, Seal(ended.key))
    edit(ended, "DELETE FROM checkpoints")
    assert ended.verdict().startswith("bad: checkpoint 4: it is not what line 1 of ")


def test_every_flipped_byte_of_a_checkpoint_and_of_the_head_is_found(ended: System) -> None:
    for read, write in (
        ("SELECT record FROM checkpoints WHERE seq = 8", "UPDATE checkpoints SET record = ?"
         " WHERE seq = 8"),
        ("SELECT value FROM meta WHERE key = 'audit_head'", "UPDATE meta SET value = ?"
         " WHERE key = 'audit_head'"),
    ):  # fmt: skip
        with closing(sqlite3.connect(ended.path, isolation_level=None)) as connection:
            (text,) = connection.execute(read).fetchone()
            for at in range(len(text)):
                flipped = bytearray(text.encode())
                flipped[at] ^= 1
                connection.execute(write, (flipped.decode(),))
                assert ended.verdict().startswith(("bad: checkpoint 8: ", "bad: the head: ")), at
            connection.execute(write, (text,))
    mirror = ended.key.with_name("audit.key.checkpoints")
    lines = mirror.read_bytes()
    for at in range(0, len(lines) - 1, 3):
        mirror.write_bytes(lines[:at] + bytes([lines[at] ^ 4]) + lines[at + 1 :])
        assert ended.verdict().startswith("bad: "), at
    mirror.write_bytes(lines)
    edit(ended, "DELETE FROM checkpoints WHERE seq = 8")
    assert ended.verdict().startswith("bad: checkpoint 8: it is not what line 2 of ")
    mirror.unlink()
    assert ended.verdict().startswith("bad: the checkpoints beside the key are gone")


def test_a_store_put_back_to_an_older_copy_is_found_also_after_it_went_on(
    tmp_path: Path,
) -> None:
    system = System(tmp_path / "state")
    system.define("a", "b")
    system.close()
    old = system.path.read_bytes()
    system = System(tmp_path / "state")
    system.define("c", "d")
    system.close()
    system.path.write_bytes(old)
    system.path.with_suffix(".mark").unlink()  # which says how far the store was
    assert system.verdict().startswith("bad: record 4: it is missing, and the store is an older")
    system = System(tmp_path / "state")
    system.define("e", "f", "g", "h", "i")
    system.close()
    assert system.verdict().startswith("bad: record 4: it is missing; the next one is record 6")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM audit WHERE seq > 8",
        "DELETE FROM audit",
        "UPDATE meta SET value = '' WHERE key = 'audit_head'",
        "UPDATE audit SET hash = zeroblob(32) WHERE seq = 10",
        "INSERT INTO audit VALUES (11, '{}', zeroblob(32))",
    ],
)
def test_a_daemon_that_starts_on_a_forged_end_goes_on_and_does_not_sign_it_clean(
    ended: System, statement: str
) -> None:
    edit(ended, statement)
    again = System(ended.path.parent)
    again.define("later")
    again.close()
    assert again.verdict().startswith("bad: record "), again.verdict()


# -- the key -------------------------------------------------------------------------------------


def test_the_key_is_made_once_for_its_owner_alone_and_may_be_elsewhere(tmp_path: Path) -> None:
    key = tmp_path / "elsewhere.key"
    system = System(tmp_path / "state", key=key)
    assert (key.stat().st_size, key.stat().st_mode & 0o777) == (32, 0o600)
    made = key.read_bytes()
    system.define("a")
    system.close()
    again = System(tmp_path / "state", key=key)
    again.close()
    assert key.read_bytes() == made
    assert again.verdict().startswith("ok 2 records")
    assert sorted(os.listdir(tmp_path)) == [
        "elsewhere.key", "elsewhere.key.checkpoints", "state"
    ]  # fmt: skip
    assert not (tmp_path / "state/audit.key").exists()


def test_without_its_key_an_audit_is_not_sound_and_nothing_is_added_to_it(ended: System) -> None:
    kept = ended.key.rename(ended.key.with_name("moved"))
    assert ended.verdict() == (
        f"bad: 10 records cannot be verified: their key is not at {ended.key}"
    )
    with pytest.raises(StateError, match=r"its key is not at .*--audit-key") as refused:
        System(ended.path.parent)
    assert isinstance(refused.value.__cause__, KernelError)
    assert refused.value.__cause__.code == "ENOENT"
    assert not ended.key.exists()
    ended.key.write_bytes(os.urandom(32))
    assert ended.verdict() == "bad: checkpoint 4: its signature is not by this key"
    ended.key.write_bytes(b"short")
    assert "has 5 bytes, not 32" in ended.verdict()
    kept.rename(ended.key)
    assert ended.verdict().startswith("ok")


def test_nothing_yet_is_sound(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    assert str(verify(store.path, tmp_path / "no.key")) == "ok 0 records"
    store.close()
    assert str(verify(tmp_path / "none.db", tmp_path / "no.key")).startswith(
        "bad: the store cannot be read"
    )


# -- pruning -------------------------------------------------------------------------------------


def test_old_records_go_in_batches_and_a_signed_cut_stands_for_them(system: System) -> None:
    system.settings.replace("audit: {retention: 1h, checkpoint_every: 50}")
    system.define(*(f"old{number}" for number in range(BATCH + 100)))
    system.clock.advance(3601)
    system.define("young")
    assert system.audit.tidy() == BATCH
    assert system.verdict().startswith("ok 103 records")
    system.clock.advance(1)
    system.timers.run_due()
    system.timers.run_due()
    assert [record["changes"] for record in system.records()] == [
        [{"type": "agent_defined", "agent": "young"}]
    ]
    assert system.verdict().startswith("ok 1 records, head 603 ")
    assert system.audit.tidy() == 0
    system.close()
    assert check(system.path) == []
    assert system.verdict().startswith("ok 1 records")
    copy = system.path.read_bytes()
    edit(system, "DELETE FROM checkpoints WHERE seq = 602")
    assert system.verdict().startswith("bad: record 1: it is missing; the next one is record 603")
    system.path.write_bytes(copy)


def test_there_are_never_many_more_than_max_records_and_the_newest_always_stays(
    system: System,
) -> None:
    system.settings.replace("audit: {max_records: 10, checkpoint_every: 5}")
    system.define(*map(str, range(40)))
    assert system.audit.tidy() == 32
    assert [record["seq"] for record in system.records()] == list(range(33, 43))
    assert system.verdict().startswith("ok 10 records, head 42 ")
    system.settings.replace("audit: {max_records: 1, retention: 1s}")
    system.clock.advance(100)
    system.audit.tidy()
    assert [record["seq"] for record in system.records()] == [43]
    system.define("next")
    assert system.verdict().startswith("ok 2 records")
    system.close()
    again = System(system.path.parent)
    again.define("and on")
    again.close()
    assert again.verdict().startswith("ok ")


# -- failing -------------------------------------------------------------------------------------


def test_a_call_whose_record_cannot_be_written_is_refused_and_changes_nothing(
    system: System,
) -> None:
    """The disk is full for the audit alone."""
    system.define("before")
    (pages,) = without_log(system.store)._db.execute("PRAGMA page_count").fetchone()
    system.store._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    made = 0
    with pytest.raises(KernelError) as refused:
        for made in range(1000):
            with system.gate.enter(ALICE):
                system.store.set_meta("count", str(made))
                system.events.emit(AgentDefined(f"agent{made}"))
    assert refused.value.code == "ENOSPC"
    assert system.store.meta("count") == str(made - 1)
    assert system.audit.seq == len(system.records()) == made + 2
    system.store._db.execute("PRAGMA max_page_count = 1000000")
    system.define("after")
    assert system.verdict().startswith(f"ok {made + 3} records")


# -- questions -----------------------------------------------------------------------------------


def asked(system: System, query: str) -> list[int]:
    answer = Query.parse(query, system.clock.now()).answer(system.path)
    return [json.loads(line)["seq"] for line in answer.splitlines()]


def test_a_query_finds_by_agent_type_and_time_the_newest_first_to_stay(system: System) -> None:
    system.define("a", "b", by=ALICE)
    system.define("alice", "alicent", by=BOB)
    system.clock.advance(3600)
    system.refusals.record(BOB, "/alice", KernelError(13, "no"))
    system.refusals.record(ALICE, "/x", KernelError(13, "no"))
    assert asked(system, "") == [1, 2, 3, 4, 5, 6, 7]
    assert asked(system, "agent=alice") == [2, 3, 4, 7]
    assert asked(system, "type=call_refused") == [6, 7]
    assert asked(system, "type=call_refused agent=alice") == [7]
    assert asked(system, "since=1h") == [5, 6, 7]
    assert asked(system, "until=1h agent=alice") == [2, 3, 4]
    assert asked(system, "since=2027-01-15T08:00:03Z until=2027-01-15T08:00:04+00:00") == [4, 5]
    assert asked(system, "limit=2") == [6, 7]
    assert asked(system, "agent=nobody") == []
    answer = Query.parse("limit=1", 0.0).answer(system.path)
    assert json.loads(answer)["hash"] == system.audit.head().split()[1]


@pytest.mark.parametrize(
    "query",
    ["name=alice", "agent=", "alice", "since=then", "limit=0", "limit=10001", "limit=-1",
     "agent=a agent=b", "until=" + "9" * 400],
)  # fmt: skip
def test_a_wrong_query_is_refused(query: str) -> None:
    with pytest.raises(KernelError) as refused:
        Query.parse(query, 1e9)
    assert refused.value.code == "EINVAL"


# -- crashes -------------------------------------------------------------------------------------


def test_what_a_killed_system_left_verifies_at_every_moment(system: System, tmp_path: Path) -> None:
    for number in range(12):
        system.define(f"agent{number}", by=ALICE if number % 2 else None)
        if number % 5 == 0:
            system.audit.mirror()
        left = tmp_path / f"left{number}"
        shutil.copytree(system.path.parent, left)
        again = System(left)
        assert again.audit._mirroring.missed() == again.audit._mirroring.missed()
        again.define("on")
        again.close()
        assert again.verdict().startswith(f"ok {number + 3} records")
        assert check(again.path) == []


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("DELETE FROM audit WHERE seq = 10", "audit: the head is record 10, and the last one is 9"),
        ("DELETE FROM audit WHERE seq = 5", "audit: there are 9 records from 1 to 10"),
        ("DELETE FROM audit WHERE seq = 1", "audit: the first record is 2, and 0 were cut off"),
        ("UPDATE checkpoints SET record = '[' WHERE seq = 4",
         "audit: checkpoint 4 is that of record None"),
        ("DELETE FROM meta WHERE key = 'audit_head'",
         "audit: the head is record none, and the last one is 10"),
    ],
)  # fmt: skip
def test_the_check_of_the_store_says_what_can_be_told_without_the_key(
    ended: System, statement: str, fault: str
) -> None:
    edit(ended, statement)
    assert check(ended.path) == [fault]


def test_a_file_of_checkpoints_that_cannot_be_written_is_made_up_for_later(
    system: System,
) -> None:
    path = system.key.with_name("audit.key.checkpoints")
    path.rename(path.with_name("aside"))
    path.mkdir()
    system.define("a", "b", "c", "d")
    system.audit.mirror()
    assert system.verdict().startswith("bad: the checkpoints, ")
    path.rmdir()
    path.with_name("aside").rename(path)
    with path.open("ab") as file:
        file.write(b'{"half')  # and a power cut came
    system.define("e", "f", "g", "h")
    system.audit.mirror()
    assert [json.loads(line)["seq"] for line in path.read_bytes().splitlines()] == [4, 8]
    assert system.verdict().startswith("ok 9 records")
