"""The event log: numbers without gaps, after the commit, in order, for everybody."""

import importlib
import json
from dataclasses import fields
from operator import attrgetter

import pytest

import agentfs.kernel  # noqa: F401  # so that every room has told its events
from agentfs.audit.events import CallRefused
from agentfs.base.clock import ManualClock
from agentfs.process.events import AgentDefined, AgentRemoved
from agentfs.store.event import Event, vocabulary
from agentfs.store.event_log import EventLog, Record
from agentfs.store.store import Store


@pytest.fixture
def log(store: Store) -> EventLog:
    return EventLog(store, ManualClock(), capacity=10)


def listen(log: EventLog) -> list[Record]:
    heard: list[Record] = []
    log.listen(heard.append)
    return heard


def emit(log: EventLog, *names: str) -> None:
    for name in names:
        log.emit(AgentDefined(name))


def names(records: list[Record]) -> list[tuple[int, str]]:
    return [(record.seq, record.event.agent) for record in records]  # type: ignore[attr-defined]


def test_events_from_emit_to_listener_and_back_from_the_log(log: EventLog) -> None:
    assert (log.last, log.oldest, list(log.since(1))) == (0, 1, [])
    heard = listen(log)
    emit(log, "a", "b")
    assert names(heard) == [(1, "a"), (2, "b")]
    assert list(log.since(0)) == heard
    assert list(log.since(2)) == heard[1:]
    assert list(log.since(3)) == []
    log.unlisten(heard.append)
    emit(log, "c")
    assert (len(heard), log.last) == (2, 3)


def test_an_event_goes_out_after_the_commit_it_belongs_to(store: Store, log: EventLog) -> None:
    heard = listen(log)
    with store.transaction():
        emit(log, "a")
        with store.transaction():
            emit(log, "b")
        assert heard == []
    assert names(heard) == [(1, "a"), (2, "b")]


def test_what_is_rolled_back_never_happened(store: Store, log: EventLog) -> None:
    heard = listen(log)
    with pytest.raises(ZeroDivisionError), store.transaction():
        emit(log, "a")
        raise ZeroDivisionError
    emit(log, "b")
    assert names(heard) == [(1, "b")]


def test_the_newest_are_kept(log: EventLog) -> None:
    emit(log, *"abcdefghijklm")
    assert (log.last, log.oldest) == (13, 4)
    assert [record.seq for record in log.since(1)] == list(range(4, 14))
    reading = log.since(1)
    emit(log, *"nopqrstuvwxyz")
    assert [record.seq for record in reading] == list(range(4, 14))


def test_numbers_go_on_rising_after_a_restart(store: Store, log: EventLog) -> None:
    emit(log, "a", "b")
    with store.transaction():
        emit(log, "c", "d")
    again = EventLog(store, ManualClock())
    assert (again.last, again.oldest) == (4, 5)
    with store.transaction():
        store.set_meta("x", "1")
        log.emit(AgentRemoved("a"))
    assert store.meta("event_seq") == "5"


def test_a_listener_that_fails_is_its_own_fault(
    log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(record: Record) -> None:
        raise RuntimeError("a mistake")

    log.listen(fail)
    heard = listen(log)
    emit(log, "a", "b")
    assert names(heard) == [(1, "a"), (2, "b")]
    assert "a listener failed" in caplog.text


def test_every_listener_hears_every_number_in_order_though_one_emits(
    store: Store, log: EventLog
) -> None:
    def answer(record: Record) -> None:
        if isinstance(record.event, AgentDefined):
            log.emit(AgentRemoved(record.event.agent))

    first, _, last = listen(log), log.listen(answer), listen(log)
    with store.transaction():
        emit(log, "a", "b")
    assert first == last
    assert [record.seq for record in first] == [1, 2, 3, 4]
    assert [record.event.type for record in first] == ["agent_defined"] * 2 + ["agent_removed"] * 2
    assert store.meta("event_seq") == "4"


def test_a_listener_may_stop_listening_while_it_is_told(log: EventLog) -> None:
    def once(record: Record) -> None:
        log.unlisten(once)

    log.listen(once)
    heard = listen(log)
    emit(log, "a", "b")
    assert len(heard) == 2


def test_a_listener_hears_the_kinds_it_named_only(log: EventLog) -> None:
    some: list[Record] = []
    every = listen(log)
    log.listen(some.append, AgentRemoved, CallRefused)
    emit(log, "a")
    log.emit(AgentRemoved("a"))
    assert names(some) == [(2, "a")]
    assert names(every) == [(1, "a"), (2, "a")]
    log.unlisten(some.append)
    log.emit(AgentRemoved("a"))
    assert len(some) == 1


def test_a_record_is_one_line_of_json() -> None:
    refused = CallRefused(3, "/a/\nb", "EACCES", "grün \u2028", "")
    record = Record(7, 1_800_000_000.0, refused, "bob", 3)
    line = record.line()
    assert line.count(b"\n") == 1
    assert "grün".encode() in line
    assert json.loads(line) == {
        "seq": 7,
        "time": "2027-01-15T08:00:00.000Z",
        "type": "call_refused",
        "agent": "bob",
        "pid": 3,
        "path": "/a/\nb",
        "errno": "EACCES",
        "reason": "grün \u2028",
        "rule": "",
    }


def test_a_path_that_is_no_utf8_is_a_line_of_json_too() -> None:
    line = Record(1, 0.0, CallRefused(3, os_path := "/\udc80", "ENOENT", "", "")).line()
    assert json.loads(line.decode())["path"] == os_path


def every_kind() -> set[type[Event]]:
    return set(vocabulary().values())


ABOUT_NOBODY = {
    "account_closed",
    "account_opened",
    "agent_group_changed",
    "audit_cut",
    "audit_full",
    "audit_half_full",
    "checkpoint_created",
    "checkpoint_removed",
    "config_changed",
    "document_refused",
    "gateway_ended",
    "gateway_started",
    "group_created",
    "group_limit_set",
    "group_removed",
    "manifest_changed",
    "manifest_removed",
    "health_checked",
    "entity_removed",
    "entity_type_removed",
    "key_renewed",
    "lock_changed",
    "loop_held",
    "node_changed",
    "pool_changed",
    "pool_removed",
    "project_changed",
    "queue_changed",
    "refusals_dropped",
    "run_ended",
    "run_removed",
    "run_signalled",
    "run_state_changed",
    "secret_removed",
    "secret_set",
    "system_rolled_back",
    "tool_added",
    "tool_changed",
    "tool_removed",
    "topic_changed",
    "topic_removed",
    "turn_days_swept",
    "uses_swept",
    "worker_changed",
    "kernel_started",
}


@pytest.mark.parametrize("kind", sorted(every_kind(), key=attrgetter("type")))
def test_every_event_names_agent_and_pid_under_the_same_keys(
    log: EventLog, kind: type[Event]
) -> None:
    log.complete_with({"bob": 7}.get, {7: "bob"}.get)
    heard = listen(log)
    told = {each.name: 7 if each.name == "pid" else "bob" for each in fields(kind)}
    log.emit(kind(**told))
    record = json.loads(heard[0].line())
    about = (None, None) if kind.type in ABOUT_NOBODY else ("bob", 7)
    assert (record["agent"], record["pid"]) == about


def test_a_hint_is_heard_and_is_no_event(store: Store, log: EventLog) -> None:
    heard = listen(log)
    with pytest.raises(ZeroDivisionError), store.transaction():
        log.hint(AgentRemoved("x"))
        raise ZeroDivisionError
    with store.transaction():
        emit(log, "a")
        log.hint(AgentRemoved("b"))
        assert heard == []
    assert names(heard) == [(1, "a"), (1, "b")]
    assert (log.last, [record.event.type for record in log.since(1)]) == (1, ["agent_defined"])


def test_every_event_has_a_name_of_its_own_and_is_in_the_vocabulary() -> None:
    kinds = every_kind()
    assert len({kind.type for kind in kinds}) == len(kinds) > 80
    modules = {kind.__module__ for kind in kinds}
    for module in modules:
        named = {kind.__name__ for kind in kinds if kind.__module__ == module}
        assert named == set(importlib.import_module(module).__all__)
    assert vocabulary()["StateChanged"].type == "state_changed"
