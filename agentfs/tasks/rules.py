"""`/etc/guardian.yaml`: the rules by which tasks and their results are judged.

Rules are expressions over the task, which are evaluated at once. Some of them ask somebody, whose
answer takes its time: an approver, a program, a quorum. A rule that rejects is looked at before
anybody is asked, so that no answer can pass what it rejects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    model_validator,
)

from agentfs.approvals.request import OPERATOR
from agentfs.base.models import Fault, check_whole, matching, read_model
from agentfs.base.yaml_document import near
from agentfs.manifests.expression import Expression
from agentfs.manifests.fuel import EvaluationError, Fuel, MissingError, TemplateError
from agentfs.model.spec import NAME, seconds
from agentfs.store.live_document import Form
from agentfs.tasks.own_agent import OwnAgentForm
from agentfs.tasks.policy import Judgement, Moment
from agentfs.tasks.view import FIELDS

__all__ = ["DEFAULT_RULE", "FORM", "Command", "GuardianRule", "Rulebook"]

DEFAULT = """\
# Rules by which tasks are judged before anybody does them, and by which their results are judged. A
# valid write takes effect with the judgements that begin after it.
#
# name     of the rule, in verdicts and in the audit
# when     submit (if it is left out), result, or both
# match    an expression over `task` (id, description, input, requirements, priority, submitter,
#          group, key, attempt, worker, program, result) and `when`; every task, if it is left out
# action   pass       it passes, and the rules below are not asked
#          reject     it does not, for this `reason`
#          approve    the agents of `by` are asked in /dev/approvals (if it is left out: operator)
#          program    `program`, a list of words, gets {when, task} as JSON on its input: exit code
#                     0 is yes, any other no, and what it prints is the reason
#          consensus  the agents of `voters` are asked by mail; `quorum` of them have to answer
#                     yes: a number, majority (if it is left out) or all
# timeout  how long those who are asked may take (approve 1h, program 30s, consensus 10m). Silence
#          is a no
# again    true: a task whose result does not pass is done again, as its next attempt
#
# Rules are asked in this order, and all that match have to agree. One that rejects is looked at
# before anybody is asked. A task about which a rule cannot be evaluated does not pass. Nobody
# decides about a task of their own. `default` (pass or reject) is for tasks that no rule is about.
# Programs run as the agent `guardian`, with `user`, `caps`, `deny` and `limits` as tools of
# /etc/tools.yaml.
#
#   - {name: no-root, match: "'sudo' in task.description", action: reject, reason: no root here}
#   - {name: costly, match: task.priority > 7, action: approve, by: boss, timeout: 10m}
#   - {name: lint, when: result, action: program, program: [/usr/local/bin/lint], again: true}
#   - {name: panel, match: task.requirements.risk | default(0) > 3, action: consensus,
#      voters: [ann, bob, cleo], quorum: 2}
rules: []
default: pass
"""

RULE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

MOST_RULES = 64
"""Rules of the document: all of them are evaluated in one step of the event loop."""

LONGEST = 4096
"""Characters of an expression."""

STEPS = 15_000
"""Steps of all rules together: below 8 ms, beside the 10 ms that it takes to read a long input and
a long result. A judgement is one step of the event loop."""

PATIENCE = {"approve": 3600.0, "program": 30.0, "consensus": 600.0}
"""Seconds that those who are asked may take, unless the rule says so."""

OWN_KEYS = {
    "pass": frozenset[str](),
    "reject": frozenset({"reason", "again"}),
    "approve": frozenset({"by", "timeout", "again"}),
    "program": frozenset({"program", "timeout", "again"}),
    "consensus": frozenset({"voters", "quorum", "timeout", "again"}),
}
"""The keys that only some actions have."""

DEFAULT_RULE = "default"
"""What stands for a rule in verdicts about tasks that none is about."""

ONLY_SOME = frozenset[str]().union(*OWN_KEYS.values())


def _one_or_more(given: object) -> object:
    return [given] if isinstance(given, str) else given


def _voters(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("each agent was expected once")
    if OPERATOR in names:
        raise ValueError("agents were expected: `action: approve` asks the operator")
    return names


def _command(words: list[str]) -> list[str]:
    if not words[0] or ("/" in words[0] and not words[0].startswith("/")):
        raise ValueError("the program: an absolute path was expected, or a name to be looked up")
    if any("\0" in word for word in words):
        raise ValueError("no word may have a zero byte in it")
    return words


def _expression(text: str) -> str:
    try:
        found = Expression(text).references()
    except TemplateError as bad:
        raise ValueError(f"column {bad.column} of the expression: {bad.words}") from None
    faults = []
    for name in found:
        known = FIELDS if name.path[0] == "task" else ("task", "when", "ctx")
        said = name.path[1] if name.path[0] == "task" and len(name.path) > 1 else name.path[0]
        if said not in known and name.path != ("task",):
            where = f"column {name.column} of the expression"
            faults.append(f"{where}: there is no `{said}`{near(said, known)}")
    if faults:
        raise ValueError("; ".join(faults))
    return text


Command = Annotated[list[str], Field(min_length=1, max_length=256), AfterValidator(_command)]
"""A program and its arguments."""

Agent = Annotated[str, matching(NAME, "the name of an agent")]
Voters = Annotated[list[Agent], Field(min_length=1, max_length=64), AfterValidator(_voters)]
Match = Annotated[str, Field(max_length=LONGEST), AfterValidator(_expression)]


class _RuleForm(BaseModel):
    """One rule, as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, matching(RULE_NAME, "a name like no-root: 1 to 64 of A-Z a-z 0-9 . _ -")]
    when: Literal["submit", "result", "both"] = "submit"
    match: Match | None = None
    action: Literal["pass", "reject", "approve", "program", "consensus"]
    reason: Annotated[str, Field(max_length=500)] = ""
    by: Annotated[list[Agent], BeforeValidator(_one_or_more), Field(min_length=1)] = [OPERATOR]
    program: Command | None = None
    voters: Voters = []
    quorum: Annotated[int, Field(ge=1, strict=True)] | Literal["majority", "all"] = "majority"
    timeout: Annotated[float, BeforeValidator(seconds), Field(gt=0, le=30 * 86_400)] | None = None
    again: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="wrap")
    @classmethod
    def _whole(cls, given: Any, check: ModelWrapValidatorHandler[_RuleForm]) -> _RuleForm:
        return check_whole(cls.__name__, given, check, _between(given))

    def rule(self) -> GuardianRule:
        """The same as a value."""
        fields = self.model_dump()
        fields["timeout"] = self.timeout or PATIENCE.get(self.action, 0.0)
        return GuardianRule(**fields)


def _between(given: Any) -> Iterator[Fault]:
    """Where the keys of a rule do not fit together; `given` is whatever somebody wrote."""
    if not isinstance(given, dict) or given.get("action") not in OWN_KEYS:
        return
    action = given["action"]
    for key in given:
        if key in ONLY_SOME and key not in OWN_KEYS[action]:
            which = ", ".join(each for each, keys in OWN_KEYS.items() if key in keys)
            yield (key,), f"`{key}` is for {which}, and the action is {action}"
    for needed in ("program", "voters"):
        if needed in OWN_KEYS[action] and needed not in given:
            yield ("action",), f"{action} needs `{needed}`"
    if "again" in given and given.get("when", "submit") == "submit":
        yield ("again",), "`again` is about results: `when: result` was expected"
    voters, quorum = given.get("voters"), given.get("quorum")
    if isinstance(voters, list) and type(quorum) is int and quorum > len(voters):
        yield ("quorum",), f"at most {len(voters)} was expected, so many may vote"


class _Document(OwnAgentForm):
    """The whole document."""

    rules: Annotated[list[_RuleForm], Field(max_length=MOST_RULES)] = []
    default: Literal["pass", "reject"] = "pass"

    @model_validator(mode="wrap")
    @classmethod
    def _whole(cls, given: Any, check: ModelWrapValidatorHandler[_Document]) -> _Document:
        return check_whole(cls.__name__, given, check, _twice(given))


def _twice(given: Any) -> Iterator[Fault]:
    rules = given.get("rules") if isinstance(given, dict) else None
    seen = dict[object, int]()
    for number, rule in enumerate(rules if isinstance(rules, list) else ()):
        name = rule.get("name") if isinstance(rule, dict) else None
        if isinstance(name, str) and seen.setdefault(name, number) != number:
            yield ("rules", number, "name"), f"rule {seen[name] + 1} is called {name}, too"


@dataclass(frozen=True, slots=True)
class GuardianRule:
    """One rule. `match` is its expression, None for every task. `timeout` in seconds, 0 where
    nobody is asked. `by`, `program`, `voters`, `quorum` say who is asked, as the action has it."""

    name: str
    when: str
    match: str | None
    action: str
    reason: str
    by: list[str]
    program: list[str] | None
    voters: list[str]
    quorum: int | str
    timeout: float
    again: bool

    def is_for(self, when: Moment) -> bool:
        """Whether it is about such a judgement."""
        return self.when in (when.value, "both")

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def yes(self, by: str) -> Judgement:
        """The verdict if `by` has agreed."""
        return Judgement(True, f"{self.name} ({by})")

    def no(self, reason: str, by: str = "") -> Judgement:
        """The verdict if it says no, or `by` does for it."""
        return Judgement(False, f"{self.name} ({by})" if by else self.name, reason, self.again)


class Rulebook:
    """What the document says. `agent` runs its programs."""

    def __init__(self, rules: list[GuardianRule], default: str, agent: OwnAgentForm) -> None:
        self.agent = agent.agent("guardian", "Judges tasks by /etc/guardian.yaml.")
        self._passes = default == "pass"
        self._rules = [(rule, Expression(rule.match) if rule.match else None) for rule in rules]

    def judge(
        self, when: Moment, scope: Callable[[], Mapping[str, Any]]
    ) -> Judgement | tuple[GuardianRule, ...]:
        """The verdict; or the rules that ask somebody, all of whom have to agree. `scope()` is what
        expressions may name."""
        named: Mapping[str, Any] | None = None
        fuel = Fuel(STEPS)
        asking: list[GuardianRule] = []
        passed = ""
        for rule, expression in self._rules:
            if not rule.is_for(when):
                continue
            try:
                if expression is not None:
                    named = scope() if named is None else named
                    if not expression.holds(named, fuel):
                        continue
            except EvaluationError as bad:
                return rule.no(_undecided(rule, bad))
            if rule.action == "reject":
                return rule.no(rule.reason or f"rule {rule.name} rejects it")
            if rule.action == "pass":
                passed = rule.name
                break
            asking.append(rule)
        if asking:
            return tuple(asking)
        if passed or self._passes:
            return Judgement(True, passed or DEFAULT_RULE)
        return Judgement(False, DEFAULT_RULE, "no rule of /etc/guardian.yaml passes it")


def _undecided(rule: GuardianRule, bad: EvaluationError) -> str:
    hint = ""
    if isinstance(bad, MissingError):
        hint = f"; write `{bad.name} | default(…)` for tasks without it"
    return f"rule {rule.name} cannot be decided: {bad}{hint}"


def parse(text: str) -> Rulebook:
    """What a document says. Raises EINVAL that names every fault."""
    said = read_model(text, _Document, "document") or _Document()
    return Rulebook([form.rule() for form in said.rules], said.default, said)


FORM: Form[Rulebook] = Form("guardian.yaml", parse, lambda: DEFAULT)
