"""Sums of floats that are the same in whatever order they are added up, to the last bit.

Floats add up to one sum in one order and to another in the next, and rows come in none. Whole
numbers do not: here a float is some whole numbers of powers of two, and those are added up.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ldexp
from typing import TypeAlias

import narwhals as nw
import numpy as np
import polars as pl

from ..core.contract import Array, Frame, Schema

Name: TypeAlias = tuple[str, str, str]
"""Of a sum: the column, what is summed up of it, and the item."""
Part: TypeAlias = tuple[str, str, str, int, int]
"""What adds to a sum: its name, an exponent, and how many of 2 to that power."""
PARTS: Schema = {
    "column": nw.String,
    "what": nw.String,
    "item": nw.String,
    "exponent": nw.Int64,
    "sum": nw.Int64,
}
ADDED_BY = ("column", "what", "item", "exponent")
_HALF = 26  # of the 53 digits of a float


def counted(name: Name, rows: int) -> Part:
    """A number of rows."""
    return *name, 0, rows


def listed(column: str, what: str, values: Array, exponent: int) -> Iterator[Part]:
    """An item for each of some values, which are whole numbers of 2 to the exponent."""
    whole = np.ldexp(values, -exponent)
    for item in np.flatnonzero(whole):
        yield column, what, str(item), exponent, int(whole[item])


def added_up(name: Name, summands: Array) -> Iterator[Part]:
    """The sum of any floats, shape (rows,): those of like size together, in two halves."""
    mantissas, exponents = np.frexp(summands)
    lowest = int(np.min(exponents, initial=0))
    shifted = np.ldexp(mantissas, _HALF)
    upper = np.trunc(shifted)
    lower = np.ldexp(shifted - upper, _HALF + 1)
    for digits, half in ((_HALF, upper), (2 * _HALF + 1, lower)):
        whole = np.bincount(exponents - lowest, weights=half)
        for at in np.flatnonzero(whole):
            yield *name, int(at) + lowest - digits, int(whole[at])


def totals(parts: Frame) -> Frame:
    """One part for each name and exponent."""
    return parts.group_by(*ADDED_BY).agg(nw.col("sum").sum())


def as_floats(parts: pl.DataFrame) -> dict[tuple[str, str], dict[str, float]]:
    """Sums by column and what, then by item; what is least is added first."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for column, what, item, exponent, whole in parts.sort(ADDED_BY).iter_rows():
        items = found.setdefault((column, what), {})
        items[item] = items.get(item, 0.0) + ldexp(whole, exponent)
    return found
