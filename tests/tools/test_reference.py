"""The reference page is what the declarations say."""

from __future__ import annotations

from pathlib import Path

from agentfs.tools.reference import page

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_page_is_up_to_date() -> None:
    assert (DOCS / "namespace.md").read_text() == page(), (
        "run: python -m agentfs.tools.reference > docs/namespace.md"
    )
