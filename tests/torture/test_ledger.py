"""The ledger finds each life that cannot be, and each note that is not in the audit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.torture.ledger import Ledger
from tests.torture.model import Delivery, History
from tests.world import World

Change = dict[str, object]


def _arrives(number: str, sender: str = "ann") -> Change:
    return {"type": "message_arrived", "id": number, "agent": "box", "sender": sender}


def _claims(number: str, pid: int, flags: str = "") -> Change:
    return {"type": "message_claimed", "id": number, "pid": pid, "renamed": f"{number}:2,{flags}"}


def _returns(number: str, attempt: int) -> Change:
    return {"type": "message_returned", "id": number, "attempt": attempt}


def _ends(number: str, kind: str, folder: str) -> Change:
    return {"type": kind, "id": number, "folder": folder}


def good() -> tuple[list[Change], History]:
    """One message done, one unread by its first reader and done by its second, one dead."""
    changes = [
        _arrives("01"),
        _claims("01", 2),
        _ends("01", "message_done", "cur"),
        _arrives("02"),
        _claims("02", 2),
        _returns("02", 1),
        _claims("02", 2),
        _returns("02", 2),
        _claims("02", 3),
        _ends("02", "message_done", "cur"),
        _arrives("03"),
        _ends("03", "message_given_up", "new"),
    ]
    deliveries = [
        Delivery(9.0, "alice", "01", 1, "a:1"),
        Delivery(9.0, "alice", "02", 1, "a:2"),  # noted long after
        Delivery(2.0, "bob", "02", 2, "a:2"),
    ]
    history = History(
        deliveries=deliveries,
        acknowledged={"01": 1.0, "02": 3.0},
        endings={("alice", "01", 1), ("bob", "02", 2)},
        left=[("03", "a:3")],
    )
    return changes, history


def judged(changes: list[Change], history: History) -> list[str]:
    ledger = Ledger({2: "alice", 3: "bob", 4: "ann", 5: "zoe"})
    for seq, change in enumerate(changes, 1):
        ledger.see(seq, change)
    return list(ledger.compare(history))


def test_a_life_that_is_well_is_one_whatever_the_clocks_say() -> None:
    assert judged(*good()) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_arrives("02"), "message_arrived of 02, which was in no folder/"),
        (_claims("01", 3), "message_claimed of 01, which was in no folder/"),
        (_claims("09", 3), "message_claimed of 09, which was unknown"),
        (_returns("03", 1), "message_returned of 03, which was in dead/"),
        (_ends("02", "message_done", "cur"), "message_done of 02, which was in no folder/"),
        (_ends("03", "message_expired", "new"), "message_expired of 03, which was in dead/"),
        (
            {"type": "message_revived", "id": "03", "attempt": 3},
            "message_revived as attempt 3 of 03, which was in dead/, attempt 1",
        ),
    ],
)
def test_a_life_that_cannot_be_is_a_fault(change: Change, word: str) -> None:
    changes, history = good()
    history.left.clear()
    found = judged([*changes, change], history)
    assert [fault.partition(": record 13: ")[2] for fault in found if "ledger" in fault] == [
        found[0].partition(": record 13: ")[2]
    ]
    assert word in found[0]


def test_a_notice_may_arrive_as_a_later_attempt_but_live_as_any_message() -> None:
    changes, history = good()
    changes += [_arrives("04", "init"), _claims("04", 2), _returns("04", 3)]
    assert judged(changes, history) == []
    assert len(judged([*changes, _returns("04", 4)], history)) == 1


def test_what_one_sender_sends_to_a_mailbox_is_received_in_that_order() -> None:
    changes, history = good()
    changes += [_arrives("04"), _arrives("05", "zoe"), _arrives("06"), _arrives("07", "zoe")]
    well = [_claims("05", 2), _claims("07", 2, "S"), _claims("04", 3), _returns("04", 2)]
    assert judged([*changes, *well, _claims("04", 2), _claims("06", 3)], history) == []
    (fault,) = judged([*changes, *well, _claims("06", 3)], history)
    assert (
        fault == "ledger: record 21: message_claimed before 04 of 06, which was in cur/, attempt 1"
    )


def _another_reader(history: History) -> None:
    history.deliveries[2] = Delivery(2.0, "alice", "02", 2, "a:2")


def _another_attempt(history: History) -> None:
    history.deliveries[0] = Delivery(2.0, "alice", "01", 2, "a:1")


def _of_nothing(history: History) -> None:
    history.deliveries.append(Delivery(2.0, "alice", "04", 1, "a:4"))


def _acknowledged(history: History) -> None:
    history.acknowledged["03"] = 5.0


def _left(history: History) -> None:
    history.left.append(("02", "a:2"))


def _in_vain(history: History) -> None:
    history.endings.add(("alice", "02", 1))


def _in_vain_by_the_same(history: History) -> None:
    history.endings.add(("bob", "02", 1))


@pytest.mark.parametrize(
    "spoil",
    [
        _another_reader,
        _another_attempt,
        _of_nothing,
        _acknowledged,
        _left,
        _in_vain,
        _in_vain_by_the_same,
    ],
)
def test_a_note_that_is_not_in_the_audit_is_a_fault(spoil: Callable[[History], None]) -> None:
    changes, history = good()
    spoil(history)
    (fault,) = judged(changes, history)
    assert fault.startswith("in vain: " if "in_vain" in spoil.__name__ else "unrecorded: ")


def test_a_client_that_ends_again_what_it_has_done_is_well() -> None:
    """Its daemon died; its handler hears of the message once."""
    changes, history = good()
    history.deliveries[2:] = []
    history.endings = {("alice", "01", 1), ("bob", "02", 1)}
    assert judged(changes, history) == []


def test_the_audit_of_a_kernel_has_the_life_of_each_message(tmp_path: Path) -> None:
    """Sent, claimed, failed and claimed again, acknowledged; and one that waits."""
    with closing(World(tmp_path)) as world:
        alice, bob = world.process("alice"), world.process("bob")
        for text in ("one", "two"):
            world.send("alice", "bob", text)
        message = world.mail.receiving.claim_next(world.principal("bob"), "bob")
        assert message is not None
        world.mail.receiving.settle(world.principal("bob"), "bob", "failed")
        assert world.recv("bob") == "one"
        assert world.recv("bob") == "two"
        world.kernel.store.fold()
        ledger = Ledger({alice.pid: "alice", bob.pid: "bob"})
        ledger.read(Path(world.kernel.store.path))
        first = [Delivery(1.0, "bob", message.id, attempt, "one") for attempt in (1, 2)]
        assert list(ledger.compare(History(deliveries=first, acknowledged={message.id: 1.0}))) == []
        third = Delivery(1.0, "bob", message.id, 3, "one")
        assert len(list(ledger.compare(History(deliveries=[third])))) == 1
