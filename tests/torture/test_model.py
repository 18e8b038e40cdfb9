"""The checker finds each kind of violation in a history that has it, and none in one that is well.

A checker that cannot fail proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.torture.model import Delivery, History, Life, Spending, check


def good() -> History:
    """Three messages, one delivered twice and one dead; one interrupted; a topic."""
    return History(
        tried={"a:1", "a:2", "a:3", "a:4", "t:1", "t:2", "t:3", "t:4"},
        accepted={"a:1", "a:2", "a:3", "t:1", "t:2", "t:4"},
        published={"t:1", "t:2", "t:3", "t:4"},
        deliveries=[
            Delivery(1.0, "alice", "01", 1, "a:1"),
            Delivery(2.0, "alice", "02", 1, "a:2"),
            Delivery(3.0, "bob", "02", 2, "a:2"),
        ],
        acknowledged={"01": 2.0, "02": 4.0},
        left=[("03", "a:3")],
        lives=[
            Life("t", 0, [(1, "t:1"), (2, "t:2")]),
            Life("t", 2, [(3, "t:4")]),
            Life("t", 0, [(2, 2), (3, "t:4")]),
        ],
        # Of five calls: settled, cancelled, cut, refused, never answered.
        spendings=[Spending("s", 5, 1, ["1", "2", "3"], {"1"}, {"2"}, 30, 17, 10)],
    )


def test_a_history_in_which_all_is_well_has_no_violation() -> None:
    assert check(good()) == []
    assert good().duplicates == 1
    assert check(History()) == []


def test_a_send_that_was_interrupted_may_have_been_accepted_or_not() -> None:
    history = good()
    history.deliveries.append(Delivery(5.0, "alice", "04", 1, "a:4"))
    assert check(history) == []


def _lost(history: History) -> None:
    history.left.clear()


def _twice(history: History) -> None:
    history.deliveries.append(Delivery(5.0, "alice", "05", 1, "a:1"))


def _kept(history: History) -> None:
    history.dropped.add("a:9")
    history.left.append(("09", "a:9"))


def _half(history: History) -> None:
    history.left.append(("09", "a:"))


def _cut(history: History) -> None:
    history.halves.add("a:")
    history.left.append(("09", "a:"))


def _invented(history: History) -> None:
    history.deliveries.append(Delivery(5.0, "alice", "05", 1, "a:9"))


def _changed(history: History) -> None:
    history.left.append(("03", "a:4"))


def _unmarked(history: History) -> None:
    history.deliveries.append(Delivery(2.5, "bob", "02", 1, "a:2"))


def _backwards(history: History) -> None:
    history.deliveries.append(Delivery(1.0, "bob", "02", 3, "a:2"))


def _back(history: History) -> None:
    history.deliveries.append(Delivery(3.0, "alice", "01", 2, "a:1"))


def _still_there(history: History) -> None:
    history.left.append(("01", "a:1"))


def _gap(history: History) -> None:
    del history.lives[0].records[0]


def _again(history: History) -> None:
    history.lives[1].records.insert(0, (2, "t:2"))


def _wrong_count(history: History) -> None:
    history.lives[2].records[0] = (2, 1)


def _topic_changed(history: History) -> None:
    history.lives[2].records[1] = (3, "t:3")


def _topic_twice(history: History) -> None:
    history.lives[1].records.append((4, "t:1"))


def _topic_invented(history: History) -> None:
    history.lives[1].records.append((4, "t:9"))


def _topic_lost(history: History) -> None:
    history.lives[:] = [Life("t", 0, [(1, "t:1"), (2, "t:4")])]


def _call_twice(history: History) -> None:
    history.spendings[0].held[1] = "1"


def _spending_lost(history: History) -> None:
    history.spendings[0].consumed = 6


def _spending_invented(history: History) -> None:
    history.spendings[0].consumed = 18


def _overdrawn(history: History) -> None:
    history.spendings[0].allocated = 26


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (_lost, "lost: a:3"),
        (_twice, "twice: a:1"),
        (_invented, "invented: a:9"),
        (_kept, "kept: a:9"),
        (_half, "invented: a:"),
        (_cut, "cut: a:"),
        (_changed, "changed: message 03"),
        (_unmarked, "unmarked: 02"),
        (_backwards, "backwards: attempt 3 of 02"),
        (_back, "back: 01 came to alice"),
        (_still_there, "back: 01 is still there"),
        (_gap, "gap: t went from 0 to 2"),
        (_again, "again: t gave 2"),
        (_wrong_count, "gap: t went from 0 to 2"),
        (_topic_changed, "changed: t has t:3 and t:4"),
        (_topic_twice, "twice: t:1 is in t"),
        (_topic_invented, "invented: t:9"),
        (_topic_lost, "lost: t has not t:2"),
        (_call_twice, "twice: call 1"),
        (_spending_lost, "lost: s has spent 7, and 6"),
        (_spending_invented, "invented: s can have spent 27, and 28"),
        (_overdrawn, "overdrawn: s was given 26, and 27"),
    ],
)
def test_a_violation_is_found(spoil: Callable[[History], None], word: str) -> None:
    history = good()
    spoil(history)
    assert any(violation.startswith(word) for violation in check(history)), check(history)


def test_half_of_a_message_whose_other_writer_was_killed_is_no_violation() -> None:
    history = good()
    history.tried.add("b:12-end")
    history.halves.add("b:12-")
    history.left.append(("09", "b:12-"))
    assert check(history) == []


def test_a_note_that_was_written_late_is_no_violation() -> None:
    """The program stood still between the return of its call and the note."""
    history = good()
    history.acknowledged["02"] = 3.2
    history.deliveries[1] = Delivery(3.6, "alice", "02", 1, "a:2", asked=1.9)
    assert check(history) == []
    history.deliveries[1] = Delivery(3.6, "alice", "02", 1, "a:2", asked=3.4)
    assert {fault.partition(":")[0] for fault in check(history)} == {"backwards", "back"}
