"""Topics, on a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.model.principal import Kind, Principal
from agentfs.model.process import Role
from agentfs.shared.events import TopicChanged, TopicCreated, TopicRemoved
from agentfs.shared.topics import Publication, Topic
from tests.storage import refusing
from tests.world import OPERATOR, World

USER = Principal(Kind.USER, None, "user 77", 77, 77)


class TopicWorld(World):
    """One kernel's topics, beside its mail."""

    def _start(self) -> None:
        super()._start()
        self.topics = self.kernel.topics

    def topic(self, name: str, owner: str = "init", mode: int = 0o666) -> Topic:
        return self.topics.create(self.principal(owner), name, mode)

    def publish(self, name: str, *texts: str, sender: str = "init") -> None:
        for text in texts:
            topic = self.topics.get(name)
            self.topics.publish(self.principal(sender), topic, text.encode())

    def kept(self, name: str) -> dict[int, str]:
        topic = self.topics.get(name)
        numbers = range(topic.first, topic.last + 1)
        return {seq: self.topics.read(topic, seq).data.decode() for seq in numbers}

    def limits(self, **numbers: int) -> None:
        self.settings.replace(f"topics: {numbers}")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[TopicWorld]:
    world = TopicWorld(tmp_path)
    yield world
    world.close()


@pytest.fixture
def refused() -> Callable[..., KernelError]:
    def call(code: str, function: Callable[..., object], *arguments: object) -> KernelError:
        with pytest.raises(KernelError) as caught:
            function(*arguments)
        assert caught.value.code == code, str(caught.value)
        return caught.value

    return call


Refused = Callable[..., KernelError]


def test_the_life_of_a_topic(world: TopicWorld, refused: Refused) -> None:
    world.process("alice")
    world.seen.clear()
    topic = world.topic("news", "alice", 0o644)
    assert (topic.first, topic.last, topic.name, str(topic)) == (1, 0, "news", "topic news")
    assert list(world.topics) == ["news"]
    assert len(world.topics) == 1
    woken: list[str] = []
    topic.readers.add(lambda: woken.append("reader"))
    world.topics.listen(woken.append)
    world.clock.advance(5)
    assert world.topics.publish(world.principal("alice"), topic, b"hello") == 1
    assert woken == ["reader", "news"]
    assert world.topics.read(topic, 1) == Publication(1, world.clock.now(), "alice", b"hello")
    assert topic.changed == int(world.clock.now() * 1e9)
    world.topics.chmod(world.principal("alice"), "news", 0o600)
    assert topic.ownership.mode == 0o600
    world.topics.remove(world.principal("alice"), "news")
    assert woken == ["reader", "news", "reader"]
    assert topic.removed
    assert list(world.topics) == []
    refused("ENOENT", world.topics.get, "news")
    refused("ESTALE", world.topics.publish, world.principal("alice"), topic, b"more")
    refused("ESTALE", world.topics.check_publish, world.principal("alice"), topic)
    assert list(world.store.publications()) == []
    assert world.seen == [
        TopicCreated("news", "alice"),
        TopicChanged("news"),
        TopicRemoved("news"),
    ]


def test_what_is_published_is_no_event_of_the_kernel(world: TopicWorld) -> None:
    world.topic("news")
    last = world.events.last
    world.publish("news", *map(str, range(100)))
    assert world.events.last == last


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "ü", "a b", "x" * 65, "a\n"])
def test_a_wrong_name_is_refused(world: TopicWorld, refused: Refused, name: str) -> None:
    refused("EINVAL", world.topics.create, OPERATOR, name, 0o666)


@pytest.mark.parametrize("name", ["x" * 64, "A.b_c-9", ".hidden", "..."])
def test_a_name_may_have_all_that_an_agents_has(world: TopicWorld, name: str) -> None:
    assert world.topic(name).name == name


def test_there_is_one_topic_of_a_name(world: TopicWorld, refused: Refused) -> None:
    world.topic("news")
    refused("EEXIST", world.topics.create, OPERATOR, "news", 0o666)


def test_more_topics_than_the_limit_are_refused(world: TopicWorld, refused: Refused) -> None:
    world.limits(max_topics=2)
    world.topic("a")
    world.topic("b")
    assert refused("ENOSPC", world.topics.create, OPERATOR, "c", 0o666).rule == "topics.max_topics"
    world.topics.remove(OPERATOR, "a")
    world.topic("c")


def test_an_empty_and_a_long_record_are_refused(world: TopicWorld, refused: Refused) -> None:
    topic = world.topic("news")
    refused("EINVAL", world.topics.publish, OPERATOR, topic, b"")
    world.topics.publish(OPERATOR, topic, b"x" * 65_536)
    long = refused("EMSGSIZE", world.topics.publish, OPERATOR, topic, b"x" * 65_537)
    assert long.rule == "topics.max_record"
    world.limits(max_record=3)
    refused("EMSGSIZE", world.topics.publish, OPERATOR, topic, b"four")
    assert topic.last == 1


# -- numbers, bounds, restarts -----------------------------------------------------------------


def test_numbers_rise_without_gaps_over_a_kill_9(world: TopicWorld) -> None:
    world.topic("news")
    world.publish("news", "one", "two")
    world.restart()
    assert world.kept("news") == {1: "one", 2: "two"}
    world.publish("news", "three")
    world.restart()
    assert world.kept("news") == {1: "one", 2: "two", 3: "three"}


def test_everything_about_a_topic_is_as_it_was_after_a_restart(world: TopicWorld) -> None:
    world.process("alice")
    world.limits(max_records=2)
    world.topic("empty", "alice", 0o640)
    world.topic("news")
    world.clock.advance(7)
    world.publish("news", "one", "two", "three", sender="alice")
    world.topics.chmod(OPERATOR, "news", 0o622)
    before = {name: topic_state(world.topics.get(name)) for name in world.topics}
    world.restart()
    assert {name: topic_state(world.topics.get(name)) for name in world.topics} == before
    assert world.topics.read(world.topics.get("news"), 3).sender == "alice"


def topic_state(topic: Topic) -> object:
    return (
        topic.ownership,
        topic.first,
        topic.last,
        list(topic.sizes),
        topic.bytes,
        topic.changed,
    )


def test_no_more_than_max_records_are_kept_the_oldest_falls_out(world: TopicWorld) -> None:
    world.limits(max_records=3)
    world.topic("news")
    world.publish("news", *"abcde")
    assert world.kept("news") == {3: "c", 4: "d", 5: "e"}
    assert [seq for _, seq, _, _ in world.store.publications()] == [3, 4, 5]
    world.limits(max_records=1)
    world.publish("news", "f")
    assert world.kept("news") == {6: "f"}


def test_no_more_than_max_bytes_are_kept_but_always_the_newest(world: TopicWorld) -> None:
    world.limits(max_bytes=10)
    topic = world.topic("news")
    world.publish("news", "aaaa", "bbbb", "cc")
    assert world.kept("news") == {1: "aaaa", 2: "bbbb", 3: "cc"}
    world.publish("news", "d")
    assert world.kept("news") == {2: "bbbb", 3: "cc", 4: "d"}
    assert topic.bytes == 7
    world.publish("news", "e" * 100)
    assert world.kept("news") == {5: "e" * 100}
    world.restart()
    world.publish("news", "f")
    assert world.kept("news") == {6: "f"}


def test_a_topic_that_is_made_again_starts_anew(world: TopicWorld) -> None:
    old = world.topic("news")
    world.publish("news", "one", "two")
    world.topics.remove(OPERATOR, "news")
    world.topic("news")
    assert world.kept("news") == {}
    world.publish("news", "first")
    assert world.kept("news") == {1: "first"}
    assert (old.removed, old.first, old.last) == (True, 3, 2)
    world.restart()
    assert world.kept("news") == {1: "first"}


def test_a_publication_that_cannot_be_stored_did_not_happen(
    world: TopicWorld, refused: Refused
) -> None:
    world.limits(max_records=2)
    topic = world.topic("news")
    world.publish("news", "one", "two")
    before = topic_state(topic)
    woken: list[int] = []
    topic.readers.add(lambda: woken.append(1))
    with refusing(world.store, "DELETE ON publications"):
        refused("ENOSPC", world.topics.publish, OPERATOR, topic, b"three")
        refused("ENOSPC", world.topics.remove, OPERATOR, "news")
    assert topic_state(topic) == before
    assert woken == []
    assert world.kept("news") == {1: "one", 2: "two"}
    with refusing(world.store, "INSERT ON records"):
        refused("ENOSPC", world.topics.chmod, OPERATOR, "news", 0o600)
        refused("ENOSPC", world.topics.create, OPERATOR, "other", 0o666)
    assert topic_state(topic) == before
    assert list(world.topics) == ["news"]
    world.publish("news", "three")
    assert world.kept("news") == {2: "two", 3: "three"}


# -- who may -----------------------------------------------------------------------------------


def test_the_mode_says_who_may_publish_and_subscribe(world: TopicWorld, refused: Refused) -> None:
    world.process("alice")
    world.process("bob")
    alice, bob = world.principal("alice"), world.principal("bob")
    topic = world.topic("news", "alice", 0o700)
    world.topics.check_subscribe(alice, topic)
    world.topics.check_publish(alice, topic)
    for check in (world.topics.check_subscribe, world.topics.check_publish):
        assert refused("EACCES", check, bob, topic).rule == "mode"
    world.topics.chmod(alice, "news", 0o744)  # bob has the group's bits: one gid for all here
    world.topics.check_subscribe(bob, topic)
    assert refused("EACCES", world.topics.publish, bob, topic, b"x").rule == "mode"
    world.topics.chmod(alice, "news", 0o722)
    assert world.topics.publish(bob, topic, b"x") == 1
    refused("EACCES", world.topics.check_subscribe, bob, topic)


def test_only_the_owner_and_the_operator_remove_and_chmod(
    world: TopicWorld, refused: Refused
) -> None:
    for name in ("alice", "bob"):
        world.process(name)
    world.topic("news", "alice")
    bob = world.principal("bob")
    refused("EPERM", world.topics.remove, bob, "news")
    refused("EPERM", world.topics.chmod, bob, "news", 0o777)
    world.topics.chmod(OPERATOR, "news", 0o600)
    world.topics.remove(OPERATOR, "news")
    refused("ENOENT", world.topics.remove, OPERATOR, "news")
    refused("ENOENT", world.topics.chmod, OPERATOR, "news", 0o600)


def test_who_acts_for_no_process_changes_nothing(world: TopicWorld, refused: Refused) -> None:
    topic = world.topic("news", mode=0o666)
    world.topics.check_subscribe(USER, topic)
    refused("EACCES", world.topics.create, USER, "other", 0o666)
    refused("EACCES", world.topics.publish, USER, topic, b"x")
    refused("EACCES", world.topics.remove, USER, "news")
    refused("EACCES", world.topics.chmod, USER, "news", 0o600)


def test_an_ended_process_publishes_nothing(world: TopicWorld, refused: Refused) -> None:
    process = world.process("alice")
    alice = world.principal("alice")
    topic = world.topic("news", "alice")
    world.end(process, 0)
    refused("EACCES", world.topics.publish, alice, topic, b"x")


TASK_SEND = "roles.yaml: task send"


def test_a_task_publishes_only_to_topics_of_its_parent(world: TopicWorld, refused: Refused) -> None:
    parent = world.process("alice")
    world.process("job", parent.pid, Role.TASK)
    world.process("bob")
    task = world.principal("job")
    of_alice, of_bob = world.topic("mine", "alice"), world.topic("theirs", "bob")
    of_init = world.topic("everybodys")
    assert world.topics.publish(task, of_alice, b"x") == 1
    for topic in (of_bob, of_init):
        assert refused("EACCES", world.topics.publish, task, topic, b"x").rule == TASK_SEND
        assert refused("EACCES", world.topics.check_publish, task, topic).rule == TASK_SEND
        world.topics.check_subscribe(task, topic)
    assert refused("EACCES", world.topics.create, task, "own", 0o666).rule == TASK_SEND


def test_the_topics_of_a_removed_agent_are_inits_and_not_its_namesakes(
    world: TopicWorld, refused: Refused
) -> None:
    process = world.process("carol")
    world.topic("news", "carol")
    world.publish("news", "kept")
    world.end(process, 0)
    with world.store.transaction():
        world.table.remove(process.pid)
    world.agents.remove(OPERATOR, "carol")
    assert world.topics.get("news").ownership.owner == "init"
    world.process("carol")
    refused("EPERM", world.topics.remove, world.principal("carol"), "news")
    world.restart()
    assert world.topics.get("news").ownership.owner == "init"
    assert world.kept("news") == {1: "kept"}


# -- what hivekernel's event bus did (TestEventBus…) -------------------------------------------


def test_a_record_has_its_sender_and_its_content_and_goes_to_its_topic_only(
    world: TopicWorld,
) -> None:
    """TestEventBusPubSub, TopicIsolation."""
    world.process("alice")
    woken: list[str] = []
    for name in ("news", "News", "news2", "new"):
        world.topic(name).readers.add(lambda name=name: woken.append(name))  # type: ignore[misc]
    world.publish("news", "hello", sender="alice")
    assert woken == ["news"]
    publication = world.topics.read(world.topics.get("news"), 1)
    assert (publication.sender, publication.data) == ("alice", b"hello")
    assert [world.kept(name) for name in ("News", "news2", "new")] == [{}, {}, {}]


def test_every_subscriber_is_told(world: TopicWorld) -> None:
    """TestEventBusMultipleSubscribers."""
    topic = world.topic("news")
    woken: list[int] = []
    for number in range(5):
        topic.readers.add(lambda number=number: woken.append(number))  # type: ignore[misc]
    world.publish("news", "hello")
    assert sorted(woken) == [0, 1, 2, 3, 4]


def test_a_reader_that_leaves_while_it_is_told_harms_nobody(world: TopicWorld) -> None:
    """TestEventBusUnsubscribe, and fault I11: publishing while subscribers disconnect."""
    topic = world.topic("news")
    woken: list[int] = []

    def leave(number: int) -> Callable[[], object]:
        def told() -> None:
            woken.append(number)
            topic.readers.discard(told)

        return told

    for number in range(5):
        topic.readers.add(leave(number))
    world.publish("news", "hello", "again")
    assert sorted(woken) == [0, 1, 2, 3, 4]
    assert topic.readers == set()


def test_without_subscribers_a_record_is_kept_all_the_same(world: TopicWorld) -> None:
    """TestEventBusNoSubscribers."""
    world.topic("news")
    world.publish("news", "hello")
    assert world.kept("news") == {1: "hello"}


# -- cost --------------------------------------------------------------------------------------


def test_a_publication_costs_the_same_among_10_000_topics_as_among_10(world: TopicWorld) -> None:
    """Counted in steps of the database and in readers told, not in time."""
    costs = []
    for count in (10, 10_000):
        with world.store.transaction():
            for number in range(len(world.topics), count):
                world.topic(f"topic{number}")
        costs.append(cost(world))
    few, many = costs
    assert many <= few * 1.5


def cost(world: TopicWorld) -> int:
    """What SQLite does to make a topic, to publish in it and to read it, in tens of steps."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    world.store._db.set_progress_handler(step, 10)
    try:
        topic = world.topic("another")
        for _ in range(10):
            world.publish("another", "hello")
            world.topics.read(topic, topic.last)
        world.topics.remove(OPERATOR, "another")
    finally:
        world.store._db.set_progress_handler(None, 10)
    return steps
