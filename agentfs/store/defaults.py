"""Settings that a document leaves out, shown in it as comments: each name with its default, marked,
in the section where it belongs. The text that somebody wrote stays byte for byte."""

from __future__ import annotations

import re

import yaml
from pydantic import BaseModel

from agentfs.base.yaml_text import compose, construct

__all__ = ["with_defaults", "without_defaults"]

MARK = "  # default"
"""How a line of ours ends: it may be uncommented and stay."""

_OURS = re.compile(rf" *# +[a-z0-9_.]+:.*{MARK}\r?")


def without_defaults(text: str) -> str:
    """`text` as somebody wrote it, without the lines that `with_defaults` added."""
    lines = text.split("\n")
    kept = [line for line in lines if not _OURS.fullmatch(line)]
    return "\n".join(kept)


def with_defaults(text: str, given: BaseModel) -> str:
    """`text`, a document of sections that says `given`, with what it leaves out as comments.

    A section in block style gets them below its last line. For any other (`{…}`, an alias) they are
    shown as `section.name`, below all. So are sections that are not there.
    """
    root = compose(text)
    added = _Added(text, root)
    for section in type(given).model_fields:
        part = getattr(given, section)
        default = type(part)().model_dump()
        missing = [
            f"{name}: {value!r}" if value == "" else f"{name}: {value}"
            for name, value in default.items()
            if name not in part.model_fields_set
        ]
        if missing:
            added.add(section, missing, there=section in given.model_fields_set)
    shown = added.text()
    same = without_defaults(shown) == text and _content(compose(shown)) == _content(root)
    return shown if same else text


def _content(node: yaml.Node | None) -> object:
    return None if node is None else construct(node)


class _Added:
    """The lines that are added to a text."""

    def __init__(self, text: str, root: yaml.Node | None) -> None:
        self._lines = text.split("\n")
        self._root = root
        self._below: dict[int, list[str]] = {}
        self._last: list[str] = []

    def add(self, section: str, missing: list[str], *, there: bool) -> None:
        """Add what is missing in `section`, which is `there` or not."""
        root = self._root
        block = root is None or (isinstance(root, yaml.MappingNode) and not root.flow_style)
        if there or not block:
            line, indent = self._place(section)
            named = [f"{section}.{each}" for each in missing] if indent is None else missing
            where = self._last if line is None else self._below.setdefault(line, [])
            where += [f"{' ' * (indent or 0)}# {each}{MARK}" for each in named]
        else:
            pad = " " * (0 if root is None else root.start_mark.column)
            self._last.append(f"{pad}# {section}:{MARK}")
            self._last += [f"{pad}#   {each}{MARK}" for each in missing]

    def _place(self, section: str) -> tuple[int | None, int | None]:
        """The last line of a section (from 0), and its indentation if it is in block style; None
        where there is none."""
        root = self._root
        if not isinstance(root, yaml.MappingNode) or root.flow_style:
            return None, None
        for key, value in root.value:
            if key.value == section and value.start_mark.index > key.start_mark.index:
                column = value.start_mark.column
                block = isinstance(value, yaml.MappingNode) and not value.flow_style
                return _last_line(value), column if block else None
        return None, None

    def text(self) -> str:
        lines: list[str] = []
        for number, line in enumerate(self._lines):
            lines += [line, *self._below.get(number, [])]
        if self._lines[-1]:
            return "\n".join(lines + self._last)
        return "\n".join(lines[:-1] + self._last + [""])


def _last_line(node: yaml.Node) -> int:
    """The last line of `node`, from 0, without the comments behind it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    end = node.end_mark
    return int(end.line) - (end.column == 0 and end.line > node.start_mark.line)
