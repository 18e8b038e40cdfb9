"""Whether a caller, who asks for a directory's attributes, may be about to watch it.

Linux gives no notice of a new watch. But it checks the permission to read before it adds one, and
where it keeps no attributes it asks for them first: in the call that adds the watch, whose number
/proc tells as long as it waits for our answer. So of a directory whose attributes Linux was never
given to keep (`restless`) we learn of every watch before it is there.

Not seen are dnotify, which nobody uses any more, and the rules of Linux's audit.
"""

from __future__ import annotations

import os
import platform

import trio

__all__ = ["may_watch"]

# inotify_add_watch and fanotify_mark, also those of a 32-bit program (asm/unistd*.h). Other
# machines we do not know: there everybody may be about to watch.
_WATCHING = {
    "x86_64": (b"254", b"301", b"292", b"339"),
    "aarch64": (b"27", b"263", b"317", b"367"),
}.get(platform.machine(), ())

# A caller that just handed us its request is not asleep yet, as a rule for some µs; under load it
# may have to wait for a processor.
PAUSES_SECONDS = (0.0, 0.0002, 0.001, 0.005, 0.02)


async def may_watch(tid: int) -> bool:
    """Whether the thread, which waits for our answer, may be adding a watch; yes if in doubt: it
    cannot be seen from here, we may not look, or it never falls asleep. 25 µs."""
    if not _WATCHING:
        return True
    for pause in PAUSES_SECONDS:
        call = _system_call(tid)
        if call != b"running":
            return not call.isdigit() or call in _WATCHING
        await trio.sleep(pause)
    return True


def _system_call(tid: int) -> bytes:
    """The number of the call that a thread is in; `running` if it runs, empty if nobody says."""
    try:
        descriptor = os.open(f"/proc/{tid}/syscall", os.O_RDONLY)
        try:
            return os.read(descriptor, 256).partition(b" ")[0].strip()
        finally:
            os.close(descriptor)
    except OSError:
        return b""
