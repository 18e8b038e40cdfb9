"""The documents of the store that say who may do what."""

from __future__ import annotations

from agentfs.rights import acl, roles

__all__ = ["DOCUMENTS"]

DOCUMENTS = {roles.FILE: roles.Roles.parse, acl.FILE: acl.Acl.parse}
"""Documents of /etc, by the key of their text."""
