"""Raw to prepared tables: one shape, UTC, and only rows that pass their checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import narwhals as nw
import pointblank as pb
import polars as pl

from ..contract import KNOWN_AT, Source
from ..errors import UserError
from ..lakehouse import Lakehouse

_REASON = "reason"


@dataclass(frozen=True)
class Prepared:
    """What preparing a source did: rows that passed, rows that went to quarantine."""

    passed: int
    quarantined: int


def prepare(
    lakehouse: Lakehouse, sources: Sequence[Source], as_of: datetime, reports: Path
) -> dict[str, Prepared]:
    """Check and shape the raw rows that became known until `as_of`.

    Args:
        lakehouse: Tables of the environment.
        sources: What to prepare.
        as_of: Rows known later are not looked at.
        reports: Folder for one HTML report of the checks per source.

    Returns:
        Counts by source, for those that had anything new to look at.

    Raises:
        UserError: More rows of a source fail than it allows; nothing of it is committed.
    """
    raw = {
        source.name: lakehouse.scan(source.raw_table).filter(nw.col(KNOWN_AT) <= as_of).to_native()
        for source in sources
    }
    done = {}
    for source in sources:
        if not lakehouse.owns(source.prepared_table.name):
            continue
        since = lakehouse.complete_until(source.prepared_table)
        if since is None or since < as_of:
            lakehouse.require(source.raw_table, as_of)
            rows = raw[source.name]
            new = rows if since is None else rows.filter(pl.col(KNOWN_AT) > since)
            done[source.name] = _prepare_source(lakehouse, source, new, raw, as_of, reports)
    return done


def _prepare_source(
    lakehouse: Lakehouse,
    source: Source,
    new: pl.LazyFrame,
    raw: Mapping[str, pl.LazyFrame],
    as_of: datetime,
    reports: Path,
) -> Prepared:
    rows = source.prepare(new, raw).collect()
    reasons = failed_checks(check(source, rows))
    bad = rows.with_row_index("_row").join(reasons, on="_row", how="inner").drop("_row")
    good = rows.with_row_index("_row").join(reasons, on="_row", how="anti").drop("_row")
    if bad.height:
        report = _write_report(source, rows, reports)
        if bad.height > source.max_rejected * rows.height:
            worst = bad[_REASON].str.split("; ").explode().value_counts(sort=True).row(0)
            raise UserError(
                f"{bad.height:,} of {rows.height:,} rows of {source.name} fail their checks, more "
                f"than {source.max_rejected:.1%}; most often: {worst[0]} ({worst[1]:,}).",
                f"See {report}; mend the source, or its checks in problem/sources.py.",
            )
    lakehouse.append(source.quarantine_table, nw.from_native(bad.lazy()), as_of)
    lakehouse.merge(source.prepared_table, nw.from_native(good.lazy()), as_of)
    return Prepared(good.height, bad.height)


def check(source: Source, rows: pl.DataFrame, extracts: int | None = None) -> pb.Validate:
    """Run the source's checks, and those that hold for every table: keys present and unique."""
    keys = list(source.keys)
    validation = pb.Validate(rows, tbl_name=source.prepared_table.name)
    validation = validation.col_vals_not_null([*keys, KNOWN_AT]).rows_distinct(keys)
    return source.checks(validation).interrogate(extract_limit=extracts or max(rows.height, 1))


def failed_checks(checked: pb.Validate) -> pl.DataFrame:
    """Rows that failed: `_row` (position) and `reason` (the checks it failed, in order)."""
    failures = [pl.DataFrame(schema={"_row": pl.UInt32, _REASON: pl.String})]
    for step in checked.validation_info:
        if step.eval_error and step.n:
            raise UserError(
                f"The check '{step.brief or step.autobrief}' cannot be evaluated.",
                "Mend it in problem/sources.py.",
            )
        if step.n_failed:
            reason = pl.lit(step.brief or f"{step.assertion_type}({_columns(step.column)})")
            rows = checked.get_data_extracts(step.i, frame=True)
            failures.append(rows.select((pl.col("_row_num_") - 1).alias("_row"), reason.alias(_REASON)))
    together = pl.concat(failures).group_by("_row", maintain_order=True)
    return together.agg(pl.col(_REASON).str.join("; "))


def _columns(column: object) -> str:
    return ", ".join(column) if isinstance(column, list) else str(column)


def _write_report(source: Source, rows: pl.DataFrame, reports: Path) -> Path:
    reports.mkdir(parents=True, exist_ok=True)
    path = reports / f"checks_{source.name}.html"
    page = check(source, rows, extracts=100).get_tabular_report().as_raw_html()
    path.write_text(page, encoding="utf-8")
    return path
