"""agentfs.agent on real mounts: agents written with it, as programs of their own."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentfs.agent import Agent, Message
from tests.hatchery import Hatchery, QuickTree
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

PRELUDE = """
import sys, threading, time
from agentfs.agent import Agent
agent = Agent()
def say(*words):
    print(*words, flush=True)
"""


@pytest.fixture
def quick(hatchery: Hatchery, tmp_path: Path) -> Iterator[QuickTree]:
    """A mounted tree that can be crashed and mounted again within a tenth of a second."""
    tree = QuickTree(tmp_path / "tree", hatchery=hatchery)
    try:
        tree.mount()
        yield tree
    finally:
        tree.clean_up()


def start(tree: Tree, program: str, name: str = "alice", **spec: object) -> int:
    """An agent that runs `program`; its pid."""
    source = PRELUDE + textwrap.dedent(program)
    return tree.spawn(name, exec=[sys.executable, "-c", source], **spec)


def operator(tree: Tree) -> Agent:
    return Agent(str(tree.path), "init")


def receive(tree: Tree) -> Message:
    """What the operator got next."""
    return Message((tree / "agents/init/recv").read_bytes())


def said(tree: Tree, words: str, name: str = "alice") -> Callable[[], bool]:
    return lambda: words in tree.read(f"agents/{name}/log")


# -- handlers ------------------------------------------------------------------------------------


def test_what_a_handler_returns_is_the_reply(tree: Tree) -> None:
    start(
        tree,
        """
        @agent.on_message
        def shout(message):
            return message.text.upper()

        @agent.on_task
        def work(message):
            return f"{message.type} of {message.sender}: done".encode()

        @agent.on_type("task-odd")
        def odd(message):
            return "odd"

        agent.run()
        """,
    )
    init = operator(tree)
    for headers, wanted in (
        ({}, "HELLO"),
        ({"type": "task"}, "task of init: done"),
        ({"type": "task-even"}, "task-even of init: done"),
        ({"type": "task-odd-one"}, "odd"),
        ({"type": "note", "priority": "low"}, "HELLO"),
    ):
        init.send("alice", "hello", **headers)
        answer = receive(tree)
        assert (answer.sender, answer.text) == ("alice", wanted)
    assert list((tree / "agents/alice/inbox/cur").iterdir()) == []


def test_what_was_handled_is_acknowledged_at_once_where_nothing_else_waits(tree: Tree) -> None:
    pid = start(
        tree,
        """
        @agent.on_message
        def note(message):
            say("note", message.text, message.attempt)

        agent.run()
        """,
    )
    operator(tree).send("alice", "one")
    eventually(said(tree, "note one 1"))
    eventually(lambda: not list((tree / "agents/alice/inbox/cur").iterdir()))
    eventually(lambda: tree.read(f"proc/{pid}/state") == "idle\n")
    tree.write(f"proc/{pid}/ctl", "KILL\n")
    assert list((tree / "agents/alice/inbox/new").iterdir()) == []


def test_a_message_that_no_handler_is_for_is_said_and_not_kept(tree: Tree) -> None:
    start(
        tree,
        """
        @agent.on_task
        def work(message):
            return "done"

        agent.run()
        """,
    )
    init = operator(tree)
    init.send("alice", "hello", type="gossip")
    init.send("alice", "hello", type="task")
    assert receive(tree).text == "done"
    assert "there is no handler for <message" in tree.read("agents/alice/log")
    eventually(lambda: not list((tree / "agents/alice/inbox/cur").iterdir()))


def test_an_exception_counts_as_an_attempt_and_the_last_makes_a_dead_letter(tree: Tree) -> None:
    pid = start(
        tree,
        """
        @agent.on_message
        def handle(message):
            say("attempt", message.attempt, message.text)
            if message.text == "poison":
                raise ValueError("not to be stomached")
            if message.text == "once" and message.attempt == 1:
                raise OSError(107, "a fault of the handler's own")

        agent.run()
        """,
    )
    init = operator(tree)
    init.send("alice", "poison")
    eventually(said(tree, "attempt 5 poison"))
    init.send("alice", "once")
    eventually(said(tree, "attempt 2 once"))
    init.send("alice", "good")
    eventually(said(tree, "attempt 1 good"))
    log = tree.read("agents/alice/log")
    assert [f"attempt {number} poison" in log for number in range(1, 7)] == [True] * 5 + [False]
    assert log.count("ValueError: not to be stomached") == 5
    assert "Traceback" in log
    assert f"Pid:\t{pid}\n" in tree.read(f"proc/{pid}/status")
    assert "Restarts:\t0\n" in tree.read(f"proc/{pid}/status")
    eventually(lambda: not list((tree / "agents/alice/inbox/cur").iterdir()))
    assert list((tree / "agents/alice/inbox/new").iterdir()) == []
    (dead,) = (tree / "agents/alice/dead").iterdir()
    assert "ValueError: not to be stomached" in dead.read_text()


def test_signals_and_notices_reach_their_handlers(tree: Tree) -> None:
    pid = start(
        tree,
        """
        @agent.on_signal("HUP")
        def hup():
            child = agent.spawn({"name": "kid", "exec": ["sh", "-c", "exit 3"], "restart": "never"})
            say("child", child)

        @agent.on_signal("CHLD")
        def child(pid, code):
            say("ended", pid, code, "as", agent.wait(int(pid)))
            raise ValueError("which does not end the loop")

        @agent.on_signal("TERM")
        def term():
            say("bye")
            agent.stop()

        agent.run()
        say("after the loop")
        sys.exit(7)
        """,
        restart="never",
    )
    eventually(lambda: Path(f"/proc/{tree.read(f'proc/{pid}/ospid').strip()}/status").exists())
    eventually(lambda: caught(int(tree.read(f"proc/{pid}/ospid")), signal.SIGHUP))
    tree.write(f"proc/{pid}/ctl", "HUP\n")
    eventually(said(tree, "as 3"))
    tree.write(f"proc/{pid}/ctl", "TERM\n")
    assert tree.read(f"proc/{pid}/wait") == "7\n"
    log = tree.read("agents/alice/log")
    assert log.index("child") < log.index("ended") < log.index("bye") < log.index("after the loop")
    assert "ValueError: which does not end the loop" in log


def caught(pid: int, number: signal.Signals) -> bool:
    """Whether a program has a handler for a signal."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


# -- calls -------------------------------------------------------------------------------------


def test_a_question_is_answered_times_out_or_is_cancelled(tree: Tree) -> None:
    start(
        tree,
        """
        @agent.on_message
        def answer(message):
            if "silence" not in message.text and message.type != "ask-cancelled":
                return "42"

        agent.run()
        """,
    )
    init = operator(tree)
    answer = init.ask("alice", "What is six times seven?", timeout=20)
    assert (answer.text, answer.sender) == ("42", "alice")
    with pytest.raises(TimeoutError):
        init.ask("alice", "silence", timeout=0.2)
    asks = tree / "agents/init/asks"
    assert "State:\topen" not in "".join(path.read_text() for path in asks.glob("*/status"))


@pytest.mark.parametrize("library", ["trio", "asyncio"])
def test_a_question_that_is_cancelled_under(tree: Tree, library: str) -> None:
    tree.spawn("bob", role="worker")
    wait = {
        "trio": "import trio\nasync def main():\n"
        "    with trio.move_on_after(0.3): await agent.aask('init', 'hello?')\n"
        "    say((await agent.aask('init', 'and now?')).text)\ntrio.run(main)\n",
        "asyncio": "import asyncio\nasync def main():\n"
        "    try: await asyncio.wait_for(agent.aask('init', 'hello?'), 0.3)\n"
        "    except asyncio.TimeoutError: pass\n"
        "    say((await agent.aask('init', 'and now?')).text)\nasyncio.run(main())\n",
    }[library]
    start(tree, wait, restart="never")
    first, cancelled, second = receive(tree), receive(tree), receive(tree)
    assert (first.text, second.text) == ("hello?", "and now?")
    assert cancelled.type == "ask-cancelled"
    operator(tree).reply(second, "yes")
    eventually(said(tree, "yes"))


def test_reminders_broadcasts_artifacts_and_escalations(tree: Tree) -> None:
    tree.write("etc/roles.yaml", "roles: {agent: {capabilities: ['*']}}\n")  # broadcast too
    tree.spawn("bob")
    start(
        tree,
        """
        @agent.on_message
        def other(message):
            say("other", message.type)

        @agent.on_type("reminder")
        def reminder(message):
            agent.broadcast("it is time", subject="time")
            agent.put("report", b"\\0 of type", "global", "application/x-report")
            agent.put("report", b"\\0\\1", "global", "application/x-report")
            say("own", agent.get("report", "global"))
            say("escalated", agent.escalate("warning", "help"))
            try:
                agent.get("nothing")
            except FileNotFoundError:
                say("nothing is there")

        agent.ready()
        say("reminder", agent.remind("in 1s", "wake up"))
        agent.run()
        """,
    )
    bob = Message((tree / "agents/bob/recv").read_bytes())
    assert (bob.text, bob.get("Subject"), bob.get("Reply-Expected")) == ("it is time", "time", "no")
    eventually(said(tree, "nothing is there"))
    init = operator(tree)
    assert init.get("report", "global") == b"\0\1"
    assert os.getxattr(tree / "dev/shm/global/report", "user.mime_type") == b"application/x-report"
    types = {receive(tree).type, receive(tree).type}
    assert types == {"", "escalation"}


def test_a_subscription_goes_on_through_a_crash(quick: QuickTree) -> None:
    topic = quick / "dev/topics/news"
    topic.touch()
    topic.chmod(0o666)
    init = operator(quick)
    init.publish("news", "one")
    init.publish("news", b"two \xff")
    records = iter(init.subscribe("news", since=0))
    assert [next(records).data, next(records).data] == [b"one", b"two \xff"]
    quick.crash()
    quick.mount()
    init.publish("news", "three")
    third = next(records)
    assert (third.seq, third.sender, third.data, third.lost) == (3, "init", b"three", 0)


@pytest.mark.parametrize("library", ["trio", "asyncio"])
def test_a_subscription_does_not_hold_the_loop_up_under(tree: Tree, library: str) -> None:
    (tree / "dev/topics/news").touch()
    (tree / "dev/topics/news").chmod(0o666)
    start(
        tree,
        f"import {library}\n"
        "async def main():\n"
        "    news = agent.subscribe('news')\n"
        "    news.open()\n"
        "    agent.publish('news', 'to all, and to oneself')\n"
        "    async for record in news:\n"
        "        say(record.seq, record.data)\n"
        "        if record.seq == 2:\n"
        "            news.close()\n"
        "            break\n"
        f"{library}.run({'main' if library == 'trio' else 'main()'})\n",
        restart="never",
    )
    eventually(said(tree, "1 b'to all, and to oneself'"))
    operator(tree).publish("news", "again")
    eventually(said(tree, "2 b'again'"))


def test_a_queue_is_worked_off_by_several_and_a_failure_goes_to_whoever_is_next(
    quick: QuickTree,
) -> None:
    (quick / "dev/queues/jobs").mkdir()
    (quick / "dev/queues/jobs").chmod(0o777)
    worker = """
    @agent.on_queue("jobs")
    def work(job):
        if job.text == "hard" and job.attempt < 3:
            raise ValueError("too hard")
        return f"{job.text} {job.attempt} {job.get('Number')}"

    agent.run()
    """
    for name in ("alice", "bob"):
        start(quick, worker, name)
    init = operator(quick)
    for number in range(20):
        init.enqueue("jobs", "hard" if number == 7 else "easy", number=number)
    quick.crash()
    quick.mount()
    got: set[str] = set()
    while len(got) < 20:
        got.add(receive(quick).text)
    (hard,) = [text for text in got if text.startswith("hard")]
    assert int(hard.split()[1]) >= 3
    assert {text.split()[2] for text in got} == {str(number) for number in range(20)}
    assert quick.read("dev/queues/jobs/length") == "0\n"


# -- threads and event loops -----------------------------------------------------------------------


def test_the_loop_runs_in_a_thread_while_other_threads_call(tree: Tree) -> None:
    start(
        tree,
        """
        got = []
        enough = threading.Event()

        @agent.on_message
        def note(message):
            got.append(message.text)
            if len(got) == 40:
                enough.set()

        loop = threading.Thread(target=agent.run)
        loop.start()

        def talk(number):
            for count in range(10):
                agent.send("alice", f"{number}-{count}")

        for number in range(4):
            threading.Thread(target=talk, args=[number]).start()
        enough.wait()
        agent.stop()
        loop.join()
        agent.send("init", f"{len(set(got))} and {threading.active_count()}")
        """,
    )
    assert receive(tree).text == "40 and 1"


EVENT_LOOPS = {
    "trio": """
        import trio

        async def main():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tick, trio.sleep)
                await body(trio.sleep, cancelled_trio)
                nursery.cancel_scope.cancel()

        async def cancelled_trio():
            with trio.move_on_after(0.2) as scope:
                await agent.arun()
            return scope.cancelled_caught

        trio.run(main)
    """,
    "asyncio": """
        import asyncio

        async def main():
            ticking = asyncio.create_task(tick(asyncio.sleep))
            await body(asyncio.sleep, cancelled_asyncio)
            ticking.cancel()

        async def cancelled_asyncio():
            task = asyncio.create_task(agent.arun())
            await asyncio.sleep(0.2)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                return True

        asyncio.run(main())
    """,
}

ASYNC_BODY = """
ticks = 0
sleep = None
long = True

async def tick(sleep):
    global ticks
    while True:
        await sleep(0.005)
        ticks += 1

@agent.on_message
async def handle(message):
    say("begin", message.text, message.attempt)
    if message.text == "long" and long:
        await sleep(60)
    elif message.text == "wrong" and message.attempt == 1:
        raise ValueError("in an async handler")
    else:
        before = ticks
        while ticks < before + 3:  # others have their turn meanwhile
            await sleep(0.01)
    if message.text == "last":
        agent.stop()
    return message.text.upper()

async def body(how, cancelled):
    global sleep, long
    sleep = how
    say("cancelled", await cancelled())
    before = ticks
    say("cancelled", await cancelled())
    long = False
    await agent.arun()
    say("ticks", ticks > before)
"""


@pytest.mark.parametrize("library", EVENT_LOOPS)
def test_async_handlers_and_cancellation_under(tree: Tree, library: str) -> None:
    """Cancelled in the handler, twice: the message waits again, and that was no attempt."""
    init = operator(tree)
    tree.spawn("alice")  # so that the mail is there before the program
    init.send("alice", "long", priority="high")
    init.send("alice", "wrong")
    init.send("alice", "last")
    tree.write("proc/2/ctl", "KILL\n")
    tree.read("proc/2/wait")
    pid = start(tree, ASYNC_BODY + textwrap.dedent(EVENT_LOOPS[library]), restart="never")
    assert [receive(tree).text for _ in range(3)] == ["LONG", "WRONG", "LAST"]
    assert tree.read(f"proc/{pid}/wait") == "0\n", tree.read("agents/alice/log")
    log = tree.read("agents/alice/log")
    assert "ValueError: in an async handler" in log
    assert "begin wrong 2" in log
    assert log.count("begin long 1\n") == 3
    assert log.count("cancelled True\n") == 2
    assert "begin long 2" not in log
    assert "ticks True" in log
    assert list((tree / "agents/alice/inbox/new").iterdir()) == []


@pytest.mark.parametrize("library", EVENT_LOOPS)
def test_a_call_that_would_hold_the_event_loop_up_says_so(tree: Tree, library: str) -> None:
    pid = start(
        tree,
        "import trio, asyncio\n"
        "async def main():\n"
        "    try:\n"
        "        agent.run()\n"
        "    except TypeError as wrong:\n"
        "        say(wrong)\n"
        + ("trio.run(main)\n" if library == "trio" else "asyncio.run(main())\n"),
        restart="never",
    )
    assert tree.read(f"proc/{pid}/wait") == "0\n"
    assert "`await` arun" in tree.read("agents/alice/log")


# -- faults --------------------------------------------------------------------------------------


def test_a_handler_that_hangs_stops_the_heartbeat_and_is_noticed(tree: Tree) -> None:
    pid = start(
        tree,
        """
        @agent.on_message
        def handle(message):
            say("attempt", message.attempt, message.text)
            if message.text == "hang" and message.attempt == 1:
                time.sleep(600)

        agent.run()
        """,
        heartbeat="1s",
        restart="always",
    )
    init = operator(tree)
    init.send("alice", "quick")
    eventually(said(tree, "attempt 1 quick"))
    threading.Event().wait(4.5)  # longer than three beats: the loop alone keeps it alive
    assert "Restarts:\t0\n" in tree.read(f"proc/{pid}/status")
    init.send("alice", "hang")
    eventually(said(tree, "attempt 2 hang"))
    assert "Restarts:\t1\n" in tree.read(f"proc/{pid}/status")


ECHO = """
agent.patience = 60

@agent.on_message
def echo(message):
    say("handling", message.text, message.attempt)
    if message.text.startswith("slow"):
        open(sys.argv[1] + "/begun", "w").close()
        while not __import__("os").path.exists(sys.argv[1] + "/go"):
            time.sleep(0.01)
    return message.text

agent.run()
"""


def echo(tree: Tree, folder: Path) -> int:
    source = PRELUDE + ECHO
    # -P: it looks for no modules in its working directory, which goes with the tree.
    return tree.spawn("alice", exec=[sys.executable, "-P", "-c", source, str(folder)])


def test_a_handler_goes_on_through_a_crash_and_its_message_is_handled_once(
    quick: QuickTree, tmp_path: Path
) -> None:
    pid = echo(quick, tmp_path)
    init = operator(quick)
    ospid = quick.read(f"proc/{pid}/ospid")
    init.send("alice", "slow one")
    init.send("alice", "another")
    eventually((tmp_path / "begun").exists)
    quick.crash()
    quick.mount()
    (tmp_path / "go").touch()
    assert [receive(quick).text, receive(quick).text] == ["slow one", "another"]
    eventually(lambda: not list((quick / "agents/alice/inbox/cur").iterdir()))
    log = quick.read("agents/alice/log")
    assert log.count("handling slow one") == 1
    assert quick.read(f"proc/{pid}/ospid") == ospid


def test_a_question_waits_for_its_answer_through_a_crash(quick: QuickTree, tmp_path: Path) -> None:
    echo(quick, tmp_path)
    answers: list[Message] = []
    asking = threading.Thread(
        target=lambda: answers.append(operator(quick).ask("alice", "slow question"))
    )
    asking.start()
    eventually((tmp_path / "begun").exists)
    quick.crash()
    quick.mount()
    (tmp_path / "go").touch()
    asking.join(20)
    assert [answer.text for answer in answers] == ["slow question"]


def test_a_call_waits_for_the_daemon_to_come_back(quick: QuickTree) -> None:
    quick.spawn("alice")
    init = operator(quick)
    quick.crash()
    thread = threading.Thread(target=init.send, args=["alice", "patience"])
    thread.start()
    quick.mount()
    thread.join(20)
    assert Message((quick / "agents/alice/recv").read_bytes()).text == "patience"


@pytest.fixture
def one_too_early(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets the next open find nothing mounted, where the look after it finds the tree."""

    def begin() -> None:
        def open_once(path: object, *given: int, **named: int) -> int:
            monkeypatch.undo()
            raise FileNotFoundError(errno.ENOENT, "nothing is mounted yet", path)

        monkeypatch.setattr(os, "open", open_once)

    return begin


def test_a_tree_that_is_mounted_just_after_a_file_was_not_found_is_asked_again(
    quick: QuickTree, one_too_early: Callable[[], None]
) -> None:
    quick.spawn("alice")
    init = operator(quick)
    one_too_early()
    init.send("alice", "early")
    assert Message((quick / "agents/alice/recv").read_bytes()).text == "early"
    with pytest.raises(FileNotFoundError):
        init.get("nothing")


def test_a_loop_asks_again_too(quick: QuickTree, one_too_early: Callable[[], None]) -> None:
    init, heard = operator(quick), []

    @init.on_message
    def hear(message: Message) -> None:
        heard.append(message.text)
        init.stop()

    init.send("init", "early")
    one_too_early()
    init.run()
    assert heard == ["early"]
    init.on_queue("nobody made this one")(hear)
    with pytest.raises(FileNotFoundError):
        init.run()


def requests(tree: Tree) -> int:
    """What the mount was asked so far."""
    lines = tree.read("sys/metrics").splitlines()
    (figure,) = [line for line in lines if line.startswith("agentfs_mount_requests_total ")]
    return int(float(figure.split()[1]))


def test_send_stays_open_and_is_opened_again_when_the_daemon_was_gone(quick: QuickTree) -> None:
    quick.spawn("alice")
    agent = operator(quick)
    agent.send("alice", "one")  # opens it
    requests(quick)
    before = requests(quick)
    for _ in range(20):
        agent.send("alice", "two")
    assert 20 <= requests(quick) - before < 40  # a write each, and what the figures cost
    quick.crash()
    quick.mount()
    agent.send("alice", "three")
    new = quick / "agents/alice/inbox/new"
    texts = [Message((new / name).read_bytes()).text for name in sorted(os.listdir(new))]
    assert texts == ["one", *["two"] * 20, "three"]


def test_a_loop_resumes_each_time_its_connection_is_cut_100_times(
    quick: QuickTree, tmp_path: Path
) -> None:
    """By a crash of the daemon. Every message is answered, and by the program that was started."""
    pid = echo(quick, tmp_path)
    init = operator(quick)
    ospid = quick.read(f"proc/{pid}/ospid")
    answered: set[str] = set()
    for number in range(100):
        init.send("alice", f"number {number}")
        if number % 3:
            answered.add(receive(quick).text)  # else it is cut wherever it happens to be
        quick.crash()
        quick.mount()
    init.send("alice", "the last")
    while "the last" not in answered:
        answered.add(receive(quick).text)
    log = quick.read("agents/alice/log")
    for number in range(100):
        assert f"handling number {number} " in log
    told = [line for line in log.splitlines() if not line.startswith("handling")]
    assert quick.read(f"proc/{pid}/ospid") == ospid, told
    assert "Restarts:\t0\n" in quick.read(f"proc/{pid}/status")


def test_a_loop_is_in_its_memory_again_after_a_crash(quick: QuickTree) -> None:
    pid = start(
        quick,
        """
        @agent.on_message
        def count(message):
            with open("counted", "a") as file:
                file.write(message.text)
            say("counted", message.text)
        agent.run()
        """,
        restart="never",
    )
    init = operator(quick)
    for text in ("one", "two"):
        init.send("alice", text)
        eventually(said(quick, f"counted {text}"))
        quick.crash()
        quick.mount()
    init.send("alice", "three")
    eventually(said(quick, "counted three"))
    assert quick.read("agents/alice/memory/counted") == "onetwothree"
    ospid = quick.read(f"proc/{pid}/ospid").strip()
    assert os.readlink(f"/proc/{ospid}/cwd") == f"{quick.path}/agents/alice/memory"


def test_interrupted_by_signals_100_times_a_loop_resumes(tree: Tree, tmp_path: Path) -> None:
    pid = start(
        tree,
        """
        count = 0

        @agent.on_signal("USR1")
        def usr1():
            global count
            count += 1
            agent.send("init", str(count))

        @agent.on_message
        def shout(message):
            return message.text.upper()

        agent.run()
        """,
    )
    ospid = int(tree.read(f"proc/{pid}/ospid"))
    eventually(lambda: caught(ospid, signal.SIGUSR1))
    for number in range(1, 101):
        os.kill(ospid, signal.SIGUSR1)
        assert receive(tree).text == str(number)
    operator(tree).send("alice", "still here")
    assert receive(tree).text == "STILL HERE"


def test_a_removed_agent_ends_its_loop_with_an_error(tree: Tree) -> None:
    pid = tree.spawn("alice")
    source = "import sys; from agentfs.agent import Agent; agent = Agent(sys.argv[1], 'alice');"
    source += "agent.on_message(print); agent.run()"
    program = tree.start(
        sys.executable, "-c", source, str(tree.path), stderr=subprocess.PIPE, text=True
    )
    operator(tree).send("alice", "hello")
    eventually(lambda: not list((tree / "agents/alice/inbox/new").iterdir()))
    tree.write(f"proc/{pid}/ctl", "KILL\n")
    tree.read(f"proc/{pid}/wait")
    os.rmdir(tree / "agents/alice")
    _, errors = program.communicate(timeout=20)
    assert "No such file or directory" in str(errors)


def test_a_call_of_a_model_is_asked_for_and_settled(quick: QuickTree) -> None:
    pid = start(
        quick,
        """
        with agent.call("sonnet", 400) as call:
            call.settle(100, 50)
        with agent.call_tool("search"):
            pass
        with agent.call(most=100):
            pass
        try:
            with agent.call(most=300):
                raise RuntimeError("the model does not answer")
        except RuntimeError:
            pass
        agent.report(30)
        try:
            agent.call("sonnet", 10_000)
        except OSError as refusal:
            say(refusal.errno, agent.why())
        """,
        tier="tactical",
        budget={"tactical": 1000},
    )
    assert quick.read(f"proc/{pid}/wait") == "0\n"
    assert said(quick, "122 /proc/")()
    assert said(quick, "alice asked for 10000 tokens of sonnet")()
    assert quick.read("proc/1/budget/tactical/consumed") == "280\n"
    assert quick.read("proc/1/budget/tactical/reserved") == "0\n"


def test_a_call_that_is_to_be_skipped_says_so(quick: QuickTree) -> None:
    pid = start(
        quick,
        """
        with agent.call(most=1001) as call:
            say("skipped because of", call.skipped)
        """,
        tier="tactical",
        budget={"tactical": 1000},
        on_limit="skip",
    )
    assert quick.read(f"proc/{pid}/wait") == "0\n"
    assert said(quick, "skipped because of budget")()
