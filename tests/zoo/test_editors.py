"""Programs that change a file in place, or put another in its place, on documents of the tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tree import Tree
from tests.zoo.programs import needs, run

pytestmark = pytest.mark.mount

CONFIG = "etc/agentfs.yaml"
BEFORE, AFTER = "max_waiting: 10000", "max_waiting: 4321"

# What each program does to the file `name` in the folder it runs in; `new` is the wanted content.
WAYS: dict[str, Callable[[str, Path], tuple[str | Path, ...]]] = {
    "sed -i": lambda name, new: ("sed", "-i", f"s/{BEFORE}/{AFTER}/", name),
    "sed -i.bak": lambda name, new: ("sed", "-i.bak", f"s/{BEFORE}/{AFTER}/", name),
    "gawk -i inplace": lambda name, new: (
        "gawk", "-i", "inplace", f'{{gsub("{BEFORE}", "{AFTER}"); print}}', name,
    ),
    "perl -i": lambda name, new: ("perl", "-i", "-pe", f"s/{BEFORE}/{AFTER}/", name),
    "rsync": lambda name, new: ("rsync", "--checksum", new, name),
    "rsync --inplace": lambda name, new: ("rsync", "--inplace", "--checksum", new, name),
    "mv": lambda name, new: ("mv", "-f", new, name),
    "cp": lambda name, new: ("cp", new, name),
    "cp --remove-destination": lambda name, new: ("cp", "--remove-destination", new, name),
    "cp --backup": lambda name, new: ("cp", "--backup", new, name),
    "install": lambda name, new: ("install", "-m", "644", new, name),
    "busybox cp": lambda name, new: ("busybox", "cp", new, name),
    "busybox sed -i": lambda name, new: ("busybox", "sed", "-i", f"s/{BEFORE}/{AFTER}/", name),
    "os.replace": lambda name, new: (
        sys.executable, "-c",
        "import os, sys; name = sys.argv[1]\n"
        "open(name + '.tmp', 'w').write(open(sys.argv[2]).read()); os.replace(name + '.tmp', name)",
        name, new,
    ),
    "tee": lambda name, new: ("sh", "-c", f"tee {name} < {new} > /dev/null"),
    "dd": lambda name, new: ("dd", f"if={new}", f"of={name}", "status=none"),
}  # fmt: skip


@pytest.fixture
def put_back(zoo: Tree) -> Iterator[None]:
    before = zoo.read(CONFIG)
    yield
    if zoo.read(CONFIG) != before:
        zoo.write(CONFIG, before)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("put_back")
def test_the_configuration(zoo: Tree, way: str, tmp_path: Path) -> None:
    new = tmp_path / "new"
    text = zoo.read(CONFIG)
    assert BEFORE in text
    new.write_text(text.replace(BEFORE, AFTER))
    command = WAYS[way]("agentfs.yaml", new)
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"not installed: {command[0]}")
    run(*command, cwd=zoo / "etc")
    assert AFTER in zoo.read(CONFIG)
    assert BEFORE not in zoo.read(CONFIG)
    assert [name for name in os.listdir(zoo / "etc") if name.endswith(".tmp")] == []


@pytest.mark.parametrize("way", ["sed -i", "rsync", "mv", "os.replace", "install", "cp"])
@pytest.mark.usefixtures("put_back")
def test_a_result_that_is_no_configuration_is_refused_and_the_old_one_stays(
    zoo: Tree, way: str, tmp_path: Path
) -> None:
    before = zoo.read(CONFIG)
    new = tmp_path / "new"
    new.write_text(before.replace(BEFORE, "max_waiting: many"))
    command = WAYS[way]("agentfs.yaml", new)
    command = tuple(str(part).replace("4321", "many") for part in command)
    if shutil.which(command[0]) is None:
        pytest.skip(f"not installed: {command[0]}")
    done = subprocess.run(
        command,
        cwd=zoo / "etc",
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode != 0, done.stdout + done.stderr
    assert zoo.read(CONFIG) == before


@pytest.mark.parametrize("way", ["sed -i", "rsync", "mv", "cp --remove-destination", "os.replace"])
def test_the_definition_of_an_agent(zoo: Tree, way: str, tmp_path: Path) -> None:
    name = "edited-" + "".join(letter for letter in way if letter.isalpha())
    zoo.spawn(name, env={"GREETING": BEFORE})
    new = tmp_path / "new"
    text = zoo.read(f"agents/{name}/spec.yaml")
    assert BEFORE in text
    new.write_text(text.replace(BEFORE, AFTER))
    command = WAYS[way]("spec.yaml", new)
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"not installed: {command[0]}")
    run(*command, cwd=zoo / f"agents/{name}")
    assert AFTER in zoo.read(f"agents/{name}/spec.yaml")


VIM = shutil.which("vim") or "vim.tiny"


@needs(VIM)
@pytest.mark.parametrize("backup", ["yes", "no", "auto"])
@pytest.mark.usefixtures("put_back")
def test_vim(zoo: Tree, backup: str, tmp_path: Path) -> None:
    before = sorted(os.listdir(zoo / "etc"))
    run(
        "script",
        "-qec",
        f"{VIM} -u NONE -c 'set backupcopy={backup}' -c '%s/{BEFORE}/{AFTER}/'"
        f" -c wq '{zoo / CONFIG}'",
        "/dev/null",
        env={"TERM": "vt100", "HOME": str(tmp_path)},
    )
    assert AFTER in zoo.read(CONFIG)
    assert sorted(os.listdir(zoo / "etc")) == before
