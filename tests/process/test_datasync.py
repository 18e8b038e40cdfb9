"""Syncs of files that no thread waits in."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio

from agentfs.machine import datasync
from agentfs.machine.datasync import DataSync


@pytest.fixture(params=["beside us", "in a thread"])
def sync(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> DataSync:
    if request.param == "in a thread":
        monkeypatch.setattr(datasync, "_NUMBERS", {})
    return DataSync()


def opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


async def test_all_files_of_a_call_are_synced_call_after_call(
    tmp_path: Path, sync: DataSync
) -> None:
    files = [opened(tmp_path / str(number)) for number in range(datasync.MOST)]
    for count in (0, 1, len(files), 2):
        for file in files:
            os.write(file, b"text")
        await sync(files[:count])
    sync.close()
    for file in files:
        os.close(file)


async def test_what_cannot_be_synced_is_an_error_beside_what_can(
    tmp_path: Path, sync: DataSync
) -> None:
    file, (none, pipe) = opened(tmp_path / "file"), os.pipe()
    for wrong in ([file, pipe], [pipe, file]):
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            await sync(wrong)
        assert sync._calls is None or sync._calls.ended() == [], "nothing is under way"
    sync.close()
    for each in (file, none, pipe):
        os.close(each)


async def test_a_caller_that_is_cancelled_leaves_nothing_under_way(
    tmp_path: Path, sync: DataSync
) -> None:
    file = opened(tmp_path / "file")
    with trio.CancelScope() as gone:
        gone.cancel()
        await sync([file])
    assert sync._calls is None or sync._calls.ended() == []
    sync.close()
    os.close(file)


async def test_where_linux_has_no_room_for_it_a_thread_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    monkeypatch.setattr(datasync, "MOST", 1 << 30)  # more than /proc/sys/fs/aio-max-nr
    monkeypatch.setattr(os, "fdatasync", waited.append)
    sync, file = DataSync(), opened(tmp_path / "file")
    await sync([file])
    assert waited == [file]
    sync.close()
    os.close(file)
