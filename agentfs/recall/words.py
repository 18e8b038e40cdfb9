"""The words of a text, as the index has them, and those of a query: both are cut in the same way.

A word is a run of letters and digits in any script. In the scripts that put no blanks between words
(Chinese, Japanese, Thai, …) each character is one. So is each emoji. `+` and `#` behind a letter
belong to names: `C++` is the word `c` and the word `++` behind it, and finds neither `C` nor `C#`.
Everything else separates: there is no syntax that a query could have, or could get wrong.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

__all__ = ["TOKENIZER", "phrase", "phrases", "words"]

_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana, ideographs
    "\U00020000-\U0003ffff"
)
_EMOJI = "\u2600-\u27bf\U0001f000-\U0001faff"
_WORD = re.compile(rf"[{_ALONE}{_EMOJI}]|[^\W_{_ALONE}{_EMOJI}]+|(?<=[^\W_])[+#]+")

TOKENIZER = "porter unicode61 remove_diacritics 2 categories 'L* N* M* Co So' tokenchars '+#'"
"""FTS5's, for words that are cut already: it takes off accents and the endings of English."""


def words(text: str) -> list[str]:
    """The words of `text`, in order."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _WORD.findall(text)


def phrases(query: str) -> list[list[str]]:
    """What a query asks for: the words of each of its pieces between blanks, which have to come
    one behind the other (`foo/bar`), each piece once."""
    found = {tuple(words(piece)): None for piece in query.split()}
    found.pop((), None)
    return [list(each) for each in found]


def phrase(piece: Iterable[str]) -> str:
    """A piece as FTS5 reads it: a string, in which nothing has a meaning. Words have no quotes."""
    return f'"{" ".join(piece)}"'
