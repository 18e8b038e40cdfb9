"""Everything but users and control groups works for an ordinary user without root."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="makes a user, which root can; all tests ran as one"
    ),
]

USER = "agentfs-test"
CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def user() -> pwd.struct_passwd:
    """An ordinary user of this machine, made once and kept: files of it may remain."""
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", USER], check=True)
        return pwd.getpwnam(USER)


@pytest.fixture(autouse=True)
def device() -> Iterator[None]:
    """/dev/fuse as udev makes it everywhere: anybody may open it."""
    mode = os.stat("/dev/fuse").st_mode & 0o777
    os.chmod("/dev/fuse", 0o666)
    try:
        yield
    finally:
        os.chmod("/dev/fuse", mode)


@pytest.fixture(scope="module")
def workplace(user: pwd.struct_passwd, fuse: None) -> Path:
    """A copy of the checkout that the user can read; and our libraries, or a copy if it cannot read
    those (300 MB)."""
    home = Path(user.pw_dir)
    checkout = home / "checkout"
    subprocess.run(["rm", "-rf", str(checkout)], check=True)
    checkout.mkdir()
    names = ["agentfs", "providers", "mount", "tools", "tests", "examples", "pyproject.toml"]
    names += [each.name for each in CHECKOUT.glob("agentfs__mypyc*")]  # of a compiled build
    subprocess.run(["cp", "-a", *names, str(checkout)], check=True, cwd=CHECKOUT)
    subprocess.run(["chown", "-R", f"{user.pw_uid}:{user.pw_gid}", str(checkout)], check=True)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    look = ["test", "-r", f"{packages}/trio/__init__.py"]
    if subprocess.run(look, user=user.pw_uid, group=user.pw_gid, extra_groups=[]).returncode:
        subprocess.run(["cp", "-a", packages, str(checkout / "packages")], check=True)
        subprocess.run(["chown", "-R", f"{user.pw_uid}", f"{checkout}/packages"], check=True)
    else:
        (checkout / "packages").symlink_to(packages)
    return checkout


def run_as(
    user: pwd.struct_passwd, workplace: Path, *command: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments as the user, in its copy of the checkout."""
    return subprocess.run(
        [_interpreter(), *command],
        cwd=workplace,
        env={
            "PATH": os.environ["PATH"],
            "HOME": user.pw_dir,
            "PYTHONPATH": f"{workplace}:{workplace / 'packages'}",
            "TMPDIR": user.pw_dir,
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def _interpreter() -> str:
    """A Python of this version that other users can run: root's own may lie in a closed home."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (f"/usr/bin/{version}", f"/usr/local/bin/{version}", sys.executable):
        if os.path.exists(candidate):
            return candidate
    raise AssertionError("no interpreter for other users")


def test_the_mount_tests_pass_as_an_ordinary_user(user: pwd.struct_passwd, workplace: Path) -> None:
    done = run_as(
        user, workplace, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        f"--basetemp={user.pw_dir}/pytest",
        "tests/mount/test_mechanics.py", "tests/mount/test_listing.py",
        "tests/mount/test_shown.py", "tests/system/test_blocking.py",
        "tests/system/test_identity.py",
        "tests/system/test_inotify.py", "tests/process/test_headcount.py",
        "tests/system/test_reaper.py", "tests/system/test_orphans.py",
        "tests/models/test_real_gateway.py", "tests/system/test_models_alone.py",
        "tests/process/test_network.py",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_the_demo_runs_as_an_ordinary_user(user: pwd.struct_passwd, workplace: Path) -> None:
    done = run_as(user, workplace, "-m", "agentfs.tools.demo")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
