"""Messages in the mbox format (mboxrd), as mail programs and Python's `mailbox.mbox` read it."""

from __future__ import annotations

import re
import time

from agentfs.mail.message import Message

__all__ = ["entry"]

# Where a reader would see a line begin that it takes for the beginning of the next message, or for
# one that was quoted. Lines end in LF; but a program that opens the file as text, in Python or
# elsewhere, also sees one after any other line end there is (CR VT FF FS GS RS NEL LS PS). Those
# are rare, and looking back for them takes eight times as long.
_LINE = re.compile(rb"^(?=>*From )", re.MULTILINE)
_OTHER = re.compile(rb"(?:[\r\x0b\x0c\x1c\x1d\x1e]|\xc2\x85|\xe2\x80[\xa8\xa9])>*From ")
_ANY_LINE = re.compile(
    rb"(?:^|(?<=[\r\x0b\x0c\x1c\x1d\x1e])|(?<=\xc2\x85)|(?<=\xe2\x80[\xa8\xa9]))(?=>*From )",
    re.MULTILINE,
)


def entry(message: Message, content: bytes) -> bytes:
    """`content`, the text of `message`, between a separator line and an empty one. Lines of it
    that begin with `From `, or with that behind `>`s, get one `>` more."""
    date = time.asctime(time.gmtime(message.arrived))
    quoted = (_ANY_LINE if _OTHER.search(content) else _LINE).sub(b">", content)
    end = b"\n" if quoted.endswith(b"\n") else b"\n\n"
    return f"From {message.sender} {date}\n".encode() + quoted + end
