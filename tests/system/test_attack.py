"""An agent that tries to get at what it may not, as its neighbour's user and as another one: it
gets nothing, and each attempt that addresses the tree is a record of the audit.

What Linux itself refuses, by mode bits or because the target is another user's program, never comes
to the tree; `attacker.py` says of each attempt who keeps it out.
"""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.puppet import Puppet
from tests.tree import Tree

pytestmark = pytest.mark.mount

PROGRAM = (Path(__file__).parent / "attacker.py").read_text()

RULES = """
rules:
- {effect: deny, agent: mallory, action: read_process, path: /agents/bob/*}
- {effect: deny, agent: mallory, path: /shared/vault/**}
- {effect: allow, agent: auditor, action: read_process, path: /agents/bob/*}
- {effect: allow, agent: mallory, action: spawn, path: /agents/asked, approval: {timeout: 1h}}
- {effect: allow, agent: bob, action: spawn, path: /agents/helper, approval: {timeout: 1h}}
"""

MALLORY = {
    "role": "worker",
    "tier": "tactical",
    "restart": "never",
    "caps": [
        "spawn_children", "kill_processes", "shell_exec", "network_access", "file_read",
        "file_write", "escalate", "memory", "datastore.read", "datastore.write", "llm",
        "tool:safe*", "secret",
    ],
    "limits": {"max_children": 3, "messages_per_minute": 5},
    "budget": {"tactical": 1000},
}  # fmt: skip

FORGED = ("From: init", "Sender:", "Relation: system", "<1@x>", "1970", "<2@x>", "Attempt: 7")

SECRETS = [
    "a secret",
    "bob's secret",
    "What is it?",
    "tea with carol",
    "hideout",
    "hush",
    "the plan",
    "sk-hers",
]
"""What is in mail, files, reminders, artifacts, the environment and the secrets."""

KEY = "etc/secrets/ANTHROPIC_API_KEY"

PIPELINE = """
kind: Pipeline
metadata: {name: theirs}
spec: {nodes: [{name: w, wait: go, input_mapping: {note: "{{ input.note }}"}}]}
"""

FOLDERS = (
    "agents",
    *(f"agents/bob/{name}" for name in ("inbox/new", "inbox/cur", "sent", "asks", "reminders")),
    *("agents/bob/memory", "agents/bob/shm/private", "dev/queues", "dev/topics", "dev/shm/global"),
    *("shared", "shared/docs", "shared/vault", "etc", "etc/secrets"),
    *("etc/pipelines", "proc/runs"),
    *("sys/cgroup", "sys/cgroup/team"),
)

LIMITS = ("max_children", "messages_per_minute", "max_tokens_total", "max_cost_usd")


class Scene:
    """What there is to be had: a neighbour with mail, files and a program, and the system's own."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        tree.write("etc/acl.yaml", RULES)
        (tree / KEY).write_text("sk-hers\n")
        self.bob = Puppet(tree, "bob", role="worker", tier="tactical", env={"TOKEN": "hush"})
        tree.write("agents/init/outbox/bob", "a secret\n")
        self.mail = self.bob.ls("agents/self/inbox/new")[0]
        self.bob.do(f"os.open(me + '/inbox/new/{self.mail}', os.O_RDONLY)")
        self.bob.send("init", "Reply-By: 1h\n\nWhat is it?")
        self.sent, self.ask = self.bob.ls("agents/self/sent")[0], self.bob.ls("agents/self/asks")[0]
        self.reminder = self.bob.ask("agents/self/reminders/new", "in 1h tea with carol").strip()
        memory = tree / "agents/bob/memory"
        (memory / "notes").write_text("bob's secret\n")
        os.setxattr(memory / "notes", "user.secret", b"tell nobody")
        (memory / "way").symlink_to("notes")
        os.mkfifo(memory / "fifo", 0o666)
        (tree / "shared/docs/guide").write_text("the guide\n")
        (tree / "shared/vault").mkdir()
        (tree / "shared/vault").chmod(0o777)
        (tree / "shared/vault/plan").write_text("the plan\n")
        (tree / "shared/vault/plan").chmod(0o666)
        (tree / "dev/shm/global/plan").write_text("everybody's\n")
        self.bob.do(
            "os.close(os.open(tree + '/dev/shm/private/hideout', os.O_CREAT | os.O_WRONLY))"
        )
        (tree / "dev/queues/jobs").mkdir()
        (tree / "dev/queues/jobs").chmod(0o700)
        os.close(os.open(tree / "dev/topics/news", os.O_CREAT | os.O_WRONLY))
        (tree / "dev/topics/news").chmod(0o600)
        (tree / "sys/cgroup/team").mkdir()
        (tree / "etc/pipelines/theirs.yaml").write_text(PIPELINE)
        self.run = int(tree.ask("etc/pipelines/theirs/run", '{"note": "a secret"}'))
        with pytest.raises(BlockingIOError):
            self.bob.do(ASK_FOR_A_HELPER)
        self.sleeper = tree.start("sleep", "1000").pid

    def given(self, **more: object) -> str:
        """What the attacker knows, which is everything."""
        tree = self.tree
        known = {
            "bob": str(self.bob.pid),
            "bobs": int(tree.read(f"proc/{self.bob.pid}/ospid")),
            "daemon": tree.daemon,
            "state": str(tree.state),
            "mail": self.mail,
            "sent": self.sent,
            "ask": self.ask,
            "reminder": self.reminder,
            "run": str(self.run),
            "secrets": SECRETS,
            "sleeper": self.sleeper,
        }
        return json.dumps(known | more)

    def snapshot(self) -> dict[str, Any]:
        """Everything that must be as it was."""
        tree, bob = self.tree, self.bob
        found: dict[str, Any] = {}
        for path in FOLDERS:
            found[path] = sorted(set(os.listdir(tree / path)) - {"mallory", "wide"})
        paths = [f"proc/{bob.pid}/{name}" for name in ("state", "ppid", "exit", "ospid")]
        paths += [f"proc/{bob.pid}/limits/{name}" for name in LIMITS]
        paths += [f"proc/{bob.pid}/caps/effective", f"proc/{bob.pid}/budget/tactical/remaining"]
        paths += [f"etc/{name}" for name in found["etc"] if name.endswith(".yaml")]
        paths += [f"proc/runs/{self.run}/{name}" for name in ("state", "input")]
        paths += [f"agents/bob/{name}" for name in ("log", "spec.yaml", "memory/notes")]
        paths += [f"agents/bob/inbox/new/{self.mail}", "shared/docs/guide", "shared/vault/plan"]
        paths += ["dev/shm/global/plan", "sys/cgroup/team/tokens.max"]
        paths += ["sys/cgroup/team/cgroup.procs", "dev/approvals/000001/status"]
        found |= {path: tree.read(path) for path in paths}
        modes = ("agents/bob/memory/notes", "dev/queues/jobs", "dev/topics/news", KEY)
        for path in modes:
            found[f"mode of {path}"] = (tree / path).stat().st_mode
        found["xattr"] = os.getxattr(tree / "agents/bob/memory/notes", "user.secret")
        found["key"] = os.getxattr(tree / KEY, "user.fingerprint")
        found["sleeper"] = Path(f"/proc/{self.sleeper}/stat").read_text().split()[2]
        return found


ASK_FOR_A_HELPER = (
    "os.write(os.open(tree + '/proc/self/spawn', os.O_RDWR | os.O_NONBLOCK), b'{name: helper}')"
)


@pytest.fixture
def scene(tree: Tree) -> Iterator[Scene]:
    made = Scene(tree)
    yield made
    made.bob.close()


def attack(scene: Scene, **spec: object) -> list[dict[str, Any]]:
    """What the attacker says of each of its attempts."""
    who = "other" if "user" in spec else "same"
    account = "daemon" if who == "other" else "nobody"
    given = scene.given(who=who, user=account)
    command = [_interpreter() if who == "other" else sys.executable, "-c", PROGRAM, given]
    pid = scene.tree.spawn("mallory", exec=command, **{**MALLORY, **spec})
    code = (scene.tree / f"proc/{pid}/wait").read_text()
    lines = scene.tree.read("agents/mallory/log").splitlines()
    assert code == "0\n", "\n".join(lines[-20:])
    return [json.loads(line) for line in lines]


def _interpreter() -> str:
    """A Python that other users can run: root's own may lie in a closed home."""
    return "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


def refusals(tree: Tree, names: set[str]) -> list[tuple[str, str]]:
    """(path, errno) of every refusal that the audit has of these, in order."""
    records = [json.loads(line) for line in tree.read("sys/audit/log").splitlines()]
    return [
        (change["path"], change["errno"])
        for record in records
        if record["actor"]["name"] in names
        for change in record["changes"]
        if change["type"] == "call_refused"
    ]


def check(scene: Scene, before: dict[str, Any], attempts: list[dict[str, Any]]) -> None:
    """It got nothing, nothing changed, and what came to the tree is in the audit, in order."""
    got = [each for each in attempts if each["got"] is not None]
    assert not got
    for each in attempts:
        modes = ("EACCES", "EPERM") if each["modes"] else ()
        expected = each["errors"] or [""]
        assert each["errno"] in (*expected, *modes), each
    assert scene.snapshot() == before
    assert scene.tree.read("sys/audit/verify").startswith("ok ")


def check_audit(
    tree: Tree, attempts: list[dict[str, Any]], recorded: Callable[[dict[str, Any]], bool]
) -> None:
    """Each of the attempts that are to be `recorded` is; equal ones are one record."""
    found = set(refusals(tree, {"mallory", "a stranger"}))
    for each in attempts:
        if recorded(each):
            wanted = (each["path"], each["errno"])
            assert wanted in found, f"no record of {each}"


def test_an_agent_gets_nothing_of_its_neighbours_under_the_same_user(scene: Scene) -> None:
    before = scene.snapshot()
    attempts = attack(scene)
    check(scene, before, attempts)
    addressed = [each for each in attempts if each["path"]]
    assert len(addressed) >= 100
    check_audit(scene.tree, attempts, lambda each: bool(each["path"]))
    mail = scene.tree / "agents/init/inbox/new"
    texts = [(mail / name).read_text() for name in os.listdir(mail)]
    [forged] = [text for text in texts if "forged" in text]
    assert "From: mallory\n" in forged
    assert "Relation: child\n" in forged
    assert not any(word in forged for word in FORGED)


@pytest.mark.skipif(os.geteuid() != 0, reason="runs an agent as another user, which root can")
def test_an_agent_gets_nothing_of_its_neighbours_as_another_user(scene: Scene) -> None:
    for folder in scene.tree.path.parents:  # pytest's own are 0700
        if str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    before = scene.snapshot()
    attempts = attack(scene, user=pwd.getpwnam("nobody").pw_name)
    check(scene, before, attempts)
    assert len([each for each in attempts if each["guard"] == "linux"]) >= 25
    check_audit(scene.tree, attempts, lambda each: bool(each["path"]) and not each["modes"])


def test_no_name_of_a_file_forges_a_line_that_a_person_reads(tree: Tree) -> None:
    """Whoever decides on a request reads it a line at a time, and so does who reads the log."""
    rule = "{effect: allow, agent: mallory, action: write_file, path: /shared/**, approval: {}}"
    tree.write("etc/acl.yaml", f"rules:\n- {rule}\n- {{effect: deny, agent: eve}}\n")
    mallory, eve = Puppet(tree, "mallory"), Puppet(tree, "eve")
    for name in ("x\nRule:\tnone\nAgent:\tinit", "caf\udce9"):
        with pytest.raises(BlockingIOError):
            mallory.do(f"os.mkdir(tree + '/shared/' + {name!r})")
        with pytest.raises(PermissionError):
            eve.do(f"os.mkdir(tree + '/shared/' + {name!r})")
        assert len(eve.read("proc/self/error").splitlines()) == 1
    first = tree.read("dev/approvals/000001/request").splitlines()
    assert [line.split(":")[0] for line in first] == REQUEST
    assert first[5] == "Path:\t" + r"/shared/x\012Rule:\011none\012Agent:\011init"
    assert r"/shared/caf\351" in tree.read("dev/approvals/000002/request")
    mail = tree / "agents/init/inbox/new"
    texts = [(mail / name).read_text() for name in os.listdir(mail)]
    asked = [text.split("\n\n")[1] for text in texts]
    assert all(len(sentence.splitlines()) == 1 for sentence in asked)
    assert not [line for line in tree.log().splitlines() if line.startswith("Rule:")]
    mallory.close()
    eve.close()


REQUEST = ["Id", "Agent", "Pid", "User", "Action", "Path", "Rule", "By", "Asked", "Size", "SHA256"]
