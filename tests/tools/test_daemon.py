"""What the daemon does with itself, beside kernel, tree and mount."""

from __future__ import annotations

import gc
import weakref

from agentfs.tools.daemon import keep_out_of_collections


class Circle:
    """Refers to itself: only the collector ever frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_what_was_there_at_the_start_is_not_collected_and_what_comes_after_is() -> None:
    gc.disable()
    try:
        before = weakref.ref(Circle())
        keep_out_of_collections()
        after = weakref.ref(Circle())
        assert gc.isenabled()
        gc.collect()
        assert before() is not None, "nobody looked at it"
        assert after() is None
    finally:
        gc.unfreeze()
        gc.enable()
    gc.collect()
    assert before() is None
