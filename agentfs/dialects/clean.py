"""Keys cut out of texts that a provider wrote: some errors quote the key that they refuse."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TypeVar
from urllib.parse import quote

__all__ = ["clean"]

Text = TypeVar("Text", str, bytes)

LEAST = 6
"""Characters of what is cut out as a key. Shorter ones are parts of words."""

SHOWN = "[key]"


def clean(text: Text, keys: Iterable[str | None]) -> Text:
    """The text with each key replaced, as it is written and as JSON and URLs write it. A key of
    which a provider shows beginning and end (sk-ab***yz) is not found."""
    for key in keys:
        if key is None or len(key) < LEAST:
            continue
        for form in {key, json.dumps(key)[1:-1], quote(key, safe="")}:
            if isinstance(text, bytes):
                text = text.replace(form.encode("utf-8", "replace"), SHOWN.encode())
            else:
                text = text.replace(form, SHOWN)
    return text
