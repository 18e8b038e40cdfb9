"""/etc: the documents that are in effect; how they are replaced is in `replacing`."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from agentfs.base.clock import change_time
from agentfs.base.errors import KernelError
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.providers.replacing import Desk, Replacing
from agentfs.providers.system_table import SystemTable
from agentfs.store.event_log import Record
from agentfs.store.events import ConfigChanged, DocumentRefused
from agentfs.store.live_document import LiveDocument
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import file
from agentfs.vfs.files import Basics, Document
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import Node, Time
from agentfs.vfs.on import When

__all__ = ["EtcDirectory"]

# Files beside the documents: an editor has three or four at a time.
MAX_SCRATCH = 64

REFUSED = ".refused"
"""The end of the name of a text that was in effect until this release refused it."""

Method = Callable[[Any], Any]


def live_document(name: str, example: str) -> Callable[[Method], Method]:
    """A document that only the operator writes: the method gives the node, through `document`."""
    return file(
        name,
        0o644,
        kind="Document",
        on=(When(ConfigChanged, path=f"/etc/{name}"),),
        example=example,
        errors={
            "EINVAL": "not valid: the reason names every fault; the old one stays",
            "EACCES": "only the operator may change it",
        },
    )


class EtcDirectory(Replacing, SystemTable):
    """/etc: documents. Programs may put files of their own beside them; they are not kept. A
    text that was in effect until this release refused it is there as NAME.refused until it is
    removed, and the document has its default."""

    PATH = "/etc"
    WHAT = "The configuration."
    key = ("etc",)
    REPLACED = frozenset(
        {
            *("agentfs.yaml", "roles.yaml", "acl.yaml", "models.yaml", "tools.yaml"),
            *("harnesses.yaml", "hooks.yaml", "guardian.yaml", "mind.yaml"),
        }
    )

    def __init__(self, above: SystemTable) -> None:
        super().__init__(above)
        kernel = self.kernel
        documents = (*kernel.documents, kernel.tooling.document)
        self._desk = Desk(kernel.clock, self.only_operator, MAX_SCRATCH)
        self._desk.changed = int(kernel.started * 1e9)
        self._replaced: dict[str, Time] = {}
        self._documents: dict[str, LiveDocument[Any]] = {
            document.name: document for document in documents
        }
        for document in documents:
            self._show_refused(document)
        kernel.events.listen(self._heard, ConfigChanged, DocumentRefused)

    @property
    def desk(self) -> Desk:
        return self._desk

    def _heard(self, record: Record) -> None:
        if isinstance(record.event, ConfigChanged):
            path = record.event.path
            self._replaced[path] = self._after(self._time(path))
        elif isinstance(record.event, DocumentRefused):
            self._show_refused(self._documents[record.event.path.rpartition("/")[2]])

    def _show_refused(self, document: LiveDocument[Any]) -> None:
        if document.refused:
            operator = Principal(Kind.OPERATOR, INIT, "init", *self.kernel.owner)
            caller = Caller(operator, *self.kernel.owner, tid=0)
            text = self._desk.put(f"{document.name}{REFUSED}", 0o600, caller)
            text.content.extend(document.refused.encode())

    def _time(self, path: str) -> Time:
        return self._replaced.get(path, int(self.kernel.started * 1e9))

    def _after(self, time: Time) -> Time:
        return change_time(self.kernel.clock.now(), time)

    def changed(self) -> Time:
        return self._desk.changed

    def only_operator(self, caller: Caller) -> None:
        """Raise EACCES for everybody else: agents of the same user pass the mode."""
        if not caller.principal.is_operator:
            raise KernelError(
                errno.EACCES,
                f"only the operator may change the configuration, and you are "
                f"{caller.principal.name}",
                rule="operator",
            )

    def document(self, document: LiveDocument[Any]) -> Node:
        """The node of a document: its time is its own, so that no editor of another is alarmed."""

        async def write(content: bytes, caller: Caller) -> None:
            self._write(document, content, caller)

        return Document(
            Basics(
                self.key_of(document.name),
                0o644,
                lambda: self.owned(self._time(document.path)),
                self.guard,
            ),
            lambda: document.shown.encode(),
            write,
            self.kernel.store.sync,
            self.only_operator,
        )

    def _write(self, document: LiveDocument[Any], content: bytes, caller: Caller) -> None:
        self.only_operator(caller)
        with self.kernel.gate.enter(caller.principal):
            document.replace(as_text(content))

    @live_document(
        "agentfs.yaml", "processes:\n  grace_period: 5s\nmessages:\n  max_waiting: 1000\n"
    )
    def config(self) -> Node:
        """The configuration (YAML), every number with its default. A valid write takes effect when
        the file is closed. A number that is left out has its default, and is shown as a comment
        that ends in `# default`."""
        return self.document(self.kernel.settings)

    @live_document("roles.yaml", "roles:\n  worker:\n    actions: {spawn: '-', kill: deny}\n")
    def roles(self) -> Node:
        """What each role may do (`allow`, `deny`, `-`: only if a rule of acl.yaml allows it), the
        capabilities that it has at most and the tiers it can be of; and the model of each tier. A
        valid write takes effect when the file is closed. Everything left out has its default."""
        return self.document(self.kernel.roles)

    @live_document("acl.yaml", "rules:\n- {effect: deny, role: worker, path: /agents/boss/**}\n")
    def acl(self) -> Node:
        """Rules on top of the roles, each with an `effect` (allow, deny) and any of user, role,
        agent, action, path, approval. The most specific one that matches decides; of equals, the
        one that denies."""
        return self.document(self.kernel.acl)

    @live_document(
        "models.yaml",
        "models:\n  opus: {tier: strategic, input: 15, output: 75, context: 200000}\n",
    )
    def models(self) -> Node:
        """The models and where they come from (YAML). `providers`: for each its `url` (or `run`,
        `replay`, `scripted`), the dialects that it `speaks`, its `key`, and limits of its own.
        `models`: for each its tier and provider, US dollars a million tokens of input, output,
        cache_read and cache_write (input and output are 0 if left out, the others as input), its
        context and max_output in tokens, other names for it (`match`), and its fallbacks."""
        return self.document(self.kernel.catalog)

    @live_document("tools.yaml", "tools:\n  weather: {exec: [/usr/local/bin/weather, --json]}\n")
    def tools(self) -> Node:
        """The tools that agents may call (YAML): programs, Python functions and MCP servers, what
        they take, and as whom they run. See /lib/tools."""
        return self.document(self.kernel.tooling.document)

    @live_document("harnesses.yaml", "harnesses:\n  claude:\n    turn: [-p, '{arguments}']\n")
    def harnesses(self) -> Node:
        """How `agentfs run --serve` has programs that people talk to do one turn (YAML): for each
        the words of its command, how it goes on with a session, and where its answer is. The
        comments of the text that is there at first have every key."""
        return self.document(self.kernel.harnesses)

    @live_document("hooks.yaml", "hooks:\n- {on: pre-run, match: deploy, tool: freeze}\n")
    def hooks(self) -> Node:
        """Tools that are called around runs and nodes (YAML): `on` (pre-run, post-run, pre-node,
        post-node), `match` (a glob of pipelines, PIPELINE/NODE, or a kind of nodes), `tool`,
        `timeout`, `on_failure` (abort, ignore). One that is called before may refuse the run or the
        node (EPERM), or give it another input. The comments of the text that is there at first have
        all of it."""
        return self.document(self.kernel.hooks)

    @live_document(
        "guardian.yaml",
        "rules:\n- {name: costly, match: task.priority > 7, action: approve, timeout: 10m}\n",
    )
    def guardian_rules(self) -> Node:
        """Rules by which tasks and their results are judged (YAML): for each a `name`, `when`
        (submit, result, both), `match` (an expression over `task`), and an `action` (pass, reject,
        approve, program, consensus) with what it needs. Silence is a no.
        The comments of the text that is there at first have every key."""
        return self.document(self.kernel.guardian_rules)

    @live_document("mind.yaml", "policy: round-robin\n")
    def mind_policy(self) -> Node:
        """Which worker gets a task of those that fit (YAML): `policy` (least-loaded, first-fit,
        round-robin, program, model), `program` or `model`, `timeout`. A program and a model only
        propose."""
        return self.document(self.kernel.mind_policy)

    async def replace(self, name: str, content: bytes, caller: Caller) -> None:
        self._write(self._documents[name], content, caller)

    def dropped(self, name: str) -> None:
        document = self._documents.get(name.removesuffix(REFUSED))
        if document is not None and name.endswith(REFUSED):
            document.drop_refused()
