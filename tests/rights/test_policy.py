"""Who may do what: every role and action to everybody there is, and the order in which the
documents decide."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from agentfs.base.errors import ApprovalError, KernelError
from agentfs.model.process import Agent, Process, Restart, Role, Tier
from agentfs.rights.acl import Acl
from agentfs.rights.policy import STRANGERS, Action, Policy
from agentfs.rights.roles import Roles
from agentfs.store.part import Part, Parts

YES, EPERM, EACCES = 0, errno.EPERM, errno.EACCES

# The table of docs/permissions.md; the last three columns are the capabilities' of the same names.
# y yes, - no, deny, and to whom: children, parent, own.
TABLE = """
role       spawn kill     send   read_art write_art escalate read_pro manage_t read_f write_f trans
kernel     y     y        y      y        y         y        y        y        y      y       y
daemon     y     y        y      y        y         y        y        y        y      y       y
lead       y     y        y      y        y         y        y        -        y      y       y
agent      y     children y      y        y         y        y        -        y      y       y
worker     y     children y      y        y         y        y        -        y      y       y
architect  -     -        y      y        y         y        y        -        y      y       y
task       deny  -        parent y        -         y        own      -        y      -       -
"""
COLUMNS = dict(zip(TABLE.split()[1:12], Action, strict=True))
CELLS = {
    (Role(row.split()[0]), COLUMNS[column]): cell
    for row in TABLE.strip().splitlines()[1:]
    for column, cell in zip(COLUMNS, row.split()[1:], strict=True)
}
assert [action.value.startswith(column) for column, action in COLUMNS.items()] == [True] * 11

RELATIONS = ("itself", "child", "parent", "ancestor", "sibling", "same user", "other user")
"""What the process that something is done to is to the actor. `same user`, `other user`: no
relative, in another branch of the tree."""


def process(name: str, pid: int, ppid: int, role: Role = Role.AGENT, uid: int = 1000) -> Process:
    return Process(
        pid=pid,
        ppid=ppid,
        name=name,
        role=role,
        tier=Tier.TACTICAL,
        model="sonnet",
        uid=uid,
        gid=100,
        user=f"user{uid}",
        node="here",
        restart=Restart.NEVER,
        started=0.0,
    )


def family(role: Role) -> dict[str, Process]:
    """An actor of `role`, as `itself`, and everybody that it can be something to."""
    return {
        "itself": process("actor", 10, 5, role),
        "child": process("child", 11, 10),
        "parent": process("parent", 5, 2),
        "ancestor": process("ancestor", 2, 1),
        "sibling": process("sibling", 12, 5),
        "same user": process("friend", 20, 1),
        "other user": process("stranger", 21, 1, uid=2000),
    }


def by_the_table(role: Role, action: Action, relation: str) -> int:
    """What must come out, worked out from the table by hand."""
    if relation == "itself" and action in (Action.KILL, Action.READ_PROCESS):
        return YES
    allowed = {
        "y": True,
        "-": False,
        "deny": False,
        "children": relation == "child",
        "parent": relation in ("parent", "itself"),
        "own": relation == "itself",
    }[CELLS[role, action]]
    if not allowed:
        return EPERM if CELLS[role, action] == "deny" else EACCES
    if relation != "other user" or role is Role.KERNEL:
        return YES
    within = {Action.KILL: EPERM, Action.READ_PROCESS: EPERM, Action.MANAGE_TREE: EPERM}
    return (within | {Action.SEND: EACCES}).get(action, YES)


def outcome(policy: Policy, actor: Process, action: Action, *rest: Any) -> int:
    try:
        policy.require(actor, action, *rest)
    except KernelError as refusal:
        assert refusal.reason
        assert refusal.rule
        return refusal.errno
    return YES


@pytest.mark.parametrize("role", Role)
def test_each_role_and_action_gives_what_the_table_says(role: Role) -> None:
    people = family(role)
    written = Policy()
    written.use_roles(Roles.parse(Roles().text))
    written.use_acl(Acl.parse("rules: []"))
    for policy in (Policy(), written):
        for action in Action:
            for relation in RELATIONS:
                target = people[relation]
                found = outcome(policy, people["itself"], action, f"/agents/{target.name}", target)
                assert found == by_the_table(role, action, relation), (action, relation)


# -- the order of decision -------------------------------------------------------------------------


def decide(
    roles: str = "", acl: str = "", action: Action = Action.SPAWN, relation: str = "child"
) -> tuple[bool, int, str]:
    """What comes out for a worker: allowed, errno, rule."""
    policy = Policy()
    policy.use_roles(Roles.parse(f"roles: {{worker: {{actions: {roles or '{}'}}}}}"))
    policy.use_acl(Acl.parse(f"rules: [{acl}]"))
    people = family(Role.WORKER)
    target = people[relation]
    found = policy.decide(people["itself"], action, f"/agents/{target.name}", target)
    assert bool(found.reason) is not found.allowed
    return found.allowed, found.errno, found.rule


def test_a_deny_of_the_roles_holds_whatever_the_rules_say() -> None:
    exact = "{effect: allow, agent: actor, action: spawn, path: /agents/child}"
    assert decide("{spawn: deny}", exact) == (False, EPERM, "roles.yaml: worker spawn")


def test_a_rule_allows_what_the_role_only_does_not() -> None:
    assert decide("{spawn: '-'}") == (False, EACCES, "roles.yaml: worker spawn")
    assert decide("{spawn: '-'}", "{effect: allow}") == (True, YES, "acl.yaml: rule 1")
    other = "{effect: deny, path: /x}, {effect: allow, role: worker}"
    assert decide("{spawn: '-'}", other) == (True, YES, "acl.yaml: rule 2")


def test_a_rule_denies_what_the_role_allows() -> None:
    assert decide() == (True, YES, "roles.yaml: worker spawn")
    assert decide(acl="{effect: deny, user: user1000}") == (False, EPERM, "acl.yaml: rule 1")


def test_a_rule_widens_what_holds_for_some_only() -> None:
    allow = "{effect: allow, action: kill}"
    assert decide(action=Action.KILL, relation="sibling")[1] == EACCES
    assert decide("", allow, Action.KILL, "sibling") == (True, YES, "acl.yaml: rule 1")
    assert decide("{send: parent}", "{effect: allow}", Action.SEND, "sibling")[0]


def test_what_is_ones_own_can_be_denied_by_name_only() -> None:
    own = (Action.READ_PROCESS, "itself")
    assert decide("{read_process: '-'}", "", *own) == (True, YES, "itself")
    assert decide("{read_process: deny}", "", *own)[1] == EPERM
    assert decide("", "{effect: deny, path: /agents/actor}", *own)[1] == EPERM


def test_a_rule_lets_processes_of_other_users_be_read_but_not_signalled() -> None:
    for action in (Action.KILL, Action.READ_PROCESS):
        assert decide("{kill: allow}", "", action, "other user") == (False, EPERM, "same user")
    assert decide("", "{effect: allow}", Action.READ_PROCESS, "other user")[0]
    assert decide("", "{effect: allow}", Action.KILL, "other user") == (False, EPERM, "same user")


def test_mail_crosses_users_where_a_rule_says_so() -> None:
    assert decide(action=Action.SEND, relation="other user") == (False, EACCES, STRANGERS)
    for rule in ("{effect: allow, action: send}", "{effect: allow, agent: actor, path: /agents/*}"):
        assert decide("", rule, Action.SEND, "other user")[0]
    assert not decide("", "{effect: allow, agent: you}", Action.SEND, "other user")[0]
    assert decide("{send: deny}", "{effect: allow}", Action.SEND, "other user")[1] == EPERM


def test_the_refusal_says_which_rule_would_allow_it_and_that_rule_does() -> None:
    people, path = family(Role.WORKER), "/agents/stranger/inbox"
    policy = Policy()
    asked = people["itself"], Action.SEND, path, people["other user"]
    found = policy.decide(*asked)
    assert "user1000" in found.reason
    policy.use_acl(Acl.parse(f"rules: [{found.reason.rpartition('would: ')[2]}]"))
    assert policy.decide(*asked).allowed


def test_mail_crosses_users_between_parent_and_child_and_with_the_operator() -> None:
    init = process("init", 1, 0, Role.KERNEL, uid=0)
    parent, child = process("parent", 5, 1, uid=2000), process("child", 6, 5)
    sibling = process("sibling", 7, 5, uid=2000)
    known = {each.pid: each for each in (init, parent, child, sibling)}
    policy = Policy(known.get)

    def may(actor: Process, target: Any) -> bool:
        return policy.decide(actor, Action.SEND, f"/agents/{target.name}/inbox", target).allowed

    assert may(child, parent)
    assert may(parent, child)
    assert may(child, init)
    assert may(init, child)
    assert may(child, Agent("init", 0, 0, "init"))
    assert not may(child, sibling)
    assert may(parent, Agent("child", 1000, 100, "init", pid=6)), "it has ended, and is kept"
    assert not may(parent, Agent("child", 1000, 100, "init"))


def test_mail_crosses_users_within_a_group() -> None:
    actor, target = process("actor", 10, 5), process("target", 20, 6, uid=2000)
    for own, other, allowed in (
        ("", "", False),
        ("team", "", False),
        ("", "team", False),
        ("team", "team", True),
        ("team", "team/night", True),
        ("team/day", "team/night", True),
        ("team", "teams", False),
        ("team/x", "other/x", False),
    ):
        actor.group, target.group = own, other
        actor.groups = target.groups = ("friends",)  # what a definition says of itself
        path = "/agents/target/inbox"
        assert Policy().decide(actor, Action.SEND, path, target).allowed is allowed, (own, other)


def test_who_was_written_to_may_answer_and_is_asked_about_only_where_that_decides() -> None:
    policy, actor = Policy(), process("actor", 10, 5)
    asked: list[bool] = []

    def answers() -> bool:
        asked.append(True)
        return True

    for uid in (1000, 2000):
        other = process("other", 20, 6, uid=uid)
        path = "/agents/other/inbox"
        assert policy.decide(actor, Action.SEND, path, other, answers=answers).allowed
        assert len(asked) == (uid == 2000)
    policy.use_acl(Acl.parse("rules: [{effect: deny, action: send}]"))
    assert not policy.decide(actor, Action.SEND, path, other, answers=answers).allowed


def test_queues_and_topics_go_by_their_mode_whosever_they_are() -> None:
    policy, actor = Policy(), process("actor", 10, 5)
    owner = process("owner", 20, 6, uid=2000)
    for path in ("/dev/queues/jobs", "/dev/topics/news"):
        assert policy.decide(actor, Action.SEND, path, owner).allowed


def test_an_agent_without_a_process_has_a_user_too() -> None:
    policy, actor = Policy(), process("actor", 10, 5)
    for uid, expected in ((1000, YES), (2000, EPERM)):
        agent = Agent("gone", uid, 100, "init")
        path = "/agents/gone/log"
        assert outcome(policy, actor, Action.READ_PROCESS, path, agent) == expected
    task = process("task", 10, 5, Role.TASK)
    assert outcome(policy, task, Action.READ_PROCESS, path, Agent("gone", 1000, 100, "x")) == EACCES
    assert outcome(policy, task, Action.SEND, path, Agent("gone", 1000, 100, "x")) == EACCES


def test_process_1_is_not_in_the_roles_but_under_the_rules() -> None:
    policy, init = Policy(), process("init", 1, 0, Role.KERNEL)
    policy.use_acl(Acl.parse("rules: [{effect: deny, action: send, path: /agents/bob/**}]"))
    assert outcome(policy, init, Action.SEND, "/agents/bob/inbox") == EPERM
    assert outcome(policy, init, Action.SEND, "/agents/eve/inbox") == YES


def test_a_rule_may_ask_for_approval() -> None:
    parts = Parts()
    policy, actor = Policy(parts=parts), process("actor", 10, 5)
    policy.use_acl(Acl.parse("rules: [{effect: allow, action: spawn, approval: {by: bob}}]"))
    found = policy.decide(actor, Action.SPAWN, "/agents/x")
    assert found.allowed
    assert found.approval is not None
    assert found.approval.by == "bob"
    with pytest.raises(ApprovalError) as needed:
        policy.require(actor, Action.SPAWN, "/agents/x")
    assert (needed.value.by, needed.value.path) == ("bob", "/agents/x")
    asked: list[str] = []

    class Agreeable(Part):
        def is_approved(self, needed: ApprovalError) -> bool:
            asked.append(needed.path)
            return True

    parts.add(Agreeable())
    assert outcome(policy, actor, Action.SPAWN, "/agents/x") == YES
    assert asked == ["/agents/x"]


def test_a_refusal_says_what_a_person_can_do_about_it() -> None:
    people = {each.pid: each for each in family(Role.TASK).values()}
    policy = Policy(people.get)
    task = people[10]
    for action, path, words in (
        (
            Action.SEND,
            "/agents/sibling/inbox",
            "actor is a task and may only write to its parent p",
        ),
        (Action.SEND, "/dev/queues/jobs", "may only write to what its parent parent owns"),
        (Action.READ_PROCESS, "/agents/x/info", "may only read what is its own"),
        (Action.WRITE_ARTIFACT, "/dev/shm/user/x", "actor is a task and may not write artifact"),
    ):
        with pytest.raises(KernelError, match=words):
            policy.require(task, action, path)
    policy.use_acl(Acl.parse("rules: [{effect: deny, agent: actor}]"))
    with pytest.raises(KernelError, match=r"rule 1 of /etc/acl.yaml says \{effect: deny"):
        policy.require(task, Action.ESCALATE, "/agents/parent")


# -- HiveKernel's tests (reference, 8.4), by name --------------------------------------------------


def allowed(role: Role, action: Action, relation: str = "child") -> bool:
    people = family(role)
    return Policy().decide(people["itself"], action, "", people[relation]).allowed


def test_acl_kernel_can_do_anything() -> None:
    assert all(allowed(Role.KERNEL, action, who) for action in Action for who in RELATIONS)


def test_acl_daemon_permissions() -> None:
    assert all(allowed(Role.DAEMON, action) for action in Action)


def test_acl_worker_can_spawn() -> None:
    assert allowed(Role.WORKER, Action.SPAWN)


def test_acl_task_cannot_spawn() -> None:
    assert not allowed(Role.TASK, Action.SPAWN)


def test_acl_task_can_send_message() -> None:
    assert allowed(Role.TASK, Action.SEND, "parent")


def test_acl_task_can_read_artifact() -> None:
    assert allowed(Role.TASK, Action.READ_ARTIFACT)


def test_acl_cross_user() -> None:
    """Denied; the same user and the kernel allowed."""
    assert not allowed(Role.LEAD, Action.KILL, "other user")
    assert allowed(Role.LEAD, Action.KILL, "same user")
    assert allowed(Role.KERNEL, Action.KILL, "other user")
    with pytest.raises(KernelError, match="user1000"):
        Policy().same_user(process("a", 2, 1), process("b", 3, 1, uid=2000))


def test_acl_custom_rule() -> None:
    policy, task = Policy(), process("actor", 10, 5, Role.TASK)
    assert outcome(policy, task, Action.WRITE_ARTIFACT, "/dev/shm/global/x") == EACCES
    policy.use_acl(Acl.parse("rules: [{effect: allow, role: task, action: write_artifact}]"))
    assert outcome(policy, task, Action.WRITE_ARTIFACT, "/dev/shm/global/x") == YES


def test_fault_s5_custom_rules_override_the_defaults_both_ways() -> None:
    assert decide(acl="{effect: deny, role: worker, action: spawn}")[1] == EPERM
    assert decide("{spawn: '-'}", "{effect: allow, role: worker, action: spawn}")[0]
