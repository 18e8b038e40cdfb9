"""Modules that are imported when somebody uses them: each worker collects all tests, and the SDKs
of the models' makers take 2.3 s of processor time, which only the worker needs that runs them."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["Later"]


class Later:
    """Stands for the module `name`: has its attributes, but for those that begin with `_`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest asks what each name in a module is
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)
