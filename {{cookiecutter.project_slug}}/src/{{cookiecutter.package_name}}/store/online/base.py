"""What holds the online store: keys and values, read at one moment, written all at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from ...core.errors import UserError


class OnlineError(UserError):
    """The online store cannot be read or written, or does not hold what is asked for."""


class TooLongAgoError(OnlineError):
    """Moments before what the store goes back to; `places` says which of those asked for."""

    def __init__(self, what: str, remedy: str, places: Sequence[int]) -> None:
        """Keep which they are."""
        super().__init__(what, remedy)
        self.places = places


class OvertakenError(OnlineError):
    """Somebody else's update came in between: nothing of this one was written."""


class Writing(Protocol):
    """An update under way: it reads what was there before it, and is seen when it is whole."""

    def get(self, key: bytes) -> bytes | None:
        """What a key held when the update began, or what this update put there."""

    def put(self, key: bytes, value: bytes) -> None:
        """Give a key a value."""

    def clear(self, prefix: bytes) -> None:
        """Take away all keys that begin so."""


class Backend(Protocol):
    """Keys and values. What fails raises `OnlineError`."""

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of some keys, all as they were at one moment."""

    def writing(self) -> AbstractContextManager[Writing]:
        """An update: all of it is seen at once, or, where it raises, nothing."""
