"""Checks of rows: which fail, and why. pointblank does them, one batch of rows at a time."""

from __future__ import annotations

import pointblank as pb
import polars as pl

from ..core.contract import KNOWN_AT, Source
from ..core.errors import UserError

REASON = "reason"
SEPARATOR = "; "
_ROW = "_row"


def with_reasons(source: Source, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with the checks that each fails in `reason`; empty where it passes all.

    Raises:
        UserError: A check that cannot run on these rows.
    """
    failures = [pl.DataFrame(schema={_ROW: pl.UInt32, REASON: pl.String})]
    for step in _checked(source, rows).validation_info:
        described = step.brief or f"{step.assertion_type}({_columns(step.column)})"
        if step.eval_error and step.n:
            message = f"The check '{described}' of {source.name} cannot run."
            raise UserError(message, "Correct it in problem/sources.py.")
        if step.n_failed:
            positions = step.extract["_row_num_"] - 1
            failed = pl.DataFrame({_ROW: positions.cast(pl.UInt32)})
            failures.append(failed.with_columns(pl.lit(described).alias(REASON)))
    by_row = pl.concat(failures).group_by(_ROW, maintain_order=True)
    reasons = by_row.agg(pl.col(REASON).str.join(SEPARATOR))
    numbered = rows.with_row_index(_ROW)
    joined = numbered.join(reasons, on=_ROW, how="left", maintain_order="left")
    return joined.drop(_ROW).with_columns(pl.col(REASON).fill_null(""))


def _checked(source: Source, rows: pl.DataFrame) -> pb.Validate:
    """The source's checks, and those that hold for every table: keys and times are there."""
    validation = pb.Validate(rows, tbl_name=source.name)
    validation = validation.col_vals_not_null([*source.keys, KNOWN_AT])
    return source.checks(validation).interrogate(extract_limit=max(rows.height, 1))


def _columns(given: str | list[str] | None) -> str:
    return ", ".join(given) if isinstance(given, list) else str(given or "")
