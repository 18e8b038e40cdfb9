"""What is written to `/proc/scheduled/new`: a JSON object that says what to start, and when."""

from __future__ import annotations

import errno
import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from agentfs.base.errors import KernelError
from agentfs.base.yaml_document import near
from agentfs.mail.headers import expiry
from agentfs.model.capability import canonical
from agentfs.model.spec import Duration
from agentfs.process.ceilings import NAMES
from agentfs.triggers.timetable import Timetable

__all__ = ["Overlap", "ScheduleSpec", "read_json", "read_spec", "read_spec_of"]

Overlap = Literal["skip", "queue", "allow", "replace"]

TIMES = ("every", "cron", "at", "in")

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


def _limit_name(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"there is no such limit{near(name, NAMES)}")
    return name


def _capability(name: str) -> str:
    try:
        return canonical(name)
    except KernelError as bad:
        raise ValueError(bad.reason) from None


LimitName = Annotated[str, AfterValidator(_limit_name)]
Capability = Annotated[str, AfterValidator(_capability)]


class ScheduleSpec(BaseModel):
    """The whole of it. Exactly one of `pipeline` and `system`, and of `every`, `cron`, `at` and
    `in`, is there."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    pipeline: Name | None = None
    system: Name | None = None
    input: Any = None
    every: Duration | None = None
    cron: str | None = None
    timezone: Annotated[str, Field(max_length=64)] = ""
    at: str | None = None
    in_: Annotated[Duration | None, Field(alias="in")] = None
    overlap: Overlap = "skip"
    missed: Literal["one", "all", "skip"] = "one"
    max_runs: Annotated[int, Field(ge=1, le=10**9)] | None = None
    until: str | None = None
    ref: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}/[A-Za-z0-9._-]{1,64}$")] | None = None
    environment: Annotated[str, Field(max_length=64)] = ""
    deadline: Duration | None = None
    limits: dict[LimitName, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = None
    caps: list[Capability] | None = None

    @property
    def target(self) -> str:
        """The name of the pipeline or system."""
        return self.pipeline or self.system or ""

    @property
    def kind(self) -> str:
        """The folder of /etc that has it."""
        return "pipelines" if self.pipeline is not None else "systems"

    def timetable(self, now: float) -> Timetable:
        """When it is due. EINVAL."""
        if self.every is not None:
            return Timetable.every(self.every, now)
        if self.cron is not None:
            return Timetable.by_cron(self.cron, self.timezone, now)
        if self.at is not None:
            return Timetable.at(self.at, now)
        return Timetable.after_delay(self.in_ or 0.0, now)

    def last_moment(self, now: float) -> float | None:
        """The time of `until`, wall clock, seconds; None: it has none. EINVAL."""
        return None if self.until is None else expiry(self.until, now, "until")

    def record(self) -> dict[str, Any]:
        """As JSON, as it was written."""
        return self.model_dump(by_alias=True, exclude_unset=True)


def read_json(text: str) -> Any:
    """A JSON value. EINVAL for what is none, for keys that are there twice, NaN and infinities."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    except RecursionError:
        raise KernelError(errno.EINVAL, "nested too deeply") from None
    except ValueError as bad:
        raise KernelError(errno.EINVAL, f"not JSON: {bad}") from None


def read_spec(text: str) -> ScheduleSpec:
    """Read a request. EINVAL with every fault in the reason."""
    given = read_json(text)
    if not isinstance(given, dict):
        raise KernelError(
            errno.EINVAL,
            'a JSON object was expected: {"pipeline": "report", "every": "1h"}, with `cron` and'
            " `timezone`, `at` or `in` instead of `every`",
        )
    return read_spec_of(given)


def read_spec_of(given: dict[str, Any]) -> ScheduleSpec:
    """The same of an object that was read."""
    faults: list[str] = []
    try:
        spec = ScheduleSpec.model_validate(given)
    except ValidationError as bad:
        for fault in bad.errors(include_url=False, include_context=False, include_input=False):
            where = ".".join(map(str, fault["loc"]))
            unknown = fault["type"] == "extra_forbidden"
            what = "there is no such key" if unknown else fault["msg"].removeprefix("Value error, ")
            faults.append(f"{where}: {what}")
    faults += _together({key for key, value in given.items() if value is not None})
    if faults:
        raise KernelError(errno.EINVAL, "; ".join(faults[:20]))
    return spec


def _together(keys: set[str]) -> list[str]:
    """Faults of keys that do not go together."""
    faults = []
    if len(keys & {"pipeline", "system"}) != 1:
        faults.append("one of `pipeline` and `system` was expected")
    times = [name for name in TIMES if name in keys]
    if len(times) != 1:
        faults.append("one of `every`, `cron`, `at` and `in` was expected")
    if "timezone" in keys and "cron" not in keys:
        faults.append("timezone: it is for `cron` only")
    if times in (["at"], ["in"]):
        faults += [f"{key}: it starts once" for key in ("max_runs", "until") if key in keys]
    return faults


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:60]!r} is there twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
