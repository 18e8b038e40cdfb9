"""How many instructions a system call of the kernel takes, with the listeners of the tree and
without the mount: counted by Callgrind.

The count hardly depends on how busy the machine is, so two versions can be compared anywhere.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from agentfs.base.build import build
from bench.in_kernel import CALLS
from bench.setting import ROOT, Setting
from bench.table import Row
from bench.targets import KERNEL_BEFORE, of_build

__all__ = ["measure", "total"]

PROGRAM = "bench.in_kernel"
WARM_UP = 20


def measure(setting: Setting) -> Iterator[Row]:
    """Each call so many times; what came before, and the imports, are not counted."""
    if not all(map(shutil.which, ("valgrind", "callgrind_control"))):
        print("    valgrind is not installed: nothing is counted", flush=True)
        return
    times = setting.size(50, 2)
    written = setting.folder / "callgrind"
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={written}"]
    program = subprocess.Popen(
        [*command, sys.executable, "-m", PROGRAM, str(setting.folder / "state")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        program.stdout.readline()
        dumps, found = 0, dict[str, float]()
        for count in (setting.size(WARM_UP, 1), times):
            for call in CALLS:
                with suppress(BrokenPipeError):
                    program.stdin.write(f"{call} {count}\n")
                    program.stdin.flush()
                if not program.stdout.readline():
                    raise SystemExit(f"{PROGRAM} ended while it did {call}")
                dump = ["callgrind_control", "--dump", str(program.pid)]
                subprocess.run(dump, check=True, capture_output=True)
                dumps += 1
                if count == times:
                    instructions = total(Path(f"{written}.{dumps}").read_text()) / count
                    found[call] = instructions / 1000
                    yield Row("instructions", call, found[call], "thousand")
        yield Row(
            "instructions",
            "a message: sent, and received by a read that acknowledges the one before",
            sum(found[call] for call in CALLS[-2:]),
            "thousand",
            "before the log",
            KERNEL_BEFORE,
            of_build(pure=0.85, compiled=0.62),
            note=f"the {build()} build",
        )
    finally:
        with suppress(BrokenPipeError):  # it has ended
            program.stdin.close()
        program.stdout.close()
        program.kill()
        program.wait()


def total(dump: str) -> int:
    """All instructions of a dump of Callgrind's."""
    for line in dump.splitlines():
        if line.startswith("totals:"):
            return int(line.split()[1])
    raise ValueError("this is no dump of Callgrind's: it has no totals")
