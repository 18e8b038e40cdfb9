"""The heap is a sorted list from which anything can be taken, and stays small."""

from math import inf

from hypothesis import example, given
from hypothesis import strategies as st

from agentfs.base.due_heap import DueHeap


@given(
    st.lists(
        st.tuples(
            st.sampled_from("adp"), st.integers(0, 40), st.sampled_from([0.0, 1.0, 2.0, 30.0])
        ),
        max_size=400,
    )
)
@example(
    [("a", 0, 0.0), ("a", 1, 1.0), ("d", 1, 0.0), ("a", 1, 30.0), ("a", 2, 2.0), ("d", 0, 0.0)]
)
def test_the_heap_is_a_sorted_list_that_stays_small(steps: list[tuple[str, int, float]]) -> None:
    heap: DueHeap[int] = DueHeap()
    model: dict[int, float] = {}
    for what, number, key in steps:
        if what == "a" and number not in model:
            model[number] = key  # also another one than it had before
            heap.add(key, number, number)
        elif what == "d":
            model.pop(number, None)
            heap.discard(number)
        expected = min(model, key=lambda each: (model[each], each), default=None)
        assert heap.soonest <= min(model.values(), default=inf)
        for now in (0.0, 2.0):
            assert heap.due(now) == (
                expected if expected is not None and model[expected] <= now else None
            )
        assert heap.first() == expected
        assert heap.soonest == (inf if expected is None else model[expected])
        assert len(heap) == len(model)
        assert sorted(heap) == sorted(model)
        assert heap.entries <= 2 * len(model) + 65


def test_a_heap_that_is_emptied_from_the_back_shrinks() -> None:
    heap: DueHeap[int] = DueHeap()
    for number in range(10_000):
        heap.add(float(number), number, number)
    for number in range(9_999, 0, -1):
        heap.discard(number)
    assert heap.entries <= 67
    assert heap.first() == 0
