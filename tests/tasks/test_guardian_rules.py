"""/etc/guardian.yaml: how it is read, and what its expressions decide at once."""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping
from typing import Any

import pytest

from agentfs.base.errors import KernelError
from agentfs.tasks.policy import Judgement, Moment
from agentfs.tasks.rules import DEFAULT, GuardianRule, parse

TASK: dict[str, Any] = {
    "id": 1,
    "description": "count the words",
    "input": {"path": "/shared/a"},
    "requirements": {},
    "priority": 5,
    "submitter": "ann",
    "group": "",
    "key": "",
    "attempt": 0,
    "worker": "",
    "program": None,
    "result": None,
}


def judge(
    document: str, when: Moment = Moment.SUBMIT, **task: Any
) -> Judgement | tuple[GuardianRule, ...]:
    def scope() -> Mapping[str, Any]:
        return {"task": TASK | task, "when": when.value, "ctx": {"now": 1_800_000_000.0}}

    return parse(document).judge(when, scope)


def verdict(document: str, when: Moment = Moment.SUBMIT, **task: Any) -> Judgement:
    found = judge(document, when, **task)
    assert isinstance(found, Judgement)
    return found


def test_the_document_that_is_there_at_first_passes_everything() -> None:
    for text in (DEFAULT, "", "rules: []\n"):
        assert verdict(text) == Judgement(True, "default")
        assert verdict(text, Moment.RESULT) == Judgement(True, "default")


def test_every_key_of_the_comments_is_one_that_is_taken() -> None:
    shown = "rules:\n" + "".join(
        line[1:] + "\n"
        for line in DEFAULT.splitlines()
        if line.startswith(("#   - ", "#      voters"))
    )
    assert shown.count("- {") == 4
    found = judge(shown, requirements={"risk": 5})
    assert isinstance(found, tuple)
    assert [rule.name for rule in found] == ["panel"]


def test_a_rule_rejects_what_its_expression_matches() -> None:
    rules = """
rules:
- {name: no-root, match: "'sudo' in task.description", action: reject, reason: no root here}
- {name: huge, match: task.input.size | default(0) > 9, action: reject}
"""
    assert verdict(rules) == Judgement(True, "default")
    assert verdict(rules, description="sudo rm") == Judgement(False, "no-root", "no root here")
    assert verdict(rules, input={"size": 10}) == Judgement(False, "huge", "rule huge rejects it")


def test_a_rule_is_about_the_task_its_result_or_both() -> None:
    rules = """
rules:
- {name: first, when: submit, match: task.priority == 1, action: reject}
- {name: last, when: result, match: task.result == 42, action: reject, again: true}
- {name: ever, when: both, match: task.group == 'x', action: reject}
"""
    assert not verdict(rules, Moment.SUBMIT, priority=1).passed
    assert verdict(rules, Moment.RESULT, priority=1).passed
    wrong = verdict(rules, Moment.RESULT, result=42)
    assert (wrong.passed, wrong.by, wrong.again) == (False, "last", True)
    assert {verdict(rules, when, group="x").by for when in Moment} == {"ever"}


def test_a_rule_that_passes_ends_the_list_and_only_for_what_it_matches() -> None:
    rules = """
rules:
- {name: boss, match: task.submitter == 'boss', action: pass}
- {name: nobody-else, action: reject}
"""
    assert verdict(rules, submitter="boss") == Judgement(True, "boss")
    assert verdict(rules, submitter="ann").by == "nobody-else"


def test_what_no_rule_is_about_goes_by_the_default() -> None:
    rules = "rules: [{name: known, match: task.key, action: pass}]\ndefault: reject\n"
    assert verdict(rules, key="k").passed
    refused = verdict(rules)
    assert (refused.passed, refused.by) == (False, "default")
    assert "/etc/guardian.yaml" in refused.reason


def test_a_rule_that_rejects_is_looked_at_before_anybody_is_asked() -> None:
    rules = """
rules:
- {name: ask, action: program, program: [/bin/true]}
- {name: vote, action: consensus, voters: [ann]}
- {name: never, match: task.priority == 9, action: reject}
"""
    assert verdict(rules, priority=9) == Judgement(False, "never", "rule never rejects it")
    asked = judge(rules, priority=8)
    assert isinstance(asked, tuple)
    assert [rule.name for rule in asked] == ["ask", "vote"]


def test_what_cannot_be_evaluated_does_not_pass() -> None:
    rules = "rules: [{name: gpu, match: task.requirements.gpu > 2, action: pass}]\n"
    refused = verdict(rules)
    assert not refused.passed
    assert refused.reason.startswith("rule gpu cannot be decided: line 1, column")
    assert "`task.requirements.gpu | default(…)`" in refused.reason
    wrong = verdict("rules: [{name: n, match: task.priority / 0 > 1, action: pass}]\n")
    assert "cannot be decided" in wrong.reason


def test_expressions_cannot_hold_the_loop_whatever_a_task_has() -> None:
    rule = "{name: r%d, match: \"task.input | map('upper') | join | length < 0\", action: reject}"
    rules = "rules: [" + ", ".join(rule % number for number in range(64)) + "]\n"
    begin = time.process_time()
    refused = verdict(rules, input=["x" * 100] * 2000)
    took = time.process_time() - begin
    assert not refused.passed
    assert "takes too many steps" in refused.reason or "makes too much" in refused.reason
    assert took < 2.0, "30,000 steps of all rules together; a rule each would be 64 times as many"


@pytest.mark.parametrize(
    ("document", "faults"),
    [
        ("rules: 5\n", ["line 1: rules: "]),
        ("colour: red\n", ["line 1: colour: there is no such key"]),
        ("rules: [{}]\n", ["rules.0.name: Field required", "rules.0.action: Field required"]),
        ("default: maybe\n", ["line 1: default: "]),
        (
            "rules:\n- {name: a, action: progam}\n- {name: a, action: reject}\n",
            ["line 2: rules.0.action: ", "line 3: rules.1.name: rule 1 is called a, too"],
        ),
        (
            "rules:\n- name: a\n  match: tsk.priority > 3\n  action: reject\n  voters: [x]\n",
            [
                "line 3: rules.0.match: column 1 of the expression: there is no `tsk` (did you"
                " mean task?)",
                "line 5: rules.0.voters: `voters` is for consensus, and the action is reject",
            ],
        ),
        (
            "rules: [{name: a, match: task.prio > 3, action: reject}]\n",
            ["column 1 of the expression: there is no `prio` (did you mean priority?)"],
        ),
        (
            "rules: [{name: a, match: 'task.id + * 2', action: reject}]\n",
            ["rules.0.match: column 11 of the expression: unexpected '*'"],
        ),
        ("rules: [{name: a, match: '', action: reject}]\n", ["an expression was expected"]),
        ("rules: [{name: a, action: program}]\n", ["program needs `program`"]),
        (
            "rules: [{name: a, action: program, program: [bin/x], timeout: soon}]\n",
            ["an absolute path was expected", "rules.0.timeout: a duration like"],
        ),
        ("rules: [{name: a, action: program, program: []}]\n", ["rules.0.program: "]),
        ("rules: [{name: a, action: consensus}]\n", ["consensus needs `voters`"]),
        (
            "rules: [{name: a, action: consensus, voters: [x, y], quorum: 3}]\n",
            ["rules.0.quorum: at most 2 was expected, so many may vote"],
        ),
        (
            "rules: [{name: a, action: consensus, voters: [x, x], quorum: few}]\n",
            ["rules.0.voters: each agent was expected once", "rules.0.quorum"],
        ),
        (
            "rules: [{name: a, action: consensus, voters: [operator]}]\n",
            ["`action: approve` asks the operator"],
        ),
        ("rules: [{name: a, action: approve, by: a/b}]\n", ["rules.0.by.0: the name of an agent"]),
        (
            "rules: [{name: a, action: approve, again: true}]\n",
            ["rules.0.again: `again` is about results"],
        ),
        ("caps: [fly]\n", ["line 1: caps.0: there is no capability 'fly'"]),
        ("rules: [\n", ["line 2: not YAML"]),
    ],
)
def test_every_fault_is_told_with_its_place(document: str, faults: list[str]) -> None:
    with pytest.raises(KernelError) as refused:
        parse(document)
    assert refused.value.errno == errno.EINVAL
    for fault in faults:
        assert fault in refused.value.reason
