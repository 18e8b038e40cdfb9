"""Messages in the mbox format (mboxrd), as mail programs and Python's `mailbox.mbox` read it."""

from __future__ import annotations

import re
import time

from agentfs.ipc.message import Message

__all__ = ["entry"]

# What a reader would take for the beginning of the next message, or for a line that was quoted.
_QUOTED = re.compile(rb"^(?=>*From )", re.MULTILINE)


def entry(message: Message, content: bytes) -> bytes:
    """`content`, the text of `message`, between a separator line and an empty one. Lines of it
    that begin with `From `, or with that behind `>`s, get one `>` more."""
    date = time.asctime(time.gmtime(message.arrived))
    quoted = _QUOTED.sub(b">", content)
    end = b"\n" if quoted.endswith(b"\n") else b"\n\n"
    return f"From {message.sender} {date}\n".encode() + quoted + end
