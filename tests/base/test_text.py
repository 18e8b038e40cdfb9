"""Texts of others in one line."""

from __future__ import annotations

import pytest

from agentfs.base.text import one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("plain text, \u00e9 and \u4e2d", "plain text, \u00e9 and \u4e2d"),
        ("a\nb\tc\x7f", r"a\012b\011c\177"),
        ("caf\udce9", r"caf\351"),
        ("\ud800", r"\355\240\200"),
        ("\u202egpj.exe", r"\342\200\256gpj.exe"),
    ],
)
def test_what_cannot_be_printed_is_shown_by_its_bytes(text: str, shown: str) -> None:
    assert one_line(text) == shown
    assert one_line(text).encode().isascii() == one_line(text).isascii()
