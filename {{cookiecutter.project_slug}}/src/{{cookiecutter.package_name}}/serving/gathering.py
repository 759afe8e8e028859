"""Requests that come at the same moment, gathered to be scored together.

Scoring several costs hardly more than scoring one. Where many callers ask, those whose answers left
together ask again at almost the same moment: so each batch waits until as many as last time have
come, and none for long. A caller who is alone never waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_SECONDS = 0.002


class Gatherer(Generic[T]):
    """What waits in an event loop."""

    def __init__(self, work: Callable[[list[T]], None], seconds: float = _SECONDS) -> None:
        """Nothing waits yet.

        Args:
            work: Called with all that waits; must not raise.
            seconds: The longest that one waits for others.
        """
        self._work = work
        self._seconds = seconds
        self._waiting: list[T] = []
        self._expected = 1  # as many as came last time
        self._flush: asyncio.Handle | None = None

    def add(self, item: T) -> None:
        """Let something wait; it is worked on soon."""
        loop = asyncio.get_running_loop()
        self._waiting.append(item)
        if self._flush is None:
            self._flush = loop.call_later(self._seconds, self._work_on)
        if len(self._waiting) == self._expected:
            self._flush.cancel()
            self._flush = loop.call_soon(self._work_on)

    def _work_on(self) -> None:
        items, self._waiting = self._waiting, []
        self._expected = len(items)
        self._flush = None
        self._work(items)
