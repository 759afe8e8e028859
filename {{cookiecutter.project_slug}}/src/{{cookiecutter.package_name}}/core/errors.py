"""The one error a user sees: what is wrong, where, and how to mend it."""


class UserError(Exception):
    """Something the user can mend; the command line prints its text and exits with 1.

    Args:
        what: What is wrong and where: name the thing and the value.
        mend: What to do about it.
    """

    def __init__(self, what: str, mend: str) -> None:
        """Join both parts into the message."""
        super().__init__(f"{what}\n  → {mend}")
