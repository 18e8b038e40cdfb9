"""A process that sends or receives: `worker.py SOCKET LABEL MODULE CLASS OPTIONS`, the options in
JSON. It connects, says its label, and then does what each line says and answers with a line.

{"do": "fill", "count": N}                 -> {"started": ns, "ended": ns, "cpu": seconds}
{"do": "drain"}                            -> the same, and "handled"
{"do": "pace", "count": N, "interval": S}  -> {"calls": [ns …], "returns": [ns …]}
{"do": "notice", "count": N}               -> {"wakes": [ns …]}
"""

from __future__ import annotations

import gc
import importlib
import json
import socket
import sys
import time
import traceback
from typing import Any

__all__ = ["main"]


def main(path: str, label: str, module: str, name: str, options: str) -> None:
    """Serve until the other end closes."""
    end: Any = getattr(importlib.import_module(f"bench.alternatives.{module}"), name)(
        **json.loads(options)
    )
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        line.sendall(f"{label}\n".encode())
        for order in line.makefile("r"):
            try:
                answer = _do(end, **json.loads(order))
            except Exception:  # noqa: BLE001  # whatever it is, the benchmark has to say so
                answer = {"error": traceback.format_exc()}
            line.sendall(json.dumps(answer).encode() + b"\n")


def _do(end: Any, do: str, count: int = 0, interval: float = 0.0) -> dict[str, object]:
    if do == "pace":
        calls, returns = end.pace(count, interval)
        return {"calls": calls, "returns": returns}
    if do == "notice":
        return {"wakes": end.notice(count)}
    spent, started = time.process_time(), time.perf_counter_ns()
    handled = end.fill(count) if do == "fill" else end.drain()
    ended = time.perf_counter_ns()
    cpu = time.process_time() - spent
    return {"started": started, "ended": ended, "cpu": cpu, "handled": handled}


if __name__ == "__main__":
    main(*sys.argv[1:])
