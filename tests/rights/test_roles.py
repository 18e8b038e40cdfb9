"""/etc/roles.yaml: what is in it by default, what a document changes, and what is refused."""

from __future__ import annotations

import errno

import pytest

from agentfs.base.errors import KernelError
from agentfs.model.process import Role, Tier
from agentfs.rights.roles import Action, Roles, Verdict


def actions(text: str, role: Role) -> dict[Action, Verdict]:
    return dict(Roles.parse(text).entries[role].actions)


def test_the_text_of_the_defaults_says_all_of_them() -> None:
    assert Roles.parse(Roles().text) == Roles()
    for nothing in ("", "# nothing\n", "{}"):
        assert Roles.parse(nothing) == Roles()


def test_what_is_left_out_has_its_default() -> None:
    found = Roles.parse("roles: {worker: {actions: {send: '-'}, tiers: [operational]}}")
    worker, default = found.entries[Role.WORKER], Roles().entries[Role.WORKER]
    assert worker.actions == {**default.actions, Action.SEND: Verdict.NONE}
    assert worker.tiers == (Tier.OPERATIONAL,)
    assert worker.capabilities == default.capabilities
    assert found.entries[Role.LEAD] == Roles().entries[Role.LEAD]
    assert found.models == Roles().models


def test_each_action_can_be_allowed_denied_or_left_to_the_rules() -> None:
    for action in Action:
        for verdict in (Verdict.ALLOW, Verdict.DENY, Verdict.NONE):
            text = f"roles: {{lead: {{actions: {{{action.value}: '{verdict.value}'}}}}}}"
            assert actions(text, Role.LEAD)[action] is verdict
    some = "roles: {lead: {actions: {kill: own-children, send: parent, read_process: own}}}"
    assert actions(some, Role.LEAD)[Action.KILL] is Verdict.OWN_CHILDREN


def test_a_tier_has_another_model() -> None:
    assert Roles.parse("tiers: {tactical: {model: haiku}}").models == {
        Tier.STRATEGIC: "opus",
        Tier.TACTICAL: "haiku",
        Tier.OPERATIONAL: "mini",
    }


def test_capabilities_are_kept_under_their_own_names() -> None:
    found = Roles.parse("roles: {task: {capabilities: [spawner, 'tool:web_*', llm, llm]}}")
    assert found.entries[Role.TASK].capabilities == ("spawn_children", "tool:web_*", "llm")
    assert Roles.parse("roles: {task: {capabilities: []}}").entries[Role.TASK].capabilities == ()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("roles: 5", "roles.yaml:1: roles: a map was expected"),
        ("\nrols: {}", "roles.yaml:2: the document: unknown key `rols`"),
        ("rols: {}", "did you mean roles?"),
        ("roles: {kernel: {}}", "unknown key `kernel`"),
        ("roles: {worker: {may: {}}}", "unknown key `may`"),
        ("roles:\n  worker:\n    actions: {fly: allow}", "roles.yaml:3: roles: worker: actions:"),
        ("roles: {worker: {actions: {kill: parent}}}", "allow, deny, -, own-children was expected"),
        ("roles: {worker: {actions: {spawn: own}}}", "one of allow, deny, - was expected"),
        ("roles: {worker: {actions: {spawn: }}}", "spawn: a text was expected"),
        ("roles: {worker: {actions: {spawn: [allow]}}}", "spawn: a text was expected"),
        ("roles: {worker: {tiers: []}}", "a role has a tier at least"),
        ("roles: {worker: {tiers: tactical}}", "tiers: a list was expected"),
        ("roles: {worker: {tiers: [high]}}", "one of strategic, tactical, operational"),
        ("roles: {worker: {capabilities: [fly]}}", "there is no capability 'fly'"),
        ("roles: {worker: {capabilities: ['tool:!']}}", "'tool:!'"),
        ("roles: {worker: {actions: {kill: deny}}, worker: {}}", "`worker` is there twice"),
        ("tiers: {strategic: {}}", "the key `model` was expected"),
        ("roles:\n  worker:\n    actions:\n      spawn: -", "roles.yaml:4: not YAML"),
        ("a: [", "not YAML"),
    ],
)
def test_what_is_wrong_is_refused_and_named_by_line(text: str, fault: str) -> None:
    with pytest.raises(KernelError) as refused:
        Roles.parse(text)
    assert refused.value.errno == errno.EINVAL
    assert fault in refused.value.reason


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(KernelError) as refused:
        Roles.parse("tiers: {high: {}}\nroles:\n  worker: {actions: {spawn: no}}\n  boss: {}\n")
    assert [fault.partition(": ")[0] for fault in refused.value.reason.split("; ")] == [
        "roles.yaml:1",
        "roles.yaml:3",
        "roles.yaml:4",
    ]
