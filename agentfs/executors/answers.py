"""What workers write: a JSON object a line, about one step each."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from typing import Any, NoReturn

from agentfs.base.errors import KernelError
from agentfs.workflow.model import StepRef

__all__ = ["MAX_LINE", "StepAnswer", "WrittenLines", "answer_of", "take_of"]

MAX_LINE = 1024 * 1024
"""Bytes of one line: 10 ms to read. A larger output is an artifact of its run, and the name of that
the answer."""

MAX_ERROR = 64 * 1024
"""Characters of an error that are kept."""

UNENDED = 64 * 1024
"""Bytes of a line without its end that are tried as a whole one: `printf` leaves the end out."""

MOST_STEPS = 1000
"""Steps that one worker may have at a time."""

KEYS = frozenset({"step", "attempt", "ok", "error", "again", "kind", "back", "progress"})
OUTCOMES = ("ok", "error", "back", "progress")


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """One line. `outcome` is ok (`value` is the output), error (`value` is the text; `again`: it is
    worth another attempt), back (it was not begun), or progress (`value` says how far it is)."""

    ref: StepRef
    outcome: str
    value: Any
    again: bool = True
    kind: str = "error"


def step_of(name: object, attempt: object) -> StepRef:
    """The step RUN/PATH, and the number of its attempt. Raises EINVAL."""
    run, slash, path = name.partition("/") if isinstance(name, str) else ("", "", "")
    if not (run.isascii() and run.isdigit() and len(run) < 19 and slash and path):
        raise KernelError(errno.EINVAL, f"`step` is that of the step, RUN/NODE, not {name!r:.100}")
    if not isinstance(attempt, int) or isinstance(attempt, bool):
        raise KernelError(
            errno.EINVAL, f"`attempt` is the number of the attempt, not {attempt!r:.100}"
        )
    return StepRef(int(run), path, attempt)


def take_of(line: str) -> int:
    """The number in the command `take N`. Raises EINVAL."""
    words = line.split()
    number = words[1] if len(words) == 2 else ""
    if not (number.isascii() and number.isdigit() and len(number) < 6):
        raise KernelError(errno.EINVAL, f"`take N` was expected, not {line!r:.100}")
    if not 1 <= int(number) <= MOST_STEPS:
        raise KernelError(errno.EINVAL, f"a worker takes 1 to {MOST_STEPS} steps, not {number}")
    return int(number)


def answer_of(line: bytes) -> StepAnswer:
    """What a line says. Raises EINVAL."""
    try:
        said = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as bad:
        raise KernelError(
            errno.EINVAL,
            f"an answer is one line of JSON, {{step, attempt, ok}} or {{step, attempt, error}}:"
            f" {bad}"[:500],
        ) from None
    if not isinstance(said, dict):
        raise KernelError(errno.EINVAL, "an answer is a JSON object: {step, attempt, ok}")
    unknown = sorted(said.keys() - KEYS)
    if unknown:
        known = ", ".join(sorted(KEYS))
        raise KernelError(errno.EINVAL, f"an answer has no {unknown[0]!r:.100}, but {known}")
    ref = step_of(said.get("step"), said.get("attempt"))
    outcomes = [name for name in OUTCOMES if name in said]
    if len(outcomes) != 1:
        raise KernelError(
            errno.EINVAL,
            f"an answer to {ref} has one of ok, error, back and progress, not {len(outcomes)}",
        )
    outcome, again, kind = outcomes[0], said.get("again", True), said.get("kind", "error")
    value = said[outcome]
    if not isinstance(again, bool) or kind not in ("error", "schema"):
        raise KernelError(errno.EINVAL, "`again` is true or false, and `kind` is error or schema")
    if outcome == "error":
        value = value if isinstance(value, str) else json.dumps(value)
        value = value[:MAX_ERROR]
    return StepAnswer(ref, outcome, value, again, kind)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


class WrittenLines:
    """Lines out of writes. A long one comes in pieces; a last one without its newline is whole if
    it is JSON."""

    def __init__(self) -> None:
        self._rest = b""

    def split(self, data: bytes) -> list[tuple[bytes, int]]:
        """The lines that are whole once `data` is written, and where in `data` each ends; the rest
        is kept for the next write. Raises EMSGSIZE, and drops the line, if one is too long."""
        before = len(self._rest)
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = b""
        if max(map(len, (*lines, rest))) > MAX_LINE:
            raise KernelError(
                errno.EMSGSIZE,
                f"a line has at most {MAX_LINE:,} bytes: what is larger is an artifact of its run",
                rule="line",
            )
        found = []
        end = -before
        for line in lines:
            end += len(line) + 1
            if line.strip():
                found.append((line, end))
        if rest and _is_whole(rest):
            found.append((rest, len(data)))
        else:
            self._rest = rest
        return found

    def forget(self) -> None:
        """The last write was a short one: its rest comes again."""
        self._rest = b""


def _is_whole(rest: bytes) -> bool:
    if rest.startswith(b"take "):
        return True
    if len(rest) > UNENDED or not rest.rstrip().endswith(b"}"):
        return False
    try:
        json.loads(rest)
    except (ValueError, RecursionError):
        return False
    return True
