"""Calls a Python function once: its arguments are JSON on the input, its result goes to the output.

    python -I -m agentfs.toolbox.function FILE FUNCTION             call it
    python -I -m agentfs.toolbox.function --schema FILE FUNCTION    say what it takes, as JSON

FILE is a path that ends in `.py`, or the name of a module. Its prints go to the errors, so
that the result is all there is in the output. A function that yields is read as it goes.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import json
import os
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from agentfs.toolbox.signature import SignatureError, converted, described

__all__ = ["main"]


class NotFoundError(Exception):
    """There is no such function."""


def find(file: str, name: str) -> Callable[..., Any]:
    """The function `name` of a file or module. Raises NotFoundError, and what the import raises."""
    if file.endswith(".py"):
        if not os.path.isfile(file):
            raise NotFoundError(f"there is no file {file}")
        sys.path.insert(0, os.path.dirname(os.path.abspath(file)))
        spec = importlib.util.spec_from_file_location(os.path.basename(file)[:-3], file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        sys.path.insert(0, os.getcwd())
        module = importlib.import_module(file)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise NotFoundError(f"{file} has no function {name}")
    return found  # type: ignore[no-any-return]  # it is callable


def written(result: Any) -> bytes:
    """A result as bytes: text as it is, anything else as a line of JSON; None is nothing."""
    if result is None:
        return b""
    if isinstance(result, bytes):
        return result
    if isinstance(result, str):
        return result.encode()
    if hasattr(result, "model_dump"):
        result = result.model_dump(mode="json")
    return (json.dumps(result, ensure_ascii=False, default=str) + "\n").encode()


async def _awaited(result: Any) -> Any:
    if isinstance(result, AsyncIterator):
        async for each in result:
            _put(written(each))
        return None
    return await result


def _put(content: bytes) -> None:
    while content:
        content = content[os.write(OUTPUT, content) :]


OUTPUT = -1
"""The descriptor of the result; `main` sets it."""


def _call(function: Callable[..., Any]) -> None:
    arguments = json.loads(sys.stdin.buffer.read() or b"{}")
    result = function(**converted(function, arguments))
    if inspect.isawaitable(result) or isinstance(result, AsyncIterator):
        result = asyncio.run(_awaited(result))
    if isinstance(result, Iterator):
        for each in result:
            _put(written(each))
    else:
        _put(written(result))


def main(words: list[str]) -> int:
    """The exit code: 0; 1 for what the function raises; 2 for a function that cannot be called."""
    global OUTPUT
    OUTPUT = os.dup(1)
    os.dup2(2, 1)
    describing = words[:1] == ["--schema"]
    try:
        function = find(*words[describing:])
        if describing:
            _put(written(described(function)))
        else:
            _call(function)
    except BrokenPipeError:
        return 1  # nobody reads the result
    except (NotFoundError, SignatureError) as bad:
        print(bad, file=sys.stderr)
        return 2
    except BaseException:  # noqa: BLE001  # SystemExit of a tool's, too
        traceback.print_exc(limit=-5)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
