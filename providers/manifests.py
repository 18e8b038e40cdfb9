"""The directory beside a manifest: what it says, its versions, and how it is run."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agentfs.base.errors import KernelError
from agentfs.library.events import ManifestChanged
from agentfs.providers.children import pid_of
from agentfs.providers.described import Described
from agentfs.providers.number_links import NumberLink
from agentfs.providers.run_links import RunLinks, by_pipeline
from agentfs.providers.start_request import read_start
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified
from agentfs.vfs.declare import directory, live, transaction, value
from agentfs.vfs.files import Basics, Owner, Value
from agentfs.vfs.handles import WHOLE_WRITE
from agentfs.vfs.node import Directory, Node
from agentfs.vfs.on import on
from agentfs.vfs.table import DirectoryOf
from agentfs.workflow.events import RunRemoved, RunStarted

if TYPE_CHECKING:
    from agentfs.library.library import Edition
    from agentfs.providers.documents import DocumentFolder

__all__ = ["ManifestDirectory", "PipelineDirectory", "SystemDirectory"]


class ManifestDirectory(Described):
    """/etc/KIND/NAME: about the document NAME.yaml of any kind; pipelines and systems have more."""

    PATH = "/etc/KIND/NAME"

    def __init__(self, folder: DocumentFolder, name: str) -> None:
        self.folder = folder
        self.kernel = folder.kernel
        self.name = name
        self.key = folder.key_of(name)

    @property
    def document(self) -> Edition:
        """The document as it is now. ENOENT once it is removed."""
        return self.folder.document(self.name)

    def owner(self) -> Owner:
        return self.folder.owned_by(self.document)

    # -- what it says of itself --------------------------------------------------------------------

    def entity_type(self) -> str:
        return self.folder.WORD

    def description(self) -> str:
        return self.document.description

    def tags(self) -> dict[str, str]:
        return {"version": str(self.document.version)}

    @value("version", on=(ManifestChanged,), example="3")
    def version(self) -> str:
        """The number of the text that is in effect; the first one is 1."""
        return str(self.document.version)

    @live("lint", example='{"file": "review.yaml", "line": 7, "code": "W200", …}')
    async def lint(self) -> bytes:
        """What could be better, one JSON object a line, as `check` says it. Nothing if that is
        nothing."""
        folder = self.folder
        file = f"{self.name}{folder.SUFFIX}"
        found = await folder.library.check(folder.KIND, self.document.text, file)
        return "".join(f"{_json(each.record())}\n" for each in found).encode()

    @directory("versions", on=(ManifestChanged,))
    def versions(self) -> Directory:
        """The texts that are kept, as N.yaml: the newest ten, and those of runs that go on."""
        return VersionsDirectory(self)

    @on(ManifestChanged)
    def _written(self, event: ManifestChanged) -> Iterator[Change]:
        yield Modified(self.key)
        versions = VersionsDirectory(self)
        try:
            node = versions.lookup(f"{event.version}{self.folder.SUFFIX}")
        except KernelError:
            return  # it is removed again
        yield Created(versions.key, f"{event.version}{self.folder.SUFFIX}", node)


class VersionsDirectory(DirectoryOf):
    """/etc/KIND/NAME/versions: the texts that are kept."""

    PATH = "/etc/KIND/NAME/versions"
    missing_timeout = 0.0

    def __init__(self, manifest: ManifestDirectory) -> None:
        self._manifest = manifest
        self._folder = manifest.folder
        self.key = manifest.key_of("versions")

    def owner(self) -> Owner:
        return self._manifest.owner()

    def _node(self, document: Edition) -> Node:
        name = f"{document.version}{self._folder.SUFFIX}"
        owner = self._folder.owned_by(document)
        node = Value(Basics(self.key_of(name), 0o444, lambda: owner), document.text.encode)
        node.timeout = 0.0  # old ones go in their own time
        return node

    def lookup(self, name: str) -> Node:
        number = self._folder.stem(name)
        if number.isascii() and number.isdigit() and len(number) < 10 and name != number:
            found = self._folder.library.find(self._folder.KIND, self._manifest.name, int(number))
            if found is not None and str(found.version) == number:
                return self._node(found)
        raise self.missing(name)

    def entries(self) -> Iterator[tuple[str, Node]]:
        for version in self._folder.library.versions(self._folder.KIND, self._manifest.name):
            found = self._folder.library.find(self._folder.KIND, self._manifest.name, version)
            if found is not None:
                yield f"{version}{self._folder.SUFFIX}", self._node(found)


RUN_ERRORS = {
    "EINVAL": "no JSON, a header that is not one of these, or it does not fit the input schema",
    "EACCES": "your role or a rule does not let you `spawn` here",
    "EPERM": "no capability `spawn_children`, or you are nobody here",
    "EEXIST": "the Key was used with another input",
    "EAGAIN": "as many are queued as may be; a minute's starts are used up",
    "EMSGSIZE": "more than a megabyte",
    "ECANCELED": "as many run as may, and `on_full` says skip",
    "EDQUOT": "a limit of yours is reached",
    "ENOENT": "no such version, or environment",
}


class PipelineDirectory(ManifestDirectory):
    """/etc/pipelines/NAME: about the pipeline NAME.yaml, and how it is run."""

    PATH = "/etc/pipelines/NAME"

    def operations(self) -> tuple[str, ...]:
        return ("read", "exec")

    @transaction(
        "run",
        0o666,
        limit="run_limit",
        example='{"city": "Paris"}',
        errors=RUN_ERRORS,
    )
    async def run(self, request: bytes, caller: Caller) -> str:
        """Write the input, a JSON value, read the id of the run, which is in /proc/runs. Before the
        input there may be headers and a blank line: Key (the same one starts one run only, whatever
        fails in between), Ref (TYPE/ID: of the thing that it is about), Env (the environment: the
        `metadata.namespace` of the document), Deadline (10m: over all attempts), Limits
        (`max_llm_calls=5 max_cost=1`), Caps (`llm tool:search`; `none`), Version (of the document),
        Sync (yes: each step survives a power cut). It never waits: a run may begin queued."""
        start = await read_start(self.name, request)
        await self.folder.library.plan(self.name, start.version, start.environment)
        return f"{self.kernel.runs.start(caller.principal, start).id}\n"

    def run_limit(self) -> int:
        return WHOLE_WRITE

    @live("plan", example='{"name": "review", "version": 3, "nodes": […], "waves": […]}')
    async def plan(self) -> bytes:
        """What it comes to, as JSON: name, version, nodes in order (name, kind, needs, join), edges
        and waves: what could run at the same time."""
        plan = await self.folder.library.plan(self.name)
        graph = plan.graph
        shown = {
            "name": plan.name,
            "version": plan.version,
            "description": plan.description,
            "nodes": [
                {"name": node.name, "kind": node.kind, "needs": list(node.needs)}
                | ({"join": node.join} if node.join != "all" else {})
                | ({"when": node.when} if node.when else {})
                for node in graph.nodes
            ],
            "edges": [[need, node.name] for node in graph.nodes for need in node.needs],
            "waves": graph.waves(),
        }
        return f"{json.dumps(shown, indent=2, ensure_ascii=False)}\n".encode()

    @live("schema", example='{"type": "object", "properties": {"city": …}}')
    async def schema(self) -> bytes:
        """The JSON schema of its input; `{}` if it takes anything."""
        plan = await self.folder.library.plan(self.name)
        return f"{json.dumps(plan.input_schema or {}, indent=2, ensure_ascii=False)}\n".encode()

    def _runs(self) -> RunLinks:
        up = "../../../../proc/runs"
        return by_pipeline(self.kernel, self.key_of("runs"), up, self.name)

    @directory("runs")
    def runs(self) -> Directory:
        """Links to its runs in /proc/runs, by their ids."""
        return self._runs()

    @on(RunStarted)
    def _started(self, event: RunStarted) -> Iterator[Change]:
        yield self._runs().came(event.run)

    @on(RunRemoved)
    def _forgotten(self, event: RunRemoved) -> Iterator[Change]:
        yield self._runs().went(event.run)


class SystemDirectory(ManifestDirectory):
    """/etc/systems/NAME: about the system NAME.yaml, and how it is run."""

    PATH = "/etc/systems/NAME"

    def operations(self) -> tuple[str, ...]:
        return ("read", "exec")

    @transaction("run", 0o666, limit="run_limit", example='{"city": "Paris"}', errors=RUN_ERRORS)
    async def run(self, request: bytes, caller: Caller) -> str:
        """Write the input of all its processes, a JSON object, read the number of the system, which
        is in /proc/systems; of one that runs on a timetable, that of its entry in /proc/scheduled.
        Headers as of a pipeline, without Sync."""
        start = await read_start(self.name, request)
        if start.sync:
            raise KernelError(errno.EINVAL, "Sync: a pipeline can be started with it, not a system")
        return f"{self.kernel.systems.run(caller.principal, start)}\n"

    def run_limit(self) -> int:
        return WHOLE_WRITE

    @live("plan", example='{"name": "shop", "version": 2, "processes": […], "pipes": […]}')
    def plan(self) -> str:
        """What it comes to, as JSON: name, version, how it begins (init), processes in order, each
        with its pipeline or program, and the pipes between them."""
        plan = self.folder.library.system(self.name)
        shown = {
            "name": plan.name,
            "version": plan.version,
            "description": plan.description,
            "init": plan.init.type,
            "processes": [
                {"name": each.name} | ({"pipeline": each.pipeline} if each.pipeline else {})
                for each in plan.processes
            ],
            "pipes": [
                {"from": pipe.source, "to": pipe.target, "mapping": pipe.mapping}
                for pipe in plan.pipes
            ],
        }
        return json.dumps(shown, indent=2, ensure_ascii=False)

    @directory("runs")
    def runs(self) -> Directory:
        """Links to its runs in /proc/systems, by their numbers."""
        return SystemLinks(self)

    @live("schema", example='{"type": "object", "properties": {"city": …}}')
    def schema(self) -> str:
        """The JSON schema of its input; `{}` if it takes anything."""
        schema = self.folder.library.system(self.name).input_schema or {}
        return json.dumps(schema, indent=2, ensure_ascii=False)


class SystemLinks(DirectoryOf):
    """/etc/systems/NAME/runs: links to what was started of one system."""

    PATH = "/etc/systems/NAME/runs"

    def __init__(self, manifest: ManifestDirectory) -> None:
        self.key = manifest.key_of("runs")
        self._manifest = manifest

    def owner(self) -> Owner:
        return self._manifest.owner()

    def _link(self, number: int) -> Node:
        link = NumberLink(self, number, f"../../../../proc/systems/{number}")
        link.timeout = 0.0  # those that have ended go in their own time
        return link

    def lookup(self, name: str) -> Node:
        found = self._manifest.kernel.systems.table.find(pid_of(name))
        if found is None or found.name != self._manifest.name:
            raise self.missing(name)
        return self._link(found.id)

    def entries(self) -> Iterator[tuple[str, Node]]:
        for system in self._manifest.kernel.systems.table:
            if system.name == self._manifest.name:
                yield str(system.id), self._link(system.id)


def _json(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False)
