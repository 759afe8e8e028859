"""Raw to prepared tables: one shape, UTC, and only rows that pass their checks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import narwhals as nw
import pointblank as pb
import polars as pl

from ..context import Context
from ..core.contract import KNOWN_AT, Source
from ..core.errors import UserError
from ..store import tables

_ROW, _REASON = "_row", "reason"


def prepare(context: Context, as_of: datetime) -> dict[str, tuple[int, int]]:
    """Check and shape the raw rows that became known until `as_of`.

    Args:
        context: Tables and sources; a report of the checks that failed goes to its state.
        as_of: Rows known later are not looked at.

    Returns:
        Rows passed and rows quarantined, by source that had anything new.

    Raises:
        UserError: More rows of a source fail than it allows; nothing of it is committed.
    """
    lakehouse, sources = context.lakehouse, context.problem.sources
    reports = context.settings.state / "reports"
    raw = {
        source.name: lakehouse.scan(tables.raw(source))
        .filter(nw.col(KNOWN_AT) <= as_of)
        .to_native()
        for source in sources
    }
    done = {}
    for source in sources:
        since = lakehouse.complete_until(tables.prepared(source))
        if lakehouse.owns(tables.prepared(source).name) and (since is None or since < as_of):
            lakehouse.require(tables.raw(source), as_of)
            new = (
                raw[source.name]
                if since is None
                else raw[source.name].filter(pl.col(KNOWN_AT) > since)
            )
            good, bad = _split(source, new, raw, reports)
            lakehouse.append(tables.quarantine(source), nw.from_native(bad.lazy()), as_of)
            lakehouse.merge(tables.prepared(source), nw.from_native(good.lazy()), as_of)
            done[source.name] = (good.height, bad.height)
    return done


def check(source: Source, rows: pl.DataFrame, extracts: int) -> pb.Validate:
    """Run the source's checks, and those that hold for every table: keys present and unique."""
    validation = pb.Validate(rows, tbl_name=tables.prepared(source).name)
    validation = validation.col_vals_not_null([*source.keys, KNOWN_AT]).rows_distinct(
        list(source.keys)
    )
    return source.checks(validation).interrogate(extract_limit=max(extracts, 1))


def failed_rows(checked: pb.Validate) -> pl.DataFrame:
    """Rows that failed: `_row` (position) and `reason` (the checks that it failed)."""
    failures = [pl.DataFrame(schema={_ROW: pl.UInt32, _REASON: pl.String})]
    for step in checked.validation_info:
        if step.eval_error and step.n:
            raise UserError(
                f"The check '{step.brief or step.autobrief}' cannot run.",
                "Mend problem/sources.py.",
            )
        if step.n_failed:
            column = ", ".join(step.column) if isinstance(step.column, list) else step.column
            reason = pl.lit(step.brief or f"{step.assertion_type}({column})").alias(_REASON)
            rows = checked.get_data_extracts(step.i, frame=True)
            failures.append(rows.select((pl.col("_row_num_") - 1).alias(_ROW), reason))
    return (
        pl.concat(failures).group_by(_ROW, maintain_order=True).agg(pl.col(_REASON).str.join("; "))
    )


def _split(
    source: Source, new: pl.LazyFrame, raw: Mapping[str, pl.LazyFrame], reports: Path
) -> tuple[pl.DataFrame, pl.DataFrame]:
    rows = source.prepare(new, raw).select(*tables.prepared(source).schema).collect()
    failed = failed_rows(check(source, rows, extracts=rows.height))
    numbered = rows.with_row_index(_ROW)
    good = numbered.join(failed, on=_ROW, how="anti").drop(_ROW)
    bad = numbered.join(failed, on=_ROW, how="inner").drop(_ROW)
    if bad.height:
        reports.mkdir(parents=True, exist_ok=True)
        report = reports / f"checks_{source.name}.html"
        page = check(source, rows, extracts=100).get_tabular_report().as_raw_html()
        offline = re.sub(r"@import url\([^)]*\);", "", page)  # fonts, from the network
        report.write_text(offline, encoding="utf-8")
        if bad.height > source.max_rejected * rows.height:
            worst, count = bad[_REASON].str.split("; ").explode().value_counts(sort=True).row(0)
            raise UserError(
                f"{bad.height:,} of {rows.height:,} rows of {source.name} fail their checks, more than "
                f"{source.max_rejected:.1%}; most often: {worst} ({count:,}).",
                f"See {report}; mend the source, or its checks in problem/sources.py.",
            )
    return good, bad
