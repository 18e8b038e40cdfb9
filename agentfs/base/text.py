"""Names and texts of others, made fit for one line that a person reads."""

from __future__ import annotations

__all__ = ["one_line"]


def one_line(text: str) -> str:
    """`text` with everything in octal that cannot be printed, as Linux does it in /proc/mounts:
    line ends, which would begin a line of their own, and bytes that are no UTF-8 (surrogates)."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _octal(each) for each in text)


def _octal(character: str) -> str:
    kept = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", kept))
