"""Readers of the whole tree: none takes a message that was not for it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.puppet import Puppet
from tests.suites.outcome import Outcome
from tests.tree import Tree

__all__ = ["READERS", "mail_that_waits", "read_by"]

READERS = {
    "read_all": "read_all -d $TREE -q -r 3",
    "read_all -p": "read_all -d $TREE -q -r 3 -p",
    "grep -r": "grep -rs in-the- $TREE",
    "rg": "rg -uuu --no-messages in-the- $TREE",
    "find -exec cat": "find $TREE -type f -exec cat {} +",
    "md5sum": "find $TREE -type f -print0 | xargs -0 md5sum",
    "tar": "tar -cf - $TREE | cat",
    "zip": "zip -qr - $TREE | cat",
    "cp -r": "cp -r $TREE $OUT/copy",
    "rsync --dry-run": "rsync -a --dry-run $TREE/ $OUT/copy",
    "rsync": "rsync -a --no-specials $TREE/ $OUT/copy",
    "du": "du -a $TREE",
    "file": "find $TREE | file -f -",
    "getfattr": "getfattr -R -d -m - $TREE",
    "ls -laR": "ls -laR $TREE",
    "updatedb": 'updatedb -l 0 -U $TREE -o $OUT/db --prunefs "" --prunepaths ""',
}
"""Shell lines: $TREE is the tree, $OUT an empty folder outside of it. What of it is refused to the
reader is no matter; that it ends is, and what is left."""

SECONDS = 300


def mail_that_waits(tree: Tree) -> Puppet:
    """Something of everything that can be taken: mail of agents, of the operator and of a program
    that is at work, jobs, a topic, questions."""
    tree.spawn("bob")
    ann = Puppet(tree, "ann")
    for name in ("bob", "ann", "init"):
        for number in range(3):
            tree.write(f"agents/init/outbox/{name}", f"{number} in-the-inbox\n")
    (tree / "dev/queues/jobs").mkdir()
    for number in range(3):
        tree.write("dev/queues/jobs/send", f"{number} in-the-queue\n")
    (tree / "dev/topics/news").touch()
    tree.write("dev/topics/news", "in-the-news\n")
    ann.ask("agents/self/asks/new", "To: bob\n\nWhat is in-the-question?\n")
    return ann


def waiting(tree: Tree) -> dict[str, list[str]]:
    """What waits, and what was taken, in every mailbox."""
    boxes = [*tree.path.glob("agents/*/inbox/*"), *tree.path.glob("dev/queues/*/[ncd]*")]
    found = {str(box): sorted(os.listdir(box)) for box in boxes if box.is_dir()}
    for status in (*tree.path.glob("dev/queues/*/status"), *tree.path.glob("agents/*/asks/*/st*")):
        found[str(status)] = status.read_text().splitlines()
    return found


def read_by(tree: Tree, programs: Path, folder: Path, name: str) -> Outcome:
    """Let one reader read everything, as root; then look at what waits. `programs` is where
    read_all is."""
    line = READERS[name]
    program = line.split()[0]
    path = f"{programs}:{os.environ['PATH']}"
    if shutil.which(program, path=path) is None:
        return Outcome.skipped(f"{program} is not installed")
    out = folder / name.replace(" ", "-").replace("/", "-")
    out.mkdir()
    out.chmod(0o777)
    before = waiting(tree)
    environment = os.environ | {
        "PATH": path,
        "TREE": str(tree.path),
        "OUT": str(out),
        "TMPDIR": str(out),
        "LTPROOT": str(programs.parents[1]),
    }
    began = time.monotonic()
    with subprocess.Popen(
        ["sh", "-c", line],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as reader:
        try:
            reader.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(reader.pid, signal.SIGKILL)
            return Outcome.failed(f"did not end within {SECONDS} s")
    seconds = time.monotonic() - began
    after = waiting(tree)
    taken = sorted(key for key in before if before[key] != after.get(key))
    if taken:
        return Outcome.failed(f"took something of {', '.join(taken)}")
    return Outcome(f"{seconds:.2f} s")
