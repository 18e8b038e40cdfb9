"""The order of delivery."""

import pytest

from agentfs.mail.mailbox import Mailbox
from agentfs.mail.message import Message, Relation

T0 = 1_800_000_000.0
AGEING = 0.1


def message(seq: int, level: int, arrived: float = T0) -> Message:
    return Message(
        seq, "bob", "alice", Relation.OTHER, level, arrived, 10, file=f"{seq:012d}.alice"
    )


def drain(box: Mailbox) -> list[int]:
    order = []
    while (first := box.first()) is not None:
        order.append(first.seq)
        box.take(first)
    return order


def filled(*messages: Message, ageing: float = AGEING) -> Mailbox:
    box = Mailbox("bob", ageing)
    for each in messages:
        box.put(each)
    return box


def test_a_mailbox_from_empty_to_empty() -> None:
    box = filled()
    assert (box.waiting, box.first()) == (0, None)
    one = message(1, 2)
    box.put(one)
    assert (box.waiting, box.first(), box.new) == (1, one, {one.file: one})
    box.take(one)
    one.folder, one.file, one.claimed_by, one.reader = "cur", "x:2,", 7, 7
    box.put(one)
    assert (box.waiting, box.first(), box.cur) == (0, None, {"x:2,": one})
    assert (box.claims(7), box.claims(8), box.reading(7)) == ([one], [], [one])
    box.take(one)
    assert (box.cur, box.claims(7), box.reading(7)) == ({}, [], [])
    with pytest.raises(KeyError):
        box.folder("tmp")


def test_the_urgent_first_and_equals_in_order_of_arrival() -> None:
    levels = [2, 0, 3, 2, 1, 0, 3]
    box = filled(*(message(seq, level) for seq, level in enumerate(levels)))
    assert drain(box) == [1, 5, 4, 0, 3, 2, 6]


@pytest.mark.parametrize("lower", [1, 2, 3])
def test_a_level_is_worth_ten_seconds_exactly(lower: int) -> None:
    """Low overtakes critical after 30 s, high after 10 s; at the very moment first in is first."""
    crossover = 10.0 * lower
    for late, first in ((crossover - 0.001, 2), (crossover, 1), (crossover + 0.001, 1)):
        box = filled(message(1, lower), message(2, 0, T0 + late))
        assert drain(box)[0] == first


def test_equal_keys_of_different_levels_are_first_in_first_out() -> None:
    box = filled(message(1, 3, T0), message(2, 2, T0 + 10), message(3, 0, T0 + 30))
    assert drain(box) == [1, 2, 3]


def test_without_ageing_priority_is_all() -> None:
    box = filled(message(1, 3, T0 - 10_000), message(2, 0), message(3, 0), ageing=0.0)
    assert drain(box) == [2, 3, 1]


def test_a_new_rate_of_ageing_reorders_what_waits() -> None:
    box = filled(message(1, 3, T0), message(2, 0, T0 + 20))
    assert box.first() is box.new["000000000002.alice"]
    box.age_by(0.2)
    assert drain(box) == [1, 2]


def test_a_message_that_comes_back_has_its_old_place() -> None:
    box = filled(message(1, 2), message(2, 2))
    first = box.first()
    assert first is not None
    for _ in range(1000):
        box.take(first)
        box.put(first)
    assert drain(box) == [1, 2]


def test_a_free_name_is_like_the_one_that_is_taken() -> None:
    box = filled(message(1, 2))
    assert box.free_name("new", "x") == "x"
    assert box.free_name("new", "000000000001.alice") == "000000000001.alice_1"
    for name in ("x:2,S", "x_1:2,S"):
        box.cur[name] = message(2, 2)
    assert box.free_name("cur", "x:2,S") == "x_2:2,S"
