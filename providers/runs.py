"""/proc/runs: what was started of pipelines, by id. The nodes of one run: run_nodes.py."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.base.within import is_directory
from agentfs.base.yaml_document import near
from agentfs.manifests.inherit import Level, narrowed
from agentfs.model.moment import count, moment
from agentfs.process.step_files import artifacts_of, make_artifacts, run_of
from agentfs.providers.children import pid_of
from agentfs.providers.described import Described
from agentfs.providers.devices import Devices
from agentfs.providers.host import HostTree
from agentfs.providers.number_links import PAGE
from agentfs.providers.run_links import parts_of
from agentfs.providers.run_nodes import NodesDirectory, RunNodeDirectory
from agentfs.providers.run_signals import SignalsDirectory
from agentfs.providers.run_streams import EventsFile, run_end, run_readers
from agentfs.providers.system_table import SystemTable
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.declare import control, directory, file, link, stream, transaction, value
from agentfs.vfs.files import Basics, Owner, fields
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import Directory, Node, StreamHandle
from agentfs.vfs.on import on
from agentfs.vfs.table import Entry
from agentfs.workflow.events import (
    NodeChanged,
    RunEnded,
    RunRemoved,
    RunSignalled,
    RunStarted,
    RunStateChanged,
)
from agentfs.workflow.model import Run, RunState

if TYPE_CHECKING:
    from agentfs.manifests.plan import Plan
    from agentfs.providers.proc import ProcDirectory

__all__ = ["RunDirectory", "RunsDirectory"]

MOVED = (RunStarted, RunStateChanged, RunEnded)
"""The events that change the state of a run."""

ASKED = ("state", "pipeline", "ref", "since", "limit")
LIMIT, MAX_LIMIT = 50, 1000
"""What a query can ask for, and how many runs it is answered with."""

OF_PROCESS = ("process", "limits", "usage", "caps", "budget")
"""Links to what its process has in /proc, as long as there is one."""


class RunDirectory(Described):
    """/proc/runs/ID: a run: what was started, how it goes, how it ended. Its id is its pid. It may
    be read by whoever may read the process (`read_process` of the rules). A run that ended is kept
    for `workflows.retention` (7 days)."""

    PATH = "/proc/runs/ID"
    mode = 0o555

    def __init__(self, runs: RunsDirectory, number: int) -> None:
        self.runs = runs
        self.kernel = runs.kernel
        self.id = number
        self.key = self.at(number)

    @staticmethod
    def at(run: int) -> Hashable:
        """The key of the directory of a run."""
        return ("run", run)

    @property
    def run(self) -> Run:
        """The run as it is now. ESTALE once it is forgotten."""
        found = self.kernel.runs.find(self.id)
        if found is None:
            raise KernelError(errno.ESTALE, f"run {self.id} is forgotten")
        return found

    def plan(self) -> Plan:
        """What it runs."""
        return self.kernel.runs.plan_of(self.run)

    def owner(self) -> Owner:
        run = self.run
        return Owner(run.uid, run.gid, int(max(run.created, run.started, run.ended) * 1e9))

    def guard(self, caller: Caller) -> None:
        self.kernel.runs.may_read(caller.principal, self.run)

    def exists(self, entry: Entry) -> bool:
        if entry.name in OF_PROCESS:
            return self.kernel.table.find(self.id) is not None
        if entry.name == "parent":
            return self.run.parent != 0
        if entry.name == "artifacts":
            return not self.run.state.final or self._has_artifacts()
        return super().exists(entry)

    def _has_artifacts(self) -> bool:
        return is_directory(os.fspath(artifacts_of(self.kernel.state_dir, self.id)))

    def listed(self, entry: Entry) -> bool:
        if entry.name == "artifacts" and not self._has_artifacts():
            return False
        return entry.name not in ("parent", "process") and super().listed(entry)

    # -- what it says of itself --------------------------------------------------------------------

    def entity_type(self) -> str:
        return "run"

    def description(self) -> str:
        return f"{self.run.pipeline}, version {self.run.version}"

    def status(self) -> str:
        return self.run.state.value

    def operations(self) -> tuple[str, ...]:
        return ("read", "watch") if self.run.state.final else ("read", "watch", "exec")

    def tags(self) -> dict[str, str]:
        run = self.run
        return {
            "pipeline": run.pipeline,
            "ref_type": run.ref_type,
            "ref_id": run.ref_id,
            "starter": run.starter,
        }

    @value("state", on=MOVED, polled=True, example="running")
    def state(self) -> str:
        """queued, running, suspended (only waits are left, or it was paused); completed, failed,
        cancelled, timed_out."""
        return self.run.state.value

    @value(
        "status", on=MOVED, example="Id:\t7\nPipeline:\treview\nVersion:\t3\nState:\trunning\n…\n"
    )
    def status_file(self) -> str:
        """Id, Pipeline, Version, State, Paused, Key, Ref, Starter, Parent (the run that it is a
        part of), Retry-Of, Created, Started, Ended, Deadline, Reason."""
        run = self.run
        return fields(
            ("Id", run.id),
            ("Pipeline", run.pipeline),
            ("Version", run.version),
            ("State", run.state.value),
            ("Paused", run.paused),
            ("Key", run.key),
            ("Ref", run.ref),
            ("Starter", run.starter),
            ("Parent", run.parent or ""),
            ("Retry-Of", run.retry_of or ""),
            ("Created", rfc3339(run.created)),
            ("Started", rfc3339(run.started) if run.started else ""),
            ("Ended", rfc3339(run.ended) if run.ended else ""),
            ("Deadline", rfc3339(run.deadline) if run.deadline else ""),
            ("Reason", _reason(run)),
        )

    @value("info", on=MOVED, example='{"id": 7, "pipeline": "review", "state": "running", …}')
    def info(self) -> str:
        """The same as one JSON object. Times RFC 3339, duration in seconds; null is no value."""
        return _info(self.run)

    @value("reason", on=MOVED, example="node fetch: timeout: the program ran for 60 s")
    def reason(self) -> str:
        """Why it is in this state: the error that failed it, who cancelled or paused it and why;
        empty if there is nothing to say."""
        return _reason(self.run)

    @value("input", example='{"city": "Paris"}')
    def input(self) -> str:
        """What it was started with, as JSON."""
        return self.kernel.runs.input_of(self.id)

    @value("output", on=(RunEnded,), example='{"temperature": 21}')
    def output(self) -> str:
        """What it gave, as JSON: what `output` of the pipeline says, or the output of each node
        that nothing comes after. Empty before it has completed."""
        return self.kernel.runs.output_of(self.id)

    @value("manifest.yaml", example="kind: Pipeline\nmetadata: {name: review}\nspec:\n  nodes: …\n")
    def manifest(self) -> str:
        """The pipeline that it runs, as it was when it was started, with macros expanded."""
        return self.plan().document

    @value("config", example="limits.max_llm_calls: 30 # pipeline review\n")
    def config(self) -> str:
        """Each value that it has from its documents and from the request that started it (YAML),
        and behind `#` which of them said it. Of a limit it is the least that any said."""
        settled = narrowed(self.plan(), Level.of_request(self.run.request))
        return "".join(
            f"{name}: {json.dumps(value, ensure_ascii=False)} # {level}\n"
            for name, (value, level) in sorted(settled.origin.items())
        )

    @stream("wait", 0o444, example='{"state": "completed", "error": null, "output": {"ok": true}}')
    def wait(self, caller: Caller) -> StreamHandle:
        """Blocks until it has ended, then gives state, error and output as one JSON object."""
        return run_end(self.kernel, self.runs.readers, self.run.id, caller.principal)

    @file(
        "events",
        0o444,
        kind="Stream",
        example='{"seq": 1, "time": "2026-11-21T09:00:00.123Z", "type": "PipelineStarted", …}',
    )
    def events(self) -> Node:
        """All that happened in it, one JSON object a line, from the first on, and what happens as
        it comes; the end of the file is after the event that ends it."""
        basics = Basics(self.key_of("events"), 0o444, self.owner, self.guard)
        return EventsFile(basics, self.kernel, self.runs.readers, self.id)

    @control(
        "ctl",
        0o222,
        example="cancel not needed any more",
        errors={
            "EINVAL": "another word",
            "EPERM": "it has ended, or it is another's: whoever may `kill` it may control it",
            "ENOENT": "skip: there is no such node",
        },
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """Commands: `cancel [WHY]`, `pause`, `resume`, `skip NODE` (that has not completed),
        `upgrade` (to the newest version of its pipeline, if all nodes that have begun are the
        same in it)."""
        runs, principal = self.kernel.runs, caller.principal
        word, _, rest = command.partition(" ")
        match word, rest.strip():
            case "cancel", why:
                runs.cancel(principal, self.id, why)
            case "pause", "":
                runs.pause(principal, self.id)
            case "resume", "":
                runs.resume(principal, self.id)
            case "skip", node if node:
                runs.skip_node(principal, self.id, node)
            case "upgrade", "":
                runs.upgrade(principal, self.id)
            case _:
                raise KernelError(
                    errno.EINVAL,
                    f"cancel [WHY], pause, resume, skip NODE or upgrade, not {command[:100]!r}",
                )

    @transaction(
        "retry",
        0o666,
        example="from: fetch",
        errors={
            "EINVAL": "another word, or there is no such node",
            "EPERM": "it goes on, or it has completed and no node is said",
        },
    )
    async def retry(self, request: bytes, caller: Caller) -> str:
        """Write `again` (or an empty line) or `from: NODE`, read the id of a new run: it has what
        completed in this one, and does the rest; with NODE, that node and what comes after it."""
        word, _, node = as_text(request).strip().partition(":")
        if word not in ("", "again", "from") or (word == "from") != bool(node.strip()):
            raise KernelError(errno.EINVAL, "`again` or `from: NODE` was expected")
        return f"{self.kernel.runs.retry(caller.principal, self.id, node.strip()).id}\n"

    @directory("signals", 0o777)
    def signals(self) -> Directory:
        """Signals for it: writing KEY sends one, before somebody waits for it or while."""
        return SignalsDirectory(self)

    @directory("artifacts")
    def artifacts(self) -> Directory:
        """What its programs have left in $STEP/artifacts: real files. While the run is open it is
        made for whoever names it. **EACCES**: only they write here, and workers that have a step of
        it. **EPERM**: it has ended."""
        if not self.run.state.final and not self._has_artifacts():
            make_artifacts(self.kernel.state_dir, self.id, self.run.uid, self.run.gid)
        return self.runs.artifacts_of(self).root

    @directory("nodes", 0o555)
    def nodes(self) -> Directory:
        """A directory for each node."""
        return NodesDirectory(self, self.key_of("nodes"), "", (self.plan().graph,))

    @directory("children")
    def children(self) -> Directory:
        """Links to the runs that are parts of this one."""
        return parts_of(self.kernel, self.key_of("children"), "../..", self.id)

    @link("parent", example="../6")
    def parent(self, caller: Caller) -> str:
        """The run that this one is a part of."""
        return f"../{self.run.parent}"

    @link("process", example="../../7")
    def process(self, caller: Caller) -> str:
        """Its process, until that is gone."""
        return f"../../{self.id}"

    @link("limits", example="../../7/limits")
    def limits(self, caller: Caller) -> str:
        """The limits of its process."""
        return f"../../{self.id}/limits"

    @link("usage", example="../../7/usage")
    def usage(self, caller: Caller) -> str:
        """What it has used, with all below it."""
        return f"../../{self.id}/usage"

    @link("caps", example="../../7/caps")
    def caps(self, caller: Caller) -> str:
        """What it may do."""
        return f"../../{self.id}/caps"

    @link("budget", example="../../7/budget")
    def budget(self, caller: Caller) -> str:
        """Its budget."""
        return f"../../{self.id}/budget"

    # -- news --------------------------------------------------------------------------------------

    @on(NodeChanged)
    def _node_changed(self, event: NodeChanged) -> Iterator[Change]:
        for key in RunNodeDirectory.keys_changed(event.run, event.node):
            yield Modified(key)

    @on(RunSignalled)
    def _signal(self, event: RunSignalled) -> Iterator[Change]:
        yield from SignalsDirectory(self).sent(event)


def _reason(run: Run) -> str:
    return run.reason or run.error


def _info(run: Run) -> str:
    ended = run.ended or None
    return json.dumps(
        {
            "id": run.id,
            "pipeline": run.pipeline,
            "version": run.version,
            "state": run.state.value,
            "paused": run.paused,
            "key": run.key or None,
            "ref_type": run.ref_type or None,
            "ref_id": run.ref_id or None,
            "environment": run.environment or None,
            "starter": run.starter,
            "parent": run.parent or None,
            "parent_node": run.parent_node or None,
            "origin": run.origin,
            "retry_of": run.retry_of or None,
            "created": rfc3339(run.created),
            "started": rfc3339(run.started) if run.started else None,
            "ended": rfc3339(ended) if ended else None,
            "duration": round(ended - run.started, 3) if ended and run.started else None,
            "deadline": rfc3339(run.deadline) if run.deadline else None,
            "reason": run.reason or None,
            "error": run.error or None,
            "plan": run.plan_hash,
        },
        ensure_ascii=False,
    )


class ArtifactsTree(HostTree):
    """/proc/runs/ID/artifacts: read by whoever may read the run, and written by its programs and by
    workers that have a step of it, as long as it goes on."""

    def __init__(self, run: RunDirectory, devices: Devices) -> None:
        self._kernel = run.kernel
        self._run = run
        place = artifacts_of(run.kernel.state_dir, run.id)
        counted = run.kernel.disk.of_run(run.run.starter, place)
        super().__init__(place, run.guard, devices, counted)

    def may_write(self, caller: Caller, paths: list[str]) -> None:
        kernel, principal, run = self._kernel, caller.principal, self._run.run
        if principal.is_operator:
            return
        if run.state.final:
            raise KernelError(
                errno.EPERM,
                f"run {run.id} has ended, and what it has left stays as it is",
                rule="artifacts of a run",
            )
        process = kernel.gate.actor(principal)
        own = process.light and run_of(process) == run.id
        if own or kernel.desk.works_for(process.pid, run.id):
            return
        raise KernelError(
            errno.EACCES,
            f"the programs of run {run.id} write these, and who has a step of it;"
            f" you are {principal.name}",
            rule="artifacts of a run",
        )


def _query(text: str, now: float) -> dict[str, Any]:
    """What a query says, as `runs.query` takes it. Raises EINVAL."""
    given: dict[str, Any] = {}
    for word in text.split():
        name, _, asked = word.partition("=")
        if name not in ASKED or not asked or name in given:
            raise KernelError(
                errno.EINVAL,
                "a query is state=STATE pipeline=NAME ref=TYPE/ID since=WHEN limit=N, each at most"
                f" once, not {word[:100]!r}{near(name, ASKED)}",
            )
        given[name] = asked
    state = given.get("state")
    states = [each.value for each in RunState]
    if state is not None and state not in states:
        raise KernelError(
            errno.EINVAL,
            f"a state is one of {', '.join(states)}, not {state!r}{near(state, states)}",
        )
    if "since" in given:
        given["since"] = moment("since", given["since"], now)
    given["limit"] = count(given["limit"], MAX_LIMIT) if "limit" in given else LIMIT
    return given


class RunsDirectory(SystemTable):
    """/proc/runs: a directory for each run, by id. A run is started by writing to
    /etc/pipelines/NAME/run."""

    PATH = "/proc/runs"
    WHAT = "The runs of pipelines."
    EACH = RunDirectory
    restless = True
    stepwise = True
    key = ("proc", "runs")

    def __init__(self, above: ProcDirectory) -> None:
        super().__init__(above)
        self.readers = run_readers(self.kernel)
        self._devices = Devices()
        self._artifacts: WeakValueDictionary[int, HostTree] = WeakValueDictionary()

    def artifacts_of(self, run: RunDirectory) -> HostTree:
        """The files that the programs of a run have left."""
        found = self._artifacts.get(run.id)
        if found is None:
            found = self._artifacts[run.id] = ArtifactsTree(run, self._devices)
        return found

    @transaction(
        "query",
        0o666,
        example="state=failed since=2h limit=50",
        errors={"EINVAL": "no such query"},
    )
    async def query(self, request: bytes, caller: Caller) -> str:
        """Write what is looked for, read the newest runs that are so, newest first, each as its
        `info`: `state=STATE`, `pipeline=NAME`, `ref=TYPE/ID`, `since=WHEN` (started: a date, or a
        duration: so long ago), `limit=N` (50, at most 1,000). Runs that you may not read are left
        out."""
        asked = _query(as_text(request), self.kernel.clock.now())
        lines = []
        for run in self.kernel.runs.query(**asked):
            try:
                self.kernel.runs.may_read(caller.principal, run)
            except KernelError:
                continue
            lines.append(_info(run))
        return "".join(f"{line}\n" for line in lines)

    # -- the runs ----------------------------------------------------------------------------------

    def find(self, name: str) -> Node | None:
        found = self.kernel.runs.find(pid_of(name))
        return None if found is None else RunDirectory(self, found.id)

    def glance(self, name: str) -> Node:
        return RunDirectory(self, int(name)) if name.isdigit() else self.lookup(name)

    def names_now(self, caller: Caller) -> Iterator[str]:
        yield from self.TABLE
        yield from (str(run) for run in self._ids())

    def more(self) -> Iterator[tuple[str, Node]]:
        for run in self._ids():
            yield str(run), RunDirectory(self, run)

    def _ids(self) -> Iterator[int]:
        page = [0]
        while page:
            page = self.kernel.runs.page(page[-1], PAGE)
            yield from page

    # -- news --------------------------------------------------------------------------------------

    def each(self, key: Any) -> RunDirectory:
        return RunDirectory(self, key[-1])

    def concerned(self, event: Any) -> Sequence[Hashable]:
        return (RunDirectory.at(event.run),)

    @on(RunStarted)
    def _started(self, event: RunStarted) -> Iterator[Change]:
        started = RunDirectory(self, event.run)
        started.remember()
        yield Created(self.key, str(event.run), started)

    @on(RunRemoved)
    def _removed(self, event: RunRemoved) -> Iterator[Change]:
        self.kernel.disk.run_removed(artifacts_of(self.kernel.state_dir, event.run))
        yield Removed(self.key, str(event.run), RunDirectory.at(event.run), is_directory=True)
