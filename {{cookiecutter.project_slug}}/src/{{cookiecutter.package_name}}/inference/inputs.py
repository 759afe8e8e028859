"""Where rows that ask for a prediction come from: a file or a database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl
from adbc_driver_manager import Error
from arro3.core import RecordBatchReader

from ..context import Context
from ..core.contract import Schema, polars_schema
from ..core.errors import UserError

_PARSE: dict[pl.DataType, Callable[[Any], pl.Expr]] = {
    pl.Datetime("us", "UTC"): lambda texts: texts.to_datetime(time_unit="us", time_zone="UTC"),
    pl.Boolean(): lambda texts: texts.to_lowercase().replace_strict({"true": True, "false": False}),
}
_DRIVERS = {"postgresql": "adbc_driver_postgresql", "sqlite": "adbc_driver_sqlite"}
_SCANS = {".parquet": pl.scan_parquet, ".csv": lambda path: pl.scan_csv(path, infer_schema=False)}
# The driver quotes parts of an address that it cannot read, and its password may be among them.
_PART, _VALUE = r"([^:/?@%\s]|%[0-9A-Fa-f]{2})*", r"([^&=@%\s]|%[0-9A-Fa-f]{2})*"
_ADDRESS = re.compile(rf"\w+://({_PART}(:{_PART})?@)?[^@?%\s]*(\?\w+={_VALUE}(&\w+={_VALUE})*)?")


def read(context: Context, source: str, query: str) -> Iterator[pl.DataFrame]:
    """Rows of a file or of a database query, in chunks, with the types of the prepared table.

    Args:
        context: Says which table rows are shaped like, and the size of chunks.
        source: Path of a .parquet or .csv file, or URI of a database (sqlite:///, postgresql://).
        query: SQL, for a database.

    Raises:
        UserError: An unknown kind of source, not readable, or without the declared columns.
    """
    schema, rows = context.problem.scored.prepared, context.settings.inference.chunk_rows
    database = "://" in source
    chunks = _query(source, query, rows) if database else _scan(Path(source), rows)
    try:
        for chunk in chunks:
            conformed = conform(chunk, schema, "The query" if database else source)
            if not conformed.is_empty():
                yield conformed
    except (OSError, pl.exceptions.PolarsError, Error) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"Cannot read the rows to score: {reason}", "Mend the source or the query."
        ) from None


def conform(rows: pl.DataFrame, schema: Schema, where: str) -> pl.DataFrame:
    """Give rows the declared types, where nothing is lost by it.

    Raises:
        UserError: A column is missing, or holds what its declared type cannot.
    """
    wanted = polars_schema(schema)
    if missing := [name for name in wanted if name not in rows.columns]:
        raise UserError(
            f"{where} has no column {', '.join(missing)}.",
            "It needs the columns of the prepared table.",
        )
    for name, kind in wanted.items():
        column, given, values = pl.col(name), rows.schema[name], rows[name]
        if values.null_count() == rows.height:  # such a column may have lost its type
            column = pl.lit(None).alias(name)
        elif given == pl.String and kind in _PARSE:
            column = _PARSE[kind](column.str)
        elif given != pl.String and (_family(given) != _family(kind) or _loses(values, kind)):
            raise UserError(
                f"{where}: {name} is {given}, declared {kind}.", "Restore the column's type."
            )
        elif isinstance(given, pl.Datetime) and given.time_zone is None:
            column = column.dt.replace_time_zone("UTC")
        try:
            rows = rows.with_columns(column.cast(kind))
        except pl.exceptions.PolarsError as error:
            reason = str(error).partition("\n")[0]
            message = f"{where} does not hold the declared types: {name} is to be {kind}: {reason}"
            raise UserError(message, "Restore the column's type.") from None
    return rows.select(*wanted)


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


def _scan(path: Path, rows: int) -> Iterator[pl.DataFrame]:
    if path.suffix not in _SCANS:
        raise UserError(f"{path} is neither .parquet nor .csv.", "Convert it to one of these.")
    scan = _SCANS[path.suffix](path)
    yield from chain(
        [scan.head(0).collect()], scan.collect_batches(chunk_size=rows, maintain_order=True)
    )


def _query(uri: str, query: str, rows: int) -> Iterator[pl.DataFrame]:
    scheme = uri.partition(":")[0]
    if scheme not in _DRIVERS:
        raise UserError(
            f"No driver for {scheme}:// addresses.", f"Use one of: {', '.join(_DRIVERS)}."
        )
    address, options = uri, {}
    if scheme == "sqlite":
        address = uri.removeprefix("sqlite:///")
        Path(address).stat()  # SQLite would make it
        options = {"adbc.sqlite.query.batch_rows": rows}  # rows that show the types of columns
    elif not _ADDRESS.fullmatch(uri):
        message = "The address of the database is not written as a URI."
        raise UserError(
            message, "Percent-encode what is special in its user and password: %40 for @."
        )
    dbapi = import_module(f"{_DRIVERS[scheme]}.dbapi")
    with dbapi.connect(address) as connection, connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**options)
        cursor.execute(query)
        batches = RecordBatchReader.from_stream(cursor.fetch_arrow())
        yield pl.DataFrame(batches.schema.empty_table())
        yield from map(pl.DataFrame, batches)
