"""An MCP server whose behaviour is written on its command line, a word for each thing.

    python -m tests.tooling.puppet_server [WORD…]

It speaks JSON-RPC over lines itself, so that it can also speak it wrongly, and starts in 20 ms.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

TOOLS = [
    {
        "name": "echo",
        "description": "Says it again.",
        "inputSchema": {
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
        },
    },
    {"name": "none", "inputSchema": {"type": "object"}},
    *(
        {"name": name, "description": name, "inputSchema": {"type": "object"}}
        for name in ("env", "hang", "die", "error", "fail", "garbage", "large", "grow", "fork")
    ),
]


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def text(words: str, **more: object) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": words}], **more}


def call(name: str, given: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a call; None: there will be none."""
    if name == "echo":
        return text(given["text"])
    if name == "env":
        return text(json.dumps(dict(os.environ)))
    if name == "hang":
        return None
    if name == "die":
        os._exit(7)
    if name == "fail":
        return text("no such city: Xanadu", isError=True)
    if name == "garbage":
        print("this is no JSON", "\x00\xff", "{", sep="\n", flush=True)
        return text("after garbage")
    if name == "large":
        size = int(given.get("size", 100 * 2**20))
        sys.stdout.write("x" * size)
        sys.stdout.flush()
        return text("after a line that is too long")
    if name == "grow":
        TOOLS.append({"name": "new", "inputSchema": {"type": "object"}})
        say({"method": "notifications/tools/list_changed"})
        return text("grown")
    if name == "fork":  # a child in a session of its own, whose parent is gone
        subprocess.Popen(
            ["sh", "-c", "setsid sleep 1000 & sleep 1000 & exit 0"], stdout=subprocess.DEVNULL
        ).wait()
        return text(str(os.getpid()))
    return text("nothing")


def answer(message: dict[str, Any]) -> None:
    method, params = message.get("method"), message.get("params", {})
    number = message.get("id")
    if method == "initialize":
        said = {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {"listChanged": True}},
            "serverInfo": {"name": "puppet", "version": "1"},
        }
        say({"id": number, "result": said})
    elif method == "tools/list":
        say({"id": number, "result": {"tools": TOOLS}})
    elif method == "tools/call" and params["name"] == "error":
        say({"id": number, "error": {"code": -32603, "message": "out of cheese"}})
    elif method == "tools/call":
        result = call(params["name"], params.get("arguments") or {})
        if result is not None:
            say({"id": number, "result": result})
    elif number is not None:
        say({"id": number, "result": {}})


def main(words: list[str]) -> None:
    if "stubborn" in words:  # takes its time to end, and has to be killed
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "silent" in words:
        sys.stdin.readline()
        time.sleep(1000)
    if "dead" in words:
        print("cannot find my configuration", file=sys.stderr, flush=True)
        sys.exit(3)
    if "babble" in words:
        while True:
            print("Starting server on stdio…", flush=True)
            time.sleep(0.01)
    if "wrong" in words:
        for line in sys.stdin:
            print(json.dumps({"jsonrpc": "2.0", "id": json.loads(line)["id"], "result": 5}))
            sys.stdout.flush()
    for line in sys.stdin:
        answer(json.loads(line))
    if "stubborn" in words:
        time.sleep(5)


if __name__ == "__main__":
    main(sys.argv[1:])
