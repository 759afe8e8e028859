"""The online feature store: what is known of an entity now, by key, in microseconds."""

from __future__ import annotations

from pathlib import Path

from .base import Backend, OnlineError, TooLongAgoError
from .features import NOT_PUBLISHED, Found, OnlineFeatures, Published
from .publishing import publish

__all__ = [
    "NOT_PUBLISHED",
    "Backend",
    "Found",
    "OnlineError",
    "OnlineFeatures",
    "Published",
    "TooLongAgoError",
    "open_backend",
    "publish",
]


def open_backend(folder: Path) -> Backend:
    """The store in a folder: any number of processes read it, one at a time writes."""
    from .embedded import Embedded

    return Embedded(folder)
