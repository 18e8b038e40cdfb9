"""The program that Callgrind counts, and what Callgrind says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.in_kernel import CALLS
from bench.instructions import total
from bench.setting import ROOT


def test_the_program_makes_every_call_it_is_told_to(tmp_path: Path) -> None:
    told = "".join(f"{call} 2\n" for call in CALLS)
    done = subprocess.run(
        [sys.executable, "-m", "bench.in_kernel", str(tmp_path / "state")],
        input=told,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.split() == ["ready", *["done"] * len(CALLS)]


def test_the_total_of_a_dump_is_read() -> None:
    assert total("version: 1\nevents: Ir\nsummary: 7\ntotals: 3848472\n") == 3848472
    with pytest.raises(ValueError, match="no dump"):
        total("version: 1\n")
