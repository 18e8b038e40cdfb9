"""Programs that replace a file, on each document of the tree: what they do takes effect, what is
not valid does not, and at no moment is there nothing in force."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

# Of each document: its path, and what it says before and after; every one has the word in it.
DOCUMENTS = {
    "etc/agentfs.yaml": "messages: {max_waiting: WORD}\n",
    "etc/roles.yaml": "tiers: {tactical: {model: mWORD}}\n",
    "etc/acl.yaml": "rules:\n- {effect: deny, role: worker, path: /agents/xWORD/**}\n",
    "etc/models.yaml": "models:\n  mWORD: {tier: tactical, input: 1, output: 2}\n",
    "agents/bob/spec.yaml": "name: bob\nenv: {WHAT: 'xWORD'}\n",
}
PIPELINE = "etc/pipelines/review.yaml"
MANIFESTS = {
    PIPELINE: "kind: Pipeline\nmetadata: {name: r}\nspec: {nodes: [{name: a, data: {v: xWORD}}]}\n"
}
"""Documents that are gone when they are removed; they are back if their successor is refused."""

OLD, NEW = "1111", "2222"
BROKEN = "[ this is: {no document\n"


@pytest.fixture(scope="module")
def tree(
    fuse: None, hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tree]:
    """One for all: what a test leaves is another content."""
    made = QuickTree(tmp_path_factory.mktemp("replacing") / "tree", hatchery=hatchery)
    try:
        made.mount()
        os.mkdir(made / "agents/bob")
        yield made
    finally:
        made.clean_up()


@pytest.fixture(params=DOCUMENTS)
def document(tree: Tree, request: pytest.FixtureRequest) -> Path:
    return begun(tree / request.param)


@pytest.fixture(params=[*DOCUMENTS, *MANIFESTS])
def any_document(tree: Tree, request: pytest.FixtureRequest) -> Path:
    return begun(tree / request.param)


def begun(path: Path) -> Path:
    """The document with its content of before."""
    path.write_text(text(path, OLD))
    return path


def text(document: Path, word: str) -> str:
    texts = DOCUMENTS | MANIFESTS
    return next(each.replace("WORD", word) for path, each in texts.items() if document.match(path))


def written(shown: str) -> str:
    """What somebody wrote of a document: agentfs.yaml shows what it leaves out as comments."""
    return "".join(
        line for line in shown.splitlines(keepends=True) if not line.endswith("  # default\n")
    )


def sh(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-ec", command],
        env=os.environ | {"EDIT": shutil.which("vim") or "vim.tiny"} | env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


# Each replaces $DOC; $OUTSIDE is a file elsewhere that has the new content.
WAYS = {
    "sed -i": f"sed -i s/{OLD}/{NEW}/ $DOC",
    "sed -i.bak": f"sed -i.bak s/{OLD}/{NEW}/ $DOC; grep -q {OLD} $DOC.bak; rm $DOC.bak",
    "gawk -i inplace": f"gawk -i inplace '{{gsub(/{OLD}/, \"{NEW}\")}} 1' $DOC",
    "perl -i": f"perl -pi -e s/{OLD}/{NEW}/ $DOC",
    "perl -i.orig": f"perl -pi.orig -e s/{OLD}/{NEW}/ $DOC; rm $DOC.orig",
    "busybox sed -i": f"busybox sed -i s/{OLD}/{NEW}/ $DOC",
    "ed": f"printf '1,$s/{OLD}/{NEW}/\\nwq\\n' | ed -s $DOC",
    "patch": "diff -u $DOC $OUTSIDE | patch -s $DOC",
    "cp": "cp $OUTSIDE $DOC",
    "cp -a": "cp -a $OUTSIDE $DOC",
    "cp -p": "chmod 600 $OUTSIDE; cp -p $OUTSIDE $DOC",
    "cp --remove-destination": "cp --remove-destination $OUTSIDE $DOC",
    "cp --backup": f"cp --backup $OUTSIDE $DOC; grep -q {OLD} $DOC~; rm $DOC~",
    "cp --backup=numbered": "cp --backup=numbered $OUTSIDE $DOC; rm $DOC.~1~",
    "mv": "mv $OUTSIDE $DOC",
    "mv -b": "mv -b $OUTSIDE $DOC; rm $DOC~",
    "mv beside": "cp $OUTSIDE $DOC.new; mv $DOC.new $DOC",
    "mv -b beside": "cp $OUTSIDE $DOC.new; mv -b $DOC.new $DOC; rm $DOC~",
    "install": "install $OUTSIDE $DOC",
    "install -m": "install -m 600 $OUTSIDE $DOC",
    "install -b": "install -b -m 644 $OUTSIDE $DOC; rm $DOC~",
    "rsync": "rsync -I $OUTSIDE $DOC",
    "rsync -a": "rsync -aI $OUTSIDE $DOC",
    "rsync -aX": "setfattr -n user.x -v y $OUTSIDE; rsync -aIX $OUTSIDE $DOC",
    "rsync --inplace": "rsync -I --inplace $OUTSIDE $DOC",
    "rsync -b": "rsync -I -b $OUTSIDE $DOC; rm $DOC~",
    "tar": 'tar cf - -C "$(dirname $OUTSIDE)" "$(basename $DOC)" | tar xf - -C "$(dirname $DOC)"',
    "rm and cp": "rm $DOC; cp $OUTSIDE $DOC",
    "os.replace": 'python3 -c "import os, shutil;'
    " d = os.environ['DOC'] + '.tmp'; shutil.copy(os.environ['OUTSIDE'], d);"
    " f = open(d, 'r+'); os.fsync(f.fileno()); f.close(); os.replace(d, os.environ['DOC'])\"",
    "vim": f"$EDIT -es -N -u NONE +%s/{OLD}/{NEW}/ +wq $DOC",
    "vim, backupcopy=no": "$EDIT -es -N -u NONE '+set bk wb bsk= bkc=no'"
    f" +%s/{OLD}/{NEW}/ +wq $DOC; rm $DOC~",
    "vim, backupcopy=yes": "$EDIT -es -N -u NONE '+set bk wb bsk= bkc=yes'"
    f" +%s/{OLD}/{NEW}/ +wq $DOC; rm $DOC~",
    "vim without backup": f"$EDIT -es -N -u NONE '+set nobk nowb' +%s/{OLD}/{NEW}/ +wq $DOC",
    "emacs": "rm -f $DOC~; mv $DOC $DOC~; cat $OUTSIDE > $DOC; rm $DOC~",
    "tee": "tee $DOC < $OUTSIDE >/dev/null",
    "dd": "dd if=$OUTSIDE of=$DOC status=none",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_program_that_replaces_a_file(any_document: Path, tmp_path: Path, way: str) -> None:
    document = any_document
    outside = tmp_path / document.name
    outside.write_text(text(document, NEW))
    if os.geteuid() == 0:
        os.chown(outside, 65534, 65534)
    done = sh(WAYS[way], DOC=str(document), OUTSIDE=str(outside))
    assert done.returncode == 0, done.stderr + done.stdout
    assert written(document.read_text()) == text(document, NEW)
    assert document.stat().st_uid == os.geteuid()
    left = {name for name in os.listdir(document.parent) if document.name in name}
    assert left == {document.name}, "nothing is left beside it"


# What refuses, and how to begin with a broken content in $OUTSIDE.
REFUSALS = [
    "cp $OUTSIDE $DOC",
    "cp --remove-destination $OUTSIDE $DOC",
    "cp $OUTSIDE $DOC.new; mv $DOC.new $DOC",
    "install -m 644 $OUTSIDE $DOC",
    "mv $OUTSIDE $DOC",
    "rsync -I $OUTSIDE $DOC",
    "sed -i 's/^/[ {/' $DOC",
]


@pytest.mark.parametrize("way", REFUSALS)
def test_what_is_not_valid_is_refused_and_the_old_stays(
    any_document: Path, tmp_path: Path, way: str
) -> None:
    document = any_document
    outside = tmp_path / document.name
    outside.write_text(BROKEN)
    done = sh(way, DOC=str(document), OUTSIDE=str(outside))
    assert done.returncode != 0
    # EINVAL; mv(1) thinks of one reason only
    assert "nvalid argument" in done.stderr or "to a subdirectory of itself" in done.stderr
    assert written(document.read_text()) == text(document, OLD)
    for name in os.listdir(document.parent):
        if name.startswith("sed") or (document.name in name and name != document.name):
            (document.parent / name).unlink()


def test_the_old_is_in_force_until_the_new_is_whole(document: Path) -> None:
    reader = os.open(document, os.O_RDONLY)
    os.unlink(document)
    assert document.name not in os.listdir(document.parent)
    writer = os.open(document, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    new = text(document, NEW).encode()
    os.write(writer, new[:10])
    assert written(document.read_text()) == text(document, OLD)
    assert written(os.pread(reader, 65536, 0).decode()) == text(document, OLD)
    os.write(writer, new[10:])
    os.fchmod(writer, 0o600)
    os.utime(writer)
    assert written(document.read_text()) == text(document, OLD)
    os.close(writer)
    assert written(document.read_text()) == text(document, NEW)
    os.close(reader)


def test_a_successor_that_is_empty_is_none(document: Path) -> None:
    os.unlink(document)
    document.touch()
    assert written(document.read_text()) == text(document, OLD)


def test_what_is_removed_is_in_force_and_comes_back(trees: Callable[..., Tree]) -> None:
    tree = trees()
    tree.mount()
    acl = tree / "etc/acl.yaml"
    acl.write_text(DOCUMENTS["etc/acl.yaml"])
    before = acl.read_text()
    acl.unlink()
    tree.run("ps")  # with the rules of old in force
    tree.crash()
    tree.mount()
    assert acl.read_text() == before


def test_files_beside_are_bounded_and_hidden_from_the_system(tree: Tree) -> None:
    folder = tree / "agents/bob"
    for number in range(8):
        (folder / f"tmp{number}").write_text(BROKEN)
    with pytest.raises(OSError, match="No space left"):
        (folder / "tmp8").write_text("x")
    with pytest.raises(OSError, match="File too large"):
        (folder / "tmp1").write_bytes(bytes(1 << 21))
    with pytest.raises(OSError, match="not permitted"):
        (folder / "tmp1").rename(folder / "recv")
    with pytest.raises(OSError, match="not permitted"):
        (folder / "state").unlink()
    with pytest.raises(OSError, match="not permitted"):
        (folder / "log").rename(folder / "tmp9")
    with pytest.raises(OSError, match="cross-device"):
        (folder / "tmp1").rename(tree / "etc/tmp1")
    assert sorted(os.listdir(folder / "inbox/new")) == []
    for number in range(8):
        (folder / f"tmp{number}").unlink()


def test_an_agent_does_not_write_beside_what_it_may_not_define(tree: Tree) -> None:
    script = (
        'cd "$AGENTFS/agents/self"; echo x > x 2>&1 || echo refused;'
        ' cp spec.yaml "$AGENTFS/etc/x" 2>&1 || echo refused;'
        " rm spec.yaml 2>&1 || echo refused; sed -i s/a/b/ spec.yaml 2>&1 || echo refused"
    )
    tree.spawn("carol", exec=["sh", "-c", script], restart="never")
    log = tree / "agents/carol/log"
    eventually(lambda: log.read_text().count("refused\n") == 4)
    assert (tree / "agents/carol/spec.yaml").exists()


def test_nano_saves(tree: Tree) -> None:
    path = tree / "agents/bob/spec.yaml"
    path.write_text(DOCUMENTS["agents/bob/spec.yaml"])
    before = path.read_text()
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("nano", ["nano", "-I", str(path)], os.environ | {"TERM": "xterm"})
    screen = b""

    def shown(words: bytes) -> None:
        nonlocal screen
        while words not in screen:
            assert select.select([terminal], [], [], 30)[0], screen
            screen += os.read(terminal, 65536)
        screen = b""

    try:
        shown(b"xWORD")
        os.write(terminal, b"# x\r\x0f")  # a line, then "write out"
        shown(b"to Write")
        os.write(terminal, b"\r")
        shown(b"Wrote")
        os.write(terminal, b"\x18")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)
    assert path.read_text() == f"# x\n{before}"


PART = "# mine\nmessages:\n  max_waiting: 1111  # few\n\nprocesses:\n    grace_period: 5s\n"
LEFT_OUT = {
    "cp of what is shown": "cp $DOC $OUTSIDE; cp $OUTSIDE $DOC",
    "cp -a and mv": "cp -a $DOC $OUTSIDE; mv $OUTSIDE $DOC",
    "sed -i": "sed -i s/1111/2222/ $DOC; sed -i s/2222/1111/ $DOC",
    "sed -i of what is shown": "sed -i 's/max_dead: 1000 /max_dead: 7 /' $DOC",
    "vim": "$EDIT -es -N -u NONE +%s/1111/2222/ +w +%s/2222/1111/ +wq $DOC",
    "append": "echo '# more' >> $DOC; sed -i '/# more/d' $DOC",
    "an editor with CRLF": "sed 's/default$/default\\r/' $DOC > $OUTSIDE; cp $OUTSIDE $DOC",
}


@pytest.mark.parametrize("way", LEFT_OUT)
def test_what_the_configuration_leaves_out_is_shown_as_comments(
    tree: Tree, tmp_path: Path, way: str
) -> None:
    """In its place, marked, once however often it is written back; what a person wrote stays."""
    document = tree / "etc/agentfs.yaml"
    document.write_text(PART)
    shown = document.read_text()
    assert document.stat().st_size == len(shown)
    assert "few\n  # max_size: 1048576  # default\n" in shown
    assert "5s\n    # max_children_of_init: 100  # default\n" in shown
    assert "\n# queues:  # default\n#   max_queues: 100000  # default\n" in shown
    assert written(shown) == PART
    done = sh(LEFT_OUT[way], DOC=str(document), OUTSIDE=str(tmp_path / "agentfs.yaml"))
    assert (done.returncode, done.stderr) == (0, "")
    eventually(lambda: document.read_text() == shown)


def test_a_default_that_is_uncommented_and_changed_is_in_effect(tree: Tree) -> None:
    document = tree / "etc/agentfs.yaml"
    document.write_text("messages:\n  max_waiting: 1111\n")
    change = "s/^  # max_size: 1048576 /  max_size: 2048 /; s/^# \\(reminders:\\)/\\1/"
    done = sh(f"sed -i '{change}; s/^#   burst: 20/  burst: 3/' $DOC", DOC=str(document))
    assert (done.returncode, done.stderr) == (0, "")
    shown = document.read_text()
    assert "\n  max_size: 2048  # default\n" in shown
    assert "# max_size: 1048576" not in shown
    assert "\nreminders:  # default\n  burst: 3  # default\n" in shown
    assert "Burst:\t3\n" in (tree / "agents/bob/reminders/limits").read_text()
