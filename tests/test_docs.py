"""What the pages of docs/ name is there, and tests show what docs/security.md guarantees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
SECURITY = (ROOT / "docs/security.md").read_text()

NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
FILE = re.compile(r"`((?:[\w/]+/)?test_\w+\.py)`(?: \((`\w+`(?:, `\w+`)*)\))?")
"""A file of tests, and in parentheses parts of the names of those that are meant."""
LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")


def source(file: str) -> str:
    """The text of a file of tests, by its path below tests/, or by its name if that is enough."""
    found = [TESTS / file.removeprefix("tests/")] if "/" in file else list(TESTS.rglob(file))
    assert len(found) == 1, f"{file}: {found}"
    return found[0].read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    for file, test in NAMED.findall(text):
        assert re.search(rf"^(async )?def {test}\(", source(file), re.M), test
    for file, parts in FILE.findall(text):
        names = re.findall(r"^(?:async )?def (test_\w+)\(", source(file), re.M)
        for part in re.findall(r"`(\w+)`", parts):
            assert any(part in name for name in names), f"{file}: {part}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for path, place in LINK.findall(page.read_text()):
        target = (page.parent / path) if path else page
        assert target.exists(), path
        if place:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert place in [re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles]


def test_many_tests_are_named() -> None:
    assert len(NAMED.findall(SECURITY)) > 25
    assert sum(len(FILE.findall(page.read_text())) for page in PAGES) > 20


def test_every_guaranteed_line_names_a_test() -> None:
    tables = SECURITY.split("| guaranteed | by | shown by |\n|---|---|---|\n")[1:]
    assert len(tables) == 5, "in every situation, same uid, other uid, confined, root task"
    for table in tables:
        for line in table.partition("\n\n")[0].splitlines():
            assert NAMED.search(line.rsplit(" | ", 1)[1]), line
