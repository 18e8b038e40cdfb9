"""An audit that is full: refusals go before changes, or all but the operator have to stop."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agentfs.audit.events import AuditFull
from agentfs.audit.verify import verify
from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.model.principal import Kind, Principal
from agentfs.process.events import AgentDefined
from tests.audit.world import ALICE, BOB, System, edit

OPERATOR = Principal(Kind.OPERATOR, 3, "init", 0, 0)
NO = KernelError(13, "no", rule="none")


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with closing(System(tmp_path / "state")) as made:
        yield made
    assert made.verdict().startswith("ok ")
    assert check(made.path) == []


def full(system: System, most: int, when: str = "forget") -> None:
    system.settings.replace(
        f"audit: {{max_records: {most}, when_full: {when}, checkpoint_every: 4}}"
    )


def refuse(system: System, *paths: object) -> None:
    for path in paths:
        system.refusals.record(BOB, f"/{path}", NO)


def told(system: System, what: str) -> list[object]:
    """What changes of a type say, in order."""
    key = {"agent_defined": "agent", "call_refused": "path", "refusals_dropped": "count"}[what]
    return [
        change[key]
        for record in system.records()
        for change in record["changes"]  # type: ignore[attr-defined]
        if change["type"] == what
    ]


def sweep(system: System) -> None:
    while system.audit.tidy():
        pass


def test_refusals_go_before_changes_and_the_newest_stay(system: System) -> None:
    full(system, 20)
    for number in range(15):
        system.define(f"a{number}", by=ALICE)
        refuse(system, f"{number}a", f"{number}b")
    sweep(system)
    assert told(system, "agent_defined") == [f"a{number}" for number in range(15)]
    assert told(system, "call_refused") == ["/13b", "/14a", "/14b"]
    assert system.audit.pruning.kept == 20
    assert sum(told(system, "refusals_dropped")) == 27  # type: ignore[arg-type]
    assert system.verdict().startswith("ok 20 records, head 47 ")
    system.define("one", "more", by=ALICE)
    sweep(system)  # there is no refusal left but those that are spared
    assert system.verdict().startswith("ok 20 records")
    assert told(system, "agent_defined")[-2:] == ["one", "more"]


def test_a_flood_of_refusals_pushes_no_change_out(system: System, tmp_path: Path) -> None:
    full(system, 40)
    changes = [f"a{number}" for number in range(30)]
    system.define(*changes, by=ALICE)
    for number in range(250):
        refuse(system, *(f"{number}/{each}" for each in range(2)))
        if number % 10 == 0:
            sweep(system)
    sweep(system)
    assert told(system, "agent_defined") == changes
    assert len(told(system, "refusals_dropped")) == 1, "those in a row are one record"
    assert system.verdict().startswith("ok ")
    system.close()
    again = System(tmp_path / "state")  # and after a restart the next ones join it
    with closing(again):
        assert again.audit.pruning.kept <= 40
        for number in range(20):
            again.refusals.record(BOB, f"/again{number}", NO)
        sweep(again)
        assert told(again, "agent_defined") == changes
        assert len(told(again, "refusals_dropped")) == 1
    assert again.verdict().startswith("ok ")
    assert check(again.path) == []


def gapped(folder: Path) -> System:
    made = System(folder)
    full(made, 10)
    for number in range(8):
        made.define(f"a{number}", by=ALICE)
        refuse(made, f"{number}a", f"{number}b", f"{number}c")
    sweep(made)
    made.close()
    assert made.verdict().startswith("ok 10 records")
    return made


def gaps(system: System) -> list[tuple[int, bytes, bytes]]:
    with closing(sqlite3.connect(system.path)) as connection:
        return connection.execute(
            "SELECT seq, CAST(record AS BLOB), hash FROM audit"
            " WHERE instr(record, 'refusals_dropped') ORDER BY seq"
        ).fetchall()


def test_every_third_byte_that_is_flipped_of_what_stands_for_refusals_is_found(
    tmp_path: Path,
) -> None:
    system = gapped(tmp_path)
    seq, record, digest = gaps(system)[1]
    for column, content in (("record", record), ("hash", digest)):
        kind = "TEXT" if column == "record" else "BLOB"
        for at in range(0, len(content), 3):
            flipped = bytearray(content)
            flipped[at] ^= 1 << (at % 8)
            statement = f"UPDATE audit SET {column} = CAST(? AS {kind}) WHERE seq = ?"
            edit(system, (statement, (bytes(flipped), seq)))
            assert system.verdict().startswith("bad: record "), (column, at)
            edit(system, (statement, (content, seq)))
    assert system.verdict().startswith("ok 10 records")


def test_nobody_takes_a_record_out_by_a_gap_of_the_kernels(tmp_path: Path) -> None:
    system = gapped(tmp_path)
    copy = system.path.read_bytes()
    with closing(sqlite3.connect(system.path)) as connection:
        query = "SELECT seq FROM audit WHERE instr(record, 'agent_defined') ORDER BY seq"
        changes = [seq for (seq,) in connection.execute(query)]
    (first, text, digest), (second, *_), *_ = gaps(system)
    for statements in (
        (f"DELETE FROM audit WHERE seq = {first}",),
        (f"DELETE FROM audit WHERE seq = {second}",),
        (f"DELETE FROM audit WHERE seq = {changes[3]}",),
        (  # the same one once more, in the place of a change
            (
                "UPDATE audit SET record = ?, hash = ? WHERE seq = ?",
                (text.decode(), digest, changes[3]),
            ),
        ),
        (  # one that says it is longer
            f"DELETE FROM audit WHERE seq BETWEEN {first + 1} AND {second}",
            (
                "UPDATE audit SET seq = ?, record = ? WHERE seq = ?",
                (second, text.decode().replace(f'"seq":{first}', f'"seq":{second}'), first),
            ),
        ),
    ):
        edit(system, *statements)
        assert system.verdict().startswith("bad: record "), statements
        system.path.write_bytes(copy)
    assert system.verdict().startswith("ok ")


def test_what_somebody_was_at_is_not_dropped_but_found(tmp_path: Path) -> None:
    system = System(tmp_path)
    full(system, 10)
    system.define("a", by=ALICE)
    refuse(system, *range(5))
    edit(system, "UPDATE audit SET record = replace(record, '/1', '/x') WHERE seq = 5")
    refuse(system, *range(5, 30))
    for _ in range(5):
        system.audit.tidy()
    assert "/x" in system.path.read_bytes().decode("latin1") or "/x" in json.dumps(system.records())
    system.close()
    assert system.verdict().startswith("bad: record 5: its hash")


def test_a_disk_that_is_full_leaves_everything_as_it_is(system: System) -> None:
    full(system, 10)
    for number in range(10):
        system.define(f"a{number}", by=ALICE)
        refuse(system, number)
    kept = system.audit.pruning.kept

    def fail() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    system.store.before_commit.append(fail)
    assert system.audit.tidy() == 0
    system.store.before_commit.remove(fail)
    assert system.audit.pruning.kept == kept
    sweep(system)
    assert system.audit.pruning.kept == 10
    assert told(system, "agent_defined") == [f"a{number}" for number in range(1, 10)]


@pytest.mark.parametrize("seed", range(6))
def test_whatever_comes_the_chain_holds_and_changes_go_last(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    system = System(tmp_path / "state")
    full(system, 30)
    defined: list[str] = []
    for step in range(300):
        match chance.randrange(12):
            case 0 | 1:
                defined.append(f"a{step}")
                system.define(defined[-1], by=ALICE)
            case 2:
                system.audit.tidy()
            case 3 if chance.random() < 0.2:
                first, last = system.audit.pruning.first, system.audit.seq - 1
                system.audit.cut(OPERATOR, chance.randint(first, min(last, first + 9)))
                defined = list(map(str, told(system, "agent_defined")))
            case 4 if chance.random() < 0.2:
                system.close()
                system = System(tmp_path / "state")
            case _:
                refuse(system, step)
        system.clock.advance(0.1)
    sweep(system)
    assert system.audit.pruning.kept <= 30
    left = told(system, "agent_defined")
    assert left == defined[len(defined) - len(left) :]
    assert len(left) >= min(len(defined), 15), "refusals went first"
    system.close()
    assert system.verdict().startswith(f"ok {system.audit.pruning.kept} records")
    assert check(system.path) == []


# -- to stop -------------------------------------------------------------------------------------


def test_when_it_is_full_only_the_operator_and_the_kernel_change_anything(system: System) -> None:
    full(system, 10, "stop")
    events: list[AuditFull] = []
    system.events.listen(lambda record: events.append(record.event), AuditFull)  # type: ignore[arg-type]
    made = 0
    with pytest.raises(KernelError) as refused:
        for made in range(20):
            system.define(f"a{made}", by=ALICE)
            system.timers.run_due()
    assert (refused.value.code, refused.value.rule) == ("ENOSPC", "audit.when_full")
    assert "as many as it may" in refused.value.reason
    assert len(events) == 1
    seq = system.audit.seq
    with system.gate.enter(ALICE):
        pass  # what changes nothing is no matter
    refuse(system, "x", "y")
    system.timers.run_due()
    assert system.audit.seq == seq, "there is no room for refusals"
    with pytest.raises(KernelError), system.gate.enter(ALICE):
        system.store.set_meta("changed", "1")
        system.events.emit(AgentDefined("never"))
    assert system.store.meta("changed") == ""
    system.define("b", by=OPERATOR)
    system.define("c")
    assert told(system, "agent_defined") == [*(f"a{each}" for each in range(made)), "b", "c"]
    with system.store.transaction():
        system.store.promised = True  # it was accepted before
        with system.gate.enter(ALICE):
            system.events.emit(AgentDefined("promised"))
    for wrong in (0, system.audit.seq, 10**9):
        with pytest.raises(KernelError) as refused:
            system.audit.cut(OPERATOR, wrong)
        assert refused.value.code == "EINVAL"
    system.audit.cut(OPERATOR, seq - 1)
    assert system.records()[-1]["actor"]["name"] == "init"  # type: ignore[index]
    assert system.records()[-1]["changes"] == [{"type": "audit_cut", "through": seq - 1}]
    system.define("again", by=ALICE)
    assert told(system, "agent_defined") == ["b", "c", "promised", "again"]
    assert events == [AuditFull(10, 10)]


def test_refusals_make_room_before_anybody_has_to_stop(system: System) -> None:
    full(system, 40, "stop")
    made = 0
    for made in range(30):
        refuse(system, made, f"{made}x")
        system.define(f"a{made}", by=ALICE)
        system.clock.advance(0.01)
        system.timers.run_due()
    assert told(system, "agent_defined") == [f"a{each}" for each in range(30)]
    with pytest.raises(KernelError):
        for more in range(40):
            system.define(f"b{more}", by=ALICE)
            system.clock.advance(0.01)
            system.timers.run_due()
    assert len(told(system, "agent_defined")) > 30, "and nothing was forgotten"
    assert told(system, "agent_defined")[:30] == [f"a{each}" for each in range(30)]
    full(system, 40)
    system.define("goes on", by=ALICE)


def test_the_default_is_to_forget(system: System) -> None:
    system.settings.replace("audit: {max_records: 10}")
    system.define(*map(str, range(100)), by=ALICE)
    assert verify(system.path, system.key).fault == ""
