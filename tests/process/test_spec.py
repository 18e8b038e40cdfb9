"""Definitions that nobody has to wait for: what takes long to read is refused before it does."""

from __future__ import annotations

import errno

import pytest

from agentfs.base.errors import KernelError
from agentfs.base.yaml_text import MOST_VALUES
from agentfs.model.spec import parse_spec

ALIASES = "\n".join(
    ["name: x", "x0: &x0 [a, a, a, a, a, a, a, a]"]
    + [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 8)}]" for n in range(1, 30)]
    + ["exec: *x29"]
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"exec: [{'a,' * 500_000}a]", f"at most {MOST_VALUES} values"),
        ("exec: " + "[" * 60_000, "nested too deeply"),
        ("exec: " + "{a: " * 20_000, "nested too deeply"),
        ("- " * 2_000, "nested too deeply"),
        ("exec: &a [*a]", "is part of itself"),
        ("env: &a {A: *a}", "is part of itself"),
        (ALIASES, "what aliases repeat is counted"),
    ],
)
def test_what_would_hold_up_everybody_else_is_refused_at_once(text: str, why: str) -> None:
    with pytest.raises(KernelError, match=why) as caught:
        parse_spec(text)
    assert caught.value.errno == errno.EINVAL


def test_a_large_definition_is_none_of_that() -> None:
    env = "".join(
        f"  V{number}: 'some text: [with, marks] {{and more}}'\n" for number in range(1000)
    )
    script = "".join(f"  echo {number}: [a, b]\n" for number in range(3000))
    spec = parse_spec(f"name: x\nenv:\n{env}exec: |\n{script}")
    assert len(spec.env) == 1000
    assert len(spec.exec[-1]) > 50_000
