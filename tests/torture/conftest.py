"""What the tests of the torture share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hatchery import Hatchery


@pytest.fixture(scope="package")
def mortals(fuse: None) -> Iterator[Hatchery]:
    """Where daemons come from that die when they are told to."""
    hatchery = Hatchery("tests.torture.failpoints")
    yield hatchery
    hatchery.close()
