"""Where in /etc manifests are. It is apart, so that a command that only asks for this loads none of
what reads them."""

from __future__ import annotations

__all__ = ["FOLDERS"]

FOLDERS = {
    "Pipeline": "pipelines",
    "System": "systems",
    "Macro": "macros",
    "Adapter": "adapters",
    "Policy": "policies",
    "Middleware": "policies",
    "Config": "configs",
}
"""Each kind of document, and the folder of /etc that it belongs to."""
