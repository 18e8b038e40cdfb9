"""Codes of what is found in manifests: each is explained, and used."""

from __future__ import annotations

import re
from pathlib import Path

from agentfs.manifests import diagnose

ROOM = Path(diagnose.__file__).parent
CODE = re.compile(r'"([EWI]\d{3})"')


def test_every_code_is_explained_and_every_explanation_is_used() -> None:
    files = [*ROOM.glob("*.py"), ROOM.parent / "base/yaml_document.py"]
    used = {
        code
        for file in files
        if file.name != "diagnose.py"
        for code in CODE.findall(file.read_text())
    }
    assert used == set(diagnose.CODES)
