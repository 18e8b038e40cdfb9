"""Directories of links to runs: by their state, their pipeline, the thing that they are about."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from agentfs.providers.number_links import NumberLinks, Pages
from agentfs.workflow.model import Run

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["RunLinks", "by_pipeline", "by_ref", "by_state", "parts_of"]


class RunLinks(NumberLinks):
    """A directory of links to some runs."""

    PATH = "/proc/runs/by-state/STATE"

    def __init__(
        self, kernel: Kernel, key: Hashable, up: str, pages: Pages, has: Callable[[Run], bool]
    ) -> None:
        def includes(number: int) -> bool:
            run = kernel.runs.find(number)
            return run is not None and has(run)

        super().__init__(kernel, key, up, pages, includes)


def by_state(kernel: Kernel, key: Hashable, up: str, state: str) -> RunLinks:
    """The runs in this state."""
    runs = kernel.runs
    return RunLinks(
        kernel,
        key,
        up,
        lambda after, most: runs.page(after, most, state=state),
        lambda run: run.state.value == state,
    )


def by_pipeline(kernel: Kernel, key: Hashable, up: str, pipeline: str) -> RunLinks:
    """The runs of this pipeline."""
    runs = kernel.runs
    return RunLinks(
        kernel,
        key,
        up,
        lambda after, most: runs.page(after, most, pipeline=pipeline),
        lambda run: run.pipeline == pipeline,
    )


def by_ref(kernel: Kernel, key: Hashable, up: str, ref: str) -> RunLinks:
    """The runs about TYPE/ID."""
    runs = kernel.runs
    return RunLinks(
        kernel,
        key,
        up,
        lambda after, most: runs.page(after, most, ref=ref),
        lambda run: run.ref == ref,
    )


def parts_of(kernel: Kernel, key: Hashable, up: str, parent: int) -> RunLinks:
    """The runs that are parts of this one."""

    def pages(after: int, most: int) -> list[int]:
        return [run for run in kernel.runs.children(parent) if run > after][:most]

    return RunLinks(kernel, key, up, pages, lambda run: run.parent == parent)
