"""What `./run` installs: exact versions whose files' hashes are known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "name", ["requirements.lock", "bench/requirements.txt", "bench/litellm.txt"]
)
def test_everything_has_an_exact_version_and_hashes(name: str) -> None:
    text = re.sub(r"(?m)^#.*\n", "", (TOP / name).read_text())
    for requirement in text.replace("\\\n", " ").splitlines():
        assert re.fullmatch(
            r"[\w.-]+==[\w.]+( ; [^#]+?)?\s*(\s+--hash=sha256:[0-9a-f]{64})+", requirement
        )


def test_pip_is_never_let_fetch_what_has_no_hash() -> None:
    calls = re.findall(r"(?m)(?:\$pip|-m pip install)((?: .*\\\n)* .*)", (TOP / "run").read_text())
    fetching = [call for call in calls if " -r " in call]
    assert len(fetching) == 4
    for call in fetching:
        assert "--require-hashes" in call
        assert "--only-binary :all:" in call or "--no-binary pyfuse3" in call
