"""Questions, answers and escalations on a real mount."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.system.test_blocking import parked
from tests.system.test_inotify import WRITTEN, Watcher, written
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

ASKS = "agents/alice/asks"

# An agent in shell that answers every question, and reports what else it gets.
ANSWERING = """
while message=$(cat $AGENTFS/agents/self/recv); do
    head=$(printf '%s\\n' "$message" | sed '/^$/q')
    id=$(printf '%s\\n' "$head" | sed -n 's/^Message-ID: //p')
    from=$(printf '%s\\n' "$head" | sed -n 's/^From: //p')
    body=$(printf '%s\\n' "$message" | sed '1,/^$/d')
    printf 'In-Reply-To: %s\\n\\n%s to you\\n' "$id" "$body" > $AGENTFS/agents/self/outbox/$from
done
"""

# An agent in shell that asks, waits, and keeps what it was told.
ASKING = """
exec 3<>$AGENTFS/agents/self/asks/new
printf 'To: bob\\n\\nhello\\n' | dd bs=1M iflag=fullblock >&3
id=$(cat <&3)
exec 3<&-
cat $AGENTFS/agents/self/asks/$id/answer > $AGENTFS/agents/self/memory/answer
echo $? > $AGENTFS/agents/self/memory/done
sleep 1000
"""


def cat(tree: Tree, path: str) -> subprocess.Popen[bytes]:
    """A `cat` that waits."""
    before = parked(tree)
    program = tree.start("cat", str(tree / path), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    eventually(lambda: parked(tree) > before or program.poll() is not None)
    return program


def ended(program: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = program.communicate(timeout=20)
    return program.returncode, out.decode(), err.decode()


def ask(tree: Tree, text: str = "To: bob\nReply-By: 5m\n\nhow?\n") -> str:
    return tree.ask(f"{ASKS}/new", text).strip()


def state(tree: Tree, number: str) -> str:
    lines = tree.read(f"{ASKS}/{number}/status").splitlines()
    return dict(line.split(":\t", 1) for line in lines)["State"]


def both(tree: Tree) -> None:
    for name in ("alice", "bob"):
        tree.spawn(name)


def test_a_shell_agent_asks_another_and_cat_of_the_answer_waits_for_it(tree: Tree) -> None:
    (tree / "agents/bob").mkdir()  # mail for it waits until it is at work
    tree.spawn("alice", exec=["sh", "-c", ASKING])
    done = tree / "agents/alice/memory/done"
    (names,) = [os.listdir(tree / "agents/alice/memory")]
    assert "done" not in names
    tree.spawn("bob", exec=["sh", "-c", ANSWERING])
    eventually(lambda: done.exists() and done.read_text())
    assert done.read_text() == "0\n"
    head, _, body = tree.read("agents/alice/memory/answer").partition("\n\n")
    assert body == "hello to you\n"
    assert "From: bob" in head.splitlines()
    assert os.listdir(tree / "agents/alice/inbox/new") == []


def test_without_an_answer_cat_says_connection_timed_out(tree: Tree) -> None:
    both(tree)
    number = ask(tree, "To: bob\nReply-By: 500ms\n\nhow?\n")
    code, out, err = ended(cat(tree, f"{ASKS}/{number}/answer"))
    assert (code, out) == (1, "")
    assert os.strerror(errno.ETIMEDOUT) in err
    assert state(tree, number) == "expired"
    code, out, err = ended(cat(tree, f"{ASKS}/{number}/answer"))
    assert os.strerror(errno.ETIMEDOUT) in err
    assert os.listdir(tree / "agents/bob/inbox/new") == []


@pytest.mark.parametrize("how", [["rmdir"], ["rm", "-r"], ["rm", "-rf"]])
def test_h15_rm_cancels_and_the_reader_that_waits_ends_with_ecanceled(
    tree: Tree, how: list[str]
) -> None:
    both(tree)
    number = ask(tree)
    readers = [cat(tree, f"{ASKS}/{number}/answer") for _ in range(2)]
    subprocess.run([*how, str(tree / ASKS / number)], check=True, timeout=20)
    for reader in readers:
        code, out, err = ended(reader)
        assert (code, out) == (1, "")
        assert os.strerror(errno.ECANCELED) in err
    assert os.listdir(tree / ASKS) == ["new"]
    with pytest.raises(FileNotFoundError):
        os.rmdir(tree / ASKS / number)
    (notice,) = (tree / "agents/bob/inbox/new").iterdir()
    head = notice.read_text().partition("\n\n")[0].splitlines()
    assert "Type: ask-cancelled" in head
    assert [line for line in head if line.startswith(f"In-Reply-To: <{number}@")]


def test_h15_another_agents_rm_is_eacces(tree: Tree) -> None:
    tree.spawn("alice")
    number = ask(tree, "To: alice\n\nhow?\n")
    script = f"""
        cd $AGENTFS/{ASKS}
        for attempt in "rmdir {number}" "cat {number}/answer" "cat {number}/question" "ls"; do
            $attempt >> $AGENTFS/agents/self/memory/said 2>&1
        done
        echo over >> $AGENTFS/agents/self/memory/said
        sleep 1000
    """
    tree.spawn("bob", exec=["sh", "-c", script])
    said = tree / "agents/bob/memory/said"
    eventually(lambda: said.exists() and said.read_text().endswith("over\n"))
    lines = said.read_text().splitlines()
    assert len(lines) == 5
    assert all(os.strerror(errno.EACCES) in line for line in lines[:-1]), lines
    assert state(tree, number) == "open"


def test_an_answer_can_be_read_again_and_by_several(tree: Tree) -> None:
    both(tree)
    number = ask(tree)
    readers = [cat(tree, f"{ASKS}/{number}/answer") for _ in range(3)]
    body = "x" * 300_000 + "\n"
    tree.write("agents/bob/send", f"To: alice\nIn-Reply-To: {number}\n\n{body}")
    outputs = {ended(reader)[1] for reader in readers} | {tree.read(f"{ASKS}/{number}/answer")}
    (text,) = outputs
    assert text.endswith(f"\n\n{body}")
    descriptor = os.open(tree / ASKS / number / "answer", os.O_RDONLY)
    try:
        pieces = []
        while piece := os.read(descriptor, 1000):
            pieces.append(piece)
        assert b"".join(pieces).decode() == text
        assert os.read(descriptor, 1000) == b""
    finally:
        os.close(descriptor)


def test_kill_9_between_question_reply_and_read_loses_nothing(tree: Tree) -> None:
    both(tree)
    number = ask(tree)
    tree.crash()
    tree.mount()
    assert state(tree, number) == "open"
    question = tree.read("agents/bob/recv")
    assert question.endswith("\n\nhow?\n")
    tree.write("agents/bob/send", f"To: alice\nIn-Reply-To: {number}\n\nthus\n")
    tree.crash()
    tree.mount()
    assert state(tree, number) == "answered"
    assert tree.read(f"{ASKS}/{number}/answer").endswith("\n\nthus\n")
    assert tree.read(f"{ASKS}/{number}/question").endswith("\n\nhow?\n")
    assert os.listdir(tree / "agents/alice/inbox/new") == []
    (sent,) = (tree / "agents/bob/sent").iterdir()
    assert sent.read_text().splitlines()[0] == "State: done"
    os.rmdir(tree / ASKS / number)
    tree.crash()
    report = tree.doctor()
    assert report.returncode == 0, report.stdout + report.stderr
    tree.mount()
    assert os.listdir(tree / ASKS) == ["new"]


def test_what_ran_out_while_the_daemon_was_down_has_run_out(tree: Tree) -> None:
    both(tree)
    number = ask(tree, "To: bob\nReply-By: 1s\n\nhow?\n")
    tree.crash()
    time.sleep(1)
    tree.mount()
    code, _, err = ended(cat(tree, f"{ASKS}/{number}/answer"))
    assert (code, os.strerror(errno.ETIMEDOUT) in err) == (1, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_waiting_cat_ends_within_300_ms_of_a_signal(tree: Tree, number: signal.Signals) -> None:
    both(tree)
    program = cat(tree, f"{ASKS}/{ask(tree)}/answer")
    sent = time.monotonic()
    program.send_signal(number)
    program.wait(10)
    assert time.monotonic() - sent < 0.3
    assert program.returncode == -number
    eventually(lambda: parked(tree) == 0)


def test_poll_wakes_for_an_answer_and_o_nonblock_says_eagain(tree: Tree) -> None:
    both(tree)
    number = ask(tree)
    descriptor = os.open(tree / ASKS / number / "answer", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(BlockingIOError):
            os.read(descriptor, 4096)
        with select.epoll() as poller:
            poller.register(descriptor, select.EPOLLIN)
            assert poller.poll(0.05) == []
            tree.write("agents/bob/send", f"To: alice\nIn-Reply-To: {number}\n\nthus\n")
            assert poller.poll(10) == [(descriptor, select.EPOLLIN)]
        assert os.read(descriptor, 65536).endswith(b"\n\nthus\n")
    finally:
        os.close(descriptor)


def test_poll_wakes_at_the_deadline(tree: Tree) -> None:
    both(tree)
    number = ask(tree, "To: bob\nReply-By: 300ms\n\nhow?\n")
    descriptor = os.open(tree / ASKS / number / "answer", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with select.epoll() as poller:
            poller.register(descriptor, select.EPOLLIN)
            assert poller.poll(10) == [(descriptor, select.EPOLLIN)]
        with pytest.raises(TimeoutError):
            os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def test_a_watcher_sees_questions_come_change_and_go(tree: Tree) -> None:
    both(tree)
    watcher = Watcher(tree, tree / ASKS)
    number = ask(tree)
    where = f"{ASKS}/{number}"
    assert watcher.until("CREATE,ISDIR", where)[-1] == ("CREATE,ISDIR", where)
    status = Watcher(tree, tree / where / "status")
    tree.write("agents/bob/send", f"To: alice\nIn-Reply-To: {number}\n\nthus\n")
    answered = f"{where}/status"
    assert status.until(WRITTEN[-1], answered) == written(answered)
    assert "State:\tanswered\n" in tree.read(f"{where}/status")
    os.rmdir(tree / where)
    assert watcher.until("DELETE,ISDIR", where)[-1] == ("DELETE,ISDIR", where)


def test_a_question_by_header_is_answered_in_the_inbox_and_the_recv_loop_learns_of_its_end(
    tree: Tree,
) -> None:
    both(tree)
    tree.write("agents/alice/outbox/bob", "Reply-By: 5m\n\nhow?\n")
    (number,) = [name for name in os.listdir(tree / ASKS) if name != "new"]
    tree.write("agents/bob/send", f"To: alice\nIn-Reply-To: {number}\n\nthus\n")
    received = tree.read("agents/alice/recv")
    assert received.endswith("\n\nthus\n")
    assert received.endswith(tree.read(f"{ASKS}/{number}/answer"))
    tree.write("agents/alice/outbox/bob", "Reply-By: 200ms\n\nhow?\n")
    notice = tree.read("agents/alice/recv")
    assert "Type: ask-expired" in notice.splitlines()


def test_h16_foreign_unknown_and_expired_references_leave_no_trace(tree: Tree) -> None:
    for name in ("alice", "bob", "carol"):
        tree.spawn(name)
    tree.write("agents/alice/outbox/bob", "secret\n")
    (foreign,) = [path.name[:12] for path in (tree / "agents/bob/inbox/new").iterdir()]
    expired = ask(tree, "To: carol\nReply-By: 300ms\n\nhow?\n")
    ended(cat(tree, f"{ASKS}/{expired}/answer"))
    heads = []
    for said in (foreign, "000000099999", expired):
        tree.write("agents/carol/outbox/alice", f"In-Reply-To: {said}\n\nre\n")
        received = tree.read("agents/alice/recv")
        heads.append([line.partition(":")[0] for line in received.splitlines()])
    heads = [[line for line in head if line != "Messages-Waiting"] for head in heads]
    assert heads[0] == heads[1] == heads[2]
    assert "In-Reply-To" not in heads[0]
    for path in (tree / "agents/carol/sent").iterdir():
        assert "In-Reply-To" not in path.read_text()


def test_an_escalation_goes_up_the_tree_until_somebody_answers(tree: Tree) -> None:
    tree.write("etc/agentfs.yaml", "escalation: {error_timeout: 300ms}\n")
    lead = tree.spawn("lead")
    pid = tree.spawn("alice", parent=lead)
    number = tree.ask(f"proc/{pid}/escalate", "error the build fails\n").strip()
    assert "the build fails" in tree.read("agents/lead/recv")
    inbox = tree / "agents/init/inbox/new"
    eventually(lambda: list(inbox.iterdir()))
    (notice,) = inbox.iterdir()
    head = notice.read_text().partition("\n\n")[0].splitlines()
    assert {"Type: escalation", "Severity: error", "Escalated-Past: lead"} <= set(head)
    reader = cat(tree, f"{ASKS}/{number}/answer")
    (named,) = [line.partition(": ")[2] for line in head if line.startswith("Message-ID")]
    tree.write("agents/init/outbox/alice", f"In-Reply-To: {named}\n\nfixed\n")
    assert ended(reader)[1].endswith("\n\nfixed\n")


def test_a_reader_that_waits_when_the_agent_is_removed_is_told(tree: Tree) -> None:
    os.mkdir(tree / "agents/alice")
    tree.spawn("bob")
    reader = cat(tree, f"{ASKS}/{ask(tree)}/answer")
    os.rmdir(tree / "agents/alice")
    code, _, err = ended(reader)
    assert (code, os.strerror(errno.ESTALE) in err) == (1, True)


def test_ls_l_and_find_go_through_asks(tree: Tree) -> None:
    both(tree)
    number = ask(tree)
    shown = subprocess.run(
        ["find", str(tree / ASKS), "-printf", "%P %m\n"],
        capture_output=True, text=True, check=True, timeout=20,
    ).stdout.splitlines()  # fmt: skip
    assert sorted(shown) == sorted(
        [" 700", "new 600", f"{number} 700", f"{number}/status 400", f"{number}/question 400",
         f"{number}/answer 400"]
    )  # fmt: skip
    size = os.stat(tree / ASKS / number / "question").st_size
    assert len(Path(tree / ASKS / number / "question").read_bytes()) == size


def test_an_rm_r_that_was_broken_off_has_taken_nothing(tree: Tree) -> None:
    both(tree)
    number = ask(tree)
    watcher = Watcher(tree, tree / ASKS)
    for name in ("status", "question", "answer"):
        os.unlink(tree / ASKS / number / name)
    assert sorted(os.listdir(tree / ASKS / number)) == ["answer", "question", "status"]
    assert state(tree, number) == "open"
    assert tree.read(f"{ASKS}/{number}/question").endswith("\n\nhow?\n")
    tree.write("agents/bob/send", f"To: alice\nIn-Reply-To: {number}\n\nthus\n")
    assert state(tree, number) == "answered"
    assert tree.read(f"{ASKS}/{number}/answer").endswith("\n\nthus\n")
    os.rmdir(tree / ASKS / number)
    where = f"{ASKS}/{number}"
    assert watcher.until("DELETE,ISDIR", where)[-1] == ("DELETE,ISDIR", where)
