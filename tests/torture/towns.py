"""Trees with the agents of our documents in them, and the work that they are given.

The programs are read from the documents as they are written there, and started by the commands that
stand beside them. There are four trees, since some of them take from a queue of the same name, or
have the same names.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from agentfs.agent import Message
from tests.hatchery import Hatchery, QuickTree
from tests.torture.failpoints import Panel
from tests.tree import eventually

__all__ = ["PATH", "PATIENCE", "TOWNS", "Town"]

ROOT = Path(__file__).parents[2]
PATH = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
"""Where `agentfs` is, and a `python3` that has it: what the README exports first."""

PATIENCE = 60.0


def block(document: str, first: str) -> str:
    """The program in `document` whose text contains `first`, as it is written there."""
    text = (ROOT / document).read_text()
    found = [
        shown
        for shown in re.findall(r"^```[a-z]+\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        if first in shown
    ]
    if len(found) != 1:
        raise AssertionError(f"{document} shows {len(found)} programs with {first!r}")
    return found[0]


def line(document: str, pattern: str) -> str:
    """What `pattern` has in its group, in the one line of `document` that it fits."""
    found = re.findall(pattern, (ROOT / document).read_text(), re.MULTILINE)
    if len(found) != 1:
        raise AssertionError(f"{document} has {len(found)} lines like {pattern!r}")
    return str(found[0])


class Town:
    """A tree with some of the agents. `said` is what they answered to the operator."""

    name = ""

    def __init__(self, folder: Path, hatchery: Hatchery, panel: Panel) -> None:
        self.tree = QuickTree(folder / self.name, hatchery=hatchery)
        self.tree.words = ("--panel", panel.path)
        self.desk = folder / f"{self.name}-desk"  # where the commands are typed
        self.desk.mkdir()
        self.said: list[tuple[str, str]] = []
        self.settled = 0  # the number of the last event of the work
        self.kept: dict[str, str] = {}

    def shell(self, command: str) -> str:
        """What a person types, in the desk, and sees."""
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=self.desk,
            env=os.environ | PATH | {"AGENTFS": str(self.tree.path)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if done.returncode:
            raise AssertionError(f"{command}: {done.stderr}{done.stdout}")
        return done.stdout

    def put(self, name: str, text: str) -> None:
        (self.desk / name).write_text(text)

    def open(self) -> None:
        """Start the agents."""
        raise NotImplementedError

    def work(self) -> None:
        """Give each of them its work; returns when all of it is done."""
        raise NotImplementedError

    def wrong(self) -> list[str]:
        """What of that was sent more or less often than once."""
        wanted, sent = self.wanted(), self.count("sent")
        return [] if sent == wanted else [f"{self.name}: sent {sent}, and not {wanted}"]

    def wanted(self) -> dict[str, int]:
        """How many messages each agent sends for it."""
        raise NotImplementedError

    def remind(self) -> Counter[str]:
        """Set reminders for in half an hour; the events that there are to be of them."""
        return Counter()

    def agents(self) -> list[str]:
        return sorted(set(os.listdir(self.tree / "agents")) - {"self"})

    def receive(self, count: int) -> None:
        """Read so many answers, and be done with them."""
        inbox = self.tree / "agents/init/inbox/new"
        eventually(lambda: len(os.listdir(inbox)) >= count, f"{self.name}: no answers", PATIENCE)
        for _ in range(count):
            message = Message((self.tree / "agents/init/recv").read_bytes())
            self.said.append((message.sender, message.text.strip()))
        self.tree.write("agents/init/recv", "done")

    # -- how it is ---------------------------------------------------------------------------------

    def uptime(self) -> float:
        return float(self.tree.read("proc/uptime"))

    def events(self) -> list[dict[str, object]]:
        """The events since it settled, but what the machine's disk may bring: `loop_held`. The end
        of a tree says whether it was its own fault (`Tree.clean_up`)."""
        stream = os.open(self.tree / "dev/events.all", os.O_RDWR | os.O_NONBLOCK)
        try:
            os.write(stream, f"since {self.settled}\n".encode())
            text = b""
            while True:
                try:
                    text += os.read(stream, 65536)
                except BlockingIOError:
                    break
        finally:
            os.close(stream)
        records = map(json.loads, text.splitlines())
        others = ("boot", "loop_held")  # each answer begins with a boot
        return [record for record in records if record["type"] not in others]

    def last(self) -> int:
        return int(json.loads(self.tree.read("sys/stats/system"))["events"])

    def count(self, folder: str) -> dict[str, int]:
        """How many are in this folder of each agent."""
        agents = self.tree / "agents"
        return {name: len(os.listdir(agents / name / folder)) for name in self.agents()}

    def mail(self) -> list[str]:
        """What lies where nothing is to lie."""
        return [
            f"{self.name}: {count} in {folder} of {agent}"
            for folder in ("inbox/new", "inbox/cur", "dead")
            for agent, count in self.count(folder).items()
            if count
        ] + [
            f"{self.name}: {queue.name} is not empty"
            for queue in (self.tree / "dev/queues").iterdir()
            if (queue / "length").read_text() != "0\n" or os.listdir(queue / "dead")
        ]

    def keeps(self) -> dict[str, str]:
        """What the agents have written: logs, memories, and /shared."""
        files = [
            *self.tree.path.glob("agents/*/log"),
            *self.tree.path.glob("agents/*/memory/*"),
            *self.tree.path.glob("shared/*.txt"),
            *self.tree.path.glob("dev/queues/*/length"),
        ]
        return {str(file.relative_to(self.tree.path)): file.read_text() for file in files}

    def figures(self) -> dict[str, int]:
        """Whatever could grow."""
        stats = json.loads(self.tree.read("sys/stats/system"))
        status = Path(f"/proc/{self.tree.daemon}/status").read_text()
        fields = dict(re.findall(r"^(\w+):\s+(\d+)", status, re.MULTILINE))
        return {
            "memory": int(fields["VmRSS"]) * 1024,
            "descriptors": len(os.listdir(f"/proc/{self.tree.daemon}/fd")),
            "bytes of the store": (self.tree.state / "store.db").stat().st_size,
            "timers": stats["timers"],
            "processes": sum(stats["processes"].values()),
            "sent messages": sum(self.count("sent").values()),
            "inodes": stats["mount"]["inodes"],
        }


class Letters(Town):
    """The agents of the README, and the one of docs/agents.md in three languages."""

    name = "letters"

    def open(self) -> None:
        self.put("upper.sh", block("README.md", "# upper.sh: "))
        self.put("system.yaml", block("README.md", "metadata: {name: letters}"))
        self.put("shout.py", block("README.md", '"""shout.py: '))
        for suffix, mark in ((".sh", "# "), (".py", '"""'), (".pl", "# ")):
            self.put(f"counter{suffix}", block("docs/agents.md", f"{mark}counter{suffix}: answers"))
        self.shell(line("README.md", r"^\$ (agentfs spawn -n loud .*)$"))
        self.shell(line("README.md", r"^`(agentfs spawn -n upper -- [^`]*)`"))
        self.shell("agentfs up --detach system.yaml")
        self.shell(line("README.md", r"^\(`(mkdir [^`]*)` before it starts"))
        self.shell("agentfs spawn -n shout -- python3 shout.py")
        self.shell("agentfs spawn -n counter-sh -- sh counter.sh")
        self.shell("agentfs spawn -n counter-py -- python3 counter.py")
        self.shell("agentfs spawn -n counter-pl -- perl counter.pl")

    def work(self) -> None:
        asked = [name for name in self.agents() if name != "init"]
        for name in asked:
            self.tree.write(f"agents/init/outbox/{name}", f"hello {name}\n")
        self.receive(len(asked))
        wanted = [
            (name, "1 so far" if name.startswith("counter") else f"HELLO {name.upper()}")
            for name in asked
        ]
        assert sorted(self.said) == sorted(wanted), self.said
        news = os.open(self.tree / "dev/topics/news", os.O_RDWR)
        try:
            self.tree.write("dev/queues/jobs/send", "a job\n")
            assert json.loads(os.read(news, 4096))["data"] == "a job begun"
        finally:
            os.close(news)

    def wanted(self) -> dict[str, int]:
        return dict.fromkeys(self.agents(), 1) | {"init": len(self.said) + 1}  # and the job

    def remind(self) -> Counter[str]:
        reminded = ("shout", "counter-py")
        for name in reminded:
            self.tree.write(f"agents/{name}/reminders/new", "in 30m stretch your legs\n")
        once = ["reminder_set", "reminder_fired"]
        once += ["message_arrived", "message_claimed", "message_done"]
        # It works, and is idle again; and answers nobody.
        return Counter([*once, "state_changed", "state_changed"] * len(reminded))


class Pipeline(Town):
    """The first example that is a system."""

    name = "pipeline"

    def open(self) -> None:
        self.shell(f"agentfs up --detach {ROOT}/examples/pipeline/system.yaml")

    def work(self) -> None:
        jobs, table = self.tree / "dev/queues/jobs/send", self.tree / "shared/factors.txt"
        eventually(jobs.exists, "no foreman", PATIENCE)
        self.tree.write("dev/queues/jobs/send", "1001\n")
        eventually(lambda: table.exists() and table.read_text() == "1001: 7 11 13\n", "", PATIENCE)

    def wanted(self) -> dict[str, int]:
        return {"init": 1, "foreman": 0, "collector": 0, "worker-1": 1}


class WordCount(Town):
    """The second; its lead ends when everything is counted, and its workers stay."""

    name = "wordcount"

    def open(self) -> None:
        self.put("text", "four words a line\n" * 4000)
        system = f"{ROOT}/examples/wordcount/system.yaml"
        # Seventeen pieces, none so quickly done that the lead ends before all workers are there.
        pause = "--env WORDCOUNT_PAUSE=0.2"
        self.shell(f"agentfs up --detach {system} --env WORDCOUNT_DIR={self.desk} {pause}")

    def work(self) -> None:
        table, pid = self.tree / "shared/wordcount.txt", self.tree / "agents/lead/pid"
        eventually(table.exists, "no table of words", PATIENCE)
        assert table.read_text().split()[-2:] == ["16000", "total"]
        eventually(lambda: not pid.read_text().strip(), "the lead does not end", PATIENCE)

    def wrong(self) -> list[str]:
        sent = self.count("sent")
        pieces, answers = sent["lead"], sum(sent[f"worker-{n}"] for n in (1, 2, 3))
        return [] if answers == pieces + 3 else [f"{answers} answers to {pieces} pieces"]


class Queue(Town):
    """The workers of docs/sharing.md, and the child that is talked to through pipes."""

    name = "queue"

    def open(self) -> None:
        simple = line("docs/sharing.md", r"^    (while msg=\$\(cat jobs/recv.*)$")
        several = line("docs/sharing.md", r"^    (worker\(\) \{ .*\})$")
        together = line("docs/sharing.md", r"^    (worker & .*)$")
        self.shell("mkdir $AGENTFS/dev/queues/jobs")
        work = 'cd "$AGENTFS/dev/queues"; work() { echo "${1##*\n}"; }'.replace("\\n", "\n")
        for name, loop in (("simple", simple), ("several", f"{several}\n{together}")):
            self.put(f"{name}.sh", f"{work}\n{loop}\n")
            self.shell(f"agentfs spawn -n {name} -- sh {name}.sh")

    def work(self) -> None:
        for number in range(8):
            self.tree.write("dev/queues/jobs/send", f"job {number}\n")
        eventually(lambda: len(self.done()) >= 8, "the jobs are not done", PATIENCE)
        pipes = line("docs/sharing.md", r"^(    cd \$AGENTFS\n(?:    .*\n)+)")
        assert self.shell(pipes) == "got hello\n"  # and it ends, with its input
        bob = self.tree / "agents/bob/pid"
        eventually(lambda: not bob.read_text().strip(), "bob does not end", PATIENCE)

    def wanted(self) -> dict[str, int]:
        return {"init": 8, "simple": 0, "several": 0, "bob": 0}

    def wrong(self) -> list[str]:
        wanted = [f"job {number}" for number in range(8)]
        return super().wrong() + ([] if self.done() == wanted else [f"done: {self.done()}"])

    def done(self) -> list[str]:
        return sorted(
            text
            for name in ("simple", "several")
            for text in self.tree.read(f"agents/{name}/log").splitlines()
        )


TOWNS: tuple[type[Town], ...] = (Letters, Pipeline, WordCount, Queue)
