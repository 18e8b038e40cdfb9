"""docs/security.md: what it says is guaranteed is shown by tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text()
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


def test_every_test_that_the_page_names_is_there() -> None:
    named = NAMED.findall(PAGE)
    assert len(named) > 25
    for file, test in named:
        text = (ROOT / "tests" / file).read_text()
        assert re.search(rf"^(async )?def {test}\(", text, re.M), test


def test_every_guaranteed_line_names_a_test() -> None:
    tables = PAGE.split("| guaranteed | by | shown by |\n|---|---|---|\n")[1:]
    assert len(tables) == 5, "in every situation, same uid, other uid, confined, root task"
    for table in tables:
        for line in table.partition("\n\n")[0].splitlines():
            assert NAMED.search(line.rsplit(" | ", 1)[1]), line
