"""The compiled build: the same sources, with the inner rooms of the kernel made into extension
modules by mypyc. It is never needed: where they are missing, Python runs the sources.

People call it as `./run build`. The list of modules is in pyproject.toml, at the hook. hatch calls
the hook for the wheel; `python hatch_build.py FOLDER` puts a copy of the checkout into FOLDER, with
each extension module beside its source; `--list` says which sources are compiled.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["CompiledKernel", "compile_modules", "modules", "place"]

ROOT = Path(__file__).resolve().parent

MADE = ROOT / "build" / "compiled"
"""The C files, the objects, and the extension modules in `lib`, until a source changes."""

LIBRARY = "agentfs"
"""mypyc puts all code into one library, agentfs__mypyc, beside the package; the extension module of
each source only finds its part of it. So calls between modules are calls in C."""

OPTIMIZATION = "2"
"""Of gcc."""

KEPT = (".venv", ".venv-bench", ".venv-litellm", ".venv-durable", ".clients", "bench/build")
"""What a checkout has beside its files: links of the same name lead to it from a copy."""


def _settings() -> dict[str, list[str]]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    hook: dict[str, list[str]]
    hook = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    return hook


def _sources(rooms: list[str]) -> Iterator[str]:
    for room in rooms:
        path = ROOT / room
        if not path.exists():
            raise ValueError(f"pyproject.toml: there is no {room} to compile")
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            if file.name != "__init__.py":
                yield os.fspath(file.relative_to(ROOT))


def modules() -> list[str]:
    """The files that are compiled, below the checkout: those of the rooms that are listed, without
    the exceptions.

    Raises ValueError for an exception that is no file of these rooms, and for a room that is not
    there.
    """
    settings = _settings()
    found = list(_sources(settings["compiled"]))
    for pattern in settings["interpreted"]:
        rest = [file for file in found if not fnmatch(file, pattern)]
        if len(rest) == len(found):
            raise ValueError(f"pyproject.toml: nothing that is compiled is {pattern}")
        found = rest
    return found


def _key(files: list[str]) -> str:
    """A digest of all that the modules are made of. mypyc believes the types of the modules that it
    does not compile, too."""
    digest = hashlib.sha256(f"{sys.version} {version('mypy')} {files}".encode())
    for path in (Path(__file__), *sorted((ROOT / "agentfs").glob("*/*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def compile_modules() -> Path:
    """The folder with the extension modules, made anew if a source is another than the last time.

    Raises CalledProcessError: mypyc or gcc failed, and said why.
    """
    files, library, stamp = modules(), MADE / "lib", MADE / "stamp"
    key = _key(files)
    if stamp.exists() and stamp.read_text() == key:
        return library
    stamp.unlink(missing_ok=True)
    shutil.rmtree(library, ignore_errors=True)
    # In a process of its own: mypyc ends the one that it is in when it finds an error.
    command = [sys.executable, __file__, "--compile", os.fspath(MADE), *files]
    subprocess.run(command, cwd=ROOT, check=True)
    stamp.write_text(key)
    return library


def _compile(folder: Path, files: list[str]) -> None:
    from mypyc.build import mypycify
    from setuptools import setup  # type: ignore[import-untyped]

    options = [
        "--ignore-missing-imports",
        "--follow-imports=silent",
        f"--cache-dir={folder / 'mypy'}",
    ]
    extensions = mypycify(
        [*options, *files],
        opt_level=OPTIMIZATION,
        target_dir=os.fspath(folder / "c"),
        debug_level="0",
        group_name=LIBRARY,
    )
    places = [f"--build-lib={folder / 'lib'}", f"--build-temp={folder / 'objects'}"]
    setup(
        name=LIBRARY,
        packages=[],
        ext_modules=extensions,
        script_args=["--quiet", "build_ext", *places],
    )


def place(folder: Path) -> None:
    """Make `folder` a copy of the checkout with the extension modules in it. What is as it was is
    left alone."""
    library = compile_modules()
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    wanted = {name: ROOT / name for name in files.split("\0") if name and (ROOT / name).exists()}
    wanted |= {os.fspath(made.relative_to(library)): made for made in library.rglob("*.so")}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(parent, name)
            if os.fspath(path.relative_to(folder)) not in wanted and path.suffix in (".py", ".so"):
                path.unlink()
    for name, source in wanted.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            if not target.is_symlink():
                target.symlink_to(os.readlink(source))
        elif not target.exists() or not _same(source, target):
            target.unlink(missing_ok=True)  # a program may have the old one mapped
            shutil.copy2(source, target)
    for name in KEPT:
        if (ROOT / name).exists() and not os.path.lexists(folder / name):
            (folder / name).symlink_to(ROOT / name)


def _same(source: Path, target: Path) -> bool:
    one, other = source.stat(), target.stat()
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


class CompiledKernel(BuildHookInterface[Any]):
    """hatch's hook: the wheel gets the extension modules, and a tag of this Python and platform. It
    is off unless HATCH_BUILD_HOOK_ENABLE_CUSTOM=true: a plain wheel is pure."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        library = compile_modules()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"] |= {
            os.fspath(made): os.fspath(made.relative_to(library)) for made in library.rglob("*.so")
        }


if __name__ == "__main__":
    if sys.argv[1] == "--compile":
        _compile(Path(sys.argv[2]), sys.argv[3:])
    elif sys.argv[1] == "--list":
        print(*modules(), sep="\n")
    else:
        place(Path(sys.argv[1]).resolve())
