"""How a column follows from the others: what other units, or values of other rows, break.

Each number is foretold by a ridge regression on the others and their squares. Everything that it
asks of rows is the sum of products of these terms, so that days are summed up once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ..core.contract import Array
from .days import runs

_MOST_COLUMNS = 60
_MOST_RUNS = 60
_RIDGE = 1e-3
_FARTHEST = 6.0  # spreads; what is farther counts as so far
_SMALLEST_SPREAD = 1e-12
_DIGITS = 10  # of a term, in base 2, behind the point: all that it needs
DIGITS = 2 * _DIGITS
"""Digits of `products`."""


@dataclass(frozen=True)
class Relation:
    """What a column is foretold by, and how well days were that came later."""

    center: float
    spread: float
    weights: Array  # of 1, of each related column and of its square; its own are 0
    seen: Array  # residuals of runs of days that were foretold from the days before


def relations(
    rows: pl.DataFrame, day: Array, names: Sequence[str], length: int
) -> dict[str, Relation]:
    """Learn how numbers follow from each other.

    Args:
        rows: The columns; nulls count as their mean.
        day: Day of each row, counted from 0, shape (rows,).
        names: Numbers; of many the first 60. One alone follows from nothing.
        length: Days of a run.
    """
    names = list(names[:_MOST_COLUMNS])
    if len(names) < 2:
        return {}
    values = _values(rows, names)
    center = np.nan_to_num(np.nanmean(values, axis=0))
    spread = np.nan_to_num(np.nanstd(values, axis=0))
    terms = _terms(values, center, spread)
    by_day = np.stack([_products(terms[day == number]) for number in range(day.max() + 1)])
    within, before = runs(by_day, length)
    some = slice(None, None, 1 + len(within) // _MOST_RUNS)
    foretold = [
        _residuals(run, _fit(earlier))
        for run, earlier in zip(within[some], before[some], strict=True)
    ]
    seen = np.array(foretold).reshape(-1, len(names))
    weights = _fit(by_day.sum(axis=0))
    return {
        name: Relation(float(center[at]), float(spread[at]), weights[at], seen[:, at])
        for at, name in enumerate(names)
    }


def products(known: Mapping[str, Relation], rows: pl.DataFrame) -> Array:
    """What `residuals` asks of rows, shape (terms, terms); of two parts of them it adds up.

    Products of terms have so few digits (`DIGITS` behind the point, in base 2) that their sums are
    exact, in whatever order rows come.

    Args:
        known: As `relations` gives them.
        rows: The same columns; a column that is gone counts as null.
    """
    center = np.array([relation.center for relation in known.values()])
    spread = np.array([relation.spread for relation in known.values()])
    return _products(_terms(_values(rows, known), center, spread))


def residuals(known: Mapping[str, Relation], summed: Array) -> dict[str, float]:
    """How far columns are from what the others foretell: root mean square, in spreads.

    Args:
        known: As `relations` gives them.
        summed: The rows' `products`.
    """
    weights = np.stack([relation.weights for relation in known.values()])
    return dict(zip(known, _residuals(summed, weights).tolist(), strict=True))


def _values(rows: pl.DataFrame, names: Sequence[str] | Mapping[str, Relation]) -> Array:
    """Numbers, shape (rows, columns); NaN where there is none."""
    nothing = pl.Series([None] * rows.height, dtype=pl.Float64)
    columns = [rows.get_column(name, default=nothing).cast(pl.Float64) for name in names]
    return np.column_stack([column.fill_null(np.nan).to_numpy() for column in columns])


def _terms(values: Array, center: Array, spread: Array) -> Array:
    """1, the columns in spreads, and their squares, shape (rows, 1 + 2 columns)."""
    scaled = (values - center) / np.maximum(spread, _SMALLEST_SPREAD)
    bounded = _rounded(np.clip(np.nan_to_num(scaled), -_FARTHEST, _FARTHEST))
    return np.column_stack([np.ones(len(values)), bounded, _rounded(bounded**2)])


def _rounded(terms: Array) -> Array:
    return np.ldexp(np.rint(np.ldexp(terms, _DIGITS)), -_DIGITS)


def _products(terms: Array) -> Array:
    return np.asarray(terms.T @ terms)


def _fit(products: Array) -> Array:
    """Weights by column, shape (columns, terms), from sums of products of the terms."""
    size = len(products)
    columns = size // 2
    penalty = _RIDGE * products[0, 0] * np.eye(size)
    weights = np.zeros((columns, size))
    for column in range(columns):
        own = [1 + column, 1 + columns + column]
        others = np.setdiff1d(np.arange(size), own)
        among = np.ix_(others, others)
        wanted = products[others, 1 + column]
        weights[column, others] = np.linalg.solve((products + penalty)[among], wanted)
    return weights


def _residuals(products: Array, weights: Array) -> Array:
    """Root mean square of what is left of each column, shape (columns,)."""
    left = -weights
    columns = np.arange(len(weights))
    left[columns, 1 + columns] += 1
    squares = np.einsum("ct,ts,cs->c", left, products, left)
    rows = max(products[0, 0], 1)
    return np.asarray(np.sqrt(np.maximum(squares, 0) / rows))
