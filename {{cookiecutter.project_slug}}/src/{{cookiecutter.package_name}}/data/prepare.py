"""Raw to prepared tables: one shape, UTC, and only rows that pass their checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import narwhals as nw
import polars as pl
from polars import selectors

from ..context import Context
from ..core.contract import KNOWN_AT, UTC_TIME, Frame, Schema, Source, polars_schema, returned
from ..core.errors import UserError
from ..core.words import counted
from ..reporting import pages
from ..store import tables
from ..store.lakehouse import Lakehouse
from .checks import REASON, SEPARATOR, with_reasons

CONFLICT = "Another row has the same key, became known at the same time, and differs"
_SHOWN_ROWS = 200
_JUDGED_ROWS = 1_000  # of a round's rows a source may have rejected its share of so many
_ROWS = "rows"


def prepare(
    context: Context, as_of: datetime, *, is_round: bool = False
) -> dict[str, tuple[int, int]]:
    """Check and shape the raw rows that became known until `as_of`.

    Rows pass through in batches: a source need not fit into memory. Identical rows count once. Of
    rows that share a key the one that became known last holds; where two became known at the same
    time and differ, neither can be believed, and both go to quarantine.

    Args:
        context: Tables and sources; a page on the checks that failed goes to its state.
        as_of: Rows known later are not looked at.
        is_round: One of many rounds a day. The share of rows that fail is taken of 1,000 at least:
            of a handful, one tells nothing of the source. A day has one page, on the newest round
            in which rows failed.

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
        if not lakehouse.owns(table.name) or (since is not None and since >= as_of):
            continue
        lakehouse.require(tables.raw(source), as_of)
        new = _known_rows(lakehouse, source, since, as_of)
        if since is not None and lakehouse.rows(new) == 0:
            for empty in (tables.quarantine(source), table):
                lakehouse.append_known(empty, empty.empty(), as_of)
            done[source.name] = (0, 0)
            continue
        with lakehouse.staged(_shaped(context, source, new, as_of)) as shaped:
            done[source.name] = _commit(context, source, shaped, since, as_of, is_round=is_round)
    return done


def _commit(
    context: Context,
    source: Source,
    shaped: Frame,
    since: datetime | None,
    as_of: datetime,
    *,
    is_round: bool,
) -> tuple[int, int]:
    """Write the rows that passed and those that failed; returns how many."""
    lakehouse = context.lakehouse
    good, bad = _split(shaped, source)
    with lakehouse.staged(bad) as failed:
        total = lakehouse.rows(shaped)
        rejected = lakehouse.rows(failed)
        if rejected:
            when = f"{as_of:%Y%m%d}" if is_round else pages.stamp(as_of)
            page = context.settings.reports / f"checks_{source.name}_{when}.html"
            _report(lakehouse, source, failed, total, page, since, as_of)
            judged = max(total, _JUDGED_ROWS) if is_round else total
            _refuse_too_many(lakehouse, source, failed, judged, page)
        # A killed process may have written these, and another one both tables meanwhile.
        lakehouse.append_known(tables.quarantine(source), failed, as_of)
        lakehouse.merge_known(tables.prepared(source), good.drop(REASON), as_of)
    return total - rejected, rejected


def _known_rows(
    lakehouse: Lakehouse, source: Source, since: datetime | None, as_of: datetime
) -> Frame:
    """Raw rows of a source that became known in `(since, as_of]`."""
    rows = lakehouse.scan(tables.raw(source)).filter(nw.col(KNOWN_AT) <= as_of)
    return rows if since is None else rows.filter(nw.col(KNOWN_AT) > since)


def _shaped(context: Context, source: Source, new: Frame, as_of: datetime) -> Frame:
    """Rows in the shape of the prepared table, each with the checks that it fails in `reason`."""
    lakehouse = context.lakehouse
    lookups = {}
    for name in source.lookups:
        known = _known_rows(lakehouse, context.problem.source(name), None, as_of)
        lookups[name] = lakehouse.collect(known)
    schema: Schema = {**source.prepared, KNOWN_AT: UTC_TIME, REASON: nw.String}
    return lakehouse.map_batches(new, _shaping(source, lookups, context.problem.begins), schema)


def _shaping(
    source: Source, lookups: Mapping[str, pl.DataFrame], begins: datetime
) -> Callable[[pl.DataFrame], pl.DataFrame]:
    declared = polars_schema({**source.prepared, KNOWN_AT: UTC_TIME})

    def shape(batch: pl.DataFrame) -> pl.DataFrame:
        rows = returned(f"`prepare` of {source.name}", source.prepare(batch, lookups))
        _require_declared(source, rows.schema, declared)
        return with_reasons(source, rows.select(*declared), begins)

    return shape


def _require_declared(source: Source, found: pl.Schema, declared: pl.Schema) -> None:
    """Refuse prepared rows that are not as declared, such as times without their zone."""
    for name, kind in declared.items():
        if found.get(name) != kind:
            given = f"gives {found[name]} for" if name in found else "does not give"
            message = f"`prepare` of {source.name} {given} {name}, declared {kind}."
            raise UserError(message, "Correct it in problem/sources.py.")


def _split(shaped: Frame, source: Source) -> tuple[Frame, Frame]:
    """Rows that hold, and rows that failed with the reason."""
    failed = nw.col(REASON) != ""
    distinct = shaped.filter(~failed).unique(keep="any")
    versions = [*source.keys, KNOWN_AT]
    counted = distinct.group_by(*versions).agg(nw.len().alias(_ROWS))
    conflicts = counted.filter(nw.col(_ROWS) > 1).select(*versions)
    conflicting = distinct.join(conflicts, on=versions, how="semi")
    agreed = distinct.join(conflicts, on=versions, how="anti")
    newest = nw.col(KNOWN_AT) == nw.col(KNOWN_AT).max().over(*source.keys)
    refused = conflicting.with_columns(nw.lit(CONFLICT).alias(REASON))
    return agreed.filter(newest), nw.concat([shaped.filter(failed), refused], how="vertical")


def _report(
    lakehouse: Lakehouse,
    source: Source,
    bad: Frame,
    total: int,
    page: Path,
    since: datetime | None,
    as_of: datetime,
) -> None:
    """Write a page on the checks that failed, with the first of the rows, also as CSV."""
    shown = _readable(lakehouse.collect(bad.head(_SHOWN_ROWS)))
    csv = page.with_suffix(".csv")
    pages.write(csv, shown.select(~selectors.nested()).write_csv())
    content = pages.render(
        "checks.html.jinja",
        source=source.name,
        since=since,
        as_of=as_of,
        total=total,
        rejected=lakehouse.rows(bad),
        allowed=source.max_rejected,
        failures=_failures(lakehouse, bad).rows(named=True),
        columns=shown.columns,
        examples=shown.rows(),
        csv=csv.name,
        earlier=_earlier(page, source),
    )
    pages.write(page, content)


def _readable(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows whose times Python can show; of one beyond its calendar, the year."""
    shown = []
    for name in rows.select(selectors.temporal()).columns:
        year = pl.col(name).dt.year()
        is_shown = year.is_between(1, 9_999)
        time = pl.when(is_shown).then(name)
        # A fraction of a second is written only where there is one.
        is_moment = isinstance(rows.schema[name], pl.Datetime)
        text = time.dt.to_string("%Y-%m-%d %H:%M:%S%.f") if is_moment else time.cast(pl.String)
        shown.append(pl.coalesce(text, pl.format("year {}", year)).alias(name))
    return rows.with_columns(shown)


def _earlier(page: Path, source: Source) -> list[tuple[str, str]]:
    """Pages on earlier runs, newest first: name, and as-of as the name has it."""
    prefix = f"checks_{source.name}_"
    found = [path for path in page.parent.glob(f"{prefix}*.html") if path.name < page.name]
    names = sorted((path.name for path in found), reverse=True)
    return [(name, f"as of {name.removeprefix(prefix).removesuffix('.html')}") for name in names]


def _failures(lakehouse: Lakehouse, bad: Frame) -> pl.DataFrame:
    """Rows that failed each check, most first: reason, rows."""
    combined = lakehouse.collect(bad.group_by(REASON).agg(nw.len().alias(_ROWS)))
    single = combined.with_columns(pl.col(REASON).str.split(SEPARATOR)).explode(REASON)
    counted = single.group_by(REASON).agg(pl.col(_ROWS).sum())
    return counted.sort(_ROWS, REASON, descending=[True, False])


def _refuse_too_many(
    lakehouse: Lakehouse, source: Source, bad: Frame, total: int, page: Path
) -> None:
    rejected = lakehouse.rows(bad)
    if rejected <= source.max_rejected * total:
        return
    worst, count = _failures(lakehouse, bad).row(0)
    raise UserError(
        f"{rejected:,} of {counted(total, 'row')} of {source.name} fail their checks, more than "
        f"{source.max_rejected:.1%}; most often: {worst} ({count:,}).",
        f"See {page}; correct the source, or its checks in problem/sources.py.",
    )
