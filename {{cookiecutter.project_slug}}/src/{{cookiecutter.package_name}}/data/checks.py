"""Checks of rows: which fail, and why. pointblank does them, one batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import pointblank as pb
import polars as pl
import polars.selectors as cs

from ..core.contract import KNOWN_AT, Source, returned
from ..core.errors import UserError

REASON = "reason"
SEPARATOR = "; "
_ROW = "_row"


def with_reasons(source: Source, rows: pl.DataFrame, begins: datetime) -> pl.DataFrame:
    """Rows with the checks that each fails in `reason`; empty where it passes all.

    Args:
        source: Its checks come on top of those that hold for every table.
        rows: Of its prepared table.
        begins: When the data begin.

    Raises:
        UserError: A check that cannot run on these rows.
    """
    failures = [pl.DataFrame(schema={_ROW: pl.UInt32, REASON: pl.String})]
    for step in _checked(source, rows, begins).validation_info:
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


def _checked(source: Source, rows: pl.DataFrame, begins: datetime) -> pb.Validate:
    """The source's checks, and those that hold for every table.

    Keys and times are there, numbers are finite, and times are plausible. They are held against
    when the row became known, not against the as-of: so preparing day after day equals preparing at
    once.
    """
    validation = pb.Validate(rows, tbl_name=source.name)
    validation = validation.col_vals_not_null([*source.keys, KNOWN_AT])
    for name in rows.select(cs.float()).columns:
        brief = f"{name} is a finite number"
        validation = validation.col_vals_expr(_holds(pl.col(name).is_finite()), brief=brief)
    began = pl.lit(begins - source.max_past)
    validation = validation.col_vals_expr(
        _holds(pl.col(KNOWN_AT) >= began), brief="Became known when there were data"
    )
    for name in rows.select(cs.date() | cs.datetime()).columns:
        for holds, brief in _plausible(source, name):
            validation = validation.col_vals_expr(_holds(holds), brief=brief)
    checked = returned(f"`checks` of {source.name}", source.checks(validation))
    return checked.interrogate(extract_limit=max(rows.height, 1))


def _plausible(source: Source, name: str) -> Iterator[tuple[pl.Expr, str]]:
    """What must hold of a time, and what that is called."""
    time = pl.col(name).cast(pl.Datetime("us", "UTC"))
    known = pl.col(KNOWN_AT)
    yield time >= known - source.max_past, f"{name} is not long before the row became known"
    yield time <= known + source.max_ahead, f"{name} is not too long after the row became known"


def _holds(condition: pl.Expr) -> pl.Expr:
    """True where a condition holds, and where what it is about is not there."""
    return condition.fill_null(value=True)


def _columns(given: str | list[str] | None) -> str:
    return ", ".join(given) if isinstance(given, list) else str(given or "")
