"""The commands that are only file operations on a mounted tree.

spawn          write and read /proc/PPID/spawn
kill           write /proc/PID/ctl
send recv      write /agents/self/outbox/NAME, read /agents/NAME/recv
log            read /agents/NAME/log
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import click

from agentfs.tools.assignments import assignment
from agentfs.tools.how import FileCommand, Given, placeholders
from agentfs.tools.scripts import NoScriptError, as_typed
from agentfs.tools.terminal import paint
from agentfs.tools.tree import (
    CHUNK,
    ToolError,
    Tree,
    TreeError,
    encoded,
    find,
    shell_question,
    shell_root,
)

__all__ = ["COMMANDS"]

POLL = 0.2
"""Seconds between two looks at a log: inotify does not cross every kind of mount, stat does."""

PRIORITIES = ("critical", "high", "normal", "low")
SIGNALS = ("TERM", "KILL", "STOP", "CONT", "HUP")


def quoted(text: object) -> str:
    return shlex.quote(str(text))


def put(data: bytes) -> None:
    """Bytes to standard output, now."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


# -- spawn, kill ---------------------------------------------------------------------------------


class SpawnCommand(FileCommand):
    """`--` ends the options; what follows is the command of the new process."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            args, ctx.obj = args[:at], args[at + 1 :]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND…]"]


def _spawn_text(given: Given, command: list[str] | None) -> str:
    """The text for `spawn`: the file as it is, or with the options laid over it."""
    import json

    spec: dict[str, Any] = {
        key: given[key]
        for key in ("name", "role", "tier", "restart", "model", "heartbeat", "user")
        if given.get(key) is not None
    }
    if given.get("cwd") is not None:
        spec["cwd"] = os.path.abspath(given["cwd"])
    if command:
        spec["exec"] = _from_here(given, command)
    if given.get("env"):
        spec["env"] = dict(assignment(text) for text in given["env"])
    if given.get("spec") is None:
        return json.dumps(spec, ensure_ascii=False)
    try:
        with click.open_file(given["spec"], "rb") as file:
            content: bytes = file.read()
    except FileNotFoundError as missing:
        words = f"{missing.strerror}: SPEC is a file that says what to start"
        if command and given.get("name") is None:
            words += f"; the name of an agent is an option: -n {quoted(given['spec'])}"
        raise TreeError(given["spec"], words) from None
    try:
        text = str(content, "utf-8")
    except UnicodeDecodeError as bad:
        raise TreeError(given["spec"], f"UTF-8 was expected: {bad.reason}") from None
    if not spec:
        return text
    # slow to import, and only needed to lay options over a file
    from agentfs.base.errors import KernelError
    from agentfs.base.yaml_text import read_yaml

    try:
        base = read_yaml(text)
    except KernelError as bad:
        raise TreeError(given["spec"], f"{bad.reason}; {_no_definition(given, text)}") from None
    if not isinstance(base, dict):
        raise TreeError(given["spec"], _no_definition(given, text))
    if isinstance(base.get("env"), dict) and "env" in spec:
        spec["env"] = base["env"] | spec["env"]
    return json.dumps(base | spec, ensure_ascii=False, default=str)


def _from_here(given: Given, command: list[str]) -> list[str]:
    """The command as it was typed here, whatever the directory that it begins in."""

    def begins() -> list[str]:
        if given.get("cwd") is not None:
            return [os.path.abspath(given["cwd"])]
        name = given.get("name")
        return [] if name is None else [os.path.join(find(), "agents", name, "memory")]

    try:
        return as_typed(command, begins)
    except NoScriptError as missing:
        raise ToolError(
            f"there is no {missing} here, nor where the program begins, which is"
            f" {next(iter(begins()), 'its memory')}"
        ) from None


def _is_definition(spec: str) -> bool:
    """By its name."""
    return spec == "-" or spec.endswith((".yaml", ".yml", ".json"))


def _no_definition(given: Given, text: str) -> str:
    """A sentence about what SPEC has to be."""
    words = "a definition was expected, YAML or JSON with keys like `name:`, `exec:`, `role:`"
    spec = given["spec"]
    if _is_definition(spec):
        return words
    run = quoted(spec if "/" in spec else f"./{spec}")
    if not text.startswith("#!"):
        run = f"sh {quoted(spec)}"
    name = quoted(given.get("name") or "NAME")
    return f"{words}; to run it as a program: agentfs spawn -n {name} -- {run}"


def _spawn_how(given: Given) -> str:
    parent = given.get("parent") or "self"
    text = _spawn_text(given, click.get_current_context().obj)
    pid = parent
    if parent != "self" and not parent.isdigit():
        pid = f"$(cat {shell_root()}/agents/{parent}/pid)"
    return shell_question(f"proc/{pid}/spawn", text)


@click.command(cls=SpawnCommand, how=_spawn_how)
@click.option("-n", "--name", help="The name of the new agent.")
@click.option("--role", help="daemon, agent (the default), architect, lead, worker or task.")
@click.option("--tier", help="strategic, tactical or operational.")
@click.option("--model", help="Default: the model of its tier.")
@click.option("--parent", metavar="PID|NAME", help="Default: the caller's own process, or init.")
@click.option("--restart", help="When to start it again: always, on-failure or never.")
@click.option("--heartbeat", metavar="DURATION", help="How often it writes its heartbeat: 30s.")
@click.option(
    "--env", multiple=True, metavar="NAME=VALUE", help="Set a variable; may be given several times."
)
@click.option("--cwd", metavar="DIR", help="Where it starts. Default: the agent's memory.")
@click.option("--user", help="Run it as this user, in a tree that root mounted.")
@click.argument("spec", required=False, type=click.Path(allow_dash=True))
def spawn(parent: str | None, **given: Any) -> None:
    """Start a process from options, or from the file SPEC (YAML or JSON), and print its pid."""
    command = click.get_current_context().obj
    if given["name"] is None and given["spec"] is None:
        raise click.UsageError("a name (-n NAME) or a spec file is needed")
    text = _spawn_text(given, command)
    tree = Tree()
    pid = "self" if parent is None else str(tree.pid(parent))
    click.echo(tree.ask(f"proc/{pid}/spawn", encoded(text)))


def _line(given: Given) -> str:
    """The command for /proc/PID/ctl."""
    signal = given.get("signal")
    if given.get("branch"):
        if signal or given.get("grace"):
            raise click.UsageError("--branch does not go with --signal or --grace")
        return "kill-branch"
    if given.get("grace"):
        if signal not in (None, "TERM"):
            raise click.UsageError("--grace goes with TERM only")
        return f"term {given['grace']}"
    return str(signal or "TERM")


def _kill_how(given: Given) -> str:
    who = placeholders(given, who="PID")["who"]
    pid = who if who.isdigit() or who == "PID" else f"$(cat {shell_root()}/agents/{who}/pid)"
    return f"echo {_line(given)} > {shell_root()}/proc/{pid}/ctl"


def _signal_name(ctx: click.Context, param: click.Parameter, given: str | None) -> str | None:
    if given is None:
        return None
    name = given.upper().removeprefix("SIG")
    if name not in SIGNALS:
        raise click.BadParameter(f"{given!r} is not one of {', '.join(SIGNALS)}")
    return name


@click.command(cls=FileCommand, how=_kill_how)
@click.argument("who", metavar="PID|NAME")
@click.option(
    "-s", "--signal", callback=_signal_name, help="TERM (the default), KILL, STOP, CONT or HUP."
)
@click.option(
    "--branch", is_flag=True, help="Kill the process and all processes below it, at once."
)
@click.option("--grace", metavar="DURATION", help="How long it may take to end after TERM: 10s.")
def kill(who: str, **given: Any) -> None:
    """Send a signal to a process and to every program that it started."""
    line = _line(given)
    tree = Tree()
    tree.write(f"proc/{tree.pid(who)}/ctl", encoded(f"{line}\n"))


# -- send, recv ----------------------------------------------------------------------------------


def _headers(given: Given) -> str:
    """The headers of a message. There is always one, so that no body is taken for headers."""
    headers = [("To", given["name"])]
    headers += [
        (name, given[name.lower()])
        for name in ("Priority", "Type", "Expires")
        if given.get(name.lower())
    ]
    return "".join(f"{name}: {text}\n" for name, text in headers) + "\n"


def _send_how(given: Given) -> str:
    given = placeholders(given, name="NAME")
    outbox = f"{shell_root()}/agents/self/outbox/{given['name']}"
    headers = _headers(given).replace("\n", r"\n")
    if given.get("body") is None:
        return f"{{ printf {quoted(headers)}; cat; }} > {outbox}"
    return f"printf {quoted(headers + '%s' + chr(92) + 'n')} {quoted(given['body'])} > {outbox}"


@click.command(cls=FileCommand, how=_send_how)
@click.argument("name")
@click.argument("body", required=False)
@click.option("-p", "--priority", type=click.Choice(PRIORITIES), help="Default: normal.")
@click.option("--type", help="The kind of message: any word.")
@click.option("--expires", metavar="WHEN", help="When it is of no use any more: in 10m, or a date.")
def send(body: str | None, **given: Any) -> None:
    """Send a message to agent NAME: BODY, or what standard input says."""
    for text in given.values():
        if text is not None and "\n" in text:
            raise click.UsageError("a header has to be one line")
    content = sys.stdin.buffer.read() if body is None else os.fsencode(body) + b"\n"
    Tree().write(f"agents/self/outbox/{given['name']}", encoded(_headers(given)) + content)


def _recv_how(given: Given) -> str:
    path = f"{shell_root()}/agents/{given.get('name') or 'self'}/recv"
    read = f"cat {path}" if given.get("keep") else f"{{ cat <&3 && echo done >&3; }} 3<>{path}"
    return f"while {read}; do echo; done" if given.get("follow") else read


@click.command(cls=FileCommand, how=_recv_how, waits=lambda given: True)
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with the next messages, for ever.")
@click.option("-k", "--keep", is_flag=True, help="Only claim the message; do not acknowledge it.")
def recv(name: str | None, follow: bool, keep: bool) -> None:
    """Wait for the next message, and print it.

    The inbox is the caller's own, or that of agent NAME. A message that was printed is
    acknowledged. For an agent's program, and with --keep, it is only claimed: the next recv
    acknowledges it, and without that the message comes again.
    """
    tree = Tree()
    path = f"agents/{name or 'self'}/recv"
    kept = keep or "AGENT_PID" in os.environ
    while True:
        descriptor = tree.open(path, os.O_RDONLY if kept else os.O_RDWR)
        try:
            while data := os.read(descriptor, CHUNK):
                put(data)
            if not kept and not os.fstat(descriptor).st_size:  # a stream has none
                os.write(descriptor, b"done\n")
        except BrokenPipeError:
            raise
        except OSError as failed:
            raise tree.failure(path, failed) from None
        finally:
            os.close(descriptor)
        if not follow:
            return
        put(b"\n")


# -- log -----------------------------------------------------------------------------------------


def _log_how(given: Given) -> str:
    names = given.get("names") or ("NAME",)
    paths = " ".join(f"{shell_root()}/agents/{name}/log" for name in names)
    if given.get("follow"):
        return f"tail -n {given['lines'] if given.get('lines') is not None else '+1'} -f {paths}"
    return f"cat {paths}" if given.get("lines") is None else f"tail -n {given['lines']} {paths}"


@click.command(cls=FileCommand, how=_log_how, waits=lambda given: bool(given["follow"]))
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines, for ever.")
@click.option("-n", "--lines", type=click.IntRange(0), help="Print only the last lines, this many.")
def log(names: tuple[str, ...], follow: bool, lines: int | None) -> None:
    """Print what the programs of agents NAME… wrote.

    With several agents, the name of the agent is before each line.
    """
    tree = Tree()
    files = {name: tree.open(f"agents/{name}/log", os.O_RDONLY) for name in names}
    if len(files) == 1:
        (name,) = files
        for data in _told(tree, name, followed(files[name], lines, follow=follow)):
            put(data)
        return
    width = max(map(len, names))
    ends = [
        (name, _told(tree, name, looks(file, lines, follow=follow))) for name, file in files.items()
    ]
    held = dict.fromkeys(names, b"")
    while ends:
        for each in list(ends):
            name, pieces = each
            piece = next(pieces, None)
            if piece is None:
                ends.remove(each)
                piece = b"\n" if held[name] else b""
            *whole, held[name] = (held[name] + piece).split(b"\n")
            prefix = f"{paint(name.ljust(width), 'dim')} | ".encode()
            put(b"".join(prefix + line + b"\n" for line in whole))
        if follow:
            time.sleep(POLL)


def _told(tree: Tree, name: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """`pieces`; an error in them is one of the log."""
    try:
        yield from pieces
    except OSError as failed:
        raise tree.failure(f"agents/{name}/log", failed) from None


def followed(descriptor: int, lines: int | None, *, follow: bool) -> Iterator[bytes]:
    """The last `lines` lines (None: all) of an open file, then what is appended to it.

    A file that became shorter was truncated: it is read from the start again.
    """
    for piece in looks(descriptor, lines, follow=follow):
        if piece:
            yield piece
        else:
            time.sleep(POLL)


def looks(descriptor: int, lines: int | None, *, follow: bool) -> Iterator[bytes]:
    """The same, and with every look at what may have been appended an empty piece."""
    if lines is None:
        yield from _from(descriptor)
    else:
        kept = b"".join(_from(descriptor)).splitlines(keepends=True)
        yield b"".join(kept[len(kept) - min(lines, len(kept)) :])
    while follow:
        yield b""
        if os.fstat(descriptor).st_size < os.lseek(descriptor, 0, os.SEEK_CUR):
            os.lseek(descriptor, 0, os.SEEK_SET)
        yield from _from(descriptor)


def _from(descriptor: int) -> Iterable[bytes]:
    return iter(lambda: os.read(descriptor, CHUNK), b"")


COMMANDS = (spawn, kill, send, recv, log)
