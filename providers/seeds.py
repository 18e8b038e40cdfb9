"""/projects/NAME/seeds: the goals that are pursued in a project, by number. A seed is planted by a
write to `new`."""

from __future__ import annotations

import errno
import json
from collections.abc import Hashable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.base.models import read_model
from agentfs.projects.events import SeedChanged
from agentfs.projects.outcomes import as_value, criteria_of, read_evaluation
from agentfs.projects.seed import Seed, SeedState
from agentfs.projects.seeds import told
from agentfs.providers.described import Described
from agentfs.providers.ends import EndStream
from agentfs.providers.system_table import SystemTable
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import control, document, stream, transaction, value
from agentfs.vfs.files import Owner, fields
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import Node, StreamHandle
from agentfs.vfs.table import Table

if TYPE_CHECKING:
    from agentfs.providers.projects import ProjectDirectory

__all__ = ["SeedDirectory", "SeedsDirectory"]

CHANGED = (SeedChanged,)
"""The event that changes what the files of a seed say."""

COMMANDS = "cancel [WHY], retry, accept, pass [WORDS], fail [WORDS] or score N [WORDS]"

REFUSALS = {
    "EPERM": "it does not wait for this, or it is another's",
    "EACCES": "you are no member of the project",
    "EINVAL": "not such a value",
}


class Planted(BaseModel):
    """What is written to `new`."""

    model_config = ConfigDict(extra="forbid")

    goal: str
    criteria: list[str] | str = ""


class SeedDirectory(Described, SystemTable):
    """/projects/NAME/seeds/ID: a seed. It goes through the phases interview, seed, execute,
    evaluate; if its evaluation says no, through evolve, which plants its child. It may be read by
    whoever may read the project."""

    PATH = "/projects/NAME/seeds/ID"

    def __init__(self, project: ProjectDirectory, seed: Seed) -> None:
        super().__init__(project)
        self._project = project
        self._number = seed.number
        self._seed = seed
        self.key = self.at(seed.number)

    @staticmethod
    def at(number: int) -> Hashable:
        """The key of the directory of a seed."""
        return ("seed", number)

    @property
    def seed(self) -> Seed:
        """The seed as it is now. ESTALE once it is forgotten."""
        found = self.kernel.seeds.find(self._project.name, self._number)
        if found is None:
            raise KernelError(errno.ESTALE, f"seed {self._number} is forgotten")
        return found

    def owner(self) -> Owner:
        maker = self._seed.maker
        return Owner(maker.uid, maker.gid, self._seed.changed)

    def guard(self, caller: Caller) -> None:
        self._project.guard(caller)

    # -- what it says of itself --------------------------------------------------------------------

    def entity_type(self) -> str:
        return "seed"

    def description(self) -> str:
        return self._seed.goal.splitlines()[0][:200]

    def status(self) -> str:
        return self._seed.state.value

    def operations(self) -> tuple[str, ...]:
        return ("read", "watch", "exec")

    def tags(self) -> dict[str, str]:
        return {"project": self._seed.project, "phase": self._seed.phase.value}

    # -- files -------------------------------------------------------------------------------------

    @document(
        "goal",
        0o666,
        write="set_goal",
        check="may_answer",
        on=CHANGED,
        example="a page on bees",
        errors=REFUSALS,
    )
    def goal(self) -> str:
        """What is to be reached. It may be written while the seed waits because its goal is not
        clear: it is interviewed again then."""
        return self.seed.goal

    def may_answer(self, caller: Caller) -> None:
        self.kernel.seeds.check_answer(caller.principal, self.seed)

    async def set_goal(self, content: bytes, caller: Caller) -> None:
        self.kernel.seeds.set_goal(caller.principal, self.seed, as_text(content))

    @document(
        "criteria",
        0o666,
        write="set_criteria",
        check="may_answer",
        on=CHANGED,
        example="it names three kinds\nit has a source for each\n",
        errors=REFUSALS,
    )
    def criteria(self) -> str:
        """What the result has to be like, one a line. Written as `goal` is."""
        return "".join(f"{line}\n" for line in self.seed.criteria)

    async def set_criteria(self, content: bytes, caller: Caller) -> None:
        self.kernel.seeds.set_criteria(caller.principal, self.seed, as_text(content))

    @value("phase", on=CHANGED, example="execute")
    def phase(self) -> str:
        """interview, seed, execute, evaluate or evolve: the one that it is in, or ended in."""
        return self.seed.phase.value

    @value("state", on=CHANGED, example="running")
    def state(self) -> str:
        """running, waiting (somebody has to say something: `reason`); passed, evolved (its child
        goes on), failed, cancelled."""
        return self.seed.state.value

    @value("reason", on=CHANGED, example="a member writes its result")
    def reason(self) -> str:
        """What it waits for, or why it has failed; empty if there is nothing to say."""
        return self.seed.reason

    @value("ambiguity", on=CHANGED, example="0.3")
    def ambiguity(self) -> str:
        """How unclear its goal is, from 0 to 1, as the interview said; empty if it said nothing."""
        found = self.seed.ambiguity
        return "" if found is None else f"{found:g}"

    @value("questions", on=CHANGED, example="how long may it be?\n")
    def questions(self) -> str:
        """What the interview asks, one a line."""
        return "".join(f"{line}\n" for line in self.seed.questions)

    @document(
        "result",
        0o666,
        write="set_result",
        check="may_execute",
        on=CHANGED,
        example='"shared/bees.md"',
        errors=REFUSALS | {"EFBIG": "more than 1 MiB"},
    )
    def result(self) -> str:
        """What its execution has given, as JSON; empty before that. A member writes it, JSON or
        text, where the specification has nobody execute it; it is taken when the file is closed."""
        seed = self.seed
        result = self.kernel.seeds.table.result(seed.number)
        return "" if result is None else json.dumps(result, ensure_ascii=False)

    def may_execute(self, caller: Caller) -> None:
        self.kernel.seeds.check_result(caller.principal, self.seed)

    async def set_result(self, content: bytes, caller: Caller) -> None:
        text = as_text(content)
        if not text.strip():
            raise KernelError(errno.EINVAL, "a result was expected, JSON or text")
        self.kernel.seeds.set_result(caller.principal, self.seed, text)

    @value(
        "evaluation",
        0o666,
        write="set_evaluation",
        on=CHANGED,
        example='{"score": 0.4, "passed": false, "words": "a source is missing"}',
        errors=REFUSALS,
    )
    def evaluation(self) -> str:
        """How good its result is, as one JSON object; empty before that. Where the specification
        has nobody evaluate it, a member writes it that has not planted the seed."""
        found = told(self.seed.evaluation)
        return "" if found is None else json.dumps(found, ensure_ascii=False)

    async def set_evaluation(self, text: str, caller: Caller) -> None:
        evaluation = read_evaluation(text)
        self.kernel.seeds.evaluate(caller.principal, self.seed, evaluation)

    @value("score", on=CHANGED, example="0.4")
    def score(self) -> str:
        """The score of its evaluation, from 0 to 1; empty before that."""
        found = self.seed.evaluation
        return "" if found is None else f"{found.score:g}"

    @value("feedback", on=CHANGED, example="a source is missing")
    def feedback(self) -> str:
        """What the evaluation of its parent said."""
        return self.seed.feedback

    @value("parent", example="3")
    def parent(self) -> str:
        """The number of the seed that has evolved into it; empty if somebody has planted it."""
        return str(self.seed.parent or "")

    @value("child", on=CHANGED, example="5")
    def child(self) -> str:
        """The number of the seed that it has evolved into; empty if there is none."""
        return str(self.seed.child or "")

    @value("status", on=CHANGED, example="Id:\t4\nProject:\tbees\nState:\trunning\nPhase:\t…\n")
    def status_file(self) -> str:
        """Id, Project, Owner (who spends for it), State, Phase, Attempt (how often the phase was
        begun), Run and Task (that do it), Generation (0: planted), Parent, Child, Score, Created,
        Ended, Reason."""
        seed = self.seed
        return fields(
            ("Id", seed.number),
            ("Project", seed.project),
            ("Owner", seed.maker.owner),
            ("State", seed.state.value),
            ("Phase", seed.phase.value),
            ("Attempt", seed.attempt),
            ("Run", seed.run or ""),
            ("Task", seed.task or ""),
            ("Generation", seed.generation),
            ("Parent", seed.parent or ""),
            ("Child", seed.child or ""),
            ("Score", self.score()),
            ("Created", rfc3339(seed.created)),
            ("Ended", rfc3339(seed.ended) if seed.ended else ""),
            ("Reason", seed.reason),
        )

    @value("info", on=CHANGED, example='{"id": 4, "project": "bees", "state": "running", …}')
    def info(self) -> str:
        """All of it as one JSON object, but for the result. Times RFC 3339; null is no value."""
        seed = self.seed
        said = {
            "id": seed.number,
            "project": seed.project,
            "owner": seed.maker.owner,
            "goal": seed.goal,
            "criteria": list(seed.criteria),
            "state": seed.state.value,
            "phase": seed.phase.value,
            "attempt": seed.attempt,
            "run": seed.run or None,
            "task": seed.task or None,
            "generation": seed.generation,
            "parent": seed.parent or None,
            "child": seed.child or None,
            "ambiguity": seed.ambiguity,
            "questions": list(seed.questions),
            "evaluation": told(seed.evaluation),
            "feedback": seed.feedback or None,
            "reason": seed.reason or None,
            "created": rfc3339(seed.created),
            "ended": rfc3339(seed.ended) if seed.ended else None,
        }
        return json.dumps(said, ensure_ascii=False)

    @value("history", on=CHANGED, example='{"time": "…", "phase": "execute", "attempt": 1, …}')
    def history(self) -> str:
        """What has become of it, oldest first, one JSON object a line: time, phase, attempt and
        words; the first line and the newest 99."""
        return "".join(
            f"{json.dumps({'time': rfc3339(line['at'])} | _without_at(line), ensure_ascii=False)}\n"
            for line in self.seed.history
        )

    @stream("wait", 0o444, example='{"state": "passed", "seed": 5, "score": 0.9, "result": "…"}')
    def wait(self, caller: Caller) -> StreamHandle:
        """Blocks until its line has ended, with it or with the last of the seeds that it evolves
        into; then gives state, seed (the number of that one), score, words (of the evaluation),
        reason and result as one JSON object."""
        waits = self.kernel.why.waits
        begin = partial(waits.begin, caller.principal.pid, "end", f"of seed {self._number}")
        return EndStream(self._project.projects.readers, self._project.name, self._end, begin)

    def _end(self) -> bytes | None:
        last = self.kernel.seeds.last_of(self.seed)
        if last.open or last.state is SeedState.EVOLVED:
            return None
        found = last.evaluation
        said = {
            "state": last.state.value,
            "seed": last.number,
            "score": None if found is None else found.score,
            "words": None if found is None else found.words,
            "reason": last.reason or None,
            "result": self.kernel.seeds.table.result(last.number),
        }
        return f"{json.dumps(said, ensure_ascii=False)}\n".encode()

    @control("ctl", 0o222, example="score 0.9 well done", errors=REFUSALS)
    async def ctl(self, command: str, caller: Caller) -> None:
        """Commands: `cancel [WHY]`; `retry` begins the phase again in which it has failed or was
        cancelled; `accept` goes on with a goal that is not clear; where nobody else evaluates it,
        `pass [WORDS]`, `fail [WORDS]` and `score N [WORDS]` (0 to 1) do."""
        seeds, seed, principal = self.kernel.seeds, self.seed, caller.principal
        verb, _, rest = command.strip().partition(" ")
        match verb, rest.strip():
            case "cancel", why:
                seeds.cancel(principal, seed, why)
            case "retry", "":
                seeds.retry(principal, seed)
            case "accept", "":
                seeds.accept(principal, seed)
            case "pass" | "fail", words:
                said = {"passed": verb == "pass", "words": words}
                seeds.evaluate(principal, seed, read_evaluation(said))
            case "score", words if words:
                number, _, words = words.partition(" ")
                said = {"score": as_value(number), "words": words}
                seeds.evaluate(principal, seed, read_evaluation(said))
            case _:
                raise KernelError(errno.EINVAL, f"{COMMANDS}, not {command[:100]!r}")


def _without_at(line: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in line.items() if name != "at"}


class SeedsDirectory(Table):
    """/projects/NAME/seeds: the seeds of a project."""

    PATH = "/projects/NAME/seeds"
    mode = 0o555

    def __init__(self, project: ProjectDirectory) -> None:
        self.project = project
        self.kernel = project.kernel
        self.key = project.key_of("seeds")

    def owner(self) -> Owner:
        return self.project.owner()

    def guard(self, caller: Caller) -> None:
        self.project.guard(caller)

    def find(self, name: str) -> Node | None:
        number = int(name) if name.isascii() and name.isdigit() and len(name) < 16 else 0
        seed = self.kernel.seeds.find(self.project.name, number) if str(number) == name else None
        return None if seed is None else SeedDirectory(self.project, seed)

    def more(self) -> Iterator[tuple[str, Node]]:
        for seed in self.kernel.seeds.table.of_project(self.project.name):
            yield str(seed.number), SeedDirectory(self.project, seed)

    @transaction(
        "new",
        0o666,
        example="a page on bees",
        errors={
            "EACCES": "you are no member of the project",
            "EPERM": "without the capability spawn_children",
            "EINVAL": "no goal, or another key than goal and criteria",
            "EDQUOT": "you have your share of seeds that are open",
            "ENOSPC": "projects.max_seeds are open",
        },
    )
    async def new(self, request: bytes, caller: Caller) -> str:
        """Write a goal, or a map `{goal, criteria}` (YAML or JSON; criteria are a list, or a text
        with one a line), read the number of the new seed. It is pursued at once, by the
        specification as it is now, and at the cost of who has planted it."""
        text = as_text(request)
        given = Planted(goal=text)
        if text.lstrip().startswith(("{", "goal:", "criteria:")):
            given = read_model(text, Planted, "request") or given
        criteria = criteria_of(given.criteria)
        name = self.project.name
        return f"{self.kernel.seeds.plant(caller.principal, name, given.goal, criteria).number}\n"
