"""Bounds that hold however often one looks; simulated, since they are asymptotic."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np
import pytest

from {{cookiecutter.package_name}}.core.contract import Array
from {{cookiecutter.package_name}}.modeling.sequential import FEWEST_CLUSTERS, bounds

RUNS, DAYS, ROWS_A_DAY = 200, 30, 20
Draw = Callable[[np.random.Generator, int], Array]


def normal(generator: np.random.Generator, size: int) -> Array:
    return generator.standard_normal(size)


def heavy(generator: np.random.Generator, size: int) -> Array:
    return generator.standard_t(3, size)


def days_until(
    generator: np.random.Generator, draw: Draw, gain: float, shared: float, planned: int
) -> int | None:
    """Days until the lower bound is above 0, looked at every day; None: not within all days."""
    day = np.repeat(np.arange(DAYS), ROWS_A_DAY)
    gains = gain + draw(generator, len(day)) + shared * draw(generator, DAYS)[day]
    for days in range(1, DAYS + 1):
        seen = day < days
        if bounds(gains[seen], day[seen], planned).lower > 0:
            return days
    return None


@pytest.mark.parametrize("planned", [100, 800])
@pytest.mark.parametrize("shared", [0, 0.5])
@pytest.mark.parametrize("draw", [normal, heavy])
def test_who_looks_every_day_is_misled_in_less_than_5_percent(
    draw: Draw, shared: float, planned: int
) -> None:
    generator = np.random.default_rng(0)
    misled = [days_until(generator, draw, 0, shared, planned) is not None for _ in range(RUNS)]
    assert np.mean(misled) <= 0.05


def test_an_interval_for_one_look_would_mislead() -> None:
    """What the test above would find of it: the reason for all this."""
    generator = np.random.default_rng(0)
    misled = 0
    for _ in range(RUNS):
        sums = generator.standard_normal(DAYS)
        means = [
            sums[:days].mean() - 1.7 * sums[:days].std(ddof=1) / np.sqrt(days)
            for days in range(FEWEST_CLUSTERS, DAYS + 1)
        ]
        misled += max(means) > 0
    assert misled / RUNS > 0.15


def test_a_gain_is_seen() -> None:
    generator = np.random.default_rng(0)
    found = [days_until(generator, normal, 0.3, 0.1, 200) for _ in range(50)]
    assert all(found)


def test_few_days_tell_nothing() -> None:
    day = np.repeat(np.arange(FEWEST_CLUSTERS - 1), 1_000)
    found = bounds(np.ones(len(day)), day, 100)
    assert (found.value, found.lower, found.upper) == (1, -inf, inf)


def test_nothing_tells_nothing() -> None:
    found = bounds(np.zeros(0), np.zeros(0, int), 100)
    assert (found.lower, found.upper) == (-inf, inf)


def test_both_bounds_are_as_far_away() -> None:
    generator = np.random.default_rng(0)
    day = np.repeat(np.arange(10), 20)
    gains = generator.standard_normal(len(day))
    found, turned = bounds(gains, day, 200), bounds(-gains, day, 200)
    assert (found.lower, found.upper) == pytest.approx((-turned.upper, -turned.lower))
