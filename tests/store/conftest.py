"""A store that is new, for the tests of what stands on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store.db")
    yield store
    store.close()
