"""Requests that come together are scored together, and none waits for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from unittest.mock import Mock

import pytest

from {{cookiecutter.package_name}}.serving.gathering import Gatherer


class Loop:
    """An event loop that is stepped through by hand."""

    def __init__(self) -> None:
        self._soon: list[tuple[Mock, Callable[[], None]]] = []
        self._later: list[tuple[Mock, Callable[[], None]]] = []

    def call_soon(self, work: Callable[[], None]) -> Mock:
        self._soon.append((Mock(), work))
        return self._soon[-1][0]

    def call_later(self, _: float, work: Callable[[], None]) -> Mock:
        self._later.append((Mock(), work))
        return self._later[-1][0]

    def turn(self) -> None:
        """Do what was to be done soon."""
        due, self._soon = self._soon, []
        _do(due)

    def wait(self) -> None:
        """Let time pass: what was to be done later is done."""
        self.turn()
        due, self._later = self._later, []
        _do(due)


def _do(due: Sequence[tuple[Mock, Callable[[], None]]]) -> None:
    for handle, work in due:
        if not handle.cancel.called:
            work()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
    return made


@pytest.fixture
def batches() -> list[list[int]]:
    return []


@pytest.fixture
def gatherer(loop: Loop, batches: list[list[int]]) -> Gatherer[int]:
    """Three items came in one turn of the loop."""
    made = Gatherer(batches.append)
    for item in (1, 2, 3):
        made.add(item)
    loop.turn()
    return made


@pytest.mark.usefixtures("gatherer")
def test_those_that_come_in_one_turn_are_worked_on_together(batches: list[list[int]]) -> None:
    assert batches == [[1, 2, 3]]


def test_those_that_come_one_by_one_wait_for_as_many_as_last_time(
    loop: Loop, gatherer: Gatherer[int], batches: list[list[int]]
) -> None:
    for item in (4, 5, 6):
        assert len(batches) == 1
        gatherer.add(item)
        loop.turn()
    loop.wait()
    assert batches == [[1, 2, 3], [4, 5, 6]]


def test_fewer_than_last_time_are_worked_on_when_their_time_is_over(
    loop: Loop, gatherer: Gatherer[int], batches: list[list[int]]
) -> None:
    gatherer.add(4)
    loop.turn()
    assert len(batches) == 1
    loop.wait()
    assert batches == [[1, 2, 3], [4]]


def test_one_who_is_alone_never_waits(
    loop: Loop, gatherer: Gatherer[int], batches: list[list[int]]
) -> None:
    gatherer.add(4)
    loop.wait()
    for item in (5, 6):
        gatherer.add(item)
        loop.turn()
    assert batches == [[1, 2, 3], [4], [5], [6]]
