"""A figure of the benchmark, and how figures are printed and written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = [
    "AT_LEAST",
    "AT_MOST",
    "Best",
    "Row",
    "as_markdown",
    "as_text",
    "beside",
    "heading",
    "median",
    "percentile",
    "write_json",
]

AT_MOST = "≤"
AT_LEAST = "≥"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of ours and, measured in the same run, the figure it is held against.

    `ratio` is ours divided by theirs: for a time the target is an upper bound (AT_MOST),
    for a rate a lower one (AT_LEAST). Without `theirs` the target, if any, bounds `ours` itself.
    `counts` are what does not depend on how busy the machine is: instructions, processor time of
    the daemon a call, system calls, lost events. `note` is a sentence for the reader of the row.
    """

    side: str
    """Which part of the benchmark: metadata, messages, scale, clients …"""
    what: str
    """The work: `stat`, `send+receive+acknowledge 8 to 8` …"""
    ours: float
    unit: str
    """µs, ms, s, /s, bytes, MB, % …"""
    beside: str = ""
    """The thing it is compared with: `tmpfs`, `Redis Streams, everysec`, `1,000 processes` …"""
    theirs: float | None = None
    target: float | None = None
    bound: str = AT_MOST
    counts: dict[str, float] = field(default_factory=dict)
    note: str = ""
    rounds: tuple[float, ...] = ()
    """The ratio of each round, where a round has both figures. `ours` and `theirs` are medians."""

    @property
    def ratio(self) -> float | None:
        """The median of `rounds`; without them ours / theirs; None where there is nothing beside,
        NaN where that is zero, in any round."""
        if self.rounds:
            return math.nan if any(map(math.isnan, self.rounds)) else median(self.rounds)
        if self.theirs is None:
            return None
        return self.ours / self.theirs if self.theirs else math.nan

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None without one. A row without a number meets none."""
        if self.target is None:
            return None
        measured = self.ours if self.ratio is None else self.ratio
        return measured <= self.target if self.bound == AT_MOST else measured >= self.target


class Best(dict[str, float]):
    """The best figure of all rounds, by what it is."""

    def keep(self, what: str, figure: float, choose: Callable[..., float] = min) -> None:
        """Take note of one more."""
        self[what] = choose(self.get(what, figure), figure)


def beside(
    side: str,
    what: str,
    ours: Sequence[float],
    unit: str,
    name: str,
    theirs: Sequence[float],
    target: float | None = None,
    bound: str = AT_MOST,
    *,
    counts: dict[str, float] | None = None,
    note: str = "",
) -> Row:
    """A row of figures that were measured in turns, one of ours and one of theirs in each round:
    the medians, and the median of the rounds' ratios."""
    rounds = tuple(mine / his if his else math.nan for mine, his in zip(ours, theirs, strict=True))
    return Row(
        side,
        what,
        median(ours),
        unit,
        name,
        median(theirs),
        target,
        bound,
        counts or {},
        note,
        rounds,
    )


def median(values: Sequence[float]) -> float:
    """The value that half of `values` do not exceed: one of them."""
    return percentile(values, 0.5)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` (0 to 1) of them do not exceed."""
    if not values:
        raise ValueError("there is no percentile of nothing")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def heading(side: str) -> str:
    """The lines above the rows of a side, for a terminal."""
    return f"{side:<44}{'agentfs':>15}   {'beside':<30}{'':>15}{'ratio':>9}  target"


def as_text(row: Row) -> str:
    """A row for a terminal; what was counted, and the note, in a line below it."""
    theirs = "" if row.theirs is None else _number(row.theirs, row.unit)
    ratio = "" if row.ratio is None else _short(row.ratio)
    line = (
        f"{row.what:<44}{_number(row.ours, row.unit):>15}   {row.beside:<30}"
        f"{theirs:>15}{ratio:>9}  {_target(row)}"
    ).rstrip()
    return f"{line}\n    {_details(row)}" if _details(row) else line


def as_markdown(rows: Iterable[Row]) -> str:
    """The table for a page of the documentation, a heading for each side."""
    lines = []
    side = None
    for row in rows:
        if row.side != side:
            side = row.side
            lines += ["", f"### {side}", ""]
            lines += ["| what | AgentFS | beside | | ratio | target |", "|---|---|---|---|---|---|"]
        theirs = "" if row.theirs is None else _number(row.theirs, row.unit)
        ratio = "" if row.ratio is None else _short(row.ratio)
        what = f"{row.what} ({_details(row)})" if _details(row) else row.what
        cells = (what, _number(row.ours, row.unit), row.beside, theirs, ratio, _target(row))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines).lstrip("\n")


def write_json(file: Path, rows: Iterable[Row], machine: dict[str, object]) -> None:
    """The measurements and the machine: {"machine": …, "rows": […]}; no number is null."""
    document = {
        "machine": machine,
        "rows": [
            {
                **{key: _plain(value) for key, value in asdict(row).items()},
                "ratio": _plain(row.ratio),
                "holds": row.holds,
            }
            for row in rows
        ],
    }
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    bound = f"{row.bound} {_short(row.target)}"
    if row.ratio is None:
        bound = f"{bound} {row.unit}"
    return f"{bound} {'ok' if row.holds else 'MISSED'}"


def _details(row: Row) -> str:
    counted = [f"{_short(value)} {name}" for name, value in row.counts.items()]
    if row.rounds:
        least, most = _short(min(row.rounds)), _short(max(row.rounds))
        counted.append(f"rounds {least} to {most}")
    return "; ".join([*counted, *([row.note] if row.note else [])])


def _number(value: float, unit: str) -> str:
    return f"{_short(value)} {unit}".rstrip()


def _short(value: float) -> str:
    """Three figures that count: 0.0123, 1.23, 12.3, 1,230."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if abs(value) >= 100:
        return f"{round(value, 2 - math.floor(math.log10(abs(value)))):,.0f}"
    return f"{float(f'{value:.3g}'):g}"
