"""Who writes into the state stands still while a daemon makes room on a full disk."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from agentfs.machine.proc import read_stat
from agentfs.machine.standstill import PATIENCE, room
from tests.process.test_calls import VFORKS, children, stopped
from tests.process.world import PYTHON, eventually, program


async def test_one_that_waits_in_vfork_is_waited_for_once_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Linux does not stop it before its child, which stands still too, has executed something."""
    (tmp_path / "logs").mkdir()
    said = tmp_path / "logs/bob.log"
    os.mkfifo(tmp_path / "fifo")
    with said.open("ab") as log:
        bob = program(PYTHON, "-c", VFORKS, cwd=tmp_path, stdout=log, start_new_session=True)
    try:
        await eventually(
            lambda: [stat and stat.state for stat in map(read_stat, children(bob.pid))] == ["S"]
        )
        began = time.monotonic()
        with caplog.at_level(logging.WARNING), room(tmp_path, always=True):
            assert time.monotonic() - began < 5 * PATIENCE
            assert stopped(bob.pid)
        assert "there are always more" not in caplog.text
        (tmp_path / "fifo").write_bytes(b"")
        await eventually(lambda: "went on" in said.read_text())
    finally:
        bob.kill()
        bob.wait()
