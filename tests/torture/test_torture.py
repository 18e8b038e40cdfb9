"""A minute of torture: nothing is lost, and nothing comes twice without saying so.

`./run torture --seconds N` goes on for as long as wanted.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.torture.model import check
from tests.torture.rig import torture

pytestmark = [pytest.mark.mount, pytest.mark.torture]

SECONDS, MESSAGES = 40.0, 10_000


def test_kills_at_random_lose_nothing_and_repeat_nothing_unmarked(
    fuse: None, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    report = torture(tmp_path / "rig", SECONDS, MESSAGES, seed)
    print(report)
    words = f"seed {seed}: {report}"
    assert check(report.history) == [], words
    assert report.faults == [], words
    assert report.undrained == [], words
    # It was torture: everybody was killed, and much came through all the same.
    assert all(report.kills[role] for role in ("consumer", "producer", "daemon")), words
    assert len(report.history.accepted) > 300, words  # on a machine with much else to do
    assert report.history.duplicates > 0, words
