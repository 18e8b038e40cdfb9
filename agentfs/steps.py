"""Steps of workflows in Python: one file, standard library only. Import it, or copy it.

    from agentfs.steps import step

    @step
    def total(prices: list[float], vat: float = 0.19) -> float:
        return sum(prices) * (1 + vat)

A function node says `fn: shop:total`, which is `total` of `shop.py` in the folder of the code. Its
input goes to the parameters by their names; to a function with one parameter, whose name is not in
it, it goes as a whole. Types are checked before the call, and the result after it: those of the
standard library here, models of pydantic by pydantic. A service is a class whose methods are steps;
each worker makes one object of it (`setup()` and `close()` are called, if it has them).

`python -m agentfs.steps FOLDER --pool NAME` works at a pool; for a pipeline with `code: FOLDER` the
kernel starts it by itself. `--schema shop:total` prints the JSON Schema of a step's input.

Several steps are done at once: coroutines in one loop, and functions in threads as soon as one of
them takes longer than a moment. When a module of the folder has changed, the worker begins anew
before its next step. While the daemon is away it goes on, and then comes back to its claims.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import contextvars
import dataclasses
import datetime
import decimal
import enum
import errno
import importlib
import importlib.util
import inspect
import json
import logging
import os
import pathlib
import signal
import sys
import threading
import time
import traceback
import types
import typing
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

__all__ = ["Current", "GiveUp", "current", "schema", "step"]

log = logging.getLogger("agentfs.steps")

F = TypeVar("F", bound=Callable[..., Any])

AWAY = {errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV, errno.EIO}
"""What the files of a daemon that ended, or is ending, answer."""

GONE = {errno.ENOENT, errno.ESTALE}
"""There is no such pool; or, for a while, no tree."""

BUFFER = 64 * 1024
"""Bytes of one read. Linux pins the pages of a larger buffer for every read: 0.4 ms with 1 MiB."""

MAX_LINE = 1024 * 1024
"""Bytes of an answer."""

TICK = 0.02
"""Seconds after which a function is long: others are begun beside it."""

GRACE = 4.0
"""Seconds that steps have to end after a TERM; KILL comes after 5."""

LONGEST_PAUSE = 1.0
"""Seconds between two attempts to reach the daemon."""

MARK = "_agentfs_step"


class GiveUp(Exception):  # noqa: N818  # what the step does, not what went wrong
    """The step fails, and no other attempt would be better."""


class BadValue(Exception):  # noqa: N818
    """A value is not what was declared. It never leaves this file."""

    def __init__(self, path: str, words: str) -> None:
        super().__init__(f"{path}: {words}")


# -- what a step may ask --------------------------------------------------------------------------


class Current:
    """The step that is being done. `key` is the same in all its attempts: whoever has seen it has
    done it. `deadline` is when it has to be over (seconds since 1970), or None."""

    def __init__(self, worker: StepLoop, said: dict[str, Any]) -> None:
        self._worker = worker
        self.step, self.attempt = said["step"], said["attempt"]
        self.run, self.node = said["run"], said["node"]
        self.key, self.deadline = said["key"], said["deadline"]

    @property
    def folder(self) -> str:
        """The directory of the run."""
        return f"{self._worker.tree}/proc/runs/{self.run}"

    def artifact(self, name: str) -> str:
        """The path of a file that stays with the run: write it there, and return its name."""
        return f"{self.folder}/artifacts/{name}"

    def progress(self, words: object) -> None:
        """Say how far it is."""
        self._worker.say(self, {"progress": str(words)[:200]})


_current: contextvars.ContextVar[Current] = contextvars.ContextVar("step")


def current() -> Current:
    """The step that calls this. LookupError outside of one."""
    return _current.get()


def step(function: F) -> F:
    """This function, or this method, is a step: pipelines may name it."""
    setattr(function, MARK, True)
    return function


# -- types ----------------------------------------------------------------------------------------

Check = Callable[[Any, str], Any]
"""Makes what was declared of a JSON value at a path. Raises BadValue."""


class Declared(NamedTuple):
    """A declared type: its JSON Schema, its check, and the names of its fields, if it has some."""

    schema: dict[str, Any]
    check: Check
    names: frozenset[str] = frozenset()

    def whole(self, given: Any) -> Any:
        """A whole input as such a value: what else is in it is not for this step. BadValue."""
        if self.names and isinstance(given, dict):
            given = {name: value for name, value in given.items() if name in self.names}
        return self.check(given, "$")


def _anything(value: Any, path: str) -> Any:
    return value


def _is(words: str, *kinds: type) -> Check:
    def check(value: Any, path: str) -> Any:
        if isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)):
            return value
        raise BadValue(path, f"{words} was expected, not {_short(value)}")

    return check


def _short(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else text[:60] + "…"


_PLAIN: dict[Any, Declared] = {
    Any: Declared({}, _anything),
    object: Declared({}, _anything),
    inspect.Parameter.empty: Declared({}, _anything),
    None: Declared({"type": "null"}, _is("null", type(None))),
    type(None): Declared({"type": "null"}, _is("null", type(None))),
    bool: Declared({"type": "boolean"}, _is("true or false", bool)),
    int: Declared({"type": "integer"}, _is("a whole number", int)),
    float: Declared({"type": "number"}, _is("a number", int, float)),
    str: Declared({"type": "string"}, _is("a text", str)),
}

_TEXTS: dict[Any, tuple[str, Callable[[str], Any]]] = {
    datetime.datetime: ("date-time", datetime.datetime.fromisoformat),
    datetime.date: ("date", datetime.date.fromisoformat),
    uuid.UUID: ("uuid", uuid.UUID),
    decimal.Decimal: ("decimal", decimal.Decimal),
    pathlib.Path: ("path", pathlib.Path),
}
"""Types that are written as texts: their format, and what makes one of a text."""


def kind_of(declared: Any) -> Declared:
    """The kind of a declared type. TypeError if there is no check for it."""
    try:
        if declared in _PLAIN:
            return _PLAIN[declared]
    except TypeError:  # Annotated with something that cannot be hashed
        pass
    origin, args = typing.get_origin(declared), typing.get_args(declared)
    if origin is typing.Annotated:
        return kind_of(args[0])
    if isinstance(declared, TypeVar):
        return _PLAIN[Any]
    if isinstance(declared, typing.NewType):
        return kind_of(declared.__supertype__)
    if origin is typing.Literal:
        return _choice(args)
    if origin in (typing.Union, types.UnionType):
        return _union([kind_of(arg) for arg in args])
    if hasattr(declared, "model_validate"):
        return _model(declared)
    return _structure(declared, origin or declared, args)


def _structure(declared: Any, origin: Any, args: tuple[Any, ...]) -> Declared:
    if origin is tuple and args and args[-1] is not Ellipsis:
        return _fixed([kind_of(arg) for arg in args])
    if origin in _TEXTS:
        return _text(origin)
    if dataclasses.is_dataclass(origin):
        fields = dataclasses.fields(origin)
        needed = {
            field.name
            for field in fields
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
        names = [field.name for field in fields if field.init]
        return _record(origin, names, needed)
    if not isinstance(origin, type):
        raise TypeError(f"there is no check for {declared!r}")
    if typing.is_typeddict(origin):
        return _record(origin, list(typing.get_type_hints(origin)), _required(origin))
    if issubclass(origin, enum.Enum):
        return _enum(origin)
    if issubclass(origin, tuple) and hasattr(origin, "_fields"):
        needed = set(origin._fields) - getattr(origin, "_field_defaults", {}).keys()
        return _record(origin, list(origin._fields), needed)
    if issubclass(origin, Mapping):
        return _mapping(kind_of(args[1]) if len(args) == 2 else _PLAIN[Any])
    if issubclass(origin, Iterable):
        made = origin if origin in (set, frozenset, tuple) else list
        return _list(kind_of(args[0]) if args else _PLAIN[Any], made)
    raise TypeError(f"there is no check for {declared!r}")


def _choice(allowed: tuple[Any, ...]) -> Declared:
    def check(value: Any, path: str) -> Any:
        if any(value == one and type(value) is type(one) for one in allowed):
            return value
        words = ", ".join(json.dumps(one) for one in allowed)
        raise BadValue(path, f"one of {words} was expected, not {_short(value)}")

    return Declared({"enum": list(allowed)}, check)


def _enum(kind: type[enum.Enum]) -> Declared:
    values = [each.value for each in kind]
    inner = _choice(tuple(values))
    return Declared({"enum": values}, lambda value, path: kind(inner.check(value, path)))


def _union(kinds: list[Declared]) -> Declared:
    def check(value: Any, path: str) -> Any:
        words = []
        for kind in kinds:
            try:
                return kind.check(value, path)
            except BadValue as bad:
                words.append(str(bad).removeprefix(f"{path}: "))
        raise BadValue(path, "; or ".join(words))

    return Declared({"anyOf": [kind.schema for kind in kinds]}, check)


def _model(model: Any) -> Declared:
    def check(value: Any, path: str) -> Any:
        try:
            return model.model_validate(value)
        except ValueError as bad:
            errors: list[Any] = getattr(bad, "errors", list)()
            if not errors:
                raise BadValue(path, str(bad)) from None
            where = "".join(
                f"[{part}]" if isinstance(part, int) else f".{part}" for part in errors[0]["loc"]
            )
            raise BadValue(path + where, errors[0]["msg"]) from None

    return Declared(model.model_json_schema(), check, frozenset(model.model_fields))


def _text(kind: Any) -> Declared:
    form, read = _TEXTS[kind]

    def check(value: Any, path: str) -> Any:
        if isinstance(value, kind):
            return value
        number = kind is decimal.Decimal and isinstance(value, int | float)
        if isinstance(value, str) or (number and not isinstance(value, bool)):
            with contextlib.suppress(ValueError, ArithmeticError):
                return read(str(value))
        raise BadValue(path, f"a text that is a {form} was expected, not {_short(value)}")

    return Declared({"type": "string", "format": form}, check)


def _list(inner: Declared, made: type) -> Declared:
    def check(value: Any, path: str) -> Any:
        if not isinstance(value, list | tuple | set | frozenset):
            raise BadValue(path, f"a list was expected, not {_short(value)}")
        return made(inner.check(each, f"{path}[{at}]") for at, each in enumerate(value))

    return Declared({"type": "array", "items": inner.schema}, check)


def _fixed(kinds: list[Declared]) -> Declared:
    def check(value: Any, path: str) -> Any:
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise BadValue(path, f"a list of {len(kinds)} was expected, not {_short(value)}")
        return tuple(kinds[at].check(each, f"{path}[{at}]") for at, each in enumerate(value))

    schemas = [kind.schema for kind in kinds]
    return Declared({"type": "array", "prefixItems": schemas, "items": False}, check)


def _mapping(inner: Declared) -> Declared:
    def check(value: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            raise BadValue(path, f"an object was expected, not {_short(value)}")
        return {key: inner.check(each, f"{path}.{key}") for key, each in value.items()}

    return Declared({"type": "object", "additionalProperties": inner.schema}, check)


def _record(kind: Any, names: list[str], needed: set[str]) -> Declared:
    """A dataclass, a TypedDict or a NamedTuple."""
    hints = typing.get_type_hints(kind, include_extras=True)
    kinds = {name: kind_of(_unqualified(hints.get(name, Any))) for name in names}
    made = dict if typing.is_typeddict(kind) else kind

    def check(value: Any, path: str) -> Any:
        if made is not dict and isinstance(value, made):
            return value
        if not isinstance(value, Mapping):
            raise BadValue(path, f"an object was expected, not {_short(value)}")
        missing, unknown = sorted(needed - value.keys()), sorted(value.keys() - kinds.keys())
        if missing or unknown:
            words = [f"{name} is missing" for name in missing]
            words += [f"{name} is not known" for name in unknown]
            raise BadValue(path, ", ".join(words))
        return made(
            **{name: kinds[name].check(each, f"{path}.{name}") for name, each in value.items()}
        )

    properties = {name: each.schema for name, each in kinds.items()}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    schema |= {"required": sorted(needed)} if needed else {}
    return Declared(schema, check, frozenset(names))


def _required(kind: Any) -> set[str]:
    """The keys that a TypedDict has to have; of types that are texts it does not know itself."""
    found = set(kind.__required_keys__)
    for name, declared in typing.get_type_hints(kind, include_extras=True).items():
        if typing.get_origin(declared) is typing.NotRequired:
            found.discard(name)
        elif typing.get_origin(declared) is typing.Required:
            found.add(name)
    return found


def _unqualified(declared: Any) -> Any:
    """The type in Required[…] or NotRequired[…]."""
    if typing.get_origin(declared) in (typing.Required, typing.NotRequired):
        return typing.get_args(declared)[0]
    return declared


def _jsonable(value: Any) -> Any:
    """What JSON has no form for."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, uuid.UUID | decimal.Decimal | pathlib.PurePath):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is no JSON")


# -- functions ------------------------------------------------------------------------------------


class StepFunction:
    """A step that can be called. TypeError if a type of it cannot be checked."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function = function
        self.name = name
        self.parameters: dict[str, Declared] = {}
        self.needed: list[str] = []
        self.rest: Declared | None = None
        hints = typing.get_type_hints(function, include_extras=True)
        for each in inspect.signature(function).parameters.values():
            declared = hints.get(each.name, each.annotation)
            if each.kind is each.VAR_KEYWORD:
                self.rest = kind_of(declared)
                continue
            if each.kind in (each.VAR_POSITIONAL, each.POSITIONAL_ONLY):
                raise TypeError(f"{name}: parameter {each.name} cannot be given by its name")
            self.parameters[each.name] = kind_of(declared)
            if each.default is each.empty:
                self.needed.append(each.name)
        self.returns = kind_of(hints.get("return", Any))

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of its input."""
        properties = {name: kind.schema for name, kind in self.parameters.items()}
        found = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": self.name,
            "type": "object",
            "properties": properties,
            "required": self.needed,
            "additionalProperties": self.rest.schema if self.rest else False,
        }
        words = inspect.getdoc(self.function)
        return found | {"description": words} if words else found

    def arguments(self, given: Any) -> dict[str, Any]:
        """The arguments that an input comes to. An input has more in it than what a step asks for:
        fields of the run's input, and outputs by the names of their nodes. A parameter that is in
        none of these is looked for in the outputs, and taken if one of them has it. BadValue."""
        if (given is None and not self.needed) or not (self.parameters or self.rest):
            return {}
        if self._is_whole(given):
            name = (*self.needed, *self.parameters)[0]
            return {name: self.parameters[name].whole(given)}
        if not isinstance(given, dict):
            names = ", ".join(self.needed)
            raise BadValue("$", f"an object with {names} was expected, not {_short(given)}")
        found = {} if self.rest is None else dict(given)
        for name in self.parameters:
            if name in given:
                found[name] = given[name]
            else:
                inner = [each[name] for each in given.values() if _has(each, name)]
                found |= {name: inner[0]} if len(inner) == 1 else {}
        missing = [name for name in self.needed if name not in found]
        if missing:
            raise BadValue("$", ", ".join(f"{name} is missing" for name in missing))
        rest = self.rest or _PLAIN[Any]
        return {
            name: self.parameters.get(name, rest).check(value, f"$.{name}")
            for name, value in found.items()
        }

    def _is_whole(self, given: Any) -> bool:
        """Whether the input is the one argument, and not the arguments by name."""
        if len(self.needed) > 1 or not self.parameters:
            return False
        if not isinstance(given, dict):
            return True
        name = (*self.needed, *self.parameters)[0]
        declared = self.parameters[name]
        takes = bool(declared.names) or declared.schema.get("type", "object") == "object"
        found = name in given or any(_has(each, name) for each in given.values())
        return takes and self.rest is None and not found

    def output(self, value: Any) -> str:
        """The result as JSON. BadValue."""
        try:
            text = json.dumps(self.returns.check(value, "$"), default=_jsonable, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as bad:
            raise BadValue("the result", str(bad)) from None
        if len(text) > MAX_LINE - 1024:
            raise BadValue(
                "the result", f"it has {len(text):,} bytes as JSON; put it into an artifact"
            )
        return text


def _has(output: Any, name: str) -> bool:
    return isinstance(output, dict) and name in output


class CodeFolder:
    """The functions of a folder, by what nodes call them."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.realpath(folder)
        self._functions: dict[tuple[str, ...], StepFunction] = {}
        self._services: dict[str, Any] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        self._lock = threading.RLock()
        sys.path.insert(0, self.folder)
        # Python takes what it keeps of a module for it, even if that changed within the second.
        sys.dont_write_bytecode = True

    def of(self, said: Mapping[str, Any]) -> StepFunction:
        """The function of a step. ImportError, TypeError, and what its module raises."""
        if "service" in said:
            names: tuple[str, ...] = (str(said["service"]), str(said.get("method", "")))
        else:
            names = (str(said.get("fn", "")),)
        found = self._functions.get(names)
        if found is None:
            with self._lock:
                found = self._functions[names] = self._find(*names)
        return found

    def _find(self, name: str, method: str = "") -> StepFunction:
        if not method:
            function = self._named(name)
        else:
            if name not in self._services:
                self._services[name] = _set_up(self._named(name))
            function, name = getattr(self._services[name], method, None), f"{name}.{method}"
        if not callable(function):
            raise ImportError(f"there is no {name}")
        if not getattr(function, MARK, False):
            raise ImportError(f"{name} is no step: it has no @step")
        return StepFunction(function, name)

    def _named(self, name: str) -> Any:
        module_name, colon, attribute = name.partition(":")
        if not colon:
            module_name, _, attribute = name.rpartition(".")
        if not module_name or not attribute:
            raise ImportError(f"{name!r} is no MODULE:NAME")
        importlib.invalidate_caches()
        if module_name not in sys.modules:
            first = importlib.util.find_spec(module_name.partition(".")[0])
            if first is None or not self._has(first):
                raise ImportError(f"there is no module {module_name} in {self.folder}")
        module = importlib.import_module(module_name)
        self._look()
        if self._path_of(module) is None:
            raise ImportError(f"there is no module {module_name} in {self.folder}")
        if not hasattr(module, attribute):
            raise ImportError(f"module {module_name} has no {attribute}")
        return getattr(module, attribute)

    def _has(self, spec: importlib.machinery.ModuleSpec) -> bool:
        places = [spec.origin or "", *(spec.submodule_search_locations or ())]
        return any(os.path.realpath(place).startswith(f"{self.folder}/") for place in places)

    def _path_of(self, module: Any) -> str | None:
        path = getattr(module, "__file__", None)
        if not isinstance(path, str) or not os.path.realpath(path).startswith(f"{self.folder}/"):
            return None
        return path

    def _look(self) -> None:
        """Keep what the modules that are loaded are like."""
        for module in tuple(sys.modules.values()):
            path = self._path_of(module)
            if path is not None and path not in self._seen:
                self._seen[path] = _state(path)

    def changed(self) -> bool:
        """Whether one of them is another one now. 2 µs for each."""
        return any(_state(path) != seen for path, seen in self._seen.items())

    def close(self) -> None:
        """End what was set up."""
        for service in self._services.values():
            with contextlib.suppress(Exception):
                _called(getattr(service, "close", None))


def _state(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _set_up(kind: Any) -> Any:
    service = kind()
    _called(getattr(service, "setup", None))
    return service


def _called(function: Any) -> None:
    if callable(function):
        result = function()
        if inspect.isawaitable(result):
            _loop.run(result)


# -- the worker -----------------------------------------------------------------------------------


class _Loop:
    """The event loop of all coroutines, in a thread of its own, begun with the first of them."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def get(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, daemon=True).start()
        return self._loop

    def run(self, awaitable: Any) -> Any:
        """Wait for it, in another thread than the loop's."""

        async def wait() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(wait(), self.get()).result()


_loop = _Loop()


class StepLoop:
    """It takes steps from a pool, does them, and answers.

    One thread at a time reads. It does the first step itself: that is all for steps that are soon
    done. The watch calls further threads for what is left as soon as a step takes longer.
    """

    def __init__(self, tree: str, pool: str, library: CodeFolder, most: int) -> None:
        self.tree = tree
        self._path = f"{tree}/dev/pools/{pool}/work"
        self._library = library
        self._most = most
        self._lock = threading.Lock()
        self._free = threading.Condition(self._lock)
        self._writing = threading.Lock()
        self._taken: deque[dict[str, Any]] = deque()
        self._having: set[tuple[str, int]] = set()  # steps that are not answered
        self._busy: dict[int, float] = {}  # when each thread began its step
        self._coroutines = 0
        self._answers: list[tuple[tuple[str, int] | None, bytes]] = []  # by what they end
        self._reading = self._ended = self._again = False
        self._idle = self._threads = 0
        self._work = threading.Event()
        self._buffer = bytearray(BUFFER)
        self._file = self._answer_file = -1

    def run(self) -> None:
        """Work until the pool is removed, or TERM comes. OSError if the pool cannot be used."""
        try:
            self._open()
        except OSError as failure:
            self._come_back(failure)
        signal.signal(signal.SIGTERM, lambda number, frame: self._stop_later())
        threading.Thread(target=self._watch, daemon=True).start()
        self._threads = 1
        self._serve()
        self._finish()

    # -- the pool ----------------------------------------------------------------------------------

    def _open(self) -> None:
        self._close()
        self._file = os.open(self._path, os.O_RDWR)
        # Linux lets one thread at a time use the position of an open file: a read that waits would
        # hold up the writes.
        self._answer_file = os.open(self._path, os.O_WRONLY)
        os.write(self._file, b"take %d\n" % self._most)

    def _close(self) -> None:
        for file in (self._file, self._answer_file):
            if file >= 0:
                with contextlib.suppress(OSError):
                    os.close(file)
        self._file = self._answer_file = -1

    def _come_back(self, failure: OSError) -> None:
        """Wait for the daemon, and open the pool again."""
        if failure.errno not in AWAY:
            raise failure
        log.warning("the tree is away (%s); trying again", failure.strerror)
        with self._writing:
            pause = TICK
            while True:
                is_there = os.path.exists(f"{self.tree}/dev/pools")
                try:
                    self._open()
                    return
                except OSError as again:
                    if again.errno not in AWAY | GONE or (again.errno in GONE and is_there):
                        raise
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _read(self) -> list[dict[str, Any]]:
        """The next steps; none at the end. Those that it has already come once more to a worker
        that comes back."""
        said = b""
        while True:
            try:
                count = os.readv(self._file, [self._buffer])
            except OSError as failure:
                self._come_back(failure)
                self._flush()
                said = b""
                continue
            said += bytes(self._buffer[:count])
            if not count:
                return []
            if said.endswith(b"\n"):
                steps = [json.loads(line) for line in said.splitlines()]
                said = b""
                fresh = [s for s in steps if (s["step"], s["attempt"]) not in self._having]
                if fresh:
                    return fresh

    def say(self, what: Current, words: dict[str, Any]) -> None:
        """Write a line about a step now."""
        about = {"step": what.step, "attempt": what.attempt}
        self._answers.append((None, json.dumps(about | words).encode() + b"\n"))
        self._flush()

    def _flush(self) -> None:
        """Write the answers that there are. Until then the steps are its own: a worker that comes
        back to the daemon is given them once more."""
        with self._writing:
            answers, self._answers = self._answers, []
            if not answers:
                return
            if not self._write(b"".join(line for _, line in answers)):
                self._answers = answers + self._answers  # what was taken of them is known, then
                return
        with self._lock:
            self._having.difference_update(key for key, _ in answers if key is not None)

    def _write(self, data: bytes) -> bool:
        """Whether the daemon was there."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._answer_file, view[:BUFFER]) :]
            except OSError as failure:
                if failure.errno in AWAY:
                    return False
                log.warning("answers were refused: %s", failure.strerror)
                view = view[BUFFER:]
        return True

    # -- threads -----------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Do steps until there is an end."""
        try:
            while (said := self._next()) is not None:
                self._do(said)
        except OSError as failure:  # of the pool: those of steps are answers
            log.error("the pool cannot be used any more: %s", failure)
            os._exit(1)

    def _next(self) -> dict[str, Any] | None:
        """The next step that was taken; else read."""
        while True:
            with self._lock:
                if self._ended:
                    return None
                if self._taken:
                    return self._taken.popleft()
                if self._reading:
                    self._idle += 1
                    self._free.wait()
                    self._idle -= 1
                    continue
                self._reading = True
            try:
                self._flush()
                steps = self._read()
            finally:
                self._reading = False
            self._flush()
            with self._lock:
                self._having.update((each["step"], each["attempt"]) for each in steps)
                self._taken.extend(steps)
                if not steps and not self._ended:
                    self._end()
            if steps and self._library.changed():
                self._again = True
                self._stop()

    def _end(self) -> None:
        self._ended = True
        self._free.notify_all()

    def _watch(self) -> None:
        """Call threads for what is left while a step is long, and write what was answered."""
        while True:
            self._work.wait()
            while self._busy:
                time.sleep(TICK)
                now = time.monotonic()
                with self._lock:
                    long = any(now - began > TICK for began in tuple(self._busy.values()))
                    wanted = len(self._taken) + (not self._reading) if long else 0
                    self._free.notify(wanted)
                    wanted = min(wanted - self._idle, self._most + 1 - self._threads)
                    self._threads += max(0, wanted)
                for _ in range(wanted):
                    threading.Thread(target=self._serve, daemon=True).start()
                self._flush()
            self._work.clear()

    def _do(self, said: dict[str, Any]) -> None:
        """Do one step, or begin to."""
        me = threading.get_ident()
        self._busy[me] = time.monotonic()
        if not self._work.is_set():
            self._work.set()
        try:
            here = Current(self, said)
            _current.set(here)
            try:
                function = self._library.of(said)
                result = function.function(**function.arguments(said["input"]))
            except BaseException as failure:  # noqa: BLE001  # SystemExit, too, is the step's
                self._answer(here, failure=failure)
                return
            if inspect.isawaitable(result):
                with self._lock:
                    self._coroutines += 1
                finishing = self._await(here, function, result)
                asyncio.run_coroutine_threadsafe(finishing, _loop.get())
            else:
                self._answer(here, function, result)
        finally:
            self._busy.pop(me, None)

    async def _await(self, here: Current, function: StepFunction, result: Any) -> None:
        _current.set(here)
        try:
            left = None if here.deadline is None else here.deadline - time.time()
            self._answer(here, function, await asyncio.wait_for(result, left))
        except BaseException as failure:  # noqa: BLE001
            self._answer(here, failure=failure)
        finally:
            with self._lock:
                self._coroutines -= 1
                last = not self._coroutines
        if last or self._answers:
            self._flush()

    def _answer(
        self,
        here: Current,
        function: StepFunction | None = None,
        result: Any = None,
        failure: BaseException | None = None,
    ) -> None:
        """Have an answer to be written."""
        about = f'{{"step":{json.dumps(here.step)},"attempt":{here.attempt}'
        text = ""
        if function is not None:
            try:
                text = f'{about},"ok":{function.output(result)}}}\n'
            except BadValue as bad:
                failure = bad
        if failure is not None:
            final = isinstance(failure, GiveUp | BadValue | ImportError | TypeError)
            more = {"error": _words(failure)} | ({"again": False} if final else {})
            more |= {"kind": "schema"} if isinstance(failure, BadValue) else {}
            text = f"{about},{json.dumps(more)[1:]}\n"
        self._answers.append(((here.step, here.attempt), text.encode()))

    # -- the end -----------------------------------------------------------------------------------

    def _stop_later(self) -> None:
        threading.Thread(target=self._leave, daemon=True).start()

    def _stop(self) -> None:
        """Take no more, and give back what was not begun."""
        with self._lock:
            back, self._taken = self._taken, deque()
            for said in back:
                key = said["step"], said["attempt"]
                about = {"step": key[0], "attempt": key[1], "back": True}
                self._answers.append((key, json.dumps(about).encode() + b"\n"))
            self._end()
        self._flush()

    def _leave(self) -> None:
        """TERM: end what was begun, as far as there is time."""
        threading.Timer(GRACE, os._exit, (0,)).start()
        self._stop()
        while self._busy or self._coroutines:
            time.sleep(TICK)
        self._flush()
        self._library.close()
        os._exit(0)

    def _finish(self) -> None:
        """The end of the pool, or of this version of the code."""
        while self._busy or self._coroutines:
            time.sleep(TICK)
        self._flush()
        self._library.close()
        if self._again:
            sys.stdout.flush()
            os.execv(sys.executable, sys.orig_argv)  # noqa: S606


def _words(failure: BaseException) -> str:
    """A failure, and where in the code it was."""
    words = str(failure) if isinstance(failure, GiveUp | BadValue) else _described(failure)
    frames = traceback.extract_tb(failure.__traceback__)
    theirs = [frame for frame in frames if frame.filename != __file__]
    if not theirs or isinstance(failure, GiveUp | BadValue | ImportError):
        return words
    last = theirs[-1]
    return f"{words} ({os.path.basename(last.filename)}:{last.lineno}, in {last.name})"


def _described(failure: BaseException) -> str:
    return "".join(traceback.format_exception_only(failure)).strip()


def schema(function: Callable[..., Any]) -> dict[str, Any]:
    """The JSON Schema of the input of a step."""
    return StepFunction(function, function.__name__).schema()


def main(arguments: Sequence[str] | None = None) -> None:
    """Work at a pool; or say what a step wants."""
    parser = argparse.ArgumentParser(prog="python -m agentfs.steps", description="Do steps.")
    parser.add_argument("folder", nargs="?", default=".", help="where the code is")
    parser.add_argument("--pool", help="the pool to work at")
    parser.add_argument("--tree", default=os.environ.get("AGENTFS", ""), help="the mount")
    parser.add_argument("-n", type=int, default=20, help="steps at a time")
    parser.add_argument("--schema", metavar="MODULE:NAME", help="print what it takes")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(name)s: %(message)s")
    library = CodeFolder(given.folder)
    try:
        if given.schema:
            print(json.dumps(library.of({"fn": given.schema}).schema()))
        elif not given.pool or not given.tree:
            parser.error("--pool, and --tree or $AGENTFS, say where the steps are")
        else:
            StepLoop(given.tree, given.pool, library, given.n).run()
    except (OSError, ImportError, TypeError) as failure:
        sys.exit(f"{parser.prog}: {failure}")


if __name__ == "__main__":
    if __package__:  # what the code imports is this module, not another copy of it
        sys.modules["agentfs.steps"] = sys.modules["__main__"]
    main()
