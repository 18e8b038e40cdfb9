"""Who reads `recv` by the way is no loop of the agent: it acknowledges nothing, and what it took
comes back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def shared(hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    tree = QuickTree(tmp_path_factory.mktemp("readers") / "tree", hatchery=hatchery)
    try:
        tree.mount()
        tree.write("etc/agentfs.yaml", "processes: {maid_interval: 1s}\n")
        yield tree
    finally:
        tree.clean_up()


@pytest.fixture
def name(request: pytest.FixtureRequest, shared: Tree) -> Iterator[str]:
    """An agent of the test's own."""
    made = f"a{abs(hash(request.node.name)) % 10**9}"
    yield made
    for pid in os.listdir(shared / "proc"):
        if pid.isdigit() and shared.read(f"proc/{pid}/status").startswith(f"Name:\t{made}\n"):
            shared.write(f"proc/{pid}/ctl", "KILL")


def send(tree: Tree, name: str, *texts: str) -> None:
    for text in texts:
        tree.write(f"agents/init/outbox/{name}", text)


def lines(tree: Tree, name: str) -> list[str]:
    path = tree / f"shared/{name}"
    return path.read_text().splitlines() if path.exists() else []


def box(tree: Tree, name: str) -> tuple[int, int]:
    inbox = tree / f"agents/{name}/inbox"
    return len(os.listdir(inbox / "new")), len(os.listdir(inbox / "cur"))


LOOPS = {
    "cat": 'while m=$(cat "$me/recv"); do {body} done',
    "cat in a pipeline": 'while m=$(cat "$me/recv" | sed p); do {body} done',
    "timeout": 'while m=$(timeout 60 cat "$me/recv"); do {body} done',
    "sh -c": """while m=$(sh -c 'cat "$0/recv" | cat' "$me"); do {body} done""",
    "bash's own": 'while m=$(< "$me/recv"); do {body} done',
    "mapfile": 'while mapfile -t x < "$me/recv"; do m=${{x[-1]}}; {body} done',
    "a script": 'while m=$(python3 "$AGENTFS/shared/step.py" "$me"); do {body} done',
    "a function": 'take() {{ cat "$me/recv"; }}; while m=$(take); do {body} done',
    "in turns": ('while m=$(cat "$me/recv"); do {body} m=$(head -c 9999 "$me/recv"); {body} done'),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_acknowledges_what_it_got_however_it_reads(
    shared: Tree, name: str, loop: str
) -> None:
    (shared / "shared/step.py").write_text(
        "import sys\nprint(open(sys.argv[1] + '/' + 're' + 'cv').read())\n"
    )
    body = 'echo "${m##*\n}" >> "$AGENTFS/shared/$AGENT_NAME";'
    script = "me=$AGENTFS/agents/$AGENT_NAME; " + LOOPS[loop].format(body=body)
    shared.spawn(name, exec=["bash", "-c", script], restart="never")
    send(shared, name, "one", "two", "three")
    eventually(lambda: lines(shared, name) == ["one", "two", "three"])
    eventually(lambda: box(shared, name) == (0, 0), "who waits has acknowledged what it had")


def test_a_python_agent_that_starts_programs_acknowledges(shared: Tree, name: str) -> None:
    script = (
        "import os, subprocess\n"
        "me = os.environ['AGENTFS'] + '/agents/' + os.environ['AGENT_NAME']\n"
        "while True:\n"
        "    got = subprocess.run(f'cat {me}/recv | tail -n 1', shell=True, capture_output=True)\n"
        "    with open(f'{me}/../../shared/' + os.environ['AGENT_NAME'], 'ab') as file:\n"
        "        file.write(got.stdout + b'\\n')\n"
    )
    shared.spawn(name, exec=["python3", "-c", script], restart="never")
    send(shared, name, "one", "two", "three")
    eventually(lambda: [each for each in lines(shared, name) if each] == ["one", "two", "three"])
    eventually(lambda: box(shared, name) == (0, 0))


WALKS = {
    "find -exec": "find . -name 'recv' -exec cat {} \\;",
    "find -exec +": "find . -name 'recv' -exec cat {} +",
    "find | xargs": "find . -name 'recv' | xargs cat",
    "find, sh": "find . -name 'recv' -exec sh -c 'cat \"$0\"' {} \\;",
}


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_takes_nothing_from_its_agent(shared: Tree, name: str, walk: str) -> None:
    """The loop has one message in hand all the time, which the walk must not acknowledge, and the
    loop not what the walk took."""
    script = f"""
cd "$AGENTFS/agents/$AGENT_NAME"
note() {{ echo "${{1##*
}}" >> "$AGENTFS/shared/$AGENT_NAME"; }}
note "$(cat recv)"
while [ "$(ls inbox/new | wc -l)" -lt 3 ]; do sleep 0.02; done
for i in 1 2; do {WALKS[walk]} > /dev/null; done
note "$(ls inbox/cur | wc -l) in hand"
while m=$(cat recv); do note "$m"; done
"""
    shared.spawn(name, exec=["bash", "-c", script], restart="never")
    send(shared, name, "one")
    eventually(lambda: lines(shared, name) == ["one"])
    send(shared, name, "two", "three", "four")
    eventually(lambda: sorted(lines(shared, name)[2:]) == ["four", "three", "two"])
    assert lines(shared, name)[1].endswith(" in hand")
    eventually(lambda: box(shared, name) == (0, 0))
    sent = (path.read_text() for path in (shared / "agents/init/sent").iterdir())
    assert not [text for text in sent if f"To: {name}\n" in text and "State: done" not in text]


def test_what_the_operator_takes_from_a_working_agent_comes_back_when_it_has_left(
    shared: Tree, name: str
) -> None:
    """It is never acknowledged by asking for the next, by nobody."""
    loop = """
while ! [ -e "$AGENTFS/shared/$AGENT_NAME.go" ]; do sleep 0.02; done
while m=$(cat "$AGENTFS/agents/$AGENT_NAME/recv"); do
    echo "${m##*
}" >> "$AGENTFS/shared/$AGENT_NAME"
done
"""
    shared.spawn(name, exec=["bash", "-c", loop], restart="never")
    send(shared, name, "one", "two", "three")
    visit = f"cat '{shared.path}/agents/{name}/recv'"
    program = shared.start("bash", "-c", f"{visit}; {visit}; read -r x", stdin=subprocess.PIPE)
    eventually(lambda: box(shared, name) == (1, 2))
    (shared / f"shared/{name}.go").touch()
    eventually(lambda: lines(shared, name) == ["three"])
    eventually(lambda: box(shared, name) == (0, 2))
    program.communicate(b"\n")
    eventually(lambda: sorted(lines(shared, name)) == ["one", "three", "two"], patience=60)
    eventually(lambda: box(shared, name) == (0, 0))


def test_recv_and_recv_batch_do_not_acknowledge_for_each_other(shared: Tree, name: str) -> None:
    shared.spawn(name)
    home = shared / f"agents/{name}"
    send(shared, name, "one", "two")
    assert (home / "recv").read_text().endswith("one")
    assert "two" in (home / "recv.batch").read_text()
    assert box(shared, name) == (0, 2)
    send(shared, name, "three")
    assert (home / "recv").read_text().endswith("three")
    assert box(shared, name) == (0, 2)  # `one` is done, and `two` is the batch's
