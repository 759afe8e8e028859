"""A function of lazy frames, planned once and computed for a few rows at a time.

For a handful of rows, planning costs ten times what computing does, and polars' streaming engine,
its default, three times what its in-memory engine does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import narwhals as nw
import polars as pl
from polars.io.plugins import register_io_source

from ...core.contract import Frame
from ...core.errors import UserError


class Planned:
    """Apply a function to frames of one schema; one thread at a time."""

    def __init__(self, what: str, function: Callable[[Frame], Frame], schema: pl.Schema) -> None:
        """Plan it.

        Args:
            what: Names the function in messages.
            function: Pure, and lazy: it must not look at rows while it is planned.
            schema: Of its frames.

        Raises:
            UserError: The function fails, or looks at rows.
        """
        self._rows: pl.DataFrame | None = None
        source = register_io_source(self._source, schema=schema)
        try:
            plan: pl.LazyFrame = function(nw.from_native(source)).to_native()
            self.schema = plan.collect_schema()
        except Exception as error:  # noqa: BLE001 what a user's function raises
            reason = str(error).strip().partition("\n")[0]
            remedy = "Let it be a pure function of a lazy frame, which has the columns it takes."
            raise UserError(f"{what} cannot be planned: {reason}", remedy) from None
        self._plan = plan

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        """What the function gives of rows."""
        self._rows = rows
        return self._plan.collect(engine="in-memory", optimizations=pl.QueryOptFlags.none())

    def _source(
        self,
        columns: list[str] | None,
        predicate: pl.Expr | None,
        limit: int | None,
        _batch: int | None,
    ) -> Iterator[pl.DataFrame]:
        if self._rows is None:
            message = "it looks at rows"
            raise ValueError(message)
        rows = self._rows if predicate is None else self._rows.filter(predicate)
        rows = rows if limit is None else rows.head(limit)
        yield rows if columns is None else rows[columns]
