"""Raw to prepared tables: one shape, UTC, and only rows that pass their checks.

Rows stream: each batch is shaped and checked by itself. What takes more than one row to see, that two
rows have the same key, is found afterwards in the staged table: identical rows count as one row, and rows
that differ but have the same key go to quarantine, all of them, because none is known to be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import narwhals as nw
import pointblank as pb
import polars as pl

from ..context import Context
from ..core.contract import KNOWN_AT, Frame, Source
from ..core.errors import UserError
from ..reporting import pages
from ..store import tables
from ..store.lakehouse import Lakehouse

REASON = "reason"
EXAMPLES = 10
"""Rows that the report shows of each failed check."""

_ROW = "_row"
_ROWS = "_rows"
_SEPARATOR = "; "


@dataclass(frozen=True)
class FailedCheck:
    """A check, how many rows failed it, and some of them."""

    says: str
    rows: int
    examples: pl.DataFrame


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
    lakehouse = context.lakehouse
    done = {}
    for source in context.problem.sources:
        table = tables.prepared(source)
        since = lakehouse.complete_until(table)
        if lakehouse.owns(table.name) and (since is None or since < as_of):
            lakehouse.require(tables.raw(source), as_of)
            done[source.name] = _prepare_source(context, source, since, as_of)
    return done


def _prepare_source(
    context: Context, source: Source, since: datetime | None, as_of: datetime
) -> tuple[int, int]:
    lakehouse = context.lakehouse
    new = lakehouse.scan(tables.raw(source)).filter(nw.col(KNOWN_AT) <= as_of)
    if since is not None:
        new = new.filter(nw.col(KNOWN_AT) > since)
    lookups = _read_lookups(context, source, as_of)

    def shape_and_check(batch: pl.DataFrame) -> pl.DataFrame:
        return check(source, source.prepare(batch, lookups))

    checked = lakehouse.map_batches(new, shape_and_check, tables.quarantine(source).schema)
    with lakehouse.stage(checked) as staged, lakehouse.stage(judge_keys(source, staged)) as rows:
        failed = rows.filter(~nw.col(REASON).is_null())
        rejected = lakehouse.count(failed)
        total = lakehouse.count(rows)
        if rejected:
            report = context.settings.state / "reports" / f"checks_{source.name}.html"
            found = _failed_checks(lakehouse, failed)
            _write_report(report, source, as_of, total, rejected, found)
            if rejected > source.max_rejected * total:
                raise _too_many(source, total, rejected, found[0], report)
        passed = rows.filter(nw.col(REASON).is_null()).drop(REASON)
        lakehouse.append(tables.quarantine(source), failed, as_of)
        lakehouse.merge(tables.prepared(source), passed, as_of)
    return total - rejected, rejected


def _read_lookups(context: Context, source: Source, as_of: datetime) -> Mapping[str, pl.DataFrame]:
    """Raw rows of the sources that this one looks things up in."""
    return {
        other.name: context.lakehouse.read(tables.raw(other), nw.col(KNOWN_AT) <= as_of)
        for other in context.problem.sources
        if other.name in source.lookups
    }


# Checks of a row ------------------------------------------------------------------------------------


def check(source: Source, shaped: pl.DataFrame) -> pl.DataFrame:
    """Check each row of a batch by itself.

    Args:
        source: Its checks; that no key is null is checked, too.
        shaped: What `source.prepare` made of a batch.

    Returns:
        Columns of the prepared table and `reason`: the checks that the row failed; null where it passed.

    Raises:
        UserError: A check that cannot run.
    """
    rows = shaped.select(*tables.prepared(source).schema)
    validation = pb.Validate(rows, tbl_name=tables.prepared(source).name)
    validation = validation.col_vals_not_null([*source.keys, KNOWN_AT])
    checked = source.checks(validation).interrogate(extract_limit=max(rows.height, 1))
    reasons = _reasons(checked)
    return (
        rows.with_row_index(_ROW)
        .join(reasons, on=_ROW, how="left", maintain_order="left")
        .drop(_ROW)
    )


def _reasons(checked: pb.Validate) -> pl.DataFrame:
    """Position and reason of the rows that failed."""
    failures = [pl.DataFrame(schema={_ROW: pl.UInt32, REASON: pl.String})]
    for step in checked.validation_info:
        if step.eval_error and step.n:
            raise UserError(
                f"The check '{step.brief or step.autobrief}' cannot run.",
                "Correct it in problem/sources.py.",
            )
        if step.n_failed:
            columns = step.column if isinstance(step.column, list) else [step.column]
            says = step.brief or f"{step.assertion_type}({', '.join(map(str, columns))})"
            rows = checked.get_data_extracts(step.i, frame=True)
            position = (pl.col("_row_num_") - 1).cast(pl.UInt32).alias(_ROW)
            failures.append(rows.select(position, pl.lit(says).alias(REASON)))
    by_row = pl.concat(failures).group_by(_ROW, maintain_order=True)
    return by_row.agg(pl.col(REASON).str.join(_SEPARATOR))


# Checks of all rows ---------------------------------------------------------------------------------


def judge_keys(source: Source, checked: Frame) -> Frame:
    """Make one row of identical ones; add a reason to different rows that have the same key.

    Args:
        source: Its keys.
        checked: Rows of any number of batches, with their `reason`.
    """
    keys = list(source.keys)
    counted = checked.group_by(*keys).agg(nw.len().alias(_ROWS))
    repeated = counted.filter(nw.col(_ROWS) > 1).drop(_ROWS)
    alone = checked.join(repeated, on=keys, how="anti")

    distinct = checked.join(repeated, on=keys, how="semi").unique()
    versions = distinct.group_by(*keys).agg(nw.len().alias(_ROWS))
    conflict = nw.lit(f"Other rows have the same key ({', '.join(keys)})")
    reasons = nw.concat_str(nw.col(REASON), conflict, separator=_SEPARATOR, ignore_nulls=True)
    judged = distinct.join(versions, on=keys, how="left").with_columns(
        nw.when(nw.col(_ROWS) > 1).then(reasons).otherwise(nw.col(REASON)).alias(REASON)
    )
    return nw.concat([alone, judged.select(*alone.collect_schema().names())], how="vertical")


# The report -----------------------------------------------------------------------------------------


def _failed_checks(lakehouse: Lakehouse, failed: Frame) -> list[FailedCheck]:
    """Checks that any row failed, the one that most rows failed first."""
    counts = lakehouse.collect(failed.group_by(REASON).agg(nw.len().cast(nw.Int64).alias(_ROWS)))
    each = counts.with_columns(says=pl.col(REASON).str.split(_SEPARATOR)).explode("says")
    by_check = each.group_by("says").agg(pl.col(_ROWS).sum(), pl.col(REASON))
    found = []
    for says, rows, reasons in by_check.sort([_ROWS, "says"], descending=[True, False]).iter_rows():
        examples = failed.filter(nw.col(REASON).is_in(reasons)).drop(REASON).head(EXAMPLES)
        found.append(FailedCheck(says, rows, lakehouse.collect(examples)))
    return found


def _write_report(
    path: Path,
    source: Source,
    as_of: datetime,
    total: int,
    rejected: int,
    found: list[FailedCheck],
) -> None:
    page = pages.render(
        "checks.html.jinja",
        source=source.name,
        as_of=as_of,
        total=total,
        rejected=rejected,
        allowed=source.max_rejected,
        too_many=rejected > source.max_rejected * total,
        checks=found,
    )
    pages.write(path, page)


def _too_many(
    source: Source, total: int, rejected: int, worst: FailedCheck, report: Path
) -> UserError:
    return UserError(
        f"{rejected:,} of {total:,} rows of {source.name} fail their checks, more than "
        f"{source.max_rejected:.1%}; most often: {worst.says} ({worst.rows:,}).",
        f"See {report}; correct the source, or its checks in problem/sources.py.",
    )
