"""How alike rows are that follow each other in time: what values of other rows break.

Whatever changes slowly, as weather or prices do, differs less from one row to the next than from
any row to any other. The ratio of the two (von Neumann 1941) is near 0 where a column follows time,
and 1 where its values were dealt out to the rows by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ..core.contract import PREDICTION_TIME, Array
from .days import runs

_MOST_COLUMNS = 60
_MOST_GROUPINGS = 4
_MOST_GROUPS = 200
_SMALLEST = 1e-12  # of a variance, as a share of the mean square
_LARGEST = 1e140  # of a number that is squared and summed up


@dataclass(frozen=True)
class Neighbours:
    """Among which rows a column follows time, and how closely in the training."""

    within: str | None  # rows with the same value of this column; None: among all rows
    farthest: float  # the largest scatter of a run of days


@dataclass(frozen=True)
class _Order:
    """Rows as they follow each other in time, one group after the other."""

    rows: Array  # positions, shape (rows,)
    groups: Array  # of each, shape (rows,)


def neighbours(
    rows: pl.DataFrame, day: Array, names: Sequence[str], length: int
) -> dict[str, Neighbours]:
    """Find among which rows each number follows time most closely.

    Args:
        rows: Prediction time, the numbers, and texts to group by: the first four that have few
            values.
        day: Day of each row, counted from 0, shape (rows,).
        names: Numbers; of many the first 60.
        length: Days of a run.
    """
    orders = {within: _order(rows, within) for within in (None, *_groupings(rows))}
    found: dict[str, Neighbours] = {}
    for name in names[:_MOST_COLUMNS]:
        values = _values(rows, name)
        for within, order in orders.items():
            farthest = _farthest(values, day, order, length)
            if name not in found or farthest < found[name].farthest:
                found[name] = Neighbours(within, farthest)
    return found


def steps(values: Array, before: Array, center: float) -> Array:
    """What `scatter` asks of rows, to be summed up, shape (5, rows).

    Args:
        values: Of a column, shape (rows,); NaN where there is none. What is too large for its
            square counts as none.
        before: The newest value before each row's, among the same rows; NaN where there is none.
        center: Any value near theirs.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        ordered = values - center
        differences = values - before
    known = np.abs(ordered) < _LARGEST
    follows = known & (np.abs(differences) < _LARGEST)
    level = np.where(known, ordered, 0.0)
    step = np.where(follows, differences, 0.0)
    return np.array([known, level, level**2, follows, step**2], dtype=np.float64)


def scatter(summed: Array) -> float:
    """Differences between successive rows against those between any two: 1 where by chance.

    Args:
        summed: Sums of the rows' `steps`, shape (5,).

    Returns:
        Ratio of mean squares; NaN where nothing follows or nothing varies.
    """
    return float(_ratio(summed))


def _groupings(rows: pl.DataFrame) -> Iterator[str]:
    texts = [name for name, dtype in rows.schema.items() if dtype == pl.String]
    few = [name for name in texts if rows[name].n_unique() <= _MOST_GROUPS]
    yield from few[:_MOST_GROUPINGS]


def _order(rows: pl.DataFrame, within: str | None) -> _Order:
    """Rows of one moment follow each other by chance: files have orders of their own."""
    dealt = np.random.default_rng(0).permutation(rows.height)
    groups = rows[within].rank("dense").fill_null(0).to_numpy() if within else np.zeros(rows.height)
    moments = rows[PREDICTION_TIME].dt.epoch("us").to_numpy()
    order = np.lexsort((dealt, moments, groups))
    return _Order(order, groups[order])


def _values(rows: pl.DataFrame, name: str) -> Array:
    return rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy()


def _farthest(values: Array, day: Array, order: _Order, length: int) -> float:
    """The largest scatter of a run of days; infinite where no run has one."""
    within_runs, _ = runs(_sums(values, day, order), length)
    ratios = _ratio(within_runs)
    known = ratios[~np.isnan(ratios)]
    return float(np.max(known)) if known.size else np.inf


def _sums(values: Array, day: Array, order: _Order) -> Array:
    """By day: rows, their sum and squares, successive rows and squares of their differences.

    Returns:
        Shape (days, 5).
    """
    days = int(np.max(day, initial=0)) + 1
    known = ~np.isnan(values[order.rows])
    rows, groups = order.rows[known], order.groups[known]
    ordered = values[rows] - values[rows].sum() / max(len(rows), 1)
    of_day = day[rows]
    follows = np.diff(groups, prepend=np.nan) == 0
    steps = np.diff(ordered, prepend=0.0) ** 2
    summands: list[Array] = [
        np.ones(len(ordered)),
        ordered,
        ordered**2,
        follows.astype(np.float64),
        np.where(follows, steps, 0.0),
    ]
    return np.column_stack([np.bincount(of_day, weights=each, minlength=days) for each in summands])


def _ratio(sums: Array) -> Array:
    """Of sums as above, shape (..., 5); NaN where nothing follows or nothing varies."""
    rows, total, squares, successive, steps = np.moveaxis(sums, -1, 0)
    size = np.maximum(rows, 1)
    variance = squares / size - (total / size) ** 2
    varies = (successive > 0) & (variance > _SMALLEST * np.maximum(squares / size, _SMALLEST))
    ratio = steps / np.maximum(successive, 1) / np.where(varies, 2 * variance, 1)
    return np.asarray(np.where(varies, ratio, np.nan))
