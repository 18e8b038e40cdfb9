"""The events of a watch, as inotify_add_watch(2) has them (linux/inotify.h)."""

from __future__ import annotations

__all__ = ["ARRIVAL", "CREATION", "EVENTS", "LEAVING", "REMOVAL", "WRITING"]

LEAVING = 0x040
"""IN_MOVED_FROM"""

ARRIVAL = 0x080
"""IN_MOVED_TO"""

CREATION = 0x100
"""IN_CREATE"""

REMOVAL = 0x200
"""IN_DELETE"""

WRITING = 0x03F
"""IN_ACCESS, IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_CLOSE_NOWRITE, IN_OPEN: what there is to tell
of a new file beside its creation."""

EVENTS = 0xFFF
"""IN_ALL_EVENTS"""
