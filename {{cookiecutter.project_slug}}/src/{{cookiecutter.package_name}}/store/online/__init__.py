"""The online feature store: what is known of an entity now, by key, in microseconds.

Whoever only reads it imports nothing of the lakehouse; `publishing` is what fills it.
"""

from __future__ import annotations

from pathlib import Path

from ...core.failures import importing
from .base import Backend, OnlineError, TooLongAgoError
from .features import NOT_PUBLISHED, Found, OnlineFeatures, Published

__all__ = [
    "NOT_PUBLISHED",
    "Backend",
    "Found",
    "OnlineError",
    "OnlineFeatures",
    "Published",
    "TooLongAgoError",
    "open_backend",
]


def open_backend(folder: Path, variable: str | None = None, name: str = "") -> Backend:
    """The store in a folder, or on a Redis server: many read it, one at a time writes.

    Args:
        folder: Of LMDB's file.
        variable: Environment variable with the address of a Redis server that holds it instead.
        name: What tells it from other stores on that server.

    Raises:
        UserError: The client of Redis is not installed, or the variable holds no address.
    """
    if variable is None:
        from .embedded import Embedded

        return Embedded(folder)
    with importing("`online.redis`", "Install its client: requirements/redis.txt."):
        from .remote import Remote
    return Remote(variable, name)
