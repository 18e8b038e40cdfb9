"""Rules of the code that no linter has. Each number is the most that there may be: lower it when
there are fewer, and never raise it."""

from __future__ import annotations

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("mount", "providers", "tools")  # agentfs/ has links to them

RECORD = re.compile(r"dataclass|NamedTuple|Error|Exception")
RECORDS = {"Inode", "Reader"}
"""Classes that are data although they are written by hand."""

SERVICE = "repr=False"
"""In the decorator of a service whose constructor is written by `dataclass`."""


@functools.cache
def trees() -> dict[str, ast.Module]:
    """All modules. Not while tests are collected: every worker of the suite would keep them."""
    files = [
        file
        for room in ("agentfs", *ROOMS)
        for file in sorted((ROOT / room).rglob("*.py"))
        if not (room == "agentfs" and file.relative_to(ROOT).parts[1] in ROOMS)
    ]
    return {str(file.relative_to(ROOT)): ast.parse(file.read_text()) for file in files}


@functools.cache
def classes() -> list[tuple[str, ast.ClassDef]]:
    return [
        (file, node)
        for file, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]


def decorators(cls: ast.ClassDef) -> str:
    return " ".join(map(ast.unparse, cls.decorator_list))


def is_record(cls: ast.ClassDef) -> bool:
    """Whether objects of the class are data, which its owner changes, and not services."""
    if SERVICE in decorators(cls):
        return False
    said = " ".join([decorators(cls), *map(ast.unparse, cls.bases)])
    return cls.name in RECORDS or RECORD.search(said) is not None


def attributes_set(cls: ast.ClassDef) -> Iterator[str]:
    """Attributes that the class declares, or sets in itself."""
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
    for node in ast.walk(cls):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield from [node.attr] if ast.unparse(node.value) == "self" else []


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and methods; what is defined in one belongs to it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef):
            yield from (
                n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
            )


def made_here(function: ast.AST) -> set[str]:
    """Names of objects that the function may change: its own, and those that it has made."""
    made = {"self", "cls"}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func).rpartition(".")[2].lstrip("_")
            if called[:1].isupper() or called == "cls":
                made |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return made


def changed(node: ast.AST) -> ast.Attribute | None:
    """`x.y`, if it is assigned here, or something is put into it as into a list."""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return node
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        into = node.func.value
        if node.func.attr in ("append", "insert", "extend") and isinstance(into, ast.Attribute):
            return into
    return None


def from_outside() -> Iterator[str]:
    """Attributes that are set, and lists that grow, of a service: not by the service, not by the
    function that has just made it, and not in its module."""
    homes: defaultdict[str, set[str]] = defaultdict(set)
    for file, cls in classes():
        for name in () if "frozen=True" in decorators(cls) else attributes_set(cls):
            homes[name].add("everywhere" if is_record(cls) else file)
    for file, tree in trees().items():
        for function in functions(tree):
            own = made_here(function)
            for node in ast.walk(function):
                found = changed(node)
                if found is None or (isinstance(found.value, ast.Name) and found.value.id in own):
                    continue
                others = homes[found.attr] - {file}
                if not others or "everywhere" in others:
                    continue
                # One of the module's own, if it has such an attribute and is no collaborator.
                if file not in homes[found.attr] or isinstance(found.value, ast.Attribute):
                    yield f"{file}:{found.lineno}: {ast.unparse(found)}"


def many_arguments() -> Iterator[str]:
    for file, cls in classes():
        if is_record(cls):
            continue
        count = 0
        for node in cls.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                count = len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]) - 1
            elif isinstance(node, ast.AnnAssign) and SERVICE in decorators(cls):
                count += "init=False" not in ast.unparse(node)
        if count > 6:
            yield f"{file}:{cls.lineno}: {cls.name} takes {count}"


def upcalls() -> Iterator[str]:
    for file, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id == "NotImplementedError":
                yield from () if file.startswith("agentfs/vfs/") else (f"{file}:{node.lineno}",)


def kernel_lines() -> Iterator[str]:
    file = "agentfs/kernel.py"
    imports = {
        line
        for node in trees()[file].body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    for number, line in enumerate((ROOT / file).read_text().splitlines(), start=1):
        if line.strip() and number not in imports:
            yield f"{file}:{number}: {line}"


def undoing() -> Iterator[str]:
    """Modules that undo a change of memory themselves."""
    for file, tree in trees().items():
        if any(isinstance(n, ast.Attribute) and n.attr == "on_rollback" for n in ast.walk(tree)):
            yield file


def two_meanings() -> Iterator[str]:
    """Class names that mean two things. What is private to a module is nobody else's, and agent.py
    is the programs'."""
    files = defaultdict(list)
    for file, cls in classes():
        if not cls.name.startswith("_") and file != "agentfs/agent.py":
            files[cls.name].append(file)
    for name, where in files.items():
        if len(where) > 1:
            yield f"{name}: {' '.join(where)}"


def elsewhere() -> Iterator[str]:
    """References to pages that are not in the repository."""
    for file in [*trees(), *(str(p.relative_to(ROOT)) for p in (ROOT / "tests").rglob("*.py"))]:
        for number, line in enumerate((ROOT / file).read_text().splitlines(), start=1):
            if re.search(r"\bdesign/\w", line) and file != "tests/test_house.py":
                yield f"{file}:{number}: {line.strip()}"


def riddles() -> Iterator[str]:
    """Sentences whose subject is a clause: "What was not read comes again." Name the thing."""
    for file in trees():
        for number, line in enumerate((ROOT / file).read_text().splitlines(), start=1):
            if re.search(r"[.;] (Who|Whoever|What|Whatever) ", line):
                yield f"{file}:{number}: {line.strip()}"


@pytest.mark.parametrize(
    ("rule", "most"),
    [
        (from_outside, 0),
        (many_arguments, 0),
        (upcalls, 0),
        (kernel_lines, 255),
        (undoing, 7),
        (two_meanings, 0),
        (riddles, 0),
        (elsewhere, 0),
    ],
)
def test_the_house_keeps_its_rules(rule, most: int) -> None:
    found = list(rule())
    assert len(found) <= most, "\n".join([f"{len(found)}, and {most} are allowed:", *found])
