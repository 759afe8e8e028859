"""The one error that a user sees: what is wrong, where, and how to correct it."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can correct; the command line prints its text and exits with 1.

    Args:
        what: What is wrong and where: name the thing and the value.
        remedy: What to do about it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        """Join both parts into the message."""
        super().__init__(f"{what}\n  → {remedy}")
        self.what = what
        self.remedy = remedy
