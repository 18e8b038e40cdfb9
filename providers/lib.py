"""/lib beside the tools: what a pipeline is written with. /lib/tools: tools.py."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from agentfs.base.errors import KernelError
from agentfs.library.events import ManifestChanged, ManifestRemoved
from agentfs.manifests.about import ADAPTERS, NODES, TAGS, About
from agentfs.manifests.documents import Parameter
from agentfs.providers.described import Described
from agentfs.providers.system_table import SystemTable
from agentfs.tooling.events import ToolAdded, ToolChanged, ToolRemoved
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.declare import value
from agentfs.vfs.files import Owner
from agentfs.vfs.node import Link, Node, Stat
from agentfs.vfs.on import on
from agentfs.vfs.table import DirectoryOf

if TYPE_CHECKING:
    from agentfs.library.library import Edition

__all__ = [
    "AdapterKindsDirectory",
    "LibsDirectory",
    "MacroListDirectory",
    "NodeKindsDirectory",
    "TagsDirectory",
]


TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "dict": "object",
}
"""Python's types, as macros name them, in JSON schemas; any other is anything."""

EXAMPLES = {"str": "…", "int": 1, "float": 1.5, "bool": True, "list": [], "dict": {}}
"""A value of each."""


class ComponentDirectory(Described):
    """/lib/KIND/NAME: one thing that a pipeline is written with."""

    PATH = "/lib/KIND/NAME"

    def __init__(self, above: _Components, name: str) -> None:
        self._above = above
        self._name = name
        self.key = above.key_of(name)

    def _about(self) -> About:
        return self._above.about_of(self._name)

    def owner(self) -> Owner:
        return self._above.owner()

    def entity_type(self) -> str:
        return self._above.WORD

    def description(self) -> str:
        return self._about().about.strip().partition("\n")[0]

    @value("about", on=(ManifestChanged,), example="Runs a program. Its output is the node's.\n")
    def about(self) -> str:
        """What it does, in a few lines."""
        return self._about().about

    @value("schema", on=(ManifestChanged,), example='{"type": "object", "properties": …}')
    def schema(self) -> str:
        """The JSON schema of what it takes."""
        return json.dumps(self._about().schema, indent=2, ensure_ascii=False)

    @value("example", on=(ManifestChanged,), example="- {name: count, program: [wc, -l]}\n")
    def example(self) -> str:
        """How a pipeline has it (YAML)."""
        return self._about().example


class _Components(SystemTable):
    """The directory of one kind of these."""

    EACH = ComponentDirectory
    WORD: ClassVar[str]

    def names(self) -> Iterable[str]:
        """All there are."""
        return ()

    def about_of(self, name: str) -> About:
        """What is to be said of one. Raises ENOENT."""
        raise self.missing(name)

    def find(self, name: str) -> Node | None:
        return ComponentDirectory(self, name) if name in self.names() else None

    def more(self) -> Iterator[tuple[str, Node]]:
        for name in self.names():
            yield name, ComponentDirectory(self, name)

    def each(self, key: Any) -> ComponentDirectory:
        return ComponentDirectory(self, key[-1])

    def concerned(self, event: Any) -> Sequence[Hashable]:
        return ()


class _Known(_Components):
    """Those of one kind that AgentFS itself has."""

    KNOWN: ClassVar[Mapping[str, About]]

    def names(self) -> Iterable[str]:
        return self.KNOWN

    def about_of(self, name: str) -> About:
        if name not in self.KNOWN:
            raise self.missing(name)
        return self.KNOWN[name]


class NodeKindsDirectory(_Known):
    """/lib/nodes: the kinds of nodes that a pipeline can have."""

    PATH = "/lib/nodes"
    WHAT = "The kinds of nodes."
    WORD = "node"
    KNOWN = NODES
    key = ("lib", "nodes")


class TagsDirectory(_Known):
    """/lib/tags: the tags that the templates of a manifest can have, as `{% raw %}`."""

    PATH = "/lib/tags"
    WHAT = "The tags that templates of a manifest can have."
    WORD = "tag"
    KNOWN = TAGS
    key = ("lib", "tags")


def _parameter(parameter: Parameter) -> dict[str, Any]:
    """The JSON schema of a parameter of a macro."""
    types = [TYPES[each] for each in parameter.types if each in TYPES]
    schema: dict[str, Any] = {"type": types[0] if len(types) == 1 else types} if types else {}
    if parameter.choices is not None:
        schema["enum"] = list(parameter.choices)
    return schema | ({"default": parameter.default} if parameter.has_default else {})


def _words(parameter: Parameter) -> str:
    """The same in words."""
    words = " or ".join(parameter.types)
    if parameter.has_default:
        return f"{words}, {json.dumps(parameter.default, ensure_ascii=False)} if left out"
    return f"{words}, needed" if parameter.required else words


class _OfDocuments(_Components):
    """Those that are documents of /etc, and `BUILT_IN` ones."""

    KIND: ClassVar[str]
    BUILT_IN: ClassVar[Mapping[str, About]] = {}

    def names(self) -> Iterable[str]:
        return sorted({*self.BUILT_IN, *self.kernel.library.names(self.KIND)})

    def about_of(self, name: str) -> About:
        if name in self.BUILT_IN:
            return self.BUILT_IN[name]
        return self.of_document(self.kernel.library.get(self.KIND, name))

    def of_document(self, document: Edition) -> About:
        """What is to be said of a document of /etc."""
        raise self.missing(document.name)

    def concerned(self, event: Any) -> Sequence[Hashable]:
        return (self.key_of(event.name),) if event.kind == self.KIND else ()

    @on(ManifestChanged, ManifestRemoved)
    def _told(self, event: ManifestChanged | ManifestRemoved) -> Iterator[Change]:
        if event.kind != self.KIND or event.name in self.BUILT_IN:
            return
        node = ComponentDirectory(self, event.name)
        if isinstance(event, ManifestRemoved):
            yield Removed(self.key, event.name, node.key, is_directory=True)
        elif event.version == 1:
            node.remember()
            yield Created(self.key, event.name, node)


class MacroListDirectory(_OfDocuments):
    """/lib/macros: the macros of /etc/macros."""

    PATH = "/lib/macros"
    WHAT = "The macros: nodes that pipelines use by name."
    WORD = "macro"
    KIND = "macros"
    key = ("lib", "macros")

    def of_document(self, document: Edition) -> About:
        macro = self.kernel.library.macro(document.name)
        parameters = () if macro is None else macro.parameters
        schema = {
            "type": "object",
            "properties": {each.name: _parameter(each) for each in parameters},
            "required": [each.name for each in parameters if each.required],
            "additionalProperties": False,
        }
        lines = [document.description or f"The macro {document.name}."]
        lines += [f"{each.name}: {_words(each)}" for each in parameters]
        given = {each.name: EXAMPLES.get(each.types[0]) for each in parameters if each.required}
        config = f", config: {json.dumps(given, ensure_ascii=False)}" if given else ""
        example = f"- {{name: mine, macro_invocation: {document.name}{config}}}\n"
        return About("\n".join(lines), schema, example)


class AdapterKindsDirectory(_OfDocuments):
    """/lib/adapters: the kinds of adapters that there are, and the adapters of /etc/adapters."""

    PATH = "/lib/adapters"
    WHAT = "What can stand behind a port."
    WORD = "adapter"
    KIND = "adapters"
    BUILT_IN = ADAPTERS
    key = ("lib", "adapters")

    def of_document(self, document: Edition) -> About:
        said = self.kernel.library.adapter(document.name) or {}
        behind = next((kind for kind in self.BUILT_IN if kind in said), "")
        kind = self.BUILT_IN.get(behind)
        about = document.description or f"The adapter {document.name}."
        example = f"spec:\n  ports: {{search: {document.name}}}\n"
        if kind is None:
            return About(about, {}, example)
        return About(f"{about}\n{kind.about}", kind.schema, example)


# -- libraries -------------------------------------------------------------------------------------


class LibsDirectory(SystemTable):
    """/lib/libs: the servers of /etc/tools.yaml, each with several tools: a directory of links to
    those that the caller may call."""

    PATH = "/lib/libs"
    WHAT = "Libraries: servers with several tools each."
    key = ("lib", "libs")

    def _library(self, name: str) -> LibraryDirectory:
        return LibraryDirectory(self, name)

    def find(self, name: str) -> Node | None:
        definition = self.kernel.tooling.document.now.get(name)
        return self._library(name) if definition is not None and definition.is_server else None

    def more(self) -> Iterator[tuple[str, Node]]:
        for name, definition in self.kernel.tooling.document.now.items():
            if definition.is_server:
                yield name, self._library(name)

    @on(ToolAdded, ToolRemoved, ToolChanged)
    def _told(self, event: ToolAdded | ToolRemoved | ToolChanged) -> Iterator[Change]:
        yield Modified(self.key)


class LibraryDirectory(DirectoryOf):
    """/lib/libs/NAME: links to the tools of one server."""

    PATH = "/lib/libs/NAME"

    def __init__(self, libs: LibsDirectory, name: str) -> None:
        self.kernel = libs.kernel
        self.key = libs.key_of(name)
        self._libs = libs
        self._name = name

    def owner(self) -> Owner:
        return self._libs.owner()

    def _tools(self, caller: Caller) -> list[str]:
        try:
            names = self.kernel.tooling.names(caller.principal)
        except KernelError:
            return []  # no agent calls tools
        return [name for name in names if name.startswith(f"{self._name}_")]

    def lookup(self, name: str) -> Node:
        if not self.kernel.tooling.exists(f"{self._name}_{name}"):
            raise self.missing(name)
        return _ToolLink(self, name, f"../../tools/{self._name}_{name}")

    def entries(self) -> Iterator[tuple[str, Node]]:
        return iter(())  # they differ from caller to caller

    def listing(self, caller: Caller) -> Iterable[tuple[str, Node]]:
        for tool in self._tools(caller):
            name = tool.removeprefix(f"{self._name}_")
            yield name, _ToolLink(self, name, f"../../tools/{tool}")


class _ToolLink(Link):
    """A link to a tool."""

    timeout = 0.0

    def __init__(self, library: LibraryDirectory, name: str, target: str) -> None:
        self.key = library.key_of(name)
        self._library = library
        self._target = target

    def stat(self) -> Stat:
        owner = self._library.owner()
        return Stat(0o120777, owner.uid, owner.gid, len(self._target), owner.mtime)

    def target(self, caller: Caller) -> str:
        return self._target
