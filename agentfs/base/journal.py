"""The kernel's log as a stream of lines: what `/dev/kmsg` shows, beside the log file."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator

import trio

from agentfs.base.clock import rfc3339

__all__ = ["Journal"]

# Lines kept for readers that come later.
CAPACITY = 4096


class Journal(logging.Handler):
    """A logging handler that keeps the newest lines and hands new ones to listeners.

    Listeners run in the event loop; lines logged by other threads get there through its token.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._kept: deque[bytes] = deque(maxlen=CAPACITY)
        self._listeners: list[Callable[[bytes], object]] = []
        self._token: trio.lowlevel.TrioToken | None = None
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def install(self) -> None:
        """Take everything the package logs, from now on and in this event loop."""
        self._token = trio.lowlevel.current_trio_token()
        package = logging.getLogger("agentfs")
        if package.level == logging.NOTSET:
            package.setLevel(logging.INFO)
        package.addHandler(self)

    def uninstall(self) -> None:
        logging.getLogger("agentfs").removeHandler(self)
        self._token = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record).replace("\n", "\n  ")
            line = f"{rfc3339(record.created or time.time())} {text}\n".encode()
            self._kept.append(line)
            if self._listeners and self._token is not None:
                self._token.run_sync_soon(self._hand_out, line)
        except trio.RunFinishedError:
            pass  # the loop ended: the log file has the line
        except Exception:  # noqa: BLE001  # what every logging handler does
            self.handleError(record)

    def _hand_out(self, line: bytes) -> None:
        for listener in tuple(self._listeners):
            listener(line)

    def lines(self) -> Iterator[bytes]:
        """What is kept, oldest first."""
        return iter(tuple(self._kept))

    def listen(self, listener: Callable[[bytes], object]) -> Callable[[], None]:
        """Call `listener(line)` for every line from now on; the result takes that back."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)
