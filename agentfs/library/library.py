"""The documents of /etc/pipelines, systems, macros, adapters, policies and configs, and of
/lib/prompts: their texts with versions, and the plans that they come to.

A text is checked before it is kept, so everything in here can be run. A large one is read in a
thread. A plan has in it all that it was made of: a change of a macro, a policy or a configuration
is for the runs that begin later.
"""

from __future__ import annotations

import errno
import gc
import json
import logging
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import trio

from agentfs.base.errors import KernelError
from agentfs.base.yaml_document import Diagnostic, DocumentError
from agentfs.library.events import ManifestChanged, ManifestRemoved
from agentfs.library.settings import WorkflowSettings
from agentfs.library.shelf import Shelf
from agentfs.manifests.documents import LocalLibrary, Macro
from agentfs.manifests.documents import ManifestLibrary as Names
from agentfs.manifests.nodes import PROMPT
from agentfs.manifests.pipeline import check_manifest, checked, compile_pipeline, describe
from agentfs.manifests.plan import Plan
from agentfs.manifests.source import ManifestText
from agentfs.manifests.system_plan import SystemPlan, compile_system
from agentfs.model.principal import Principal
from agentfs.model.spec import NAME
from agentfs.quota.made import Made
from agentfs.rights.gate import Gate
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import Records

__all__ = ["KIND", "KINDS", "Edition", "Library", "read_head"]

log = logging.getLogger(__name__)

KINDS = ("pipelines", "systems", "macros", "adapters", "policies", "configs", "prompts")
"""The folders."""

EVERYBODY = frozenset({"pipelines", "systems", "macros", "prompts"})
"""Those that agents may put documents into; the others are the operator's."""

SHARED = frozenset({"macros", "adapters", "policies", "configs", "prompts"})
"""Those whose documents plans of others are made of."""

SHORT = 3_000
"""Characters of a text that is read at once: 20 ms if it is all expressions. A longer one is read
in a thread."""

MOST_PLANS = 256
"""Plans in memory; another one is made again, which takes as long as before."""

KIND = "manifest"
"""The records in the store, by FOLDER/NAME."""

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Edition:
    """One version of a document. `maker` is the agent that made the document, whoever wrote this
    version; `created` in seconds since 1970."""

    kind: str
    name: str
    version: int
    text: str
    maker: str
    uid: int
    gid: int
    created: float
    description: str = ""


@dataclass(slots=True)
class _Head:
    """What is known of a document without its texts. `versions`: those that are kept, each with the
    time it was written; none of one that was `removed` (a time), of which the `version` stays, so
    that a successor goes on counting."""

    kind: str
    name: str
    maker: str
    uid: int
    gid: int
    description: str
    version: int
    versions: list[tuple[int, float]]
    removed: float = 0.0


def read_head(key: str, record: dict[str, Any]) -> tuple[tuple[str, str], _Head]:
    """The head that gave this record."""
    kind, _, name = key.partition("/")
    versions = [(int(number), float(at)) for number, at in record["versions"]]
    return (kind, name), _Head(**record | {"versions": versions})


class Library(Part):
    """The system calls on documents, and the plans."""

    def __init__(self, ground: Ground, gate: Gate, made: Made) -> None:
        self._store, self._events, self._clock = ground.store, ground.events, ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._parts = ground.parts
        self._heads: Records[tuple[str, str], _Head] = Records(
            ground.store, KIND, read_head, asdict, "/".join
        )
        self._by_kind = self._heads.index(lambda head: head.kind if head.versions else None)
        self._by_maker = self._heads.index(lambda head: head.maker if head.versions else None)
        self._removed = self._heads.index(lambda head: None if head.versions else "")
        self._plans: dict[tuple[str, int, str], Plan] = {}
        self._parsed: dict[tuple[str, str, int], _Parsed | None] = {}
        self._prompts: list[frozenset[str]] = []  # that macros name
        self._shelf: Shelf | None = None
        self._variables: dict[str, str] = {}
        made.count_in("manifests", lambda: self._by_maker, self._count)

    def load(self) -> None:
        self._heads.load()

    def tidy(self) -> None:
        """Forget the numbers of documents whose runs are forgotten, too."""
        settings = self._settings.of(WorkflowSettings)
        removed = sorted(self._removed.of("").values(), key=lambda head: head.removed)
        old = [head for head in removed if head.removed < self._clock.now() - settings.retention]
        most = max(len(removed) - settings.max_documents, len(old))
        with self._store.transaction():
            for head in removed[:most]:
                self._heads.drop((head.kind, head.name))

    def _count(self) -> int:
        return len(self._heads) - len(self._removed.of(""))

    # -- looking ---------------------------------------------------------------------------------

    def find(self, kind: str, name: str, version: int | None = None) -> Edition | None:
        """A document in its newest version, or in another that is kept; None if there is none."""
        head = self._heads.get((kind, name))
        if head is None:
            return None
        wanted = head.version if version is None else version
        created = dict(head.versions).get(wanted)
        if created is None:
            return None
        rows = self._store.read(
            "SELECT text FROM manifests WHERE kind = ? AND name = ? AND version = ?",
            (kind, name, wanted),
        )
        (text,) = rows.fetchone()
        return Edition(
            kind,
            name,
            wanted,
            str(text),
            head.maker,
            head.uid,
            head.gid,
            created,
            head.description,
        )

    def get(self, kind: str, name: str, version: int | None = None) -> Edition:
        """The same. Raises ENOENT."""
        found = self.find(kind, name, version)
        if found is None:
            what = f"{kind}/{name}" if version is None else f"version {version} of {kind}/{name}"
            raise KernelError(errno.ENOENT, f"there is no {what}")
        return found

    def names(self, kind: str) -> list[str]:
        """All documents of a folder, sorted."""
        return sorted(name for _, name in self._by_kind.of(kind))

    def versions(self, kind: str, name: str) -> list[int]:
        """The versions that are kept, the oldest first."""
        head = self._heads.get((kind, name))
        return [] if head is None else [number for number, _ in head.versions]

    def may_write(self, principal: Principal, kind: str, name: str) -> None:
        """Whether `principal` may write, make or remove a document. Raises EINVAL for what can be
        no name, EACCES for another's document."""
        if kind not in KINDS:
            raise KernelError(errno.EINVAL, f"there is no folder {kind!r}")
        if not NAME.fullmatch(name) or name in (".", ".."):
            raise KernelError(
                errno.EINVAL, f"{name!r} is no name: 1 to 64 of A-Z a-z 0-9 . _ - were expected"
            )
        if principal.is_operator:
            return
        self._gate.actor(principal)
        head = self._heads.get((kind, name))
        if kind not in EVERYBODY:
            raise KernelError(
                errno.EACCES,
                f"only the operator may change {kind}, and you are {principal.name}",
                rule="operator",
            )
        if head is not None and head.versions and head.maker != principal.agent:
            raise KernelError(
                errno.EACCES,
                f"{name} belongs to {head.maker or 'the operator'}, and you are {principal.name}",
                rule="owner",
            )

    # -- changing --------------------------------------------------------------------------------

    async def put(self, principal: Principal, kind: str, name: str, text: str) -> int:
        """A system call: have `text` as the newest version of a document; its number. The text of
        now is no new version. Raises EINVAL with every fault, one a line, EACCES, EDQUOT, ENOSPC;
        then nothing has changed."""
        self.may_write(principal, kind, name)
        names = self._names_for(text)
        read = await self._away(text, lambda: _read_whole(kind, name, text, names))
        if read.faults:
            raise KernelError(errno.EINVAL, "\n".join(read.faults), rule="manifest")
        version = self._put(principal, kind, name, text, read.description)
        if read.parsed is not None:
            self._parsed.setdefault((kind, name, version), read.parsed)
        return version

    def _put(self, principal: Principal, kind: str, name: str, text: str, description: str) -> int:
        with self._gate.enter(principal) as actor:
            self.may_write(principal, kind, name)
            head = self._heads.get((kind, name))
            if head is not None and head.versions and self.get(kind, name).text == text:
                return head.version
            version = 1 if head is None else head.version + 1
            if head is None or not head.versions:
                self._limit(actor.name)
                maker = "" if principal.is_operator else principal.agent
                head = _Head(kind, name, maker, principal.uid, principal.gid, "", version, [])
            self._write(head, version, text, description)
            self._events.emit(ManifestChanged(kind, name, version))
            return version

    def _limit(self, maker: str) -> None:
        most = self._settings.of(WorkflowSettings).max_documents
        if self._count() >= most:
            raise KernelError(
                errno.ENOSPC, f"there are {most} documents already", rule="workflows.max_documents"
            )
        self._gate.check_making(maker, "manifests", 1)

    def _write(self, head: _Head, version: int, text: str, description: str) -> None:
        now = self._clock.now()
        kept = [*head.versions, (version, now)]
        most = self._settings.of(WorkflowSettings).max_versions
        used = self._in_use(head.kind, head.name) if len(kept) > most else set()
        old = kept[:-most]
        gone = [each for each in old if each[0] not in used]
        kept = [*(each for each in old if each[0] in used), *kept[-most:]]
        for number, _ in gone:
            self._store.write(
                "DELETE FROM manifests WHERE kind = ? AND name = ? AND version = ?",
                (head.kind, head.name, number),
            )
        self._store.write(
            "INSERT INTO manifests (kind, name, version, record, text) VALUES (?, ?, ?, ?, ?)",
            (head.kind, head.name, version, json.dumps({"created": now}), text),
        )
        changed = replace(head, version=version, versions=kept, description=description)
        self._heads.put((head.kind, head.name), changed)
        self._store.on_end(lambda: self._forget(head.kind, head.name))

    def _in_use(self, kind: str, name: str) -> set[int]:
        asked = self._parts.each(Part.versions_in_use)
        return {version for ask in asked for version in ask(kind, name)}

    def remove(self, principal: Principal, kind: str, name: str) -> None:
        """A system call: a document and its versions are gone; runs that have begun go on. Raises
        ENOENT, EACCES."""
        with self._gate.enter(principal):
            self.get(kind, name)
            self.may_write(principal, kind, name)
            self._store.write("DELETE FROM manifests WHERE kind = ? AND name = ?", (kind, name))
            self._heads.change((kind, name), versions=[], removed=self._clock.now())
            self._store.on_end(lambda: self._forget(kind, name))
            self._events.emit(ManifestRemoved(kind, name))

    def _forget(self, kind: str, name: str) -> None:
        """Make anew, when it is asked for, what was made of a document, and of those that may name
        it."""
        if kind in SHARED:
            self._plans.clear()
        if kind in ("policies", "adapters"):
            for config in [key for key in self._parsed if key[0] == "configs"]:
                del self._parsed[config]
        for key in [key for key in self._plans if key[0] == name]:
            del self._plans[key]
        for parsed in [key for key in self._parsed if key[:2] == (kind, name)]:
            del self._parsed[parsed]
        self._shelf = None

    # -- plans -----------------------------------------------------------------------------------

    async def plan(self, name: str, version: int | None = None, environment: str = "") -> Plan:
        """The plan of a pipeline, made in a thread if its text is long. Raises ENOENT, and EINVAL
        if what it names is gone meanwhile."""
        edition = self.get("pipelines", name, version)
        if self._kept(edition, environment) is None:
            shelf, names = self._names(), self._names_for(edition.text)
            plan = await self._away(edition.text, lambda: _compiled(edition, names, environment))
            if shelf is self._names():  # else something has changed: it is made again
                self._keep(edition, environment, plan)
        return self.plan_now(name, edition.version, environment)

    def plan_now(self, name: str, version: int | None = None, environment: str = "") -> Plan:
        """The same at once, inside a transaction, too: long texts take their time."""
        edition = self.get("pipelines", name, version)
        plan = self._kept(edition, environment)
        if plan is None:
            plan = _compiled(edition, self._names_for(edition.text), environment)
            self._keep(edition, environment, plan)
        return plan

    def plan_of(self, name: str, text: str) -> Plan:
        """The plan of a pipeline that is no document here, and may name those that are. Raises
        EINVAL with every fault."""
        return _compiled(
            Edition("pipelines", name, 0, text, "", 0, 0, 0.0), self._names_for(text), ""
        )

    def system(self, name: str, version: int | None = None, environment: str = "") -> SystemPlan:
        """The plan of a system, inside a transaction, too. Raises ENOENT, and EINVAL if what it
        names is gone meanwhile."""
        edition = self.get("systems", name, version)
        file = f"{edition.name}.yaml"
        try:
            return compile_system(edition.text, file, self._names(), environment, edition.version)
        except DocumentError as bad:
            raise KernelError(errno.EINVAL, str(bad), rule="manifest") from None

    def _kept(self, edition: Edition, environment: str) -> Plan | None:
        self._names()  # settings may have changed
        return self._plans.get((edition.name, edition.version, environment))

    def _keep(self, edition: Edition, environment: str, plan: Plan) -> None:
        while len(self._plans) >= MOST_PLANS:
            del self._plans[next(iter(self._plans))]
        self._plans[edition.name, edition.version, environment] = plan

    async def check(self, kind: str, text: str, file: str = "") -> list[Diagnostic]:
        """What is found in a draft: faults, warnings, and what `lint` says."""
        names, named = self._names_for(text), file or "draft.yaml"
        return await self._away(text, lambda: check_manifest(kind, text, named, names, style=True))

    @staticmethod
    async def _away(text: str, work: Callable[[], Read]) -> Read:
        """Do something with a text: a long one in a thread."""
        if len(text) < SHORT:
            return work()
        return await trio.to_thread.run_sync(_beside, work, limiter=_READING)

    # -- what manifests may name -----------------------------------------------------------------

    def macro(self, name: str) -> Macro | None:
        """What a macro says; None if there is none."""
        return self._names().macro(name)

    def adapter(self, name: str) -> dict[str, Any] | None:
        """What an adapter says; None if there is none."""
        return self._names().adapter(name)

    def _names(self) -> Shelf:
        """All documents that manifests may name, as they are now."""
        variables = self._settings.of(WorkflowSettings).env
        if self._shelf is None or variables != self._variables:
            if variables != self._variables:
                self._plans.clear()
            self._variables = dict(variables)
            self._shelf = self._shelved()
        return self._shelf

    def _names_for(self, text: str) -> Shelf:
        """The same, and the texts of the prompts that `text`, or a macro, names."""
        shelf = self._names()
        named = {*PROMPT.findall(text), *(name for macro in self._prompts for name in macro)}
        prompts = {name: found.text for name in named if (found := self.find("prompts", name))}
        return replace(shelf, prompts=prompts) if prompts else shelf

    def _shelved(self) -> Shelf:
        macros = dict(self._each("macros", Shelf()))
        self._prompts = [found.prompts for found in macros.values()]
        shelf = Shelf(
            self._variables,
            {name: found.local.macros[name] for name, found in macros.items()},
            {name: each.local.policies[name] for name, each in self._each("policies", Shelf())},
            {name: each.local.adapters[name] for name, each in self._each("adapters", Shelf())},
            prompt_names=frozenset(self.names("prompts")),
            pipelines=frozenset(self.names("pipelines")),
        )
        configs = [
            replace(each.local.own_configs[0], faults=each.faults)
            for _, each in self._each("configs", shelf)
        ]
        return replace(shelf, every_config=tuple(configs))

    def _each(self, kind: str, names: Names) -> Iterable[tuple[str, _Parsed]]:
        """Each document of a folder. One that this release cannot read any more is left out: it is
        there to be mended, and stops nobody else."""
        for name in self.names(kind):
            key = (kind, name, self._heads[kind, name].version)
            if key not in self._parsed:
                self._parsed[key] = _parsed(kind, name, self.get(kind, name).text, names)
            found = self._parsed[key]
            if found is not None:
                yield name, found


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A document that others name, and the prompts that it names itself."""

    local: LocalLibrary
    faults: tuple[str, ...]
    prompts: frozenset[str]


def _parsed(kind: str, name: str, text: str, names: Names) -> _Parsed | None:
    source = ManifestText(text, f"{name}.yaml")
    try:
        local = checked(source, kind, names)
    except DocumentError as bad:
        log.error("%s/%s cannot be read any more: %s", kind, name, bad)
        return None
    there: tuple[Collection[Any], ...] = (
        *(local.macros, local.policies, local.adapters),
        local.own_configs,
    )
    if not any(there):
        return None
    return _Parsed(local, tuple(source.told()), frozenset(PROMPT.findall(text)))


@dataclass(frozen=True, slots=True)
class _ReadWhole:
    """A text that is to be kept: its faults, its description, and what others need of it."""

    faults: list[str]
    description: str = ""
    parsed: _Parsed | None = None


def _read_whole(kind: str, name: str, text: str, names: Names) -> _ReadWhole:
    file = f"{name}.md" if kind == "prompts" else f"{name}.yaml"
    found = check_manifest(kind, text, file, names)
    faults = [str(each) for each in found if each.severity == "error"]
    if faults or kind == "prompts":
        return _ReadWhole(faults)
    parsed = _parsed(kind, name, text, names) if kind in SHARED else None
    return _ReadWhole([], describe(text), parsed)


_READING = trio.CapacityLimiter(1)
"""One text at a time: the interpreter has one lock, and the event loop waits for it too."""

TURN = 0.0005
"""Seconds after which a thread that reads a text lets the event loop have its turn. With the usual
5 ms, and the collector of cycles looking through all that is made meanwhile, the loop was held for
up to 1.2 s beside a text of 270 kB; with this for less than 20 ms."""


def _beside(work: Callable[[], Read]) -> Read:
    """Do something in a thread that is to hold up nobody. Nothing that it makes has cycles."""
    turn, collects = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(TURN)
    gc.disable()
    try:
        return work()
    finally:
        sys.setswitchinterval(turn)
        if collects:
            gc.enable()


def _compiled(edition: Edition, names: Names, environment: str) -> Plan:
    file = f"{edition.name}.yaml"
    try:
        return compile_pipeline(edition.text, file, names, environment, edition.version)
    except DocumentError as bad:
        raise KernelError(errno.EINVAL, "\n".join(bad.faults), rule="manifest") from None
