"""The compiled build: what says that it is compiled is, and mypyc takes our way of writing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import hatch_build
from agentfs.base.build import build

ROOT = Path(__file__).parents[1]

TAKEN = ("agentfs/base/due_heap.py", "agentfs/base/wait_list.py", "agentfs/base/windows.py")

USE = """
import agentfs.base.due_heap, agentfs.base.wait_list, agentfs.base.windows
heap = agentfs.base.due_heap.DueHeap()
for number in range(100):
    heap.add(100.0 - number, number, f"item {number}")
heap.discard(99)
print(heap.first(), len(heap), type(heap).add.__class__.__name__)
for name in ("due_heap", "wait_list", "windows"):
    print(getattr(agentfs.base, name).__file__)
try:
    heap.add("soon", 1, None)
except TypeError as failure:
    print(failure)
"""


def origin(file: str) -> str:
    spec = find_spec(file.removesuffix(".py").replace("/", "."))
    assert spec is not None
    return spec.origin or ""


def test_what_says_that_it_is_compiled_is_and_the_rest_is_not():
    suffix = {"compiled": ".so", "pure": ".py"}[build()]
    assert [file for file in hatch_build.modules() if not origin(file).endswith(suffix)] == []


def test_what_is_loaded_is_the_build_that_the_command_names():
    said = subprocess.run(
        [sys.executable, "-m", "agentfs.tools.cli", "--version"], capture_output=True, text=True
    )
    assert said.stdout.strip().endswith(f"({build()})")


def test_every_listed_room_has_its_exceptions_named():
    listed = hatch_build.modules()
    assert "agentfs/store/store.py" in listed
    assert "agentfs/mail/mail.py" in listed
    assert not [file for file in listed if file.startswith(("agentfs/mount", "agentfs/providers"))]


def test_a_wrong_entry_of_the_list_is_an_error(monkeypatch):
    wrong = {"compiled": ["agentfs/base"], "interpreted": ["agentfs/base/gone.py"]}
    monkeypatch.setattr(hatch_build, "_settings", lambda: wrong)
    with pytest.raises(ValueError, match=r"nothing that is compiled is agentfs/base/gone\.py"):
        hatch_build.modules()
    wrong |= {"compiled": ["agentfs/gone"]}
    with pytest.raises(ValueError, match="there is no agentfs/gone to compile"):
        hatch_build.modules()


def test_modules_are_compiled_and_run(tmp_path):
    made = tmp_path / "made"
    command = [sys.executable, ROOT / "hatch_build.py", "--compile", made, *TAKEN]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    tree = made / "lib"
    for file in ("agentfs/__init__.py", "agentfs/base/__init__.py"):
        shutil.copy(ROOT / file, tree / file)
    ran = subprocess.run(
        [sys.executable, "-c", USE], cwd=tree, capture_output=True, text=True, check=True
    )
    first, *files, refused = ran.stdout.splitlines()
    assert first == "item 98 99 method_descriptor"
    assert [Path(file).suffix for file in files] == [".so"] * 3
    assert all(Path(file).is_relative_to(tree) for file in files)
    assert refused == "float object expected; got str"  # types are held while it runs
