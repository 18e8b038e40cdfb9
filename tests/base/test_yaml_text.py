"""Reading YAML: the plain values of it, every fault with its line, and never for long."""

from __future__ import annotations

import errno
import time
from datetime import date
from random import Random

import pytest
import yaml

from agentfs.base.errors import KernelError
from agentfs.base.yaml_text import (
    MAX_DIRECTIVES,
    MAX_NESTING,
    MOST_VALUES,
    YamlError,
    compose_all,
    plain,
    read_yaml,
    write_yaml,
)
from agentfs.catalog.document import parse as parse_models
from agentfs.model.spec import parse_spec
from agentfs.rights.acl import Acl
from agentfs.rights.roles import Roles
from agentfs.sections import SECTIONS
from agentfs.store.settings import configuration

Config = configuration(*SECTIONS)
PARSERS = [Acl.parse, Config.parse, Roles.parse, parse_models, parse_spec, read_yaml]


def refused(text: str) -> str:
    with pytest.raises(KernelError) as caught:
        read_yaml(text)
    assert caught.value.code == "EINVAL"
    return caught.value.reason


def test_the_plain_values_of_yaml_and_of_json() -> None:
    text = "a: [1, -2.5, yes, ~, text, =]\nb: {c: 2001-02-03}\nd: 0x10\ne: !!str 7\n"
    assert read_yaml(text) == {
        "a": [1, -2.5, True, None, "text", "="],
        "b": {"c": date(2001, 2, 3)},
        "d": 16,
        "e": "7",
    }
    assert read_yaml('{"a":[1,2.5e3,null,true],"b":"\\u00e9"}') == {
        "a": [1, "2.5e3", None, True],  # YAML 1.1 wants a sign in an exponent
        "b": "é",
    }
    assert read_yaml("base: &b {x: 1, y: 2}\nmore: {<<: *b, y: 3}")["more"] == {"x": 1, "y": 3}
    assert read_yaml("# nothing\n") is None


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("2001-13-01", "'2001-13-01' is no date"),
        ("2001-02-30", "'2001-02-30' is no date"),
        ("2001-01-01T25:00:00Z", "is no date"),
        ("!!timestamp foo", "'foo' is no date"),
        ("!!bool maybe", "'maybe' is no true or false"),
        ("!!int ''", "'' is no whole number"),
        ("!!int 1e9", "'1e9' is no whole number"),
        ("!!float x", "'x' is no number"),
        ("!!binary aGVsbG8=", "a value of the kind !!binary is not taken"),
        ("!!binary '*'", "a value of the kind !!binary is not taken"),
        ("!!set {a}", "a value of the kind !!set is not taken"),
        ("!!omap [a: b]", "a value of the kind !!omap is not taken"),
        ("!!python/object:os.system y", "a value of the kind !!python/object:os.system is not"),
        ("!own y", "a value of the kind !own is not taken"),
        ("!!map [a]", "expected a mapping node"),
        ("9" * 5000, "a number of 5000 digits"),
        ("-" + "9_9" * 5000, "a number of 15001 digits"),
        ("9" * 50, "a number below 2^63 was expected"),
        ("0x" + "f" * 60, "a number below 2^63 was expected"),
        ("1" + ":59" * 30, "a number below 2^63 was expected"),
        ("[*nobody]", "found undefined alias"),
        ("{[a]: b}", "found unhashable key"),
        ("{? {a: b} : c}", "found unhashable key"),
        ("{<<: a}", "expected a mapping"),
        ("&a [1, *a]", "`*a` is part of itself"),
        ("&a {<<: *a}", "`*a` is part of itself"),
        ("[", "did not find expected node content"),
        ("\x00", "control characters are not allowed"),
        ("\ud800", "surrogates not allowed"),
        ("'", "found unexpected end of stream"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(value: str, why: str) -> None:
    reason = refused(f"a: 1\n\nb:\n  c: {value}")
    assert why in reason
    line = 5 if why.startswith("did not find") else 4
    assert reason.startswith((f"line {line}: not YAML: ", f"line {line + 1}: not YAML: "))


def bomb(levels: int, width: int, merge: bool) -> str:
    """Each level has the one below `width` times."""
    lines = ["x0: &x0 {a: 1}"]
    for level in range(1, levels):
        below = ", ".join([f"*x{level - 1}"] * width)
        inner = f"{{<<: [{below}]}}" if merge else f"[{below}]"
        lines.append(f"x{level}: &x{level} {inner}")
    return "\n".join(lines)


LONG = {
    "merge bomb": bomb(30, 9, merge=True),
    "alias bomb": bomb(30, 9, merge=False),
    "merge bomb within the number of aliases": bomb(4, 10, merge=True),
    "list": "[" + "a," * 500_000 + "a]",
    "lines": "- a\n" * 250_000,
    "flow nesting": "[" * 1_000_000,
    "map nesting": "{a: " * 200_000,
    "block nesting": "- " * 500_000,
    "key nesting": "? " * 500_000,
    "digits": "a: " + "1" * 1_000_000,
    "sexagesimal": "a: " + "1:" * 500_000 + "1",
    "directives": "".join(f"%TAG !a{n}! tag:x\n" for n in range(30_000)) + "---\na: b",
    "anchors": "".join(f"&a{n} x{n}: y\n" for n in range(50_000)),
    "blanks": "a:" + " " * 1_000_000 + "b",
    "empty lines": "a: |" + "\n" * 1_000_000,
    "quotes": 'a: "' + "\\n" * 500_000,
    "documents": "---\n" * 250_000,
}


@pytest.mark.parametrize("what", LONG)
def test_nothing_takes_long_wherever_it_is_read(what: str) -> None:
    for parse in PARSERS:
        began = time.thread_time()
        try:
            parse(LONG[what])
        except KernelError as refusal:
            assert refusal.code == "EINVAL"
        # 20 ms are the aim, 15 the most that was measured; without the bounds, all are seconds
        assert time.thread_time() - began < 2.0, parse


def test_what_an_alias_stands_for_is_counted_each_time() -> None:
    text = "a: &a [" + "x, " * 97 + "x]\nb: [{}]"  # map, two keys, two lists, and 98 in the first
    most = (MOST_VALUES - 103) // 99
    assert len(read_yaml(text.format(", ".join(["*a"] * most)))["b"]) == most
    assert "what aliases repeat is counted" in refused(text.format(", ".join(["*a"] * (most + 1))))


def test_as_deep_and_as_many_directives_as_are_allowed() -> None:
    assert read_yaml("[" * MAX_NESTING + "]" * MAX_NESTING)
    assert "nested too deeply" in refused("[" * (MAX_NESTING + 1) + "]" * (MAX_NESTING + 1))
    lines = "".join(f"%TAG !a{number}! tag:x\n" for number in range(MAX_DIRECTIVES))
    assert read_yaml(f"{lines}---\na: b") == {"a": "b"}
    assert "directives" in refused(f"%TAG !b! tag:x\n{lines}---\na: b")


def test_what_a_document_should_not_say_is_told_with_the_line() -> None:
    with pytest.raises(KernelError) as caught:
        Config.parse("messages:\n  max_waiting: many\n\nmount:\n  - 1\nlimits:\n  colour: blue\n")
    assert caught.value.reason.split("; ") == [
        "line 2: messages.max_waiting: Input should be a valid integer, unable to parse string as"
        " an integer",
        "line 7: limits.colour: there is no such key",
        "line 4: mount: a map of keys was expected",
    ]
    with pytest.raises(KernelError, match=r"line 1: definition: a map of keys was expected"):
        parse_spec("- a\n")
    with pytest.raises(KernelError, match=r"line 3: env\.A: text was expected; put it in quotes"):
        parse_spec("name: x\nenv:\n  A: 5\n")


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (
            "messages: {max_waiting: 5}\nprocesses: {}\nmessages:\n  max_waiting: 6\n",
            ["line 3: `messages` is there twice, first in line 1"],
        ),
        (
            "messages:\n  max_waiting: 5\n  max_dead: 5\n  max_waiting: 5\n  max_dead: 6\n",
            [
                "line 4: `max_waiting` is there twice, first in line 2",
                "line 5: `max_dead` is there twice, first in line 3",
            ],
        ),
        ('{"limits": {"max_children": 1,\n"max_children": 2}}', ["line 2: `max_children`"]),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_both_lines(text: str, faults: list[str]) -> None:
    with pytest.raises(KernelError) as caught:
        Config.parse(text)
    assert caught.value.errno == errno.EINVAL
    assert len(caught.value.reason.split("; ")) == len(faults)
    assert all(fault in caught.value.reason for fault in faults)


def test_a_definition_and_a_list_of_models_have_no_key_twice_either() -> None:
    with pytest.raises(KernelError, match="line 4: `A` is there twice, first in line 3"):
        parse_spec("name: bob\nenv:\n  A: '1'\n  A: '2'\n")
    with pytest.raises(KernelError, match="line 3: `m` is there twice, first in line 2"):
        parse_models("models:\n  m: {tier: tactical}\n  m: {tier: tactical}\n")


def test_what_is_merged_may_be_said_anew() -> None:
    """Also where one map is used, and merged, at two places."""
    given = parse_spec(
        "name: bob\nlimits: &l\n  <<: {max_children: 1}\n  max_children: 2\nenv: {A: '1', a: '1'}\n"
    )
    assert given.limits.max_children == 2


CORE = [
    ("NO", "NO"),
    ("on", "on"),
    ("12:30:45", "12:30:45"),
    ("0123", "0123"),
    ("2026-01-01", "2026-01-01"),
    (".nan", ".nan"),
    ("12", 12),
    ("-0x1F", "-0x1F"),
    ("0x1F", 31),
    ("0o17", 15),
    ("1e3", 1000.0),
    ("~", None),
    ("TRUE", True),
    ("'5'", "5"),
    (str(2**70), 2**70),
]


@pytest.mark.parametrize(("text", "value"), CORE)
def test_the_core_schema_takes_little_for_anything_but_a_text(text: str, value: object) -> None:
    (node,) = compose_all(f"a: {text}\n")
    assert plain(node) == {"a": value}


def test_several_documents_are_read_together_and_empty_ones_left_out() -> None:
    nodes = compose_all("---\non: 1\n---\n---\n&x b: {<<: {k: v}, l: 2}\n...\n")
    assert [plain(node) for node in nodes] == [{"on": 1}, {"b": {"k": "v", "l": 2}}]
    assert compose_all("# nothing\n") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: !py x", "!py"),
        ("a: !!int abc", "no whole number"),
        ("a: 1e999", "no number"),
        (f"a: {'9' * 150}", "150 digits"),
        ("? [a]\n: b", "text was expected as key"),
        (f"a: {'[' * 60}{']' * 60}", "nested too deeply"),
        ("a: &x [*x]", "part of itself"),
        ("<<: 3", "a map was expected"),
    ],
)
def test_the_core_schema_refuses(text: str, words: str) -> None:
    with pytest.raises(YamlError, match=words):
        [plain(node) for node in compose_all(text)]


def texts(random: Random) -> str:
    parts = [*"ab :-#'\"\\\n\t!&*%@`{}[],?|>=01.~é漢", "\x85", "\u2028", "\ufeff", "\x07", "😀"]
    some = random.choice((parts, parts[:-5], [*"ab cd ef. ,:-#'\n"]))
    return "".join(
        random.choices([*some, "   ", "null", "yes", "1e3"], k=random.choice((1, 9, 99)))
    )


def test_libyaml_writes_what_pyyaml_does_of_any_text() -> None:
    random, quick = Random(7), 0
    for _ in range(400):
        one = texts(random)
        value = {one[:20]: one, "list": [one, {"b": None, "a": 1.5}], "empty": {}}
        written = write_yaml(value)
        assert written == yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
        quick += written == yaml.dump(
            value, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True
        )
    assert 100 < quick < 400, "libyaml writes others, but for these"
    assert write_yaml({"a": "😀"}) == "a: 😀\n"
    assert write_yaml({"a": "\udcff"}) == 'a: "\\uDCFF"\n'


def test_a_definition_is_shown_as_it_was_given() -> None:
    spec = {"name": "bob", "exec": ["sh", "-c", "echo 'a: b' # c\n"], "env": {"A": "ü"}}
    assert read_yaml(write_yaml(spec)) == spec
