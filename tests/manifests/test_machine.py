"""State machines: what a document says, and every fault of it at once."""

import pytest

from agentfs.base.yaml_document import DocumentError, YamlDocument
from agentfs.manifests.machine import Edge, Machine, StateRule, read_machine

ORDER = """\
initial: NEW
transitions:
  NEW: [PAID, {to: CANCELLED, guard: "payload.reason != ''"}]
  PAID: SHIPPED
states:
  PAID: {on_enter: charge, requires: [amount]}
  SHIPPED: {terminal: true}
on_transition:
  "NEW -> CANCELLED": {pipeline: refund}
"""


def read(text: str) -> Machine:
    with YamlDocument(text, "machine") as document:
        root = document.root()
        assert root is not None
        machine = read_machine(document, root, "the machine")
        assert (machine is None) == (not document.sound)
        if machine is None:
            raise document.refusal()
        return machine


def faults(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        read(text)
    return caught.value.faults


def test_a_machine_as_it_is_written() -> None:
    machine = read(ORDER)
    assert machine.initial == "NEW"
    assert machine.allowed("NEW") == ("PAID", "CANCELLED")
    assert machine.states == {
        "NEW": StateRule(),
        "PAID": StateRule("charge", ("amount",)),
        "CANCELLED": StateRule(),
        "SHIPPED": StateRule(terminal=True),
    }
    cancel = machine.edges["NEW"]["CANCELLED"]
    assert cancel == Edge("CANCELLED", "payload.reason != ''", "refund")
    assert machine.process(cancel) == "refund"
    assert machine.process(machine.edges["NEW"]["PAID"]) == "charge"
    assert machine.process(machine.edges["PAID"]["SHIPPED"]) == ""
    assert machine.processes() == {"charge", "refund"}
    assert [machine.is_terminal(state) for state in ("NEW", "PAID", "SHIPPED", "CANCELLED")] == [
        False,
        False,
        True,
        True,
    ]


def test_a_guard_looks_at_the_payload() -> None:
    machine = read(ORDER)
    cancel = machine.edges["NEW"]["CANCELLED"]
    assert machine.permits(cancel, {"payload": {"reason": "late"}})
    assert not machine.permits(cancel, {"payload": {"reason": ""}})
    assert machine.permits(machine.edges["NEW"]["PAID"], {})


def test_names_that_yaml_would_take_for_something_else() -> None:
    machine = read(
        "initial: NO\ntransitions: {NO: [ON, 0123], ON: [12:30:45]}\n".replace(":30:", ".")
    )
    assert set(machine.states) == {"NO", "ON", "0123", "12.45"}


def test_all_faults_are_told_at_once_each_with_its_line() -> None:
    told = faults(
        """\
initial: NWE
transitions:
  NEW: [PAID, PAID, {too: X}, {to: "A B"}]
  PAID: [{to: SHIPPED, guard: "a +"}]
  SHIPPED: [NEW]
states:
  SHIPPED: {terminal: true, on_entr: x}
  LOST: {terminal: perhaps}
on_transition:
  "NEW -> SHIPED": p
  NEW: {}
extra: 1
"""
    )
    text = "\n".join(told)
    for line, words in (
        (3, "leads to PAID already"),
        (3, "unknown key `too`"),
        (3, "'A B' is no name of a state"),
        (4, "guard 'a +'"),
        (4, "is terminal, and leads to NEW"),
        (7, "did you mean on_enter?"),
        (8, "nothing leads to 'LOST'"),
        (8, "true or false was expected"),
        (10, "a transition of this machine was expected"),
        (11, "one of `process`, `pipeline` was expected"),
        (12, "unknown key `extra`"),
    ):
        assert any(f":{line}:" in fault and words in fault for fault in told), (line, words, text)


@pytest.mark.parametrize("text", ["[]", "initial: {a: 1}", "transitions: {A: [B]}", "initial: ''"])
def test_what_is_no_machine(text: str) -> None:
    assert faults(text)
