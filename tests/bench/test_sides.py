"""Every side of the benchmark runs, with tiny sizes: no figure is looked at."""

from __future__ import annotations

import importlib
import math

import pytest

from bench.run import SIDES, main
from bench.setting import Setting

EXPECTED = {
    "metadata": {"stat, apart", "readdir of 100, an entry", "pread of a live file, apart"},
    "checks": {"send, all rules active"},
    "log": {"a send while folds are made, p99", "replay of 100 messages, later than without"},
    "scale": {"look-up, 20 processes", "daemon idle, 5 readers parked"},
    "before": {
        "inotify, 1,000 changes/s: processor a change",
        "memory a process, 20",
        "start after kill -9, 20 processes and a full log",
    },
    "files": {"git clone", "git status", "tar x", "grep -r", "rsync -a", "rm -rf"},
    "clients": {"1 client, p99", "3 clients, the mix"},
    "models": {
        "calls a second",
        "processor a chunk of /dev/llm",
        "open+read+close, p99, 3 streams",
    },
}


@pytest.mark.mount
@pytest.mark.parametrize("name", EXPECTED)
def test_a_side_gives_its_figures(name: str, setting: Setting) -> None:
    rows = list(importlib.import_module(f"bench.{name}").measure(setting))
    assert {row.what for row in rows} >= EXPECTED[name]
    assert {row.side for row in rows} == {name}
    assert all(math.isfinite(row.ours) for row in rows)


def test_every_side_is_a_module_that_measures() -> None:
    for name in SIDES:
        assert callable(importlib.import_module(f"bench.{name}").measure)


def test_a_side_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["flight"])
    assert "there is no side 'flight'; there are metadata" in capsys.readouterr().err
