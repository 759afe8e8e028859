"""What is said alike in messages and on pages."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number of things, as a person says it: "1 row", "2,000 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
