"""What a phase of a seed gives back, read: programs, agents and models answer in their own ways."""

from __future__ import annotations

import errno
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from agentfs.base.errors import KernelError

__all__ = [
    "MOST_CRITERIA",
    "Assessment",
    "Plot",
    "as_value",
    "criteria_of",
    "goal_of",
    "read_evaluation",
    "read_exit",
    "read_plot",
    "said_no",
]

LONGEST_GOAL = 16 * 1024
MOST_CRITERIA, LONGEST_CRITERION = 100, 2048
LONGEST_WORDS = 4096
"""Characters, and how many criteria there may be."""

FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n\s*```\s*", re.DOTALL)
"""A model's answer is often in a block of Markdown."""

NO = re.compile(r"\bexit code 1(?: \([A-Z0-9]+\))?(?:: (.*))?$", re.DOTALL)
"""The error of a program that said no: how a program node says its exit code."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A goal as a phase leaves it. None: it said nothing of that."""

    goal: str | None = None
    criteria: tuple[str, ...] | None = None
    ambiguity: float | None = None
    questions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Assessment:
    """How good a result is: `score` from 0 to 1, `passed` as somebody said so (None: the score
    decides), and why."""

    score: float
    passed: bool | None = None
    words: str = ""


def as_value(output: Any) -> Any:
    """A text that is JSON, alone or in a fenced block, is what that says; everything else is
    itself."""
    if not isinstance(output, str):
        return output
    fenced = FENCED.fullmatch(output)
    try:
        return json.loads(fenced[1] if fenced else output, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return output.strip()


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def goal_of(text: str) -> str:
    """A goal as it is kept. Raises EINVAL."""
    goal = text.strip()
    if not goal or len(goal) > LONGEST_GOAL:
        raise KernelError(errno.EINVAL, f"a goal has 1 to {LONGEST_GOAL} characters")
    return goal


def criteria_of(given: Any) -> tuple[str, ...]:
    """Criteria of a list of texts, or of a text with one a line. Raises EINVAL."""
    lines = given.splitlines() if isinstance(given, str) else given
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise KernelError(errno.EINVAL, "criteria are a list of texts, or a text with one a line")
    found = tuple(" ".join(line.split()) for line in lines if line.strip())
    if len(found) > MOST_CRITERIA or any(len(line) > LONGEST_CRITERION for line in found):
        raise KernelError(
            errno.EINVAL,
            f"at most {MOST_CRITERIA} criteria, each of at most {LONGEST_CRITERION} characters",
        )
    return found


def read_plot(phase: str, output: Any) -> Plot:
    """What interview, seed or evolve gave. Raises EINVAL that says what was expected."""
    value = as_value(output)
    match value, phase:
        case dict(), _:
            return _plot(phase, value)
        case (bool(), _) | (None, _):
            pass
        case int() | float(), "interview":
            return Plot(ambiguity=_part("ambiguity", value))
        case list(), "seed":
            return Plot(criteria=criteria_of(value))
        case str(), "seed":
            return Plot(criteria=criteria_of(value))
        case str(), "evolve":
            return Plot(goal=goal_of(value))
    raise KernelError(
        errno.EINVAL,
        f"{phase} gave {json.dumps(value, ensure_ascii=False)[:200]}, and {_EXPECTED[phase]} was"
        " expected",
    )


_EXPECTED = {
    "interview": "{ambiguity, questions, goal, criteria}, or a number from 0 to 1",
    "seed": "{goal, criteria}, or a list of criteria",
    "evolve": "{goal, criteria}, or the text of a goal",
}


def _plot(phase: str, value: dict[str, Any]) -> Plot:
    known = ("goal", "criteria", *(("ambiguity", "questions") if phase == "interview" else ()))
    unknown = [key for key in value if key not in known]
    if unknown or not value:
        raise KernelError(
            errno.EINVAL,
            f"{phase} gave {', '.join(map(str, unknown))[:200] or 'nothing'}: {', '.join(known)}"
            " were expected",
        )
    goal, asked = value.get("goal"), value.get("questions", [])
    if goal is not None and not isinstance(goal, str):
        raise KernelError(errno.EINVAL, f"{phase}: a goal is a text")
    return Plot(
        None if goal is None else goal_of(goal),
        criteria_of(value["criteria"]) if "criteria" in value else None,
        _part("ambiguity", value["ambiguity"]) if "ambiguity" in value else None,
        criteria_of(asked),
    )


def read_evaluation(output: Any) -> Assessment:
    """What evaluate gave. Raises EINVAL that says what was expected."""
    value = as_value(output)
    match value:
        case bool():
            return Assessment(float(value), value)
        case int() | float():
            return Assessment(_part("score", value))
        case dict() if value and value.keys() <= {"score", "passed", "words"}:
            return _evaluation(value)
    raise KernelError(
        errno.EINVAL,
        f"evaluate gave {json.dumps(value, ensure_ascii=False)[:200]}, and"
        " {score, passed, words}, or a number from 0 to 1 was expected",
    )


def read_exit(output: Any) -> Assessment:
    """The evaluation of a program that has ended with exit code 0: what it says, if that is one;
    else that is good enough, and what it says are its words."""
    value = as_value(output)
    if isinstance(value, str | None | list):
        words = value if isinstance(value, str) else ""
        return Assessment(1.0, True, words[:LONGEST_WORDS])
    return read_evaluation(value)


def _evaluation(value: dict[str, Any]) -> Assessment:
    passed, words = value.get("passed"), value.get("words", "")
    if not (passed is None or isinstance(passed, bool)) or not isinstance(words, str):
        raise KernelError(errno.EINVAL, "passed is true or false, and words are a text")
    if "score" not in value and passed is None:
        raise KernelError(errno.EINVAL, "a score, or whether it has passed, was expected")
    score = _part("score", value["score"]) if "score" in value else float(bool(passed))
    return Assessment(score, passed, words[:LONGEST_WORDS])


def said_no(error: str) -> Assessment | None:
    """The evaluation of a program that ended with exit code 1, by the error of its run; None if it
    failed in another way."""
    found = NO.search(error)
    return None if found is None else Assessment(0.0, False, (found[1] or "")[:LONGEST_WORDS])


def _part(what: str, value: Any) -> float:
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    if not 0 <= number <= 1:
        raise KernelError(errno.EINVAL, f"{what}: a number from 0 to 1 was expected, not {value!r}")
    return number
