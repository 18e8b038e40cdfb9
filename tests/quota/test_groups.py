"""Groups: nested, each process in exactly one, and what they bound is bounded."""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.model.principal import INIT
from agentfs.model.process import Process, Tier
from agentfs.process.events import ProcessChanged
from agentfs.quota.events import (
    GroupCreated,
    GroupEntered,
    GroupLimitHit,
    GroupLimitSet,
    GroupRemoved,
)
from agentfs.quota.group_table import FILES
from agentfs.quota.meter import Use
from tests.process.world import OPERATOR, as_agent
from tests.quota.books_world import POOL, Books


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "state", POOL)
    yield made
    made.close()


def refused(call: Callable[..., object], *given: Any, **named: Any) -> KernelError:
    with pytest.raises(KernelError) as caught:
        call(*given, **named)
    assert caught.value.reason
    return caught.value


def spend(world: Books, process: Process, tokens: int) -> None:
    """A call that takes what it asked for."""
    world.use(process, tokens, "mini")


# -- making and removing -------------------------------------------------------------------------


def test_the_life_of_a_group(world: Books) -> None:
    team = world.group("team", tokens=1000)
    alice = world.child("alice", tier="operational")
    world.move(alice, "team")
    assert world.pids("team") == [alice.pid]
    assert alice.group == "team"
    spend(world, alice, 400)
    assert (team.tokens, world.groups.count(team)) == (400, 1)
    assert refused(world.groups.remove, OPERATOR, "team").code == "EBUSY"
    world.end(alice)
    world.groups.remove(OPERATOR, "team")
    assert world.groups.find("team") is None
    assert [type(each) for each in world.heard if type(each).__name__.startswith("Group")] == [
        GroupCreated,
        GroupLimitSet,
        GroupEntered,
        GroupRemoved,
    ]
    assert world.sizes() == world.base


def test_groups_are_nested_and_only_empty_ones_are_removed(world: Books) -> None:
    world.group("a")
    world.group("a/b")
    world.group("a/b/c")
    assert refused(world.group, "x/y").code == "ENOENT"
    assert refused(world.group, "a/b").code == "EEXIST"
    assert refused(world.groups.remove, OPERATOR, "a").code == "EBUSY"
    assert refused(world.groups.remove, OPERATOR, "a/x").code == "ENOENT"
    for path in ("a/b/c", "a/b", "a"):
        world.groups.remove(OPERATOR, path)
    assert world.sizes() == world.base


@pytest.mark.parametrize("name", FILES)
def test_no_group_is_called_as_one_of_its_files(world: Books, name: str) -> None:
    assert refused(world.groups.create, OPERATOR, "", name).code == "EEXIST"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\nb", "x" * 256, "ä" * 128, "\udcff"])
def test_a_name_is_one_that_a_file_can_have_without_a_line_break(world: Books, name: str) -> None:
    assert refused(world.groups.create, OPERATOR, "", name).code == "EINVAL"


def test_there_are_so_many_groups_and_so_deep_as_the_configuration_says(world: Books) -> None:
    world.settings.replace("groups: {max_groups: 3, max_depth: 2}")
    world.group("a")
    world.group("a/b")
    assert refused(world.group, "a/b/c").rule == "groups.max_depth"
    world.group("b")
    refusal = refused(world.group, "c")
    assert (refusal.code, refusal.rule) == ("EAGAIN", "shares.groups")
    assert "groups.max_groups" in refusal.reason


# -- moving --------------------------------------------------------------------------------------


def test_a_process_is_in_exactly_one_group(world: Books) -> None:
    world.group("a")
    world.group("a/b")
    alice, bob = world.child("alice"), world.child("bob")
    for path in ("a", "a/b", "a", "a"):
        world.move(alice, path)
        assert [each for each in ("", "a", "a/b") if alice.pid in world.pids(each)] == [path]
    assert len(world.of(GroupEntered)) == 3  # to where it is, is no move
    assert ProcessChanged(alice.pid, "alice") in world.heard
    world.move(alice, "")
    assert world.pids("") == [INIT, alice.pid, bob.pid]


def test_only_the_process_is_moved_and_its_children_stay(world: Books) -> None:
    world.group("a")
    alice = world.child("alice")
    bob = world.child("bob", alice)
    world.move(alice, "a")
    carol = world.child("carol", alice)
    assert (bob.group, carol.group) == ("", "a")


def test_who_is_moved_has_to_be_there(world: Books) -> None:
    world.group("a")
    alice = world.child("alice")
    assert refused(world.groups.move, OPERATOR, 999, "a").code == "ESRCH"
    assert refused(world.groups.move, OPERATOR, alice.pid, "b").code == "ENOENT"
    assert refused(world.groups.move, OPERATOR, INIT, "a").code == "EPERM"
    world.processes.signal(OPERATOR, alice.pid, "KILL")
    assert refused(world.groups.move, OPERATOR, alice.pid, "a").code == "ESRCH"


def test_what_was_used_stays_with_the_group_that_it_was_used_in(world: Books) -> None:
    first, second = world.group("first"), world.group("second")
    alice = world.child("alice", tier="operational")
    world.move(alice, "first")
    spend(world, alice, 100)
    open_call = world.llm(alice, "mini", 50)
    assert first.tokens == 150
    world.move(alice, "second")
    world.settle(alice, open_call, 0, 30)
    spend(world, alice, 7)
    assert (first.tokens, second.tokens) == (130, 7)


def test_a_move_may_exceed_pids_max_as_with_linux_and_a_spawn_may_not(world: Books) -> None:
    group = world.group("team", pids=1)
    alice, bob = world.child("alice"), world.child("bob")
    world.move(alice, "team")
    world.move(bob, "team")
    assert world.groups.count(group) == 2
    assert refused(world.child, "carol", alice).code == "EAGAIN"


# -- pids ----------------------------------------------------------------------------------------


def test_a_child_joins_its_parents_group_and_a_spec_may_name_another(world: Books) -> None:
    world.group("a")
    world.group("a/b")
    alice = world.child("alice", group="a")
    assert world.child("bob", alice).group == "a"
    assert world.child("carol", alice, group="a").group == "a"  # no leave is needed to stay
    assert world.child("dora", group="/a/b/").group == "a/b"
    assert world.child("emil", group="").group == ""
    assert refused(world.child, "frida", group="x").code == "ENOENT"
    for path in ("", "a/b"):
        assert refused(world.child, "frida", alice, group=path).code == "EACCES"
    assert world.table.by_name("frida") is None


def test_pids_max_of_every_group_above_holds(world: Books) -> None:
    outer, inner = world.group("a", pids=2), world.group("a/b", pids=5)
    world.child("alice", group="a")
    world.child("bob", group="a/b")
    refusal = refused(world.child, "carol", group="a/b")
    assert (refusal.errno, refusal.rule) == (errno.EAGAIN, "group a: pids.max")
    assert (outer.pids_hits, inner.pids_hits) == (1, 0)
    assert world.of(GroupLimitHit) == [GroupLimitHit("a", "pids", "init")]
    world.groups.set_limit(OPERATOR, "a", "pids", None)
    world.child("carol", group="a/b")
    assert world.groups.count(outer) == 3


def test_a_refusal_is_counted_in_the_group_that_is_full_and_all_above(world: Books) -> None:
    outer, inner = world.group("a"), world.group("a/b", pids=0)
    refused(world.child, "alice", group="a/b")
    assert (outer.pids_hits, inner.pids_hits) == (1, 1)


def test_who_ended_frees_its_seat_at_once(world: Books) -> None:
    world.group("team", pids=1)
    for name in ("alice", "bob", "carol"):
        process = world.child(name, group="team")
        refused(world.child, "late", group="team")
        world.processes.signal(OPERATOR, process.pid, "KILL")  # not collected yet


def test_a_spawn_that_fails_takes_no_seat(world: Books) -> None:
    group = world.group("team", pids=1)
    world.child("taken")
    refused(world.child, "taken", group="team")  # by the rule on names, which comes later
    assert world.groups.count(group) == 0


def test_a_lower_limit_than_what_is_there_ends_nobody_and_lets_nobody_in(world: Books) -> None:
    group = world.group("team")
    alice = world.child("alice", group="team", tier="operational")
    spend(world, alice, 100)
    world.groups.set_limit(OPERATOR, "team", "pids", 0)
    world.groups.set_limit(OPERATOR, "team", "tokens", 10)
    assert (world.groups.count(group), group.tokens) == (1, 100)
    assert refused(world.child, "bob", alice).code == "EAGAIN"
    assert refused(spend, world, alice, 1).code == "EDQUOT"


# -- tokens --------------------------------------------------------------------------------------


def test_tokens_of_every_group_above_are_bounded_together(world: Books) -> None:
    outer, one, two = world.group("a", tokens=100), world.group("a/1"), world.group("a/2")
    ann = world.child("ann", group="a/1", tier="operational")
    ben = world.child("ben", group="a/2", tier="operational")
    spend(world, ann, 60)
    spend(world, ben, 30)
    assert (outer.tokens, one.tokens, two.tokens) == (90, 60, 30)
    refusal = refused(spend, world, ben, 11)
    assert (refusal.code, refusal.rule) == ("EDQUOT", "group a: tokens.max")
    assert (outer.tokens_hits, one.tokens_hits, two.tokens_hits) == (1, 0, 0)
    spend(world, ann, 10)
    assert refused(spend, world, ann, 1).code == "EDQUOT"


def test_what_open_calls_hold_counts_and_comes_back(world: Books) -> None:
    group = world.group("team", tokens=100)
    alice = world.child("alice", group="team", tier="operational")
    first, second = world.llm(alice, "mini", 60), world.llm(alice, "mini", 40)
    assert group.tokens == 100
    assert refused(world.llm, alice, "mini", 1).code == "EDQUOT"
    world.settle(alice, first, 5, 5)
    world.calls.cancel(as_agent(alice), alice.pid, second)
    assert group.tokens == 10


def test_a_call_that_names_no_maximum_gets_what_its_group_has_left(world: Books) -> None:
    group = world.group("team", tokens=100)
    alice = world.child("alice", group="team", tier="operational")
    spend(world, alice, 30)
    call = world.calls.llm(as_agent(alice), alice.pid)
    assert group.tokens == 100
    world.settle(alice, int(call), 1, 1)
    assert group.tokens == 32


def test_none_are_let_through_by_a_limit_of_none(world: Books) -> None:
    group = world.group("team", tokens=0)
    alice = world.child("alice", group="team", tier="operational")
    assert refused(world.calls.llm, as_agent(alice), alice.pid).code == "EDQUOT"
    assert group.tokens == 0
    number = world.calls.tool(as_agent(alice), alice.pid, "grep")  # has no tokens
    world.settle(alice, int(number))


def test_a_call_that_took_more_than_it_asked_for_is_counted_in_full(world: Books) -> None:
    group = world.group("team", tokens=100)
    alice = world.child("alice", group="team", tier="operational")
    world.settle(alice, world.llm(alice, "mini", 10), 100, 100)
    assert group.tokens == 200


def test_a_report_of_more_than_there_is_counts_once_and_is_refused(world: Books) -> None:
    group = world.group("team", tokens=100)
    alice = world.child("alice", group="team", tier="operational")
    report = world.calls.report
    assert refused(report, as_agent(alice), alice.pid, 150).code == "EDQUOT"
    assert (group.tokens, group.tokens_hits) == (150, 1)
    assert refused(report, as_agent(alice), alice.pid, 1).code == "EDQUOT"
    assert (group.tokens, group.tokens_hits) == (150, 2)


def test_calls_that_its_process_never_settled_count_as_they_were_held(world: Books) -> None:
    group = world.group("team", tokens=100)
    alice = world.child("alice", group="team", tier="operational")
    world.llm(alice, "mini", 60)
    world.end(alice)
    assert group.tokens == 60
    assert world.sizes()["holds"] == 0


def test_a_call_outlives_the_group_that_it_was_made_in(world: Books) -> None:
    outer = world.group("a")
    for path in ("a/b", "c"):
        world.group(path)
    alice = world.child("alice", group="a/b", tier="operational")
    first = world.llm(alice, "mini", 60)
    world.move(alice, "c")
    second = world.llm(alice, "mini", 25)
    world.groups.remove(OPERATOR, "a/b")
    world.move(alice, "")
    world.groups.remove(OPERATOR, "c")
    world.settle(alice, first, 0, 10)
    world.settle(alice, second, 0, 10)
    assert outer.tokens == 10
    assert world.sizes()["holds"] == 0


# -- who may -------------------------------------------------------------------------------------


def test_without_manage_tree_nothing_is_made_moved_or_set(world: Books) -> None:
    world.group("team")
    lead = world.child("lead", role="lead", group="team")
    me = as_agent(lead)
    for call in (
        lambda: world.groups.create(me, "team", "mine"),
        lambda: world.groups.remove(me, "team"),
        lambda: world.groups.set_limit(me, "team", "tokens", None),
        lambda: world.groups.move(me, lead.pid, ""),
    ):
        assert refused(call).code == "EACCES"


def test_who_manages_the_tree_does_so_in_its_own_group_and_below_it_only(world: Books) -> None:
    world.group("mine", tokens=10, pids=5)
    world.group("other")
    daemon = world.child("daemon", role="daemon", group="mine")
    other = world.child("other", group="other")
    me = as_agent(daemon)
    world.groups.create(me, "mine", "sub")
    world.groups.set_limit(me, "mine/sub", "tokens", 5)
    world.groups.move(me, daemon.pid, "mine/sub")
    for call in (
        lambda: world.groups.set_limit(me, "mine", "tokens", None),
        lambda: world.groups.set_limit(me, "mine/sub", "tokens", None),
        lambda: world.groups.create(me, "", "free"),
        lambda: world.groups.move(me, daemon.pid, ""),
        lambda: world.groups.move(me, daemon.pid, "mine"),
        lambda: world.groups.move(me, other.pid, "mine/sub"),
        lambda: world.child("escaped", daemon, group=""),
    ):
        refusal = refused(call)
        assert (refusal.code, refusal.rule) == ("EPERM", "group containment")


# -- the daemon dies -----------------------------------------------------------------------------


def test_groups_limits_counts_and_holds_are_the_same_after_kill_9(tmp_path: Path) -> None:
    world = Books(tmp_path / "state", POOL)
    world.group("a", tokens=100, pids=1)
    world.group("a/b")
    alice = world.child("alice", group="a/b", tier="operational")
    refused(world.child, "bob", alice)
    spend(world, alice, 30)
    call = world.llm(alice, "mini", 60)
    refused(world.llm, alice, "mini", 60)
    again = world.restarted()
    group = again.groups.find("a")
    assert group is not None
    assert (group.tokens_max, group.pids_max, group.tokens) == (100, 1, 90)
    assert (group.tokens_hits, group.pids_hits, again.groups.count(group)) == (1, 1, 1)
    alice = again.table.get(alice.pid)
    assert again.pids("a/b") == [alice.pid]
    again.settle(alice, call, 0, 10)
    assert group.tokens == 40
    assert refused(again.child, "bob", alice).code == "EAGAIN"
    again.close()


# -- what HiveKernel's tests of its groups assert, and its fault ---------------------------------


@pytest.fixture
def team(world: Books) -> Books:
    """A lead with two workers, in a group of their own."""
    world.group("team", tokens=10_000)
    lead = world.child("lead", role="lead", tier="operational", group="team")
    world.child("one", lead)
    world.child("two", lead)
    return world


USE = Use("llm", "mini", Tier.OPERATIONAL, output=1)


def named(world: Books, name: str) -> Process:
    process = world.table.by_name(name)
    assert process is not None
    return process


def test_cgroup_manager_create(team: Books) -> None:
    assert len(team.pids("team")) == 3


def test_cgroup_manager_create_duplicate(team: Books) -> None:
    assert refused(team.group, "team").code == "EEXIST"


def test_cgroup_manager_create_invalid_root(team: Books) -> None:
    assert refused(team.group, "nowhere/team").code == "ENOENT"


def test_cgroup_manager_delete(team: Books) -> None:
    for process in team.groups.members("team"):
        team.move(process, "")
    team.groups.remove(OPERATOR, "team")
    assert [named(team, name).group for name in ("lead", "one", "two")] == ["", "", ""]


def test_cgroup_manager_get_by_pid(team: Books) -> None:
    assert (named(team, "one").group, team.table.get(INIT).group) == ("team", "")


def test_cgroup_manager_add_process(team: Books) -> None:
    team.move(team.child("four"), "team")
    assert len(team.pids("team")) == 4


def test_cgroup_manager_add_process_max_reached(team: Books) -> None:
    """Linux lets an existing process in; what is bounded is what is spawned."""
    team.groups.set_limit(OPERATOR, "team", "pids", 3)
    assert refused(team.child, "four", named(team, "lead")).code == "EAGAIN"


def test_cgroup_manager_add_process_idempotent(team: Books) -> None:
    team.move(named(team, "one"), "team")
    assert len(team.pids("team")) == 3


def test_cgroup_manager_remove_process(team: Books) -> None:
    team.move(named(team, "one"), "")
    assert len(team.pids("team")) == 2


def test_cgroup_manager_consume_tokens(team: Books) -> None:
    spend(team, named(team, "one"), 5000)
    assert team.groups.room(named(team, "two"), USE).tokens == 5000


def test_cgroup_manager_consume_tokens_exceeds_limit(team: Books) -> None:
    spend(team, named(team, "one"), 8000)
    assert refused(spend, team, named(team, "two"), 5000).code == "EDQUOT"
    assert team.groups.groups.get("team").tokens == 8000


def test_cgroup_manager_consume_tokens_not_in_group(team: Books) -> None:
    spend(team, team.child("free", tier="operational"), 50_000)
    assert team.groups.groups.get("team").tokens == 0


def test_cgroup_manager_check_spawn_allowed(team: Books) -> None:
    team.groups.set_limit(OPERATOR, "team", "pids", 4)
    team.child("four", named(team, "lead"))
    assert refused(team.child, "five", named(team, "lead")).code == "EAGAIN"


def test_cgroup_manager_check_spawn_allowed_not_in_group(team: Books) -> None:
    team.groups.set_limit(OPERATOR, "team", "pids", 0)
    assert team.child("free").group == ""


def test_cgroup_manager_list(team: Books) -> None:
    team.group("another")
    assert [group.path for group in team.groups.groups.children("")] == ["another", "team"]


def test_cgroup_manager_get_group_usage(team: Books) -> None:
    spend(team, named(team, "one"), 2500)
    group = team.groups.groups.get("team")
    assert group.tokens_max is not None
    assert 100 * group.tokens / group.tokens_max == 25


def test_cgroup_remaining(team: Books) -> None:
    one = named(team, "one")
    spend(team, one, 7000)
    assert team.groups.room(one, USE).tokens == 3000
    team.groups.set_limit(OPERATOR, "team", "tokens", 100)
    assert team.groups.room(one, USE).tokens == 0
    team.groups.set_limit(OPERATOR, "team", "tokens", None)
    assert team.groups.room(one, USE).tokens is None


def test_cgroup_usage_percent(team: Books) -> None:
    """Two files give it, and without a limit there is none: `max` is no number to divide by."""
    group = team.groups.groups.get("team")
    spend(team, named(team, "one"), 5000)
    assert (group.tokens, group.tokens_max) == (5000, 10_000)
    team.groups.set_limit(OPERATOR, "team", "tokens", None)
    assert (group.tokens, group.tokens_max) == (5000, None)


def test_fault_b8_two_groups_never_count_one_process_twice(world: Books) -> None:
    first, second = world.group("first", pids=3), world.group("second", pids=3)
    members = [world.child(f"p{number}", tier="operational") for number in range(3)]
    for process in members:
        world.move(process, "first")
        world.move(process, "second")  # it takes them over, and leaves no count behind
    assert (world.groups.count(first), world.groups.count(second)) == (0, 3)
    world.groups.remove(OPERATOR, "first")  # which unmaps nobody of the other
    assert world.pids("second") == [process.pid for process in members]
    for process in members:
        spend(world, process, 10)  # each use is charged, and once
    assert second.tokens == 30
    assert refused(world.child, "more", members[0]).code == "EAGAIN"


# -- the consistency check -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "damage", "fault"),
    [
        ("a", lambda record: None, "group a/b: there is no group a"),
        ("a/b", lambda record: None, "there is no group a/b"),
        ("a", lambda record: record | {"tokens": 5}, "group a: it has used 5 tokens"),
        ("a", lambda record: record | {"tokens": -1}, "group a: tokens is -1"),
        ("a", lambda record: record | {"pids_max": "x"}, "group a: pids_max is x"),
        ("a/b", lambda record: record | {"tokens_hits": None}, "group a/b: tokens_hits is None"),
        ("99", lambda record: {"holds": []}, "process 99, which holds tokens of groups"),
        ("2", lambda record: {"holds": [["x", 1]]}, "it holds tokens of group x"),
        ("2", lambda record: {"holds": [["a", 61]]}, "it holds 61 tokens of a, and has no such"),
    ],
)
def test_damaged_groups_are_found(
    tmp_path: Path, key: str, damage: Callable[[Any], Any], fault: str
) -> None:
    world = Books(tmp_path / "state", POOL)
    world.group("a")
    world.group("a/b")
    world.llm(world.child("alice", group="a/b", tier="operational"), "mini", 60)
    world.close()
    path = tmp_path / "state" / "store.db"
    kind = "group holds" if key.isdigit() else "group"
    with closing(sqlite3.connect(path)) as store, store:
        query = "SELECT record FROM records WHERE kind = ? AND key = ?"
        row = store.execute(query, (kind, key)).fetchone()
        damaged = damage(json.loads(row[0]) if row else None)
        store.execute("DELETE FROM records WHERE kind = ? AND key = ?", (kind, key))
        if damaged is not None:
            store.execute("INSERT INTO records VALUES (?, ?, ?)", (kind, key, json.dumps(damaged)))
    assert any(fault in each for each in check(path)), check(path)
