"""Variables as they are typed on the command line."""

from __future__ import annotations

import click

__all__ = ["assignment"]


def assignment(text: str) -> tuple[str, str]:
    """(NAME, VALUE) of a word of --env. Raises click.UsageError."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.UsageError(f"--env takes NAME=VALUE, not {text!r}")
    return name, value
