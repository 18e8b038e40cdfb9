"""What `agentfs spawn -- COMMAND` makes of a command that was typed in some directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentfs.tools.scripts import NoScriptError, as_typed


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place, memory = tmp_path / "here", tmp_path / "memory"
    for folder in (place, memory, place / "deep"):
        folder.mkdir()
    for file in (place / "d.sh", place / "sh", place / "deep/d.py", memory / "own.sh"):
        file.touch()
    monkeypatch.chdir(place)
    return place


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("./d.sh one", "HERE/d.sh one"),
        ("deep/../d.sh", "HERE/d.sh"),
        ("./nowhere", "./nowhere"),  # the kernel says so
        ("sh d.sh d.sh", "sh HERE/d.sh d.sh"),
        ("bash -eu -o pipefail d.sh", "bash -eu -o pipefail HERE/d.sh"),
        ("/bin/python3 -u -W ignore deep/d.py", "/bin/python3 -u -W ignore HERE/deep/d.py"),
        ("sh -c d.sh d.sh", "sh -c d.sh d.sh"),
        ("python3 -m d.sh", "python3 -m d.sh"),
        ("perl -ne d.sh", "perl -ne d.sh"),
        ("sh", "sh"),
        ("sh own.sh", "sh own.sh"),
        ("cat d.sh", "cat d.sh"),
        ("grep d.sh", "grep d.sh"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_program_or_script_of_this_directory_is_meant(here: Path, typed: str, meant: str) -> None:
    found = as_typed(typed.split(), lambda: [str(here.parent / "memory")])
    assert " ".join(found) == meant.replace("HERE", str(here))


@pytest.mark.parametrize("typed", ["sh none.sh", "python3 -u none.py d.sh", "sh /none/none.sh"])
def test_a_script_that_is_nowhere_is_refused(here: Path, typed: str) -> None:
    with pytest.raises(NoScriptError, match="none"):
        as_typed(typed.split(), lambda: [str(here.parent / "memory")])
