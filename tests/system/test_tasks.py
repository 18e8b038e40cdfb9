"""Tasks and workers as people use them: with a shell, by the command, by programs that are killed,
through one mounted tree."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.llm.small import serve
from tests.pages import run
from tests.system.test_inotify import Watcher
from tests.tree import AGENTFS, PATIENCE, Tree, eventually, until

pytestmark = pytest.mark.mount

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tree(
    fuse: None, hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tree]:
    made = QuickTree(tmp_path_factory.mktemp("tasks") / "tree", hatchery=hatchery)
    try:
        made.mount()
        made.write("etc/agentfs.yaml", "tasks: {max_concurrent: 100}\n")
        yield made
    finally:
        made.clean_up()


def submit(tree: Tree, description: str = "work", **more: Any) -> int:
    return int(tree.ask("dev/tasks/new", json.dumps({"description": description} | more)))


def register(tree: Tree, name: str, **more: Any) -> None:
    """A worker for those tasks alone that require its name."""
    capabilities = {"only": name} | more.pop("capabilities", {})
    tree.ask("dev/workers/new", json.dumps({"name": name, "capabilities": capabilities} | more))


def state(tree: Tree, task: int) -> str:
    return tree.read(f"dev/tasks/{task}/state").strip()


def info(tree: Tree, task: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tree.read(f"dev/tasks/{task}/info"))
    return found


class Desk:
    """An open `recv` of a worker."""

    def __init__(self, tree: Tree, worker: str) -> None:
        self.file = os.open(tree / f"dev/workers/{worker}/recv", os.O_RDWR | os.O_DIRECT)

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *failure: object) -> None:
        with contextlib.suppress(OSError):  # the daemon is gone
            os.close(self.file)

    def take(self) -> dict[str, Any]:
        head, _, body = os.read(self.file, 65536).decode().partition("\n\n")
        assert "\nType: assigned-task\n" in head
        said: dict[str, Any] = json.loads(body)
        return said

    def answer(self, said: dict[str, Any], **words: Any) -> None:
        about = {"task": said["task"], "attempt": said["attempt"]}
        os.write(self.file, json.dumps(about | words).encode() + b"\n")


def refusal(tree: Tree, path: str, text: str) -> str:
    """Why a write is refused."""
    with pytest.raises(OSError):
        tree.write(path, text)
    return tree.read("proc/self/error").strip()


# -- what is required ------------------------------------------------------------------------------


def test_what_nobody_can_do_says_why_and_who_comes_and_can_gets_it_at_once(tree: Tree) -> None:
    register(tree, "small", capabilities={"gpu": False, "cpu": "low", "skills": ["read"]})
    task = submit(tree, requirements={"gpu": True, "cpu": "high", "skills": ["read", "draw"]})
    said = tree.read(f"dev/tasks/{task}/reason")
    assert "gpu" in said
    assert "cpu high: the best has low" in said
    assert "skills" in said
    able = {"gpu": True, "cpu": "high", "skills": ["draw", "read", "write"]}
    tree.write("dev/workers/small/capabilities", json.dumps({"cpu": "high"}))
    assert "cpu" not in tree.read(f"dev/tasks/{task}/reason")
    assert state(tree, task) == "validated"
    watcher = Watcher(tree, tree / f"dev/tasks/{task}", tree / "dev/tasks/by-state/assigned")
    register(tree, "able", capabilities=able)
    assert state(tree, task) == "assigned"
    assert watcher.until("CREATE", f"dev/tasks/by-state/assigned/{task}")
    assert info(tree, task)["worker"] == "able"
    assert os.readlink(tree / f"dev/workers/able/tasks/{task}") == f"../../../tasks/{task}"
    assert os.listdir(tree / "dev/tasks/by-state/validated") == []


def test_what_is_written_wrong_is_refused_in_words_and_changes_nothing(tree: Tree) -> None:
    before = tree.read("dev/tasks/stats")
    for text, words in (
        ("\n", "a task was expected"),
        ("{}", "description: Field required"),
        ("note: buy milk", "a text is `description: TEXT`"),
        ("description: x\npriorty: 3\n", "line 2: priorty: there is no such key"),
        ('{"description": "x", "priority": 10}', "priority: "),
        ('{"description": "x", "timeout": "soon"}', "timeout: a duration"),
        ("description: x\nrequirements: {a: {b: 1}}", "requirements: a: a number, a text"),
        ("description: x\ndescription: y\n", "is there twice"),
    ):
        assert words in refusal(tree, "dev/tasks/new", text), text
    for text, words in (
        ("{name: a/b}", "is no name for a worker"),
        ("{name: kernel}", "reserved"),
        ("{name: x, agent: nobody1}", "there is no agent"),
        ("{name: x, pool: nothing}", "there is no pool"),
        ("{name: x, agent: a, pool: b}", "an agent or a pool, not both"),
    ):
        assert words in refusal(tree, "dev/workers/new", text), text
    register(tree, "right")
    for path, text, words in (
        ("capabilities", "[1]", "EINVAL: capabilities: "),
        ("capabilities", "{", "not JSON in line 1"),
        ("ctl", "capacity 0", "capacity: "),
        ("ctl", "sleep", "capacity N or remove"),
    ):
        assert words in refusal(tree, f"dev/workers/right/{path}", text)
    assert tree.read("dev/tasks/stats") == before
    waits = submit(tree, requirements={"only": "no one"})
    assert "EPERM: no worker has task" in refusal(tree, f"dev/tasks/{waits}/result", "x")
    tree.write(f"dev/tasks/{waits}/ctl", "cancel\n")


def test_queries_give_the_newest_first(tree: Tree) -> None:
    register(tree, "asked")
    tasks = [submit(tree, f"q{n}", requirements={"only": "asked"}) for n in range(3)]
    tree.write(f"dev/tasks/{tasks[1]}/ctl", "cancel")

    def found(query: str) -> list[int]:
        return [json.loads(line)["id"] for line in tree.ask("dev/tasks/query", query).splitlines()]

    assert found("worker=asked") == tasks[::-1]
    assert found("worker=asked limit=2") == tasks[:0:-1]
    assert found("worker=asked state=cancelled submitter=init since=1h") == [tasks[1]]
    assert found("worker=asked state=failed") == []
    for query, words in (
        ("status=failed", "did you mean"),
        ("state=faild", "did you mean failed?"),
        ("limit=0", "limit"),
        ("worker=a worker=b", "at most once"),
    ):
        with pytest.raises(OSError):
            tree.ask("dev/tasks/query", query)
        assert words in tree.read("proc/self/error")


def test_the_highest_priority_is_first_and_may_be_changed(tree: Tree) -> None:
    register(tree, "one", capacity=1)
    wanted = {"only": "one"}
    busy, low, high, middle = (submit(tree, requirements=wanted, priority=n) for n in (5, 1, 8, 5))
    tree.write(f"dev/tasks/{low}/priority", "9\n")
    assert tree.read(f"dev/tasks/{low}/priority") == "9\n"
    assert "EINVAL" in refusal(tree, f"dev/tasks/{low}/priority", "10")
    with Desk(tree, "one") as desk:
        for task in (busy, low, high, middle):
            said = desk.take()
            assert said["task"] == task
            desk.answer(said, ok=None)
            assert state(tree, task) == "completed"


# -- how many at a time ----------------------------------------------------------------------------


def test_fifty_submitters_stay_within_what_may_run_and_what_a_worker_may_have(tree: Tree) -> None:
    most, capacity, names = 7, 3, [f"crowd{n}" for n in range(4)]
    tree.write("etc/agentfs.yaml", f"tasks: {{max_concurrent: {most}}}\n")
    open_now = [n for n in tree.read("dev/tasks/stats").split(",") if "assigned" in n]
    for name in os.listdir(tree / "dev/workers"):
        with contextlib.suppress(OSError):
            os.rmdir(tree / f"dev/workers/{name}")
    for name in names:
        register(tree, name, capacity=capacity, capabilities={"crowd": True})
    tasks: list[int] = []
    done: list[int] = []
    highest = [0]
    over = threading.Event()

    def work(name: str) -> None:
        with Desk(tree, name) as desk:
            poll = select.poll()
            poll.register(desk.file, select.POLLIN)
            while not over.is_set():
                if poll.poll(100):
                    said = desk.take()
                    stats = json.loads(tree.read("dev/tasks/stats"))
                    highest[0] = max(highest[0], stats["assigned"] + stats["running"])
                    assert len(os.listdir(tree / f"dev/workers/{name}/tasks")) <= capacity
                    desk.answer(said, ok=said["task"])
                    done.append(said["task"])

    def one(number: int) -> None:
        tasks.append(submit(tree, f"crowd {number}", requirements={"crowd": True}))

    threads = [threading.Thread(target=one, args=(n,)) for n in range(50)]
    threads += [threading.Thread(target=work, args=(name,)) for name in names]
    try:
        for thread in threads:
            thread.start()
        eventually(lambda: len(done) >= 50, f"{open_now}")
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
        tree.write("etc/agentfs.yaml", "tasks: {max_concurrent: 100}\n")
    assert sorted(done) == sorted(tasks), "each of them once"
    assert 0 < highest[0] <= most
    assert {state(tree, task) for task in tasks} == {"completed"}


# -- answers ---------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_loses_its_task_to_another(tree: Tree) -> None:
    register(tree, "mortal")
    task = submit(tree, requirements={"only": "mortal"})
    program = f"exec 4<>{tree.path}/dev/workers/mortal/recv; cat <&4 >/dev/null; exec sleep 1000"
    victim = tree.start("bash", "-c", program)
    until(tree / f"dev/tasks/{task}/state", "running")
    assert info(tree, task)["attempt"] == 1
    with Desk(tree, "mortal") as desk:
        victim.kill()
        victim.wait()
        said = desk.take()
        assert (said["task"], said["attempt"]) == (task, 2)
        with pytest.raises(OSError) as late:
            desk.answer(said | {"attempt": 1}, ok=1)
        assert late.value.errno == errno.ESTALE
        desk.answer(said, ok={"n": 1})
        with pytest.raises(OSError) as twice:
            desk.answer(said, ok=2)
        assert twice.value.errno == errno.ESTALE
    end = json.loads(tree.read(f"dev/tasks/{task}/wait"))
    assert end == {"state": "completed", "error": None, "result": {"n": 1}}


CARRIER = """
import json, os, sys, time
recv = os.open(sys.argv[1] + "/recv", os.O_RDWR | os.O_DIRECT)
while True:
    head, _, body = os.read(recv, 1 << 16).partition(b"\\n\\n")
    task = json.loads(body)
    time.sleep(0.05)
    answer = {"task": task["task"], "attempt": task["attempt"], "ok": task["input"] * 2}
    os.write(recv, json.dumps(answer).encode())
"""


def test_two_hundred_tasks_of_five_workers_that_are_killed_have_a_result_each(tree: Tree) -> None:
    chance, count = random.Random(15), 200
    names = [f"carrier-{number}" for number in range(5)]

    def begin(name: str) -> subprocess.Popen[bytes]:
        return tree.start(sys.executable, "-S", "-c", CARRIER, str(tree / f"dev/workers/{name}"))

    for name in names:
        register(tree, name, capabilities={"only": "carrier"})
    carriers = {name: begin(name) for name in names}
    wanted = {"requirements": {"only": "carrier"}, "max_attempts": 1000}
    tasks = [submit(tree, input=number, **wanted) for number in range(count)]
    kills = 0
    while any(state(tree, task) != "completed" for task in tasks):
        name = chance.choice(names)
        time.sleep(chance.uniform(0, 0.1))
        carriers[name].kill()
        carriers[name].wait()
        carriers[name] = begin(name)
        kills += 1
    for carrier in carriers.values():
        carrier.kill()
    attempts = 0
    for number, task in enumerate(tasks):
        assert json.loads(tree.read(f"dev/tasks/{task}/result")) == 2 * number
        steps = [json.loads(line) for line in tree.read(f"dev/tasks/{task}/history").splitlines()]
        assert [step["state"] for step in steps].count("completed") == 1
        attempts += info(tree, task)["attempt"]
    assert kills > 10
    assert attempts > count, "some were killed at work"
    for name in names:
        (tree / f"dev/workers/{name}").rmdir()


def test_two_programs_of_one_worker_get_different_tasks(tree: Tree) -> None:
    register(tree, "twins")
    with Desk(tree, "twins") as one, Desk(tree, "twins") as other:
        tasks = {submit(tree, requirements={"only": "twins"}) for _ in range(2)}
        first, second = one.take(), other.take()
        assert {first["task"], second["task"]} == tasks
        one.answer(first, progress="half of it")
        other.answer(second, ok="a text")
        assert tree.read(f"dev/tasks/{second['task']}/result") == "a text\n"
        assert "half of it" in tree.read(f"dev/tasks/{first['task']}/history")
        one.answer(first, error="it cannot be done")
        assert tree.read(f"dev/tasks/{first['task']}/error") == "it cannot be done\n"
        assert state(tree, first["task"]) == "failed"


def test_an_answer_may_be_written_to_the_task_by_its_worker_alone(tree: Tree) -> None:
    register(tree, "writer")
    task = submit(tree, requirements={"only": "writer"})
    assert "EPERM" in refusal(tree, f"dev/tasks/{task}/result", "42\n"), "nobody has claimed it"
    stranger = f"echo 1 > {tree.path}/dev/tasks/{task}/result; cat $AGENTFS/proc/self/error"
    with Desk(tree, "writer") as desk:
        desk.take()
        tree.spawn("stranger", exec=["bash", "-c", stranger])
        eventually(lambda: "EACCES" in tree.read("agents/stranger/log"))
        tree.write(f"dev/tasks/{task}/result", '{"n": 42}\n')
    assert json.loads(tree.read(f"dev/tasks/{task}/result")) == {"n": 42}
    assert "ESTALE" in refusal(tree, f"dev/tasks/{task}/error", "late\n")
    large = submit(tree, requirements={"only": "writer"})
    with Desk(tree, "writer") as desk:
        desk.take()
        (tree / f"dev/tasks/{large}/result").write_text("x" * 300_000)
    assert len(tree.read(f"dev/tasks/{large}/result")) == 300_001


def test_wait_can_be_polled_interrupted_and_asked_without_waiting(tree: Tree) -> None:
    task = submit(tree, requirements={"only": "nobody"})
    path = tree / f"dev/tasks/{task}/wait"
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    reader = tree.start("cat", str(path), stdout=subprocess.PIPE)
    stopped = tree.start("cat", str(path))
    try:
        with pytest.raises(BlockingIOError):
            os.read(file, 100)
        poll = select.poll()
        poll.register(file, select.POLLIN)
        assert poll.poll(50) == []
        stopped.send_signal(signal.SIGINT)
        assert stopped.wait(PATIENCE) == -signal.SIGINT
        tree.write(f"dev/tasks/{task}/ctl", "cancel enough")
        assert poll.poll(PATIENCE * 1000)
        assert json.loads(os.read(file, 4096))["state"] == "cancelled"
        assert os.read(file, 4096) == b""
    finally:
        os.close(file)
    said = reader.communicate(timeout=PATIENCE)[0]
    assert json.loads(said)["error"] == "cancelled by init: enough"


# -- cancelling ------------------------------------------------------------------------------------


def test_to_cancel_a_task_that_runs_stops_its_program(tree: Tree, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = f"sleep 1000 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; wait"
    task = submit(tree, program=["bash", "-c", program])
    eventually(pids.exists)
    numbers = [int(word) for word in pids.read_text().split()]
    ends = [os.pidfd_open(number) for number in numbers]
    try:
        assert state(tree, task) == "running"
        tree.write(f"dev/tasks/{task}/ctl", "cancel")
        assert state(tree, task) == "cancelled"
        for end in ends:
            assert select.select([end], [], [], PATIENCE)[0], "all that it has started is ended"
    finally:
        for end in ends:
            os.close(end)


def test_a_worker_is_told_of_what_is_cancelled_and_its_answer_is_stale(tree: Tree) -> None:
    register(tree, "told")
    task = submit(tree, requirements={"only": "told"})
    with Desk(tree, "told") as desk:
        said = desk.take()
        tree.write(f"dev/tasks/{task}/ctl", "cancel not any more")
        with pytest.raises(OSError) as late:
            desk.answer(said, ok=1)
        assert late.value.errno == errno.ESTALE
        notice = os.read(desk.file, 65536).decode()
        assert "Type: cancelled-task\n" in notice
        assert "not any more" in notice


def test_an_agent_that_wants_it_is_stopped_with_its_task(tree: Tree) -> None:
    pid = tree.spawn(
        "restless",
        exec=["bash", "-c", "cat $AGENTFS/agents/restless/recv; exec sleep 1000"],
        restart="always",
    )
    tree.ask(
        "dev/workers/new",
        '{"name": "restless", "agent": "restless", "on_cancel": "stop",'
        ' "capabilities": {"only": "restless"}}',
    )
    assert not (tree / "dev/workers/restless/recv").exists(), "they come to its inbox"
    task = submit(tree, requirements={"only": "restless"})
    until(tree / f"dev/tasks/{task}/state", "running")
    before = tree.read(f"proc/{pid}/ospid")
    tree.write(f"dev/tasks/{task}/ctl", "cancel")
    eventually(lambda: tree.read(f"proc/{pid}/ospid") not in (before, "\n"))
    assert state(tree, task) == "cancelled"


# -- the daemon ------------------------------------------------------------------------------------


def test_everything_is_there_after_kill_9_of_the_daemon(tree: Tree) -> None:
    register(tree, "durable", capabilities={"n": 1})
    wanted = {"only": "durable"}
    tasks = [submit(tree, f"d{n}", requirements=wanted, key=f"k{n}") for n in range(3)]
    with Desk(tree, "durable") as desk:
        desk.answer(desk.take(), ok=1)
        desk.take()
        tree.crash()
        tree.mount()
    assert [submit(tree, f"d{n}", requirements=wanted, key=f"k{n}") for n in range(3)] == tasks
    assert state(tree, tasks[0]) == "completed"
    with Desk(tree, "durable") as desk:
        got = {}
        while len(got) < 2:
            said = desk.take()
            got[said["task"]] = said
            desk.answer(said, ok=2)
    assert sorted(got) == tasks[1:]
    assert [state(tree, task) for task in tasks] == ["completed"] * 3


# -- the commands ----------------------------------------------------------------------------------


def test_the_commands_say_what_the_files_say(tree: Tree) -> None:
    register(tree, "seen", capabilities={"gpu": True})
    number = tree.run(
        *("task", "submit", "-r", "only=seen", "-r", "gpu=true", "-p", "7", "-i", '{"a": 1}'),
        *("--timeout", "10m", "--attempts", "2", "--key", "cli", "draw", "a", "bee"),
    ).stdout.strip()
    said = info(tree, int(number))
    assert said["requirements"] == {"only": "seen", "gpu": True}
    assert (said["description"], said["priority"], said["timeout"]) == ("draw a bee", 7, 600)
    assert (said["max_attempts"], said["key"]) == (2, "cli")
    shown = tree.run("task", number).stdout
    assert f"task {number}: assigned  draw a bee" in shown
    assert "needs     only seen, gpu True" in shown
    told = json.loads(tree.run("task", "show", number, "--json").stdout)
    assert (told["input"], told["result"]) == ({"a": 1}, None)
    assert [entry["state"] for entry in told["history"]] == ["pending", "validated", "assigned"]
    listed = tree.run("tasks", "--worker", "seen").stdout
    assert re.search(rf"^{number} +assigned +7 +seen +1 +init +draw a bee$", listed, re.MULTILINE)
    rows = [json.loads(line) for line in tree.run("workers", "--json").stdout.splitlines()]
    assert [row["tasks"] for row in rows if row["name"] == "seen"] == [[int(number)]]
    assert "gpu true" in tree.run("workers").stdout
    tree.run("task", "cancel", number, "no", "bees")
    done = tree.run("task", "wait", number, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert "the task is cancelled: cancelled by init: no bees" in done.stderr
    done = tree.run("task", "submit", "--wait", "--", "sh", "-c", "echo 42")
    assert done.stdout == "42\n"
    done = tree.run("task", "submit", "--wait", "--", "sh", "-c", "exit 3", check=False)
    assert done.returncode == 1
    for words, expected in (
        (("task", "submit", "-r", "gpu", "x"), "--require takes NAME=VALUE"),
        (("task", "submit", "-i", "{", "x"), "JSON was expected"),
        (("task", "wait", "x"), "the number of a task was expected"),
        (("tasks", "-s", "done"), "a state is one of"),
        (("task", "cancel", number), "it stays so"),
    ):
        refused = tree.run(*words, check=False)
        assert refused.returncode in (1, 2)
        assert expected in refused.stderr


def test_ctrl_c_leaves_the_task_and_says_how_to_go_on(tree: Tree) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["AGENTFS"] = str(tree.path)
        words = [*AGENTFS, "task", "submit", "--wait", "-r", "only=nobody", "nothing"]
        os.execv(sys.executable, words)
    said = b""
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 4096):
            said += piece
            if b"validated:" in said and b"^C" not in said:  # it waits, and says why
                os.write(terminal, b"\x03")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    text = said.decode()
    number = text.split("task ", 1)[1].split()[0]
    assert code == 130, text
    assert f"agentfs task cancel {number}" in text
    assert state(tree, int(number)) == "validated"


# -- the colony ------------------------------------------------------------------------------------


def test_colonyos_simulation_as_a_shell_script(tree: Tree) -> None:
    for name in os.listdir(tree / "dev/workers"):
        with contextlib.suppress(OSError):
            os.rmdir(tree / f"dev/workers/{name}")
    environment = {"AGENTFS": str(tree.path), "WORKER_HEARTBEAT_INTERVAL": "1"}
    done = subprocess.run(
        ["sh", str(ROOT / "examples/colony/colony.sh")],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    lost, *lines = done.stdout.splitlines()
    assert lost == "lost", "the one that took a task and fell silent"
    ends = [json.loads(line) for line in lines]
    assert [end["state"] for end in ends] == ["completed"] * 3 + ["rejected"]
    assert [end["result"] for end in ends] == ["ant: count", "bee: sort", "drone: draw", None]
    assert "no root here" in ends[3]["error"]
    assert os.listdir(tree / "dev/workers") == ["new"], "all have gone home"


def test_a_seed_evolves_twice_before_a_small_model_says_what_it_is_to_say(
    tree: Tree, tmp_path: Path
) -> None:
    serve(tree, "tape")
    stream = os.open(tree / "dev/events", os.O_RDONLY | os.O_NONBLOCK)
    try:
        said = run(f"sh {ROOT}/examples/colony/seed.sh", tree, tmp_path).splitlines()
        assert said[0] == "The capital of Italy is Rome."
        assert [line.split()[1] for line in said[2:]] == ["evolved", "evolved", "passed"]
        events = [json.loads(line)["type"] for line in _lines(stream)]
    finally:
        os.close(stream)
    assert [events.count(kind) for kind in ("seed_created", "evolution_started")] == [3, 2]
    assert events.count("evaluation_complete") == 3


def _lines(stream: int) -> list[bytes]:
    """What can be read of a stream now."""
    found = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(stream, 65536):
            found += piece
    return found.splitlines()
