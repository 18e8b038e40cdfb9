"""What images and files in a request count: not their bytes, which base64 makes long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Media", "weigh"]

IMAGE = 2_000
"""Tokens of an image. OpenAI's large ones have up to 1,500, Anthropic's 1,600."""

PAGE, PAGE_BYTES = 3_000, 40_000
"""Tokens of a page of a file (Anthropic says 1,500 to 3,000), and bytes of base64 for one."""

AUDIO_BYTES = 1_000
"""Bytes of base64 for a token of sound: a second has 10 tokens, and in MP3 16 KB."""

KINDS = {"image_url", "input_image", "image", "computer_screenshot"}
FILES = {"file", "input_file", "document"}
SOUND = {"input_audio", "audio"}
MEDIA = KINDS | FILES | SOUND


class Media(NamedTuple):
    """How many there are, their tokens, and the bytes that are counted with them."""

    found: int = 0
    tokens: int = 0
    size: int = 0


def weigh(members: Mapping[str, Any]) -> Media:
    """The images and files in the messages of a request."""
    found = total = size = 0
    todo: list[Any] = [members.get("messages"), members.get("input")]
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo += item
        elif isinstance(item, dict):
            kind = item.get("type")
            if isinstance(kind, str) and kind in MEDIA:
                data = _data(item)
                found, size = found + 1, size + data
                total += _tokens(kind, data)
                continue
            # Nothing else of a message holds blocks: in its content, or the output of a tool.
            if isinstance(content := item.get("content"), list):
                todo += content
            if isinstance(output := item.get("output"), dict | list):
                todo.append(output)
    return Media(found, total, size)


def _tokens(kind: str, data: int) -> int:
    if kind in KINDS:
        return IMAGE
    if kind in SOUND:
        return -(-data // AUDIO_BYTES)
    return PAGE * max(1, -(-data // PAGE_BYTES))


def _data(item: Mapping[str, Any]) -> int:
    """Bytes of base64 in a block, wherever the dialect puts them."""
    size = 0
    for inner in (item, *(value for value in item.values() if isinstance(value, dict))):
        for name, value in inner.items():
            if not isinstance(value, str):
                continue
            coded = name in ("data", "file_data") and inner.get("type") != "text"
            if coded or value.startswith("data:"):
                size += len(value)
    return size
