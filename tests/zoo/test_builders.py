"""Programs that build and keep things work on /shared and in an agent's memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.tree import Tree
from tests.zoo.programs import needs, run

pytestmark = pytest.mark.mount

PLACES = ["shared", "agents/init/memory"]


@needs("git")
@pytest.mark.parametrize("place", PLACES)
def test_git(zoo: Tree, place: str, tmp_path: Path) -> None:
    folder = zoo / place
    env = {
        "HOME": str(tmp_path),
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.org",
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    repository = folder / "repository"
    run("git", "init", "-q", repository, env=env)
    (repository / "file").write_text("one\n")
    run("git", "add", "file", cwd=repository, env=env)
    run("git", "commit", "-qm", "first", cwd=repository, env=env)
    run("git", "clone", "-q", repository, folder / "clone", env=env)
    (folder / "clone/file").write_text("two\n")
    run("git", "commit", "-qam", "second", cwd=folder / "clone", env=env)
    run("git", "gc", "-q", cwd=folder / "clone", env=env)
    assert "two" in run("git", "show", "HEAD:file", cwd=folder / "clone", env=env)
    run("git", "fsck", "--strict", cwd=folder / "clone", env=env)
    assert run("git", "status", "--porcelain", cwd=folder / "clone", env=env) == ""


@needs("sqlite3")
@pytest.mark.parametrize("place", PLACES)
def test_sqlite3(zoo: Tree, place: str) -> None:
    database = zoo / place / "data.db"
    for mode in ("delete", "wal"):
        run("sqlite3", database, f"PRAGMA journal_mode={mode}; CREATE TABLE {mode}_t (n);")
        run("sqlite3", database, f"INSERT INTO {mode}_t VALUES (1), (2);")
        assert run("sqlite3", database, f"SELECT sum(n) FROM {mode}_t;") == "3\n"
    assert run("sqlite3", database, "PRAGMA integrity_check;") == "ok\n"


@needs("npm", "node")
def test_npm_installs_a_package_that_node_loads(zoo: Tree, tmp_path: Path) -> None:
    package = tmp_path / "bee"
    package.mkdir()
    (package / "package.json").write_text(json.dumps({"name": "bee", "version": "1.0.0"}))
    (package / "index.js").write_text('module.exports = "hum";\n')
    project = zoo / "shared/project"
    project.mkdir()
    env = {"HOME": str(tmp_path), "npm_config_cache": str(tmp_path / "cache")}
    words = ("--offline", "--no-audit", "--no-fund", "--install-links")
    run("npm", "install", *words, package, cwd=project, env=env)
    assert run("node", "-p", "require('bee')", cwd=project) == "hum\n"


def test_venv_and_pip_install_a_package_that_python_imports(zoo: Tree, tmp_path: Path) -> None:
    place = zoo / "shared/venv"
    run(sys.executable, "-m", "venv", "--without-pip", place)
    package = tmp_path / "bee-1.0-py3-none-any.whl"
    wheel(package)
    run(
        sys.executable, "-m", "pip", f"--python={place}", "install", "-q", "--no-index",
        "--disable-pip-version-check", package, env={"HOME": str(tmp_path)},
    )  # fmt: skip
    assert run(place / "bin/python", "-c", "import bee; print(bee.SOUND)") == "hum\n"


def wheel(path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w") as file:
        file.writestr("bee.py", 'SOUND = "hum"\n')
        info = "bee-1.0.dist-info"
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: bee\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        file.writestr(f"{info}/RECORD", "")
