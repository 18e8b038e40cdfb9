"""The configuration: whole or not at all."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfs.base.clock import ManualClock
from agentfs.base.errors import KernelError
from agentfs.mail.settings import MessageSettings
from agentfs.process.settings import LimitSettings, ProcessSettings
from agentfs.sections import SECTIONS
from agentfs.store.defaults import with_defaults, without_defaults
from agentfs.store.event_log import EventLog
from agentfs.store.events import ConfigChanged
from agentfs.store.settings import Settings, configuration
from agentfs.store.store import Store
from tests.storage import without_log

Config = configuration(*SECTIONS)


def refused(text: str) -> str:
    with pytest.raises(KernelError) as caught:
        Config.parse(text)
    assert caught.value.errno == errno.EINVAL
    return caught.value.reason


@pytest.mark.parametrize("text", ["", "# nothing", "null", "{}", "messages: {}"])
def test_what_is_left_out_has_its_default(text: str) -> None:
    assert Config.parse(text) == Config()


def test_the_text_says_everything_and_is_read_back() -> None:
    text = Config().text()
    assert Config.parse(text) == Config()
    for name in ("max_size: 1048576", "max_waiting: 10000", "ageing_per_second: 0.1"):
        assert name in text


def test_numbers_and_durations_are_read() -> None:
    config = Config.parse(
        "messages: {max_waiting: 5, claim_timeout: 2h}\nprocesses:\n  log_size: 4096"
    )
    messages = config.of(MessageSettings)
    assert (messages.max_waiting, messages.claim_timeout) == (5, 7200.0)
    assert config.of(ProcessSettings).log_size == 4096


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("messages: {max_wating: 5}", "messages.max_wating"),
        ("messages: {max_waiting: 0}", "messages.max_waiting"),
        ("messages: {max_size: many}", "messages.max_size"),
        ("messages: {max_size: .inf}", "messages.max_size"),
        ("messages: {ageing_per_second: .nan}", "messages.ageing_per_second"),
        ("messages: {ageing_per_second: .inf}", "messages.ageing_per_second"),
        ("messages: {claim_timeout: soon}", "claim_timeout: a duration like 90s"),
        ("messages: {claim_timeout: 0s}", "messages.claim_timeout"),
        ("messages: {claim_timeout: true}", "messages.claim_timeout"),
        ("messages: null", "messages"),
        ("nonsense: 1", "nonsense"),
        ("- a list", "document"),
        ("5", "document"),
        ("a: [", "not YAML"),
        ("\x00", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("x: 2001-13-01", "not YAML"),
        ("x: !!timestamp foo", "not YAML"),
        ("x: !!bool maybe", "not YAML"),
        ("x: !!int ''", "not YAML"),
        ("x: !!python/object:os.system y", "not YAML"),
        ("x: " + "9" * 5000, "not YAML"),
    ],
)
def test_what_is_wrong_is_refused_and_named(text: str, reason: str) -> None:
    assert reason in refused(text)


def test_all_faults_are_named_at_once() -> None:
    reason = refused("messages: {max_size: 1, max_waiting: x}\nmount: {max_parked: 0}")
    assert reason.count(";") == 2


YAMLISH = st.lists(
    st.sampled_from(
        ["messages", "max_size", ":", " ", "\n", "-", "[", "]", "{", "}", "!!", "int", "float"]
        + ["timestamp", "bool", "&a", "*a", "<<", "1", "2001-01-", ".nan", "'", '"', "?", "|", "%"]
    )
).map("".join)


@given(st.text() | YAMLISH)
def test_any_text_is_a_configuration_or_refused(text: str) -> None:
    try:
        Config.parse(text)
    except KernelError as refusal:
        assert refusal.errno == errno.EINVAL


# -- in effect -----------------------------------------------------------------------------------


def test_a_valid_write_is_in_effect_at_once_and_after_a_restart(store: Store) -> None:
    events = EventLog(store, ManualClock())
    settings = Settings(store, events, SECTIONS)
    assert settings.text == Config().text()
    seen: list[int] = []
    events.listen(lambda record: seen.append(settings.of(MessageSettings).max_waiting))
    text = "messages: {max_waiting: 5}  # few\n"
    settings.replace(text)
    assert (settings.text, settings.of(MessageSettings).max_waiting) == (text, 5)
    assert seen == [5], "who is told of the change sees it"
    [record] = events.since(1)
    assert record.event == ConfigChanged("/etc/agentfs.yaml")
    assert Settings(store, events, SECTIONS).text == text


def test_an_invalid_write_changes_nothing(store: Store) -> None:
    events = EventLog(store, ManualClock())
    settings = Settings(store, events, SECTIONS)
    before = settings.text, settings.now
    with pytest.raises(KernelError):
        settings.replace("messages: 5")
    assert (settings.text, settings.now, events.last) == (*before, 0)


def test_a_write_that_cannot_be_stored_changes_nothing(store: Store) -> None:
    events = EventLog(store, ManualClock())
    settings = Settings(store, events, SECTIONS)
    before = settings.text, settings.now
    without_log(store)._db.execute("PRAGMA query_only = ON")
    with pytest.raises(KernelError) as caught:
        settings.replace("messages: {max_waiting: 5}")
    assert caught.value.errno == errno.EIO
    assert (settings.text, settings.now, events.last) == (*before, 0)
    store._db.execute("PRAGMA query_only = OFF")


SHOWN = "  # default"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing",
        "{}",
        "messages: {max_waiting: 5}",
        "messages: {max_waiting: 5,\n  max_dead: 7}\n# mine\n",
        "messages:\n    max_waiting: 5 # mine\n\n# about\nprocesses:\n  grace_period: 5s\n",
        "messages:\n  max_waiting: 5\r\n",
        " messages:\n    max_waiting: 5\n",
        "---\nmessages:\n  max_waiting: 5\n...\n",
        "queues: &q\n  max_waiting: 5\nmessages: *q\n",
        "queues:\n  <<: &q {max_waiting: 5}\nmessages:\n  <<: *q\n  max_dead: 5\n",
        '{"messages": {"max_waiting": 5}}',
        "limits:\n  max_children: >-\n    max\n",
        "messages:\n  max_waiting:\n    5",
        "'messages':\n  \"max_waiting\": 5\n  # max_waiting: 5 is little\n\n\n",
    ],
)
def test_what_is_left_out_is_shown_and_what_was_written_stays(text: str) -> None:
    given = Config.parse(text)
    shown = with_defaults(text, given)
    assert without_defaults(shown) == text
    assert Config.parse(shown) == given
    assert with_defaults(without_defaults(shown), given) == shown
    # Every name is there once, wherever the person wrote it.
    added = [line.strip(" #\r").removesuffix(SHOWN) for line in shown.split("\n") if SHOWN in line]
    there = sum(len(getattr(given, name).model_fields_set) for name in Config.model_fields)
    names = sum(len(getattr(given, name).model_dump()) for name in Config.model_fields)
    assert sum(not each.endswith(":") for each in added) == names - there


def test_what_is_shown_may_be_uncommented() -> None:
    shown = with_defaults("messages:\n  max_waiting: 5\n", Config())
    shown = with_defaults("messages:\n  max_waiting: 5\n", Config.parse(without_defaults(shown)))
    assert "\n  # max_dead: 1000  # default\n" in shown  # in its section
    plain = "\n".join(
        line.replace("# ", "", 1) if line.endswith(SHOWN) else line for line in shown.split("\n")
    )
    said = Config.parse(plain)
    assert said == Config.parse("messages: {max_waiting: 5}")
    assert said.model_fields_set == set(Config.model_fields)
    assert said.of(LimitSettings).model_fields_set == set(LimitSettings.model_fields)
    assert without_defaults(plain) == plain  # it is the person's now
