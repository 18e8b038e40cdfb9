"""docs/design.md: its toy capability, added to a copy of the tree as the page says, and used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/design.md").read_text()
ROOMS = ("agentfs", "mount", "providers", "tools")

USE = """
import sys
import tomllib
from pathlib import Path

import trio

import agentfs
from agentfs.store.part import Part
from agentfs.tools.reference import page
from agentfs.vfs.changes import Modified
from tests.providers.world import World as Tree
from tests.world import World

scratch, state = map(Path, sys.argv[1:])
assert Path(agentfs.__file__).is_relative_to(scratch)


async def use() -> None:
    world = World(state)
    tree = Tree(world.kernel)
    changed = Modified(tree.find("/dev/board/notes").key)
    assert tree.list("/dev/board") == ["notes", "pin"]
    await tree.write("/dev/board/pin", "the build is green")
    assert type(world.seen[-1]).__name__ == "NotePinned"
    assert changed in tree.changes
    assert '"note_pinned"' in await tree.text("/sys/audit/log")
    world.restart()
    tree = Tree(world.kernel)
    assert await tree.text("/dev/board/notes") == "1 init the build is green\\n"
    world.clock.step(86_399)
    world.kernel.ground.parts.tell(Part.tidy)
    assert changed not in tree.changes
    world.clock.step(2)
    world.kernel.ground.parts.tell(Part.tidy)
    assert type(world.seen[-1]).__name__ == "NoteGone"
    assert changed in tree.changes
    assert await tree.text("/dev/board/notes") == ""
    world.close()


trio.run(use)
assert "/dev/board" in page()
"""


def add(scratch: Path) -> tuple[set[str], dict[str, int]]:
    """Add the capability; the files that are new, and how many lines beside imports those have more
    that are not."""
    new: set[str] = set()
    longer: dict[str, int] = {}
    for path, text in re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.S):
        file = scratch / path
        assert not file.exists()
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        new.add(path)
    (scratch / "agentfs/board/__init__.py").write_text('"""A board of notes."""\n')
    for path, hunks in re.findall(r"```diff\n# (\S+)\n(.*?)```", PAGE, re.S):
        text = (scratch / path).read_text()
        place = ""
        for line in hunks.splitlines():
            if line.startswith("+"):
                longer[path] = longer.get(path, 0) + (not line.startswith("+from "))
                text = text.replace(place, f"{place}{line[1:]}\n")
            else:
                place = f"{line[1:]}\n"
                assert text.count(place) == 1, f"{path}: {place}"
        (scratch / path).write_text(text)
    return new, longer


def test_the_page_has_every_room_from_the_top() -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        (floors,) = (
            contract["layers"]
            for contract in tomllib.load(file)["tool"]["importlinter"]["contracts"]
            if contract["type"] == "layers"
        )
    table = PAGE.partition("| from the top | |\n|---|---|\n")[2].partition("\n\n")[0]
    shown = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines()]
    assert [room for line in shown for room in line] == [
        room for floor in floors for room in floor.split(" | ")
    ]


def test_a_capability_is_a_folder_a_provider_and_a_few_lines(tmp_path: Path) -> None:
    scratch = tmp_path / "tree"
    for room in ROOMS:
        shutil.copytree(
            ROOT / room, scratch / room, symlinks=True, ignore=lambda *_: ["__pycache__"]
        )
    shutil.copy(ROOT / "pyproject.toml", scratch)
    new, longer = add(scratch)
    assert {path.rpartition("/")[0] for path in new} == {"agentfs/board", "providers"}
    assert longer == {"agentfs/kernel.py": 1, "providers/tree.py": 1, "pyproject.toml": 1}

    env = os.environ | {"PYTHONPATH": f"{scratch}{os.pathsep}{ROOT}"}
    words = [sys.executable, "-P", "-c", USE, str(scratch), str(tmp_path / "state")]
    (tmp_path / "state").mkdir()
    used = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    floors = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    checked = subprocess.run(floors, env=env, cwd=scratch, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
