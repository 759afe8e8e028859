"""Where rows that ask for a prediction come from: a file or a database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from ..context import Context
from ..core.contract import KNOWN_AT, ROW, UTC_TIME, Form, Schema, Source, polars_schema
from ..core.errors import UserError
from ..core.reading import TEXT_FILES, as_type, infinite, query_rows, scan_text, with_names

_PARSE: dict[pl.DataType, Callable[[Any], pl.Expr]] = {
    pl.Datetime("us", "UTC"): lambda texts: texts.to_datetime(time_unit="us", time_zone="UTC"),
    pl.Boolean(): lambda texts: texts.to_lowercase().replace_strict({"true": True, "false": False}),
}


def read(context: Context, source: str, query: str) -> Iterator[pl.DataFrame]:
    """Rows of a file or of a database query, in chunks, with the types of the prepared table.

    Args:
        context: Says which table rows are shaped like, and the size of chunks.
        source: Path of a .parquet or .csv file, or URI of a database (sqlite:///, postgresql://).
        query: SQL, for a database.

    Raises:
        UserError: An unknown kind of source, not readable, or without the declared columns.
    """
    return _read(context, source, query, context.problem.scored)


def read_events(context: Context, source: str, query: str, name: str) -> Iterator[pl.DataFrame]:
    """Rows of a file or of a database query as those of a raw table; `known_at` may be absent.

    Args:
        context: As of `read`, like the next two.
        source: Path or URI.
        query: SQL.
        name: Of the source whose raw table it is.

    Raises:
        UserError: As `read`; also a source that there is not.
    """
    declared = context.problem.source(name)
    shape = {**declared.raw, KNOWN_AT: UTC_TIME}
    return _read(context, source, query, replace(declared, prepared=shape))


def _read(context: Context, source: str, query: str, asked: Source) -> Iterator[pl.DataFrame]:
    rows = context.settings.inference.chunk_rows
    database = "://" in source
    chunks = query_rows(source, query, rows) if database else _scan(Path(source), rows, asked.form)
    try:
        for chunk in chunks:
            given = _formed(chunk, asked)
            conformed = conform(given, asked.prepared, "The query" if database else source)
            if not conformed.is_empty():
                yield conformed
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"Cannot read the rows to score: {reason}", "Correct the source or the query."
        ) from None


def conform(rows: pl.DataFrame, schema: Schema, where: str) -> pl.DataFrame:
    """Give rows the declared types, where nothing is lost by it.

    `row` and `known_at` may be absent.

    Raises:
        UserError: A column is missing, or holds what its declared type cannot.
    """
    wanted = polars_schema(schema)
    for name in (ROW, KNOWN_AT):
        if name not in rows.columns:
            wanted.pop(name, None)
    if missing := [name for name in wanted if name not in rows.columns]:
        raise UserError(
            f"{where} has no column {', '.join(missing)}.",
            "It needs the columns of the table that it goes to.",
        )
    columns = []
    faults = []
    for name, kind in wanted.items():
        values = rows[name]
        try:
            columns.append(_typed(values, kind))
        except _UnfitError:
            faults.append(f"{name} is {values.dtype}, declared {kind}")
        except pl.exceptions.PolarsError as error:
            reason = str(error).partition("\n")[0]
            faults.append(f"{name} does not hold the declared types: it is to be {kind}: {reason}")
    if faults:
        raise UserError(f"{where}: {'; '.join(faults)}.", "Restore the types of these columns.")
    return pl.DataFrame(columns)


class _UnfitError(Exception):
    """A column of another type than declared, in which something would be lost."""


def _typed(values: pl.Series, kind: pl.DataType) -> pl.Series:
    """Values of the declared type."""
    given = values.dtype
    if values.null_count() == len(values):  # such a column may have lost its type
        return pl.Series(values.name, [None] * len(values), dtype=kind)
    if given == pl.String and kind in _PARSE:
        parsed = values.to_frame().select(_PARSE[kind](pl.col(values.name).str))
        return parsed.to_series().cast(kind)
    if given != pl.String and (_family(given) != _family(kind) or _loses(values, kind)):
        raise _UnfitError
    if isinstance(given, pl.Datetime) and given.time_zone is None:
        return values.dt.replace_time_zone("UTC").cast(kind)
    return values.cast(kind)


def _family(kind: pl.DataType) -> str:
    return (
        "time"
        if kind.is_temporal()
        else "number"
        if kind.is_numeric() or kind == pl.Boolean
        else str(kind)
    )


def _loses(values: pl.Series, kind: pl.DataType) -> bool:
    back = (
        values.cast(kind, strict=False).cast(values.dtype, strict=False)
        if values.dtype.is_numeric()
        else values
    )
    return not back.equals(values)


def _formed(rows: pl.DataFrame, source: Source) -> pl.DataFrame:
    """Rows that are written as those of the source with our names, and texts as their types.

    A column of texts that are not all of its type stays as it is.
    """
    named = with_names(rows, source.form)
    typed = []
    for name, kind in polars_schema(source.prepared).items():
        if name in named.columns and named.schema[name] == pl.String and kind != pl.String:
            values = as_type(named[name], kind, source.form)
            unreadable = values.is_null() & ~infinite(named[name])
            if unreadable.sum() == named[name].null_count():
                typed.append(values)
    return named.with_columns(typed)


def _scan(path: Path, rows: int, form: Form) -> Iterator[pl.DataFrame]:
    if path.suffix == ".parquet":
        scan = pl.scan_parquet(path)
    elif path.suffix in TEXT_FILES:
        scan = scan_text(path, form)
    else:
        raise UserError(f"{path} is neither .parquet nor .csv.", "Convert it to one of these.")
    yield from chain(
        [scan.head(0).collect()], scan.collect_batches(chunk_size=rows, maintain_order=True)
    )
