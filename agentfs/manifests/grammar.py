"""From text to a tree: the words of a template or an expression, and Jinja2's grammar over them.

Jinja2 parses and nothing else of it is used: the tree is evaluated by `agentfs.manifests.evaluate`.
Its lexer is not used either. Ours keeps line ends as they are, knows the column of each word, takes
declared names with hyphens (`research-agent`) for one word and hexDAG's `$input` for `input`, and
stops at bounds. A word's offset in the text travels where Jinja2 has its line numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from functools import lru_cache
from typing import cast

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.lexer import Token, TokenStream, float_re, integer_re, operators, string_re
from jinja2.parser import Parser

from agentfs.manifests.fuel import TemplateError

__all__ = ["Span", "hyphenated", "parse_expression", "parse_template", "place"]

Span = tuple[int, int]
"""Where `{{ … }}` begins and ends in a text, braces included."""

LONGEST = 1 << 18
"""Characters of one text. A prompt of 256 KiB is read in 1 ms; more belongs into a file."""

MOST_WORDS = 1_500
"""Words (names, operators, brackets, comments) in all braces of one text: Jinja2 parses 100 to 200
a millisecond."""

MOST_STATEMENT_WORDS = 20_000
"""The same where statements are allowed: such a text is read once, and not in the event loop."""

MOST_BRACKETS = 20
"""Brackets within each other. Each is some 15 calls of Jinja2's parser; Python stops at 1,000."""

MOST_NESTED = 60
"""Operations within each other, for the same reason."""

_ENVIRONMENT = Environment(autoescape=False)  # noqa: S701 - parses only; makes no HTML

_OPEN = re.compile(r"\{\{-?|\{%-?|\{#-?")
_RAW = re.compile(r"\{%-?\s*raw\s*(-?)%\}")
_END_RAW = re.compile(r"\{%(-?)\s*endraw\s*(-?)%\}")
_END = {"variable": re.compile(r"-?\}\}"), "block": re.compile(r"-?%\}")}
_WORD = re.compile(
    rf"(?P<blank>\s+)|(?P<float>{float_re.pattern})|(?P<integer>{integer_re.pattern})"
    r"|(?P<name>\$?[^\W\d]\w*)"
    rf"|(?P<string>{string_re.pattern})"
    rf"|(?P<operator>{'|'.join(re.escape(o) for o in sorted(operators, key=len, reverse=True))})",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5})|(.))", re.DOTALL)
_ESCAPES = dict(zip("abfnrtv\\'\"/", "\a\b\f\n\r\t\v\\'\"/", strict=True)) | {"\n": ""}
"""As in Python, and JSON's `\\/`; any other one stays as it is."""

_OPENING = frozenset({"lparen", "lbracket", "lbrace"})
_CLOSING = frozenset({"rparen", "rbracket", "rbrace"})
_HYPHENS = re.compile(r"\w+(?:-\w+){1,64}")
_STATEMENTS = frozenset({"for", "if", "set"})
_OURS = {
    "end of print statement": "}}",
    "end of statement block": "%}",
    "end of template": "the end",
    "begin of statement block": "{%",
}
_HINTS = {
    "&": "; write `and`",
    "!": "; write `not`",
    "?": "; write `A if CONDITION else B`",
    "'": ": a text without its end",
    '"': ": a text without its end",
}


def place(text: str, offset: int) -> tuple[int, int]:
    """Line and column, from 1, of an offset."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def hyphenated(names: Iterable[str]) -> frozenset[str]:
    """Those names that a grammar without them would take for subtractions."""
    return _hyphenated(names if isinstance(names, frozenset) else frozenset(names))


@lru_cache(maxsize=64)
def _hyphenated(names: frozenset[str]) -> frozenset[str]:
    return frozenset(name for name in names if "-" in name)


class _FaultError(Exception):
    def __init__(self, offset: int, words: str) -> None:
        self.offset = offset
        self.words = words


class _Words:
    """The words of one text, as tokens of Jinja2."""

    def __init__(self, text: str, names: Collection[str], statements: bool) -> None:
        self._text = text
        self._names = hyphenated(names)
        self._statements = statements
        self._left = MOST_STATEMENT_WORDS if statements else MOST_WORDS
        self.spans: list[Span] = []

    def of_template(self) -> Iterator[Token]:
        """Text, and the words in braces."""
        text, at, strip = self._text, 0, False
        while True:
            found = _OPEN.search(text, at)
            begin = found.start() if found else len(text)
            yield from _data(at, text[at:begin], strip, found is not None and found[0][-1] == "-")
            if found is None:
                return
            strip = False
            self._count(begin)
            raw = _RAW.match(text, begin)
            if found[0].startswith("{#"):
                end = text.find("#}", found.end())
                if end < 0:
                    raise _FaultError(begin, "a comment `{#` without its end `#}`")
                at, strip = end + 2, text[end - 1] == "-"
            elif raw is not None:
                until = _END_RAW.search(text, raw.end())
                if until is None:
                    raise _FaultError(begin, "`{% raw %}` without its `{% endraw %}`")
                inner = text[raw.end() : until.start()]
                yield from _data(raw.end(), inner, raw[1] == "-", until[1] == "-")
                at, strip = until.end(), until[2] == "-"
            else:
                kind = "variable" if found[0].startswith("{{") else "block"
                if kind == "block" and not self._statements:
                    raise _FaultError(begin, "`{%` is for the nodes_raw of a Macro, and for `raw`")
                yield Token(begin, f"{kind}_begin", found[0])
                at, strip = yield from self._inside(found.end(), kind)
                if kind == "variable":
                    self.spans.append((begin, at))

    def _count(self, at: int) -> None:
        self._left -= 1
        if self._left < 0:
            raise _FaultError(at, "too many words for one template: let a program make this text")

    def of_expression(self) -> Iterator[Token]:
        """The words of a text without braces around it; braces in it are parentheses."""
        text, at, brackets, last = self._text, 0, 0, 0
        opened: list[int] = []
        while at < len(text):
            if text.startswith("{{", at):
                opened.append(brackets)
                last = at + 2
                yield Token(at, "lparen", "{{")
            elif opened and brackets == opened[-1] and text.startswith("}}", at):
                if not text[last:at].strip():
                    raise _FaultError(at, "an expression was expected in the braces")
                opened.pop()
                yield Token(at, "rparen", "}}")
            else:
                word, at = self._word(at)
                if word is not None:
                    brackets = self._bracket(word, brackets)
                    yield word
                continue
            if len(opened) > MOST_BRACKETS:
                raise _FaultError(at, f"more than {MOST_BRACKETS} brackets within each other")
            at += 2

    def _inside(self, begin: int, kind: str) -> Generator[Token, None, tuple[int, bool]]:
        """The words up to the end of the braces. Gives where they end, and whether blanks behind
        them are taken away."""
        text, at, brackets = self._text, begin, 0
        while at < len(text):
            if not brackets and (end := _END[kind].match(text, at)):
                yield Token(at, f"{kind}_end", end[0])
                return end.end(), end[0][0] == "-"
            word, at = self._word(at)
            if word is not None:
                brackets = self._bracket(word, brackets)
                yield word
        end_words = "}}" if kind == "variable" else "%}"
        hint = "; `{% raw %}{{{% endraw %}` is a text `{{`"
        raise _FaultError(begin - 2, f"`{text[begin - 2 : begin]}` without `{end_words}`{hint}")

    def _bracket(self, word: Token, brackets: int) -> int:
        """How many brackets are open behind a word."""
        brackets += (word.type in _OPENING) - (word.type in _CLOSING)
        if brackets > MOST_BRACKETS:
            raise _FaultError(word.lineno, f"more than {MOST_BRACKETS} brackets within each other")
        return brackets

    def _hyphens(self, at: int) -> str:
        """The longest declared name with hyphens at an offset; "" if there is none."""
        found = _HYPHENS.match(self._text, at) if self._names else None
        word = found[0] if found else ""
        while word and word not in self._names:
            word = word.rpartition("-")[0]
        return word

    def _word(self, at: int) -> tuple[Token | None, int]:
        """The word at an offset, None for blanks, and where it ends."""
        text = self._text
        found = _WORD.match(text, at)
        if found is None:
            hint = _HINTS.get(text[at], "")
            raise _FaultError(at, f"unexpected `{_shown(text[at])}`{hint}")
        kind, word, end = cast(str, found.lastgroup), found[0], found.end()
        if kind == "blank":
            return None, end
        self._count(at)
        if kind == "name":
            word = self._hyphens(at) or word
            return Token(at, "name", word.removeprefix("$")), at + len(word)
        if kind == "operator":
            return Token(at, operators[word], word), end
        return Token(at, kind, cast(str, _constant(at, kind, word))), end


def _data(at: int, text: str, left: bool, right: bool) -> Iterator[Token]:
    if left:
        text = text.lstrip()
    if right:
        text = text.rstrip()
    if text:
        yield Token(at, "data", text)


def _constant(at: int, group: str, word: str) -> str | int | float:
    try:
        if group == "string":
            plain = _ESCAPE.sub(_escaped, word[1:-1])
            return plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        if group == "integer":
            return int(word.replace("_", ""), 0)
        number = float(word.replace("_", ""))
    except ValueError:
        what = "half a surrogate pair" if group == "string" else "too long for a number"
        raise _FaultError(at, f"`{_shown(word)}` is {what}") from None
    if number in (float("inf"), float("-inf")):
        raise _FaultError(at, f"`{_shown(word)}` is too large for a number")
    return number


def _shown(word: str) -> str:
    return word[:40].encode("utf-8", "backslashreplace").decode()


def _escaped(found: re.Match[str]) -> str:
    if found[1]:
        return chr(int(found[1][1:], 16))
    return _ESCAPES.get(found[2], found[0])


class _Grammar(Parser):
    """Jinja2's grammar, with comprehensions of lists and maps, `null`, and fewer statements.

    A comprehension is a `For` with its element, or its `Pair`, as body: Jinja2 lets nobody make
    kinds of nodes.
    """

    def __init__(self, words: Iterator[Token]) -> None:
        super().__init__(_ENVIRONMENT, "")
        self.stream = TokenStream(words, None, None)

    def expression(self) -> nodes.Expr:
        found = self.parse_expression()
        if self.stream.current.type != "eof":
            self.fail(f"unexpected `{self.stream.current.value}`", self.stream.current.lineno)
        return found

    def parse_statement(self) -> nodes.Node | list[nodes.Node]:
        word = self.stream.current
        if word.value not in _STATEMENTS:
            self.fail(f"`{word.value}`: one of for, if, set was expected", word.lineno)
        return super().parse_statement()

    def parse_primary(self, with_namespace: bool = False) -> nodes.Expr:
        if self.stream.current.test("name:null"):
            return nodes.Const(None, lineno=next(self.stream).lineno)
        return super().parse_primary(with_namespace)

    def parse_list(self) -> nodes.List:
        begin = self.stream.expect("lbracket")
        items: list[nodes.Expr] = []
        while self.stream.current.type != "rbracket":
            items.append(self.parse_expression())
            if len(items) == 1 and self.stream.current.test("name:for"):
                return cast(nodes.List, self._comprehension(begin, items[0], "rbracket"))
            if not self.stream.skip_if("comma"):
                break
        self.stream.expect("rbracket")
        return nodes.List(items, lineno=begin.lineno)

    def parse_dict(self) -> nodes.Dict:
        begin = self.stream.expect("lbrace")
        items: list[nodes.Pair] = []
        while self.stream.current.type != "rbrace":
            key = self.parse_expression()
            self.stream.expect("colon")
            items.append(nodes.Pair(key, self.parse_expression(), lineno=key.lineno))
            if len(items) == 1 and self.stream.current.test("name:for"):
                return cast(nodes.Dict, self._comprehension(begin, items[0], "rbrace"))
            if not self.stream.skip_if("comma"):
                break
        self.stream.expect("rbrace")
        return nodes.Dict(items, lineno=begin.lineno)

    def _comprehension(self, begin: Token, body: nodes.Node, end: str) -> nodes.For:
        self.stream.expect("name:for")
        target = self.parse_assign_target(extra_end_rules=("name:in",))
        self.stream.expect("name:in")
        source = self.parse_or()
        test = self.parse_or() if self.stream.skip_if("name:if") else None
        self.stream.expect(end)
        return nodes.For(target, source, [body], [], test, False, lineno=begin.lineno)


def parse_template(
    text: str, names: Collection[str], statements: bool
) -> tuple[nodes.Template, list[Span]]:
    """The tree of a text with braces in it, and where those are. Raises TemplateError."""
    words = _Words(text, names, statements)
    tree = _parsed(text, lambda: _Grammar(words.of_template()).parse())
    return cast(nodes.Template, tree), words.spans


def parse_expression(text: str, names: Collection[str]) -> nodes.Expr:
    """The tree of a text without braces around it. Raises TemplateError."""
    words = _Words(text, names, False)
    return cast(nodes.Expr, _parsed(text, lambda: _Grammar(words.of_expression()).expression()))


def _parsed(text: str, parse: Callable[[], nodes.Node]) -> nodes.Node:
    if len(text) > LONGEST:
        raise TemplateError(f"longer than {LONGEST:,} characters: let a program make this text")
    try:
        tree = parse()
        _check_depth(tree)
    except _FaultError as bad:
        raise TemplateError(bad.words, *place(text, bad.offset)) from None
    except TemplateSyntaxError as bad:
        raise TemplateError(_said(bad.message or ""), *place(text, bad.lineno)) from None
    except RecursionError:
        raise TemplateError("too much within each other") from None
    return tree


def _said(words: str) -> str:
    """Jinja2's words for what is wrong, in ours."""
    unclosed = re.search(r"block that needs to be closed is '(\w+)'", words)
    if unclosed is not None:
        return f"`{{% {unclosed[1]} %}}` without its `{{% end{unclosed[1]} %}}`"
    for theirs, ours in _OURS.items():
        words = words.replace(theirs, ours)
    return words


def _check_depth(tree: nodes.Node) -> None:
    level, depth = [tree], 0
    while level:
        depth += 1
        if depth > MOST_NESTED:
            raise _FaultError(level[0].lineno or 0, "too many operations within each other")
        level = [child for node in level for child in node.iter_child_nodes()]
