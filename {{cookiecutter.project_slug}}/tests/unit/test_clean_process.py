from __future__ import annotations

from collections.abc import Iterator

from {{cookiecutter.package_name}}.deployment.clean_process import end_idle


def ended_after(used: list[float]) -> int:
    """How often it looked before it ended a process that had used so much time at each look."""
    looks: Iterator[float] = iter(used)
    waits: list[float] = []
    ended: list[bool] = []
    end_idle(lambda: ended.append(True), lambda: next(looks), waits.append)
    assert ended == [True]
    return len(waits)


def test_a_process_that_sleeps_is_ended() -> None:
    assert ended_after([1.0, 1.001]) == 1


def test_a_process_that_is_starved_is_left_alone_until_it_sleeps() -> None:
    assert ended_after([1.0, 1.1, 1.2, 5.0, 5.0]) == 4
