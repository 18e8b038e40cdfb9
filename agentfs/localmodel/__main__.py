"""`python -m agentfs.localmodel NAME`: serve a small model on the loopback, until the parent ends.

When it is ready it prints one line, `{"port": N, "key": "…"}`: who has the key may ask, by HTTP,
as of OpenAI's chat completions and responses, and Anthropic's messages. It ends with its parent,
and with its standard input if that is a pipe or a socket.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import select
import stat
import sys
from typing import NoReturn
from urllib.parse import urlsplit

from agentfs.localmodel.small import MODELS, serve

PR_SET_DUMPABLE = 4
NICER = 5
"""It uses a whole core; what it is asked by, and the tree, come first."""


def main() -> NoReturn:
    """Serve, and end when nobody can ask any more."""
    ends = select.poll()
    ends.register(os.pidfd_open(os.getppid()), select.POLLIN)
    kind = os.fstat(0).st_mode
    if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):
        ends.register(0, 0)  # its end, and nothing else
    if len(sys.argv) != 2 or sys.argv[1] not in MODELS:
        sys.exit(f"usage: python -m agentfs.localmodel {'|'.join(MODELS)}")
    name = sys.argv[1]
    said = os.dup(1)
    os.dup2(2, 1)  # the libraries below write where they like
    os.nice(NICER)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # others of our user cannot read the key
    path = MODELS[name].path
    if path is None:
        sys.exit(f"{name} is not installed: agentfs model fetch")
    key = secrets.token_urlsafe()
    try:
        server = serve(name, path, key)
    except (ImportError, RuntimeError) as failure:
        sys.exit(f"{name} cannot be served: {failure}")
    port = urlsplit(server.listening_address).port
    os.write(said, json.dumps({"port": port, "key": key}).encode() + b"\n")
    os.close(said)
    ends.poll()
    os._exit(0)  # its threads may be in the middle of an answer


main()
