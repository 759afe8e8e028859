"""Offsets of rows in a table that others append to: its commits are counted, and the rows of each.

An offset tells until where somebody has read. Within a commit rows have no order of their own: they
are put into one, always the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from ..core.contract import Table
from .engines import COMMIT
from .lakehouse import Lakehouse

OFFSET = "_offset"
_ROWS_OF_COMMIT = 2**32


def append_each(lakehouse: Lakehouse, table: Table, frames: Iterable[pl.DataFrame]) -> int:
    """Append frames, a commit each, to a table that is made where it is not there.

    Whoever else appends meanwhile, each frame is added once.

    Args:
        lakehouse: Where the table is.
        table: What others read by offsets.
        frames: With the table's columns.

    Returns:
        How many rows were appended.

    Raises:
        UserError: A table that cannot be written.
    """
    lakehouse.create_feed(table)
    sent = 0
    for rows in frames:
        while not lakehouse.append_if_unchanged(table, rows, lakehouse.version(table)):
            continue
        sent += rows.height
    return sent


def with_offsets(rows: pl.DataFrame, order: Sequence[str]) -> pl.DataFrame:
    """Rows in their order, with the offset of each in `OFFSET`.

    Args:
        rows: All rows of some commits, as `Lakehouse.appended` gives them.
        order: Columns by which the rows of a commit are ordered.
    """
    ordered = rows.sort(COMMIT, *order)
    number = pl.int_range(1, pl.len() + 1).over(COMMIT)
    return ordered.with_columns((pl.col(COMMIT) * _ROWS_OF_COMMIT + number).alias(OFFSET))


def commit_of(offset: int) -> int:
    """The commit that the row at an offset came with."""
    return offset // _ROWS_OF_COMMIT
