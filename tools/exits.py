"""How a command ends: its exit code, and words instead of a traceback, whatever was given.

0 done, 1 refused or failed, 2 wrong usage, 3 no tree is mounted, or its daemon is gone or does not
answer, 130 Ctrl-C, 141 nobody reads the output any more. Imported before everything else, so that
Ctrl-C while the rest is imported is one, too.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

__all__ = ["GONE", "INTERRUPTED", "NO_TREE", "USAGE", "ToolError", "ended", "finish", "outputs"]

REFUSED = 1
USAGE = 2
NO_TREE = 3
INTERRUPTED = 130
"""As shells say of what SIGINT ended."""
GONE = 141
"""As shells say of what SIGPIPE ended."""


class ToolError(Exception):
    """It could not be done. The text is a sentence that says what and why; `code` the exit code."""

    code = REFUSED


def outputs() -> None:
    """Have three standard files: with `>&-` the next file that is opened would be taken for the
    output. Writing to one is an error then, as it is for other programs."""
    while (descriptor := os.open(os.devnull, os.O_RDONLY)) <= 2:
        pass
    os.close(descriptor)
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", errors="replace"))  # noqa: SIM115


def ended(run: Callable[[], int]) -> int:
    """The exit code of a command: what `run()` returns, or what it raised, said on stderr."""
    import click

    try:
        try:
            code = run()
        except click.exceptions.Exit as end:
            code = end.exit_code
        sys.stdout.flush()
        return code
    except click.ClickException as wrong:
        _say(wrong.show)
        return USAGE if isinstance(wrong, click.FileError) else wrong.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        return GONE
    except ToolError as failed:
        return _fail(str(failed), failed.code)
    except OSError as failed:
        where = os.fsdecode(failed.filename) if failed.filename is not None else "standard output"
        return _fail(f"{where}: {failed.strerror or failed}", REFUSED)
    except MemoryError:
        return _fail("not enough memory", REFUSED)
    except Exception as fault:  # noqa: BLE001  # people are told in words, and where it was
        words = " ".join(str(fault).split())
        place = traceback.extract_tb(fault.__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}:{place.lineno}"
        return _fail(f"internal fault: {type(fault).__name__} in {where}: {words}", REFUSED)


def finish(code: int) -> None:
    """End with `code`. Output that cannot be written is not tried again: Python would complain of
    it."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1 if name == "stdout" else 2)
    sys.exit(code)


def _fail(text: str, code: int) -> int:
    _say(lambda: print(f"agentfs: {text}".encode(errors="replace").decode(), file=sys.stderr))
    return code


def _say(say: Callable[[], object]) -> None:
    with suppress(OSError, ValueError):  # nobody hears it; the exit code is all there is
        say()


def _uncaught(kind: type[BaseException], bad: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        os._exit(INTERRUPTED)
    sys.__excepthook__(kind, bad, trace)


sys.excepthook = _uncaught
