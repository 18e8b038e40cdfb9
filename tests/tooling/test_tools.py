"""Tools that are programs and functions: what agents call, as whom, and what comes back."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from inotify_simple import INotify, flags

import agentfs
from agentfs.base.build import build
from tests.puppet import Puppet
from tests.tree import Tree, eventually

NONE = {"type": "object", "properties": {}}
WHO = "import json, os; print(json.dumps([os.getuid(), os.getcwd(), dict(os.environ)]))"


def offer(tree: Tree, **tools: object) -> None:
    """Have these tools, and no others."""
    tree.write("etc/tools.yaml", json.dumps({"tools": tools}))


def call(tree: Tree, tool: str, arguments: object) -> str:
    """The result of a call of the operator's."""
    given = arguments if isinstance(arguments, bytes) else json.dumps(arguments).encode()
    handle = os.open(tree / f"dev/tools/{tool}/call", os.O_RDWR)
    try:
        os.write(handle, given)
        parts = []
        while part := os.read(handle, 65536):
            parts.append(part)
        return b"".join(parts).decode()
    finally:
        os.close(handle)


def why(tree: Tree) -> str:
    return tree.read("proc/self/error")


def refused(code: int, attempt: Callable[[], object]) -> None:
    with pytest.raises(OSError, check=lambda failure: failure.errno == code):
        attempt()


def test_the_life_of_a_tool(tree: Tree) -> None:
    assert os.listdir(tree / "lib/tools") == []
    offer(tree, cat={"exec": ["/bin/cat"], "description": "Says it again."})
    assert os.listdir(tree / "lib/tools") == os.listdir(tree / "dev/tools") == ["cat"]
    files = {"call", "schema", "help", "source", "status", "ctl"}
    assert set(os.listdir(tree / "lib/tools/cat")) == files
    assert json.loads(tree.read("lib/tools/cat/schema")) == {
        "name": "cat",
        "description": "Says it again.",
        "parameters": NONE,
    }
    assert tree.read("lib/tools/cat/source") == "exec /bin/cat\n"
    assert call(tree, "cat", {"a": "ü"}) == '{"a": "\\u00fc"}'
    assert "Calls:\t0\n" in tree.read("lib/tools/cat/status")
    handle = os.open(tree / "lib/tools/cat/call", os.O_RDWR)
    offer(tree)
    assert os.listdir(tree / "lib/tools") == []
    refused(errno.ENOENT, lambda: tree.read("lib/tools/cat/schema"))
    os.write(handle, b"{}")
    refused(errno.ENOENT, lambda: os.read(handle, 100))
    os.close(handle)


def test_a_shell_calls_a_tool(tree: Tree) -> None:
    offer(tree, cat={"exec": ["/bin/cat"]})
    script = f"""exec 3<>{tree / "dev/tools/cat/call"}; echo '{{"a":1}}' >&3; cat <&3"""
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ('{"a":1}\n', "")


def test_one_handle_makes_one_call_after_another(tree: Tree) -> None:
    offer(tree, cat={"exec": ["/bin/cat"]})
    with open(tree / "dev/tools/cat/call", "r+b", buffering=0) as handle:
        for number in range(3):
            handle.write(b'{"n": %d}' % number)
            assert handle.read(100) == b'{"n": %d}' % number
            assert handle.read(100) == b""
        handle.write(b'{"in": ')
        handle.write(b'"pieces"}')
        assert handle.read(100) == b'{"in": "pieces"}'


def test_arguments_are_checked_and_the_place_is_named(tree: Tree) -> None:
    schema = {
        "type": "object",
        "properties": {"days": {"type": "array", "items": {"type": "integer"}}},
        "required": ["days"],
    }
    offer(tree, forecast={"exec": ["/bin/cat"], "schema": schema})
    refused(errno.EINVAL, lambda: call(tree, "forecast", {"days": [1, "x"]}))
    assert "at /days/1: 'x' is not of type 'integer'" in why(tree)
    refused(errno.EINVAL, lambda: call(tree, "forecast", b"{'days': 1}"))
    assert "not JSON at line 1, column 2" in why(tree)
    refused(errno.EMSGSIZE, lambda: call(tree, "forecast", b" " * (1024 * 1024 + 1)))
    assert call(tree, "forecast", {"days": [1]}) == '{"days": [1]}'


def test_a_hostile_schema_holds_up_nobody(tree: Tree) -> None:
    offer(
        tree,
        cat={"exec": ["/bin/cat"]},
        hostile={
            "exec": ["/bin/cat"],
            "schema": {"type": "object", "properties": {"a": {"pattern": "(a+)+$"}}},
        },
    )
    refused(errno.EINVAL, lambda: call(tree, "hostile", {"a": "a" * 50 + "b"}))
    assert "longer than" in why(tree)
    assert call(tree, "cat", {}) == "{}"
    assert not tree.holds()


def test_the_failure_of_a_tool_is_told_in_its_words(tree: Tree) -> None:
    words = "echo part; echo 'no such city: Xanadu' >&2; exit 3"
    offer(tree, fail={"exec": ["/bin/sh", "-c", words]}, gone={"exec": ["/nowhere/tool"]})
    with open(tree / "dev/tools/fail/call", "r+b", buffering=0) as handle:
        handle.write(b"{}")
        assert handle.read(100) == b"part\n"
        refused(errno.EREMOTEIO, lambda: handle.read(100))
        assert "no such city: Xanadu (it ended with exit code 3)" in why(tree)
        handle.write(b"{}")  # and it is not over
        assert handle.read(100) == b"part\n"
    refused(errno.ENOENT, lambda: call(tree, "gone", {}))


def test_a_result_streams_and_closing_ends_the_tool(tree: Tree, tmp_path: Path) -> None:
    script = 'echo $$ > "$0"; echo one; exec sleep 1000'
    offer(tree, drip={"exec": ["/bin/sh", "-c", script, str(tmp_path / "pid")]})
    with open(tree / "dev/tools/drip/call", "r+b", buffering=0) as handle:
        handle.write(b"{}")
        assert handle.read(100) == b"one\n"
        assert "Calls:\t1\n" in tree.read("lib/tools/drip/status")
        pid = int((tmp_path / "pid").read_text())
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    eventually(lambda: "Calls:\t0\n" in tree.read("lib/tools/drip/status"))


def test_a_large_result_comes_whole_and_waits_for_its_reader(tree: Tree) -> None:
    offer(tree, zeros={"exec": ["/usr/bin/head", "-c", "20000000", "/dev/zero"]})
    with open(tree / "dev/tools/zeros/call", "r+b", buffering=0) as handle:
        handle.write(b"{}")
        time.sleep(1.5)  # longer than what is left behind may take
        size = 0
        while part := handle.read(1 << 20):
            size += len(part)
    assert size == 20_000_000


def test_a_tool_that_takes_too_long_is_ended(tree: Tree) -> None:
    offer(tree, slow={"exec": ["/bin/sleep", "1000"], "timeout": "0.3s"})
    refused(errno.ETIMEDOUT, lambda: call(tree, "slow", {}))
    assert "did not finish within 0.3 s" in why(tree)


def test_a_tool_is_a_program_of_its_caller(tree: Tree, agent: Callable[..., Puppet]) -> None:
    ask = "import os; print(open(os.environ['AGENTFS'] + '/proc/self/name').read())"
    offer(
        tree,
        who={"exec": [sys.executable, "-c", WHO], "env": {"COLOUR": "blue"}},
        self={"exec": [sys.executable, "-c", ask]},
    )
    alice = agent("alice")
    uid, folder, env = json.loads(alice.call("who"))
    assert uid == alice.do("os.getuid()")
    assert folder == str(tree / "agents/alice/memory")
    assert (env["AGENT_NAME"], env["AGENT_PID"]) == ("alice", str(alice.pid))
    assert env["COLOUR"] == "blue"
    assert alice.call("self").strip() == "alice"
    assert call(tree, "self", {}).strip() == "init"


@pytest.mark.skipif(
    build() == "compiled" and (Path(agentfs.__path__[0]).parents[1] / "run").exists(),
    reason="the tree of ./run --compiled: an isolated Python finds the checkout, not this tree, and"
    " a confined toolbox may read only the tree that its daemon is of",
)
def test_a_tool_is_confined_as_its_caller_is(
    tree: Tree, agent: Callable[..., Puppet], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    python = "import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM)"
    offer(
        tree,
        net={"exec": [sys.executable, "-c", python]},
        look={"exec": ["/bin/cat", str(secret.parent / "other")]},
        shell={"exec": ["/bin/sh", "-c", "/bin/echo started another"]},
        plain={"exec": ["/bin/cat"]},
    )
    (tmp_path / "other").write_text("looked")
    bob = agent("bob", deny=["network_access", "host_read", "shell_exec", "file_write"])
    assert bob.call("plain", a=1) == '{"a": 1}'
    refused(errno.EREMOTEIO, lambda: bob.call("net"))
    refused(errno.EREMOTEIO, lambda: bob.call("shell"))
    free = agent("free")
    assert free.call("shell") == "started another\n"
    assert free.call("net") == ""


def test_a_task_that_may_start_no_programs_calls_tools(
    tree: Tree, agent: Callable[..., Puppet]
) -> None:
    """Each tool is the one program that a launch may execute."""
    function = Path(__file__).with_name("functions.py")
    offer(tree, cat={"exec": ["/bin/cat"]}, area={"python": f"{function}:area"})
    task = agent("small", role="task")
    assert task.call("cat", a=1) == '{"a": 1}'
    assert task.call("area", width=2, height=3) == "6.0\n"


def test_only_who_has_the_capability_sees_and_calls_a_tool(
    tree: Tree, agent: Callable[..., Puppet]
) -> None:
    offer(tree, web_get={"exec": ["/bin/cat"]}, web_put={"exec": ["/bin/cat"]})
    some = agent("some", caps=["tool:web_get", "shell_exec", "host_read"])
    none = agent("none", deny=["tool:*"])
    assert some.ls("lib/tools") == ["web_get"]
    assert none.ls("lib/tools") == []
    assert some.call("web_get") == "{}"
    for name in ("call", "schema", "help"):
        refused(errno.EACCES, lambda name=name: some.read(f"lib/tools/web_put/{name}"))
    refused(errno.EACCES, lambda: some.call("web_put"))
    assert "tool:web_put" in some.read("proc/self/error")
    refused(errno.EPERM, lambda: none.call("web_get"))  # it is denied by name


def test_limits_and_accounting_hold_at_the_call(tree: Tree, agent: Callable[..., Puppet]) -> None:
    offer(tree, cat={"exec": ["/bin/cat"], "schema": {"type": "object", "required": ["a"]}})
    carl = agent("carl", limits={"max_tool_calls": 2})
    refused(errno.EINVAL, lambda: carl.call("cat"))  # is not counted
    assert carl.call("cat", a=1) == '{"a": 1}'
    assert carl.call("cat", a=2) == '{"a": 2}'
    refused(errno.EDQUOT, lambda: carl.call("cat", a=3))
    assert "max_tool_calls" in carl.read("proc/self/error")
    quick = agent("quick", limits={"tool_calls_per_minute": 1})
    quick.call("cat", a=1)
    refused(errno.EAGAIN, lambda: quick.call("cat", a=2))
    skips = agent("skips", limits={"max_tool_calls": 0}, on_limit="skip")
    assert skips.call("cat", a=1) == "skipped max_tool_calls\n"
    assert tree.read("sys/accounting/agent/carl/tool_calls") == "2\n"


def test_a_function_says_what_it_takes(tree: Tree) -> None:
    function = Path(__file__).with_name("functions.py")
    offer(
        tree,
        area={"python": f"{function}:area"},
        none={"python": f"{function}:nothing"},
        count={"python": f"{function}:count"},
        bad={"python": f"{function}:bad"},
        missing={"python": f"{function}:missing"},
        dumps={"python": "json:dumps"},
    )
    said = json.loads(tree.read("lib/tools/area/schema"))
    assert said["description"] == "The area of a rectangle."
    assert said["parameters"] == {
        "type": "object",
        "properties": {
            "width": {"type": "number", "description": "in metres"},
            "height": {"type": "number", "description": "in metres too"},
            "unit": {"type": "string", "enum": ["m2", "ha"], "default": "m2"},
        },
        "required": ["width", "height"],
        "additionalProperties": False,
    }
    assert "width (number): in metres" in tree.read("lib/tools/area/help")
    assert json.loads(tree.read("lib/tools/none/schema"))["parameters"]["properties"] == {}
    assert call(tree, "area", {"width": 2, "height": 4.5}) == "9.0\n"
    assert call(tree, "count", {"most": 3}) == "0\n1\n2\n"
    refused(errno.EINVAL, lambda: call(tree, "area", {"width": "2"}))
    refused(errno.EREMOTEIO, lambda: call(tree, "bad", {}))
    assert "ValueError: no such city (it ended with exit code 1)" in why(tree)
    refused(errno.EREMOTEIO, lambda: call(tree, "missing", {}))
    assert "has no function missing" in why(tree)


def test_a_program_says_its_schema_itself(tree: Tree, tmp_path: Path) -> None:
    script = tmp_path / "tool"
    script.write_text(
        """#!/bin/sh
[ "$1" = --schema ] || exec cat
echo '{"description": "Adds.", "parameters": {"type": "object", "required": ["a"]}}'
"""
    )
    script.chmod(0o755)
    offer(tree, add={"exec": [str(script)], "schema": "--schema"})
    assert json.loads(tree.read("lib/tools/add/schema"))["description"] == "Adds."
    refused(errno.EINVAL, lambda: call(tree, "add", {}))
    assert call(tree, "add", {"a": 1}) == '{"a": 1}'


def test_the_document_is_refused_with_all_its_faults(tree: Tree) -> None:
    text = """tools:
  one: {exec: [bin/tool]}
  two: {exec: [/bin/cat], mcp: [x]}
  three: {python: nowhere}
  four: {exec: [/bin/cat], secrets: {KEY: name}}
  five: {mcp: ftp://x}
  six six: {exec: [/bin/cat]}
  seven: {exec: [/bin/cat], schema: {type: array}}
  eight: {exec: [/bin/cat], timeout: soon, colour: blue}
"""
    refused(errno.EINVAL, lambda: tree.write("etc/tools.yaml", text))
    said = why(tree)
    for line in range(2, 10):
        assert f"line {line}: " in said, said
    assert os.listdir(tree / "lib/tools") == []


def test_tools_survive_the_daemon(trees: Callable[..., Tree]) -> None:
    tree = trees()
    tree.mount()
    offer(tree, cat={"exec": ["/bin/cat"]})
    tree.crash()
    tree.mount()
    assert os.listdir(tree / "lib/tools") == ["cat"]
    assert call(tree, "cat", {}) == "{}"


def test_a_reader_that_is_killed_ends_the_call(tree: Tree, tmp_path: Path) -> None:
    script = 'echo $$ > "$0"; exec sleep 1000'
    offer(tree, wait={"exec": ["/bin/sh", "-c", script, str(tmp_path / "pid")]})
    shell = f"exec 3<>{tree / 'dev/tools/wait/call'}; echo '{{}}' >&3; exec cat <&3"
    reader = tree.start("sh", "-c", shell)
    eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    pid = int((tmp_path / "pid").read_text())
    reader.kill()
    reader.wait()
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))


def test_the_end_of_the_daemon_is_no_end_of_a_result(trees: Callable[..., Tree]) -> None:
    tree = trees()
    tree.mount()
    offer(tree, drip={"exec": ["/bin/sh", "-c", "echo one; exec sleep 1000"]})
    command = "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR); os.write(fd, b'{}')"
    command += "; print(os.read(fd, 9), flush=True); print(os.read(fd, 9), flush=True)"
    reader = tree.start(
        *(sys.executable, "-c", command, str(tree / "dev/tools/drip/call")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert reader.stdout.readline() == b"b'one\\n'\n"
    tree.run("umount", "--lazy", str(tree.path))
    tree.daemon = None
    said, words = reader.communicate(timeout=60)
    assert said == b""  # and no b'', which would be the end of the result
    assert b"OSError" in words


def test_watchers_see_tools_come_and_go(tree: Tree) -> None:
    with INotify() as watch:
        watch.add_watch(tree / "lib/tools", flags.CREATE | flags.DELETE)
        offer(tree, one={"exec": ["/bin/cat"]})
        offer(tree, two={"exec": ["/bin/cat"]})
        seen: set[tuple[str, bool]] = set()

        def all_seen() -> bool:
            seen.update((each.name, bool(each.mask & flags.CREATE)) for each in watch.read(100))
            return seen >= {("one", True), ("one", False), ("two", True)}

        eventually(all_seen)
