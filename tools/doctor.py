"""`agentfs doctor`: what this machine has and lacks for AgentFS, and how to get it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shutil
import sqlite3
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from agentfs.tools.mounts import condition, mounts
from agentfs.tools.silent import silence
from agentfs.tools.tree import ToolError

__all__ = ["Finding", "examine", "mend", "run"]

PACKAGES = (
    "pyfuse3",
    "trio",
    "h11",
    "pydantic",
    "PyYAML",
    "click",
    "inotify_simple",
    "prometheus_client",
)
MODULES = {"PyYAML": "yaml._yaml"}
"""Import names that differ from the package's; of PyYAML the part that uses libyaml, which its
wheels have."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `level`: ok, note (works, with less) or missing."""

    level: str
    what: str
    words: str


def run(state: str | None, audit_key: str | None = None) -> int:
    """Print the report; 1 if something that is needed is missing, or the store has faults."""
    findings = list(examine())
    if state is not None and not Path(state).is_dir():
        words = (
            "there is no such directory; `agentfs state` lists the state directories of this user"
        )
        findings.append(Finding("missing", state, words))
    elif state is not None:
        findings += _store(Path(state), audit_key)
        findings += _checkpoints(Path(state))
        findings += _names(Path(state))
        findings += _same_user(Path(state))
        findings.append(_audit(Path(state), audit_key))
    width = max(len(finding.what) for finding in findings if len(finding.what) < 20)
    for finding in findings:
        click.echo(f"{finding.level:8} {finding.what:{width}}  {finding.words}")
    return int(any(finding.level == "missing" for finding in findings))


def examine() -> Iterator[Finding]:
    """Look at everything that mounting a tree needs."""
    yield Finding("ok", "python", f"{platform.python_version()}, {sys.executable}")
    for package in PACKAGES:
        yield _package(package)
    yield _libfuse()
    yield _device()
    yield _fusermount()
    if os.geteuid() != 0:
        yield _allow_other()
        yield from _starters(os.geteuid(), "agents run as you")
    yield _linux()
    yield _identity()
    yield _system_calls()
    yield from _confinement()
    yield _keys()
    yield from _limits()
    yield from _mounts()


def _package(package: str) -> Finding:
    try:
        importlib.import_module(MODULES.get(package, package))
        return Finding("ok", package, importlib.metadata.version(package))
    except ImportError as failed:
        hint = ""
        if package == "pyfuse3":
            hint = "; it is compiled: apt-get install libfuse3-dev pkg-config gcc python3-dev, then"
        return Finding(
            "missing", package, f"{failed}{hint}; {sys.executable} -m pip install {package}"
        )


def _libfuse() -> Finding:
    """The library that pyfuse3 has loaded by now."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        match = re.search(r"/libfuse3\.so\.([0-9.]+)", maps.read())
    if match is None:
        return Finding("missing", "libfuse", "not loaded: apt-get install libfuse3-3")
    return Finding("ok", "libfuse", match[1])


def _device() -> Finding:
    try:
        if not stat.S_ISCHR(os.stat("/dev/fuse").st_mode):
            return Finding("missing", "/dev/fuse", "is no device; modprobe fuse makes it")
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except FileNotFoundError:
        return Finding(
            "missing",
            "/dev/fuse",
            "not there: modprobe fuse, or start the container with --device /dev/fuse"
            " --cap-add SYS_ADMIN",
        )
    except OSError as failed:
        return Finding(
            "missing",
            "/dev/fuse",
            f"cannot be opened ({failed.strerror}): chmod 0666 /dev/fuse as root, or give the"
            " container --device /dev/fuse --cap-add SYS_ADMIN",
        )
    return Finding("ok", "/dev/fuse", "can be opened")


def _fusermount() -> Finding:
    """Root mounts by itself; for everybody else a set-uid program does."""
    path = shutil.which("fusermount3")
    level = "note" if os.geteuid() == 0 else "missing"
    if path is None:
        return Finding(
            level,
            "fusermount3",
            "not found, and users other than root need it: apt-get install fuse3",
        )
    if not os.stat(path).st_mode & stat.S_ISUID:
        return Finding(level, "fusermount3", f"{path} is not set-uid root: chmod u+s {path}")
    return Finding("ok", "fusermount3", path)


def _allow_other() -> Finding:
    try:
        with open("/etc/fuse.conf", encoding="utf-8", errors="replace") as file:
            allowed = any(line.strip() == "user_allow_other" for line in file)
    except FileNotFoundError:
        allowed = False
    except OSError as failed:
        return Finding("note", "--allow-other", f"/etc/fuse.conf: {failed.strerror}")
    if allowed:
        return Finding("ok", "--allow-other", "user_allow_other is set in /etc/fuse.conf")
    return Finding(
        "note",
        "--allow-other",
        "not for this user; as root: echo user_allow_other >> /etc/fuse.conf",
    )


def _linux() -> Finding:
    release = platform.release()
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version < (5, 4):
        return Finding("missing", "linux", f"{release}; 5.4 or newer is needed, for pidfd")
    if version < (6, 15):
        return Finding(
            "note",
            "linux",
            f"{release}; the exit codes of programs that outlive their daemon need 6.15",
        )
    return Finding("ok", "linux", release)


def _identity() -> Finding:
    """How the daemon tells whose program calls; see `agentfs.process.identity`."""
    from agentfs.machine.cgroups import ControlGroups

    groups = ControlGroups(f"doctor-{secrets.token_hex(4)}")
    if groups.available:
        groups.close()
        return Finding("ok", "identity", "by control group: no program can leave that of its agent")
    return Finding(
        "note",
        "identity",
        "by ancestry: no cgroup v2 that you may write to; as root, or in a delegated group"
        " (systemd-run --user --scope -p Delegate=yes agentfs mount DIR), it is by control group",
    )


def _starters(uid: int, whose: str) -> Iterator[Finding]:
    """The services with which an agent of the operator's own user becomes the operator."""
    from agentfs.tools.services import starters

    if there := starters(uid):
        yield Finding(
            "note",
            "services",
            f"{whose}, and {', '.join(there)} can be asked to start programs of that user: an"
            " agent that asks is the operator there. Give agents a user of their own (user:)",
        )


def _same_user(state: Path) -> Iterator[Finding]:
    """The agents that run as the user whose the state directory is, so as the operator."""
    from agentfs.model.names import INIT_NAME
    from agentfs.store.layout import STORE
    from agentfs.store.replay import reading

    with contextlib.suppress(sqlite3.Error, OSError), reading(state / STORE) as store:
        owner = state.stat().st_uid
        records = [json.loads(text) for (text,) in store.execute("SELECT record FROM processes")]
        same = sorted(
            record["name"]
            for record in records
            if record["uid"] == owner and record["name"] != INIT_NAME
        )
        if same:
            more = f" and {len(same) - 3} more" if len(same) > 3 else ""
            yield from _starters(owner, f"{', '.join(same[:3])}{more} run as the operator's user")


def _system_calls() -> Finding:
    """Whether a daemon sees in which system call a client waits, be it no descendant."""
    try:
        os.close(os.open(f"/proc/{os.getppid()}/syscall", os.O_RDONLY))
    except OSError as refused:
        return Finding(
            "note",
            "system calls",
            f"/proc/PID/syscall of other programs cannot be read ({refused.strerror}): a backup"
            " that stats each file takes `recv` for a regular file and reads it; root, or"
            " kernel.yama.ptrace_scope = 0, sees more",
        )
    return Finding("ok", "system calls", "a daemon can tell looking at a file from opening it")


def _confinement() -> Iterator[Finding]:
    """The things that programs can really be kept from; see `agentfs.machine.confine`."""
    from agentfs.machine.confine import CAPABILITIES, mechanisms

    by = {
        "network": "seccomp refuses sockets that are not local, Landlock TCP",
        "write": "Landlock, and seccomp for owners, modes, times and attributes",
        "exec": "seccomp lets one exec pass, that of the program itself",
        "read": "Landlock: its program, libraries, the tree and what its definition names (read)",
    }
    here = mechanisms()
    for name, capability in CAPABILITIES.items():
        lacking = here.lacks(name)
        if lacking:
            words = f"advisory: {capability} is not enforced on programs; needs {lacking}"
            yield Finding("note", f"confined {name}", words)
        else:
            words = f"{by[name]}; programs that are attached are not confined"
            yield Finding("ok", f"confined {name}", words)
    yield _models_alone()
    if here.lacks_signals:
        words = "advisory: a confined program can signal others of its user, and connect to their"
        yield Finding(
            "note", "confined signals", f"{words} abstract sockets; needs {here.lacks_signals}"
        )
    else:
        words = "Landlock: a confined program signals and connects to its own programs only"
        yield Finding("ok", "confined signals", words)


def _models_alone() -> Finding:
    """Whether programs without a network can have the models; see `agentfs.machine.network`."""
    from agentfs.machine import network

    if network.made_by_us() or network.made_by_children():
        words = f"a network of its own, with the gateway at {network.HOST}:{network.PORT}"
        return Finding("ok", "models without a network", words)
    words = "no network at all for programs without network_access, not even the models; needs"
    return Finding("note", "models without a network", f"{words} {network.NEEDED}")


def _keys() -> Finding:
    """How far the keys of providers are from agents; see `agentfs.models.worker`."""
    from agentfs.models.worker import own_user

    if os.geteuid() != 0:
        words = "an agent that may read the machine can read the folder of secrets: it is your user"
        return Finding(
            "note", "keys of models", f"{words}; as root, agents have users of their own"
        )
    if own_user("") < 0:
        words = "the gateway runs as root, because others may not enter the folder of its code"
        return Finding("note", "keys of models", f"{words} ({sys.prefix})")
    return Finding("ok", "keys of models", "the gateway is a user that nobody else is")


def _limits() -> Iterator[Finding]:
    """How number and memory of programs are limited."""
    from agentfs.machine.cgroups import ControlGroups

    groups = ControlGroups(f"doctor-{secrets.token_hex(4)}")
    if groups.available:
        groups.close()
    if groups.has_pids:
        yield Finding("ok", "number of programs", "by control group, for all programs of an agent")
    else:
        yield Finding(
            "note",
            "number of programs",
            "RLIMIT_NPROC (by user, and not for root), and an agent with more programs than its"
            " max_pids is ended within a second: no control group here has the pids controller",
        )
    if groups.has_memory:
        yield Finding("ok", "memory limit", "by control group, for all programs of an agent")
        return
    yield Finding(
        "note",
        "memory limit",
        "per program by rlimit; the sum of all programs of an agent is looked at every second: no"
        " control group here can have the memory controller",
    )


def _mounts() -> Iterator[Finding]:
    words = {
        "live": "a tree is mounted here",
        "stale": "its daemon is gone: agentfs umount {0}, or mount it again",
    }
    for path in dict.fromkeys(mounts()):
        how = condition(path)
        if how == "hung":
            yield Finding("note", path, f"{silence(path)}; agentfs umount {path} ends it")
        else:
            yield Finding("ok" if how == "live" else "note", path, words[how].format(path))
        if how == "live":
            yield from _gateway(path)


def _gateway(path: str) -> Iterator[Finding]:
    """How the gateway of models of a tree is."""
    try:
        with open(f"{path}/sys/gateway", encoding="utf-8") as file:
            facts = dict(line.rstrip("\n").split(":\t", 1) for line in file)
    except (OSError, ValueError):  # another release, or it is not ours
        return
    words = f"the gateway of models is {facts['State']}, at {facts['Address']}"
    if facts["Trouble"] != "-":
        yield Finding("note", path, f"{words}; {facts['Restarts']} restarts, {facts['Trouble']}")
    elif "-" in (facts["Address"], facts["Socket"]):
        yield Finding("note", path, f"{words}, socket {facts['Socket']}: its log says why")
    else:
        yield Finding("ok", path, words)


def _store(state: Path, key: str | None) -> list[Finding]:
    """The faults of a state directory: those that keep a daemon from starting, and those that the
    consistency check finds."""
    from agentfs.check import check
    from agentfs.store.layout import STORE, StateError
    from agentfs.store.opening import require_whole
    from agentfs.tools.repair import trial

    store = state / STORE
    faults = check(store)
    try:
        lost = require_whole(store) if state.is_dir() else ""
    except StateError as wrong:
        lost = str(wrong).partition("; agentfs doctor")[0]
    why = lost or ("" if not store.exists() else trial(store, _key(state, key)))
    findings = [Finding("missing", str(state), f"the store: {fault}") for fault in faults]
    if why:
        findings.append(Finding("missing", str(state), f"no daemon starts with it: {why}"))
    if not findings:
        return [Finding("ok", str(state), "the store is consistent")]
    advice = f"agentfs doctor --state {state} --repair saves what can be saved"
    return [*findings, Finding("note", str(state), advice)]


def _checkpoints(state: Path) -> Iterator[Finding]:
    """Whether each checkpoint is still what was written, and whether the state is on its way back
    to one."""
    from agentfs.checkpoints.swap import pending
    from agentfs.checkpoints.verify import faults, places

    if (name := pending(state)) is not None:
        words = f"it is being rolled back to checkpoint {name}, which the next start completes"
        yield Finding("note", str(state), words)
    found = [*places(state)]
    bad = [(place.name, fault) for place in found for fault in faults(place)]
    for name, fault in bad:
        yield Finding("missing", str(state), f"checkpoint {name}: {fault}")
    if found and not bad:
        yield Finding("ok", str(state), f"{len(found)} checkpoints are what was written")


def _names(state: Path) -> Iterator[Finding]:
    """The agents that a daemon does not start because of what they are called, the rules that
    speak of none, and whether there are agents of several users."""
    from agentfs.base.errors import KernelError
    from agentfs.model.names import INIT_NAME, reserved
    from agentfs.process.recovery import not_started
    from agentfs.rights import acl
    from agentfs.rights.policy import across_users
    from agentfs.store.layout import STORE
    from agentfs.store.replay import reading

    with contextlib.suppress(sqlite3.Error), reading(state / STORE) as store:
        agents = {name for (name,) in store.execute("SELECT name FROM agents")}
        text = store.execute("SELECT value FROM meta WHERE key = ?", (acl.FILE,)).fetchone()
        with contextlib.suppress(KernelError):
            for words in acl.Acl.parse(text[0] if text else "").about_nobody(agents):
                yield Finding("note", str(state), f"/etc/{acl.FILE}: {words}")
        for (name,) in store.execute("SELECT name FROM agents ORDER BY name"):
            if name != INIT_NAME and reserved(name):
                words = f"agent {name} is not started: {not_started(name)}"
                yield Finding("note", str(state), words)
        records = (json.loads(text) for (text,) in store.execute("SELECT record FROM agents"))
        uids = [agent["uid"] for agent in records if agent["name"] != INIT_NAME]
        if words := across_users(uids):
            yield Finding("note", str(state), words)


def _key(state: Path, key: str | None) -> Path:
    return Path(key) if key else state / "audit.key"


def mend(state: str, audit_key: str | None) -> int:
    """`--repair`: 0 if the state directory can be mounted now."""
    from agentfs.store.layout import StateError
    from agentfs.tools.repair import repair

    try:
        repair(Path(state), _key(Path(state), audit_key), click.echo)
    except (StateError, OSError) as wrong:
        raise ToolError(str(wrong)) from None
    return 0


def _audit(state: Path, key: str | None) -> Finding:
    """Whether the audit is what the kernel wrote."""
    from agentfs.audit.verify import verify

    verdict = verify(state / "store.db", _key(state, key))
    return Finding("missing" if verdict.fault else "ok", f"{state}", f"the audit: {verdict}")
