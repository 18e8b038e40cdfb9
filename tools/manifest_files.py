"""Files of manifests: their documents, one by one, and what is wrong with them.

They are checked here, before anything is written: with what the file itself has, and with what is
in /etc of a tree, if there is one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import yaml

from agentfs.base.errors import KernelError
from agentfs.base.yaml_document import DocumentError
from agentfs.base.yaml_text import read_yaml
from agentfs.manifests.documents import (
    ConfigLevel,
    LocalLibrary,
    Macro,
    Manifest,
    read_manifests,
)
from agentfs.manifests.folders import FOLDERS
from agentfs.manifests.inherit import NodePolicy
from agentfs.manifests.local import gathered, stem
from agentfs.manifests.pipeline import check_manifest, checked
from agentfs.manifests.source import ManifestText
from agentfs.manifests.system import System, parse
from agentfs.tools.tree import Tree, TreeError

__all__ = ["Piece", "read_file", "read_pieces"]

ORDER = ("Policy", "Middleware", "Adapter", "Config", "Macro", "Pipeline", "System")
"""What is named by others comes before them."""

PATHS = (".yaml", ".yml")
ENDS = (".yaml", ".md")

ELSEWHERE = re.compile(r":\d+: E130 |there is no such variable")
"""Faults that are none if the tree has what is missing here."""

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Piece:
    """One document of a file: where it belongs, and its text. `line`: how many are before it.
    `system`: a System whose processes are all programs, which `up` starts itself. `scheduled`: one
    that runs on a timetable."""

    kind: str
    name: str
    text: str
    file: str
    line: int
    system: System | None = None
    scheduled: bool = False

    @property
    def folder(self) -> str:
        return FOLDERS[self.kind]

    def padded(self) -> str:
        """The text with empty lines before it, so that its faults have the lines of the file."""
        return "\n" * self.line + self.text


def read_file(path: str) -> str:
    """The text of a file. Raises DocumentError."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as bad:
        raise DocumentError([f"{path}: {bad.strerror}"]) from None
    except UnicodeDecodeError as bad:
        raise DocumentError([f"{path}: UTF-8 was expected: {bad.reason}"]) from None


def read_pieces(path: str, tree: Tree | None, *, whole: bool) -> list[Piece]:
    """The documents of a file, and of the files of pipelines that its systems name, in the order in
    which they are to be put. Raises DocumentError with every fault; not with those of names that a
    tree may have, unless what there is here is the `whole`."""
    reader = _Files(tree)
    reader.read(path)
    faults = [*reader.faults, *(each for piece in reader.pieces for each in reader.check(piece))]
    if tree is None and not whole:
        faults = [each for each in faults if not ELSEWHERE.search(each)]
    if faults:
        raise DocumentError(sorted(dict.fromkeys(faults), key=_place))
    return sorted(reader.pieces, key=lambda piece: ORDER.index(piece.kind))


def _place(fault: str) -> tuple[str, int]:
    """The file and the line that a fault is in."""
    file, _, rest = fault.partition(":")
    line = rest.partition(":")[0]
    return file, int(line) if line.isdigit() else 0


class _Files:
    """Files that are read together. `library` has what they contain."""

    def __init__(self, tree: Tree | None) -> None:
        self.library = LocalLibrary(_InTree(tree) if tree is not None else None)
        self.pieces: list[Piece] = []
        self.faults: list[str] = []

    def read(self, path: str, name: str = "") -> None:
        """Read a file. `name`: its pipeline is called so, whatever it says."""
        text = read_file(path)
        source = ManifestText(text, path)
        try:
            manifests = read_manifests(source, stem(path))
        except DocumentError as bad:
            self.faults += bad.faults
            return
        self.library = gathered(source, manifests, self.library)
        if not source.sound:
            self.faults += source.refusal().faults
        self._split(path, text, manifests, name)

    def _split(self, path: str, text: str, manifests: list[Manifest], name: str) -> None:
        lines = text.splitlines(keepends=True)
        starts = [_start(lines, each.whole.node) for each in manifests]
        ends = [*starts[1:], len(lines)]
        together: dict[tuple[str, str], list[int]] = {}
        for number, each in enumerate(manifests):
            called = name if name and each.kind == "Pipeline" else each.name
            together.setdefault((each.kind, called), []).append(number)
        for (kind, called), numbers in together.items():
            parts = ["".join(lines[starts[number] : ends[number]]) for number in numbers]
            parts = [_absolute(part, path) for part in parts] if kind == "Pipeline" else parts
            joined = "---\n".join(part.removeprefix("---\n") for part in parts)
            piece = Piece(kind, called, joined, path, starts[numbers[0]])
            if kind == "Pipeline":
                self.library.pipelines.add(called)
            elif kind == "System":
                piece = self._system(piece, manifests[numbers[0]])
            self.pieces.append(piece)

    def _system(self, piece: Piece, manifest: Manifest) -> Piece:
        """A system of programs as before, or one of pipelines, whose files are read too."""
        folder = os.path.dirname(os.path.abspath(piece.file))
        named = list(_pipelines(manifest.spec.value))
        if not named and set(manifest.spec.value) <= {"processes"}:
            try:
                system = parse(piece.padded(), piece.file, folder)
            except DocumentError as bad:
                self.faults += bad.faults
                system = System(piece.name, ())  # it is not checked as one of runs, too
            return replace(piece, system=system)
        for path in dict.fromkeys(each for each in named if each.endswith(PATHS)):
            if stem(path) not in self.library.pipelines:
                try:
                    self.read(os.path.join(folder, path), stem(path))
                except DocumentError as bad:
                    self.faults += bad.faults
        init = manifest.spec.value.get("init")
        kind = init.get("type") if isinstance(init, dict) else init
        return replace(piece, scheduled=kind == "schedule")

    def check(self, piece: Piece) -> list[str]:
        """The faults of a piece."""
        if piece.system is not None or piece.folder not in ("pipelines", "systems"):
            return []
        found = check_manifest(piece.folder, piece.padded(), piece.file, self.library)
        return [str(each) for each in found if each.severity == "error"]


def _start(lines: list[str], node: yaml.Node) -> int:
    """The line that a document begins in, with the comments and the `---` before it."""
    at = int(node.start_mark.line)
    while at > 0 and (not lines[at - 1].strip() or lines[at - 1].startswith(("#", "---"))):
        at -= 1
        if lines[at].startswith("---"):
            break
    return at


def _pipelines(spec: Mapping[str, Any]) -> Iterable[str]:
    """What the processes of a System name as their pipelines."""
    processes = spec.get("processes")
    listed = processes.values() if isinstance(processes, dict) else processes
    for each in listed if listed is not None and not isinstance(listed, str | int | float) else ():
        if isinstance(each, dict):
            program = each.get("exec")
            if isinstance(each.get("pipeline"), str):
                yield each["pipeline"]
            elif isinstance(program, str) and program.endswith(PATHS):
                yield program


_CODE = re.compile(r"(?m)^(\s*code:\s*)(['\"]?)(\.{0,2}[\w./ -]*?)(['\"]?)(\s*(?:#.*)?)$")


def _absolute(text: str, path: str) -> str:
    """The text with the folder of its functions as an absolute path: it begins at the file's."""
    folder = os.path.dirname(os.path.abspath(path))

    def replaced(match: re.Match[str]) -> str:
        if not match[3] or match[3].startswith("/"):
            return match[0]
        whole = os.path.normpath(os.path.join(folder, match[3]))
        return f"{match[1]}{match[2]}{whole}{match[4]}{match[5]}"

    return _CODE.sub(replaced, text)


class _InTree:
    """The documents of a tree that can be read, as a `ManifestLibrary`."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._found: dict[tuple[str, str], LocalLibrary | None] = {}

    @property
    def variables(self) -> Mapping[str, str]:
        try:
            settings = read_yaml(self._tree.read("etc/agentfs.yaml"))
        except (TreeError, KernelError):
            return {}
        section = settings.get("workflows") if isinstance(settings, dict) else None
        env = section.get("env") if isinstance(section, dict) else None
        return {str(name): str(text) for name, text in (env or {}).items()}

    def macro(self, name: str) -> Macro | None:
        return self._one("macros", name, lambda found: found.macros[name])

    def policy(self, name: str) -> NodePolicy | None:
        return self._one("policies", name, lambda found: found.policies[name])

    def adapter(self, name: str) -> dict[str, Any] | None:
        return self._one("adapters", name, lambda found: found.adapters[name])

    def prompt(self, name: str) -> str | None:
        try:
            return self._tree.read(f"lib/prompts/{name}.md")
        except TreeError:
            return None

    def pipeline(self, name: str) -> bool:
        return os.path.exists(self._tree.path(f"etc/pipelines/{name}.yaml"))

    def configs(self) -> Iterable[ConfigLevel]:
        for name in self.names("configs"):
            found = self._one("configs", name, lambda found: found.own_configs[0])
            if found is not None:
                yield found

    def names(self, kind: str) -> Iterable[str]:
        folder = "lib/prompts" if kind == "prompts" else f"etc/{kind}"
        try:
            listed = self._tree.names(folder)
        except TreeError:
            return []
        return sorted(
            os.path.splitext(name)[0] for name in listed if name.endswith((".yaml", ".md"))
        )

    def _one(self, kind: str, name: str, take: Callable[[LocalLibrary], Read]) -> Read | None:
        key = (kind, name)
        if key not in self._found:
            self._found[key] = None
            try:
                text = self._tree.read(f"etc/{kind}/{name}.yaml")
                self._found[key] = checked(ManifestText(text, f"{name}.yaml"), kind, self)
            except (TreeError, DocumentError):
                return None
        found = self._found[key]
        return None if found is None else take(found)
