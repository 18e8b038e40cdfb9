"""What people type, on a real tree: listings as JSON, sentences, filters, an inbox, colours."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator

import pytest

import agentfs.kernel  # noqa: F401  # so that every room has told its events
from agentfs.store.event import vocabulary
from agentfs.tools.sentences import SENTENCES, Filter, event_line, sentence
from agentfs.tools.terminal import shown
from tests.hatchery import Hatchery, QuickTree
from tests.tree import AGENTFS, Tree, eventually, until

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def town(hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """One tree for all: alice waits for mail, bob has ended with code 3."""
    made = QuickTree(tmp_path_factory.mktemp("people") / "tree", hatchery=hatchery)
    try:
        made.mount()
        loop = 'while cat "$AGENTFS/agents/self/recv"; do :; done'
        made.spawn("alice", role="lead", exec=["sh", "-c", loop])
        bob = made.spawn("bob", exec=["sh", "-c", "echo cannot open d.sh; exit 3"], restart="never")
        until(made / f"proc/{bob}/exit", "3")
        until(made / "agents/alice/state", "idle")
        yield made
    finally:
        made.clean_up()


def rows(tree: Tree, *words: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in tree.run(*words).stdout.splitlines()]


GOLDEN = {
    ("ps", "--json"): [
        "pid", "ppid", "name", "role", "tier", "state", "restarts", "messages", "ospid", "why",
    ],
    ("ps", "-a", "--json"): [
        "pid", "ppid", "name", "role", "tier", "state", "restarts", "messages", "ospid", "why",
    ],
    ("tree", "--json"): ["depth", "pid", "ppid", "name", "role", "state"],
    ("status", "--json"): [
        "tree", "version", "uptime", "boot", "ok", "faults", "processes", "states", "approvals",
        "mail", "stuck",
    ],
    ("inbox", "--json"): ["id", "new", "from", "date", "type", "body"],
    ("approve", "--json"): [
        "id", "agent", "action", "path", "by", "deadline", "size", "sha256", "body",
    ],
    ("audit", "--json"): ["actor", "changes", "seq", "time", "hash"],
}  # fmt: skip
"""The names are frozen: scripts go by them."""


@pytest.mark.parametrize("words", GOLDEN, ids=" ".join)
def test_every_listing_is_json_with_names_that_stay(town: Tree, words: tuple[str, ...]) -> None:
    if words[0] == "inbox":
        town.write("agents/alice/send", "To: init\n\nhello\n")
    if words[0] == "approve":
        rule = "{effect: allow, agent: eve, action: send, approval: {}}"
        town.write("etc/acl.yaml", f"rules: [{rule}]\n")
        town.spawn("eve", exec=["sh", "-c", 'echo hi > "$AGENTFS/agents/self/outbox/alice"'])
        eventually((town / "dev/approvals/000001").exists)
    found = rows(town, *words)
    assert found
    for row in found:
        assert list(row) == GOLDEN[words]
    if words[0] == "approve":
        town.write("dev/approvals/000001/decision", "reject not now")
        town.write("etc/acl.yaml", "rules: []\n")


def test_ps_says_why_and_remembers_what_has_ended(town: Tree) -> None:
    listed = {row["name"]: row for row in rows(town, "ps", "--json")}
    assert str(listed["alice"]["why"]).startswith("mail 2")
    bob = listed["bob"]["pid"]
    assert re.search(
        rf"^ *{bob} .* ended \S+ code 3: cannot open d.sh$", town.run("ps").stdout, re.M
    )
    town.read(f"proc/{bob}/wait")
    eventually(lambda: not (town / f"proc/{bob}").exists())
    assert "bob" not in {row["name"] for row in rows(town, "ps", "--json")}
    ended = {row["name"]: row for row in rows(town, "ps", "-a", "--json")}["bob"]
    assert re.fullmatch(r"ended \S+ code 3: cannot open d\.sh", str(ended["why"]))
    assert "code 3: cannot open d.sh" in town.run("ps", "-a").stdout


def test_status_in_a_few_lines(town: Tree) -> None:
    told = town.run("status").stdout
    assert told.startswith(f"{town.path}  agentfs ")
    assert "processes: " in told
    assert "approvals wait" in told


def test_events_are_sentences_with_filters(town: Tree) -> None:
    town.write("agents/self/outbox/alice", "for the log")
    told = town.run("events", "--no-follow", "--agent", "alice", "--type", "message_arrived").stdout
    assert re.search(r"message_arrived +alice \(\d+\): message \d+ from init arrived\n", told)
    assert "bob" not in told
    seen = rows(town, "events", "--no-follow", "--json")
    last = seen[-1]["seq"]
    town.write("agents/self/outbox/alice", "and one more")
    later = rows(town, "events", "--no-follow", "--since", str(last), "--json")
    assert later
    assert all(int(str(event["seq"])) > int(str(last)) for event in later)
    assert town.run("events", "--no-follow", "--since", "2999-01-01").stdout == ""
    assert town.run("events", "--no-follow", "--since", "10m").stdout
    wrong = town.run("events", "--since", "never", check=False)
    assert wrong.returncode == 2
    assert "a time ago (10m)" in wrong.stderr


def test_the_audit_is_sentences_with_filters(town: Tree) -> None:
    town.write("agents/self/outbox/alice", "for the audit")
    told = town.run("audit", "--agent", "alice", "--type", "message_arrived").stdout
    assert re.search(r"  by init +message_arrived: alice: message \d+ from init arrived", told)
    assert "process_exited" not in told
    assert town.run("audit", "--since", "2999-01-01").stdout == ""
    assert town.run("audit", "head", "--agent", "x", check=False).returncode == 2


def test_an_inbox_is_listed_read_answered_and_done(town: Tree) -> None:
    letter = "To: init\nType: result\n\nIt is <done>.\x1b[31m\n"
    before = {row["id"] for row in rows(town, "inbox", "--json")}
    town.write("agents/alice/send", letter)
    (number,) = {str(row["id"]) for row in rows(town, "inbox", "--json")} - before
    assert re.search(
        rf"^\* {number}  alice +\[result\] It is <done>", town.run("inbox").stdout, re.M
    )
    read = town.run("inbox", "read", number.lstrip("0")).stdout
    assert "Type: result" in read
    assert "\x1b" not in read, "what others wrote does nothing to a terminal"
    town.run("inbox", "reply", number, "Thank you.")
    eventually(lambda: "Thank you." in town.read("agents/alice/log"))
    assert f"In-Reply-To: <{number}@" in town.read("agents/alice/log")
    town.run("inbox", "done", number)
    assert number not in town.run("inbox").stdout
    assert "State: done" in town.read(f"agents/alice/sent/{number}")
    gone = town.run("inbox", "read", number, check=False)
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)


def test_what_recv_printed_is_done_unless_it_is_kept(town: Tree) -> None:
    for row in rows(town, "inbox", "--json"):
        town.run("inbox", "done", str(row["id"]))
    town.write("agents/alice/send", "To: init\n\none\n")
    assert town.run("recv").stdout.endswith("one\n")
    assert rows(town, "inbox", "--json") == [], "it is not merely claimed"
    town.write("agents/alice/send", "To: init\n\ntwo\n")
    assert town.run("recv", "--keep").stdout.endswith("two\n")
    (kept,) = rows(town, "inbox", "--json")
    assert kept["new"] is False
    shown_how = town.run("recv", "--how").stdout
    assert "echo done >&3" in shown_how


def test_logs_of_several_have_their_names_before(town: Tree) -> None:
    told = town.run("log", "bob", "alice").stdout
    assert "bob   | cannot open d.sh\n" in told
    assert town.run("log", "bob").stdout == "cannot open d.sh\n"


def terminal(tree: Tree, *words: str, **environment: str) -> str:
    """What a command prints on a terminal."""
    leader, follower = pty.openpty()
    try:
        given = {key: text for key, text in os.environ.items() if key != "NO_COLOR"}
        given |= {"AGENTFS": str(tree.path), "TERM": "xterm"} | environment
        subprocess.run([*AGENTFS, *words], stdout=follower, env=given, check=True, timeout=60)
        return os.read(leader, 1 << 16).decode()
    finally:
        os.close(leader)
        os.close(follower)


def test_colours_are_for_terminals_and_always_with_a_word(town: Tree) -> None:
    assert "\x1b[2midle" in terminal(town, "ps")
    assert "\x1b" not in terminal(town, "ps", NO_COLOR="1")
    assert "\x1b" not in town.run("ps").stdout
    os.environ["CLICOLOR_FORCE"] = "1"
    try:
        assert "\x1b[2midle" in town.run("ps").stdout
    finally:
        del os.environ["CLICOLOR_FORCE"]


BASES = ("artifact_event", "task_event", "worker_event")
"""Kinds of which there is never an event."""


def test_every_event_has_a_sentence_that_fits_its_fields() -> None:
    for kind in vocabulary().values():
        if kind.type in (*BASES, "why_changed", "shown_state_changed"):
            continue
        slots = {name for each in kind.__mro__ for name in getattr(each, "__slots__", ())}
        wanted = set(re.findall(r"{(\w+)", SENTENCES[kind.type]))
        assert wanted <= slots, kind.type


def test_words_of_others_and_unknown_types() -> None:
    event = {"seq": 1, "time": "T", "type": "new_kind", "agent": "b\x1b[31m", "pid": 7, "x": "y\nz"}
    assert sentence(event) == "b\ufffd[31m (7): x y z"
    assert event_line(event).startswith("T  new_kind ")
    assert shown("a\u202eb") == "a\ufffdb"
    assert not Filter(["a"]).event(event)
