"""/etc/acl.yaml: which rules match, which of them decides, and what is refused."""

from __future__ import annotations

import errno
import itertools
from typing import Any

import pytest

from agentfs.base.errors import KernelError
from agentfs.model.process import Process, Restart, Role, Tier
from agentfs.rights.acl import DEFAULT, Acl, Approval
from agentfs.rights.roles import Action

INBOX = "/agents/bob/inbox"


def alice(**fields: Any) -> Process:
    given: dict[str, Any] = {
        "pid": 5,
        "ppid": 1,
        "name": "alice",
        "role": Role.WORKER,
        "tier": Tier.TACTICAL,
        "model": "sonnet",
        "uid": 1000,
        "gid": 100,
        "user": "ann",
        "node": "here",
        "restart": Restart.NEVER,
        "started": 0.0,
    }
    return Process(**given | fields)


def acl(*rules: str) -> Acl:
    return Acl.parse("rules:\n" + "".join(f"- {rule}\n" for rule in rules))


def number(found: Acl, action: Action = Action.SEND, path: str = INBOX) -> int | None:
    """Which rule decides for alice, counted from 1."""
    rule = found.deciding(alice(), action, path)
    return None if rule is None else rule.number


# -- which match -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        ("", True),
        ("agent: alice", True),
        ("agent: al*", True),
        ("agent: '*'", True),
        ("agent: '?lice'", True),
        ("agent: '[ab]lice'", True),
        ("agent: Alice", False),
        ("agent: lice", False),
        ("user: ann", True),
        ("user: a*", True),
        ("user: bob", False),
        ("role: worker", True),
        ("role: task", False),
        ("action: send", True),
        ("action: kill", False),
        ("agent: alice, user: ann, role: worker, action: send, path: /agents/bob/inbox", True),
        ("agent: alice, user: bob", False),
        ("agent: 7", False),
    ],
)
def test_a_rule_matches_if_everything_it_names_does(rule: str, matches: bool) -> None:
    assert number(acl(f"{{effect: deny, {rule}}}" if rule else "{effect: deny}")) == (
        1 if matches else None
    )


@pytest.mark.parametrize(
    ("path", "given", "matches"),
    [
        ("/agents/bob/inbox", "/agents/bob/inbox", True),
        ("/agents/bob", "/agents/bob/inbox", False),
        ("/agents/*", "/agents/bob", True),
        ("/agents/*", "/agents/bob/inbox", False),
        ("/agents/*/inbox", "/agents/bob/inbox", True),
        ("/agents/*/inbox", "/agents/b/c/inbox", False),
        ("/agents/b*b/inbox", "/agents/bob/inbox", True),
        ("/agents/b?b/inbox", "/agents/bob/inbox", True),
        ("/agents/[!b]ob/inbox", "/agents/bob/inbox", False),
        ("/agents/**", "/agents/bob/inbox", True),
        ("/agents/**", "/agents", True),
        ("/agents/**", "/agents2/bob", False),
        ("/agents/**/inbox", "/agents/inbox", True),
        ("/agents/**/inbox", "/agents/a/b/c/inbox", True),
        ("/**/b/**/d", "/a/b/c/b/d", True),
        ("/**/b/**/d", "/a/b/c/d/e", False),
        ("/**", "/dev/broadcast", True),
        ("/shared/a b", "/shared/a b", True),
        ("/shared/*.txt", "/shared/x.txt", True),
        ("/shared/*.txt", "/shared/x-txt", False),
        ("/shared/*", "/shared/new\nline", True),
    ],
)
def test_a_star_stays_within_a_component_and_two_go_across(
    path: str, given: str, matches: bool
) -> None:
    found = acl(f"{{effect: deny, path: '{path}'}}")
    assert number(found, path=given) == (1 if matches else None)


# -- which decides ---------------------------------------------------------------------------------

WEIGHTS = ["agent: alice", "user: ann", "role: worker", f"path: {INBOX}", "action: send"]


def test_the_most_specific_decides_by_agent_user_role_path_action() -> None:
    for heavy, light in itertools.combinations(range(len(WEIGHTS)), 2):
        rest = ", ".join(WEIGHTS[light:])
        found = acl(
            f"{{effect: deny, {rest}}}",
            f"{{effect: allow, {WEIGHTS[heavy]}}}",
        )
        assert number(found) == 2, (WEIGHTS[heavy], rest)


@pytest.mark.parametrize(
    ("specific", "general"),
    [
        ("agent: alice", "agent: alic*"),
        ("agent: alic*", "agent: a*"),
        ("agent: a*", ""),
        ("path: /agents/bob/inbox", "path: /agents/bob/*"),
        ("path: /agents/bob/*", "path: /agents/**"),
        ("path: /agents/**", ""),
        ("action: send", ""),
    ],
)
def test_exact_beats_wildcards_and_a_longer_beginning_a_shorter(
    specific: str, general: str
) -> None:
    for effects in (("deny", "allow"), ("allow", "deny")):
        one = f"{{effect: {effects[0]}, {specific}}}"
        other = f"{{effect: {effects[1]}, {general}}}" if general else f"{{effect: {effects[1]}}}"
        assert number(acl(one, other)) == 1
        assert number(acl(other, one)) == 2


def test_a_lone_star_is_any_and_no_more_specific_than_nothing() -> None:
    assert number(acl("{effect: allow, agent: '*'}", "{effect: deny}")) == 2
    assert number(acl("{effect: allow, path: /**}", "{effect: deny}")) == 2


def test_deny_beats_allow_among_equals_and_the_stricter_of_two_allows() -> None:
    equal = ("{effect: allow, agent: alice}", "{effect: deny, agent: alice}")
    assert number(acl(*equal)) == 2
    assert number(acl(*reversed(equal))) == 1
    assert number(acl("{effect: allow}", "{effect: allow, approval: {}}")) == 2
    assert number(acl("{effect: allow}", "{effect: allow}")) == 1


def test_the_answer_is_the_same_the_second_time_and_by_any_name() -> None:
    found = acl("{effect: deny, agent: alice}", "{effect: allow, role: worker}")
    bob = alice(name="bob")
    for _ in range(2):
        assert number(found) == 1
        rule = found.deciding(bob, Action.SEND, INBOX)
        assert rule is not None
        assert rule.number == 2


# -- renaming a folder -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "speaks"),
    [
        ("/shared/a/secret", True),
        ("/shared/a/*", True),
        ("/shared/*/secret", True),
        ("/shared/**/secret", True),
        ("/shared/a/**", True),
        ("/shared/b/secret", True),
        ("/shared/a", False),
        ("/shared/c/secret", False),
        ("/shared/**", False),
        ("/agents/**", False),
    ],
)
def test_a_rule_speaks_of_what_is_in_a_folder_that_would_be_renamed(
    path: str, speaks: bool
) -> None:
    found = acl(f"{{effect: deny, action: read_file, path: '{path}'}}")
    actions = (Action.READ_FILE, Action.WRITE_FILE)
    assert bool(found.speaks_below(alice(), actions, "/shared/a", "/shared/b")) is speaks
    assert found.speaks_below(alice(), (Action.WRITE_FILE,), "/shared/a", "/shared/b") is None


# -- the document ----------------------------------------------------------------------------------


def test_no_rules_are_there_by_default() -> None:
    for text in (DEFAULT, "", "rules:\n", "rules: []\n"):
        assert Acl.parse(text).rules == ()


def test_the_examples_in_the_default_text_are_valid() -> None:
    examples = [line[2:] for line in DEFAULT.splitlines() if line.startswith("# - ")]
    found = Acl.parse("rules:\n" + "\n".join(examples))
    assert [rule.allow for rule in found.rules] == [False, True, True]
    assert found.rules[2].approval == Approval("operator", 600.0)


def test_an_approval_is_the_operators_within_ten_minutes_unless_it_says_otherwise() -> None:
    found = acl(
        "{effect: allow, approval: {}}", "{effect: allow, approval: {by: bob, timeout: 5s}}"
    )
    assert [rule.approval for rule in found.rules] == [
        Approval("operator", 600.0),
        Approval("bob", 5.0),
    ]


def test_a_rule_is_told_as_it_was_given() -> None:
    [rule] = acl("{effect: allow, agent: a*, approval: {by: bob}}").rules
    assert rule.text == "{effect: allow, agent: a*, approval: {by: bob}}"
    assert rule.name == "acl.yaml: rule 1"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("rules: 5", "acl.yaml:1: rules: a list was expected"),
        ("{}", "the key `rules` was expected"),
        ("rules:\n- 5", "acl.yaml:2: rule 1: a map was expected"),
        ("rules:\n- {effect: deny}\n- {}", "acl.yaml:3: rule 2: the key `effect` was expected"),
        ("rules: [{effect: maybe}]", "effect: one of allow, deny was expected"),
        ("rules: [{effect: }]", "effect: a text was expected"),
        ("rules: [{effect: deny, agnt: x}]", "unknown key `agnt`"),
        ("rules: [{effect: deny, role: boss}]", "role: one of kernel, daemon"),
        ("rules: [{effect: deny, action: sned}]", "did you mean send?"),
        ("rules: [{effect: deny, agent: a/b}]", "a name has no slash"),
        ("rules: [{effect: deny, path: agents/x}]", "a path from the root of the tree"),
        ("rules: [{effect: deny, path: /agents/../x}]", "a path from the root of the tree"),
        ("rules: [{effect: deny, path: /agents//x}]", "a path from the root of the tree"),
        ("rules: [{effect: deny, path: /agents/}]", "a path from the root of the tree"),
        ("rules: [{effect: deny, approval: {}}]", "nobody can approve what is denied"),
        ("rules: [{effect: allow, approval: {timeout: soon}}]", "a duration like 90s"),
        ("rules: [{effect: allow, approval: {timeout: 0}}]", "more than 0"),
        ("rules: [{effect: allow, approval: bob}]", "approval: a map was expected"),
        ("rules: [{effect: deny, effect: allow}]", "`effect` is there twice"),
        ("rules: [", "not YAML"),
    ],
)
def test_what_is_wrong_is_refused_and_named_by_line(text: str, fault: str) -> None:
    with pytest.raises(KernelError) as refused:
        Acl.parse(text)
    assert refused.value.errno == errno.EINVAL
    assert fault in refused.value.reason
