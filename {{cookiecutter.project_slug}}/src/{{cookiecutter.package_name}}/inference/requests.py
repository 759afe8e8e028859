"""Where rows that ask for a prediction come from: a file or a database, in the shape of a prepared table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import narwhals as nw
import polars as pl

from ..contract import Schema
from ..errors import UserError

_DRIVERS = {"postgresql": "adbc_driver_postgresql", "sqlite": "adbc_driver_sqlite"}


def read_file(path: Path, schema: Schema, rows: int) -> Iterator[pl.DataFrame]:
    """Rows of a parquet or CSV file, so many at a time.

    Raises:
        UserError: Not readable, another kind of file, or not the declared columns.
    """
    scans = {".parquet": pl.scan_parquet, ".csv": lambda file: pl.scan_csv(file, infer_schema=False)}
    if path.suffix not in scans:
        raise UserError(f"{path} is neither .parquet nor .csv.", "Convert it to one of these.")
    try:
        for batch in scans[path.suffix](path).collect_batches(chunk_size=rows, maintain_order=True):
            yield conform(batch, schema, str(path))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"Cannot read {path}: {str(error).partition(chr(10))[0]}", "Mend the file.") from None


def read_database(uri: str, query: str, schema: Schema, rows: int) -> Iterator[pl.DataFrame]:
    """Rows of a query, streamed through ADBC, so many at a time.

    Raises:
        UserError: Not a database that is known here, the database's own complaint, or not the declared columns.
    """
    from importlib import import_module

    from adbc_driver_manager import Error

    scheme = uri.partition(":")[0]
    if scheme not in _DRIVERS:
        raise UserError(f"No driver for {scheme}: databases.", f"Use one of: {', '.join(_DRIVERS)}.")
    dbapi = import_module(f"{_DRIVERS[scheme]}.dbapi")
    try:
        with dbapi.connect(uri.removeprefix("sqlite://")) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            waiting: list[pl.DataFrame] = []
            for batch in cursor.fetch_record_batch():
                waiting.append(pl.DataFrame(batch))
                if sum(part.height for part in waiting) >= rows:
                    yield conform(pl.concat(waiting), schema, "the query")
                    waiting = []
            if waiting:
                yield conform(pl.concat(waiting), schema, "the query")
    except Error as error:
        raise UserError(f"The database refused: {str(error).partition(chr(10))[0]}", "Mend the query or URI.") from None


def conform(rows: pl.DataFrame, schema: Schema, where: str) -> pl.DataFrame:
    """Give rows the declared types where nothing is lost by it.

    Raises:
        UserError: A column is missing, or holds what its declared type cannot.
    """
    wanted = nw.Schema(dict(schema)).to_polars()
    if missing := [name for name in wanted if name not in rows.columns]:
        raise UserError(f"{where} has no column {', '.join(missing)}.", "The columns of its prepared table are needed.")
    columns = []
    for name, kind in wanted.items():
        column, given = pl.col(name), rows.schema[name]
        if isinstance(kind, pl.Datetime) and given == pl.String:
            column = column.str.to_datetime(time_unit="us", time_zone="UTC")
        elif isinstance(kind, pl.Datetime) and isinstance(given, pl.Datetime) and given.time_zone is None:
            column = column.dt.replace_time_zone("UTC")
        elif kind == pl.String and given not in (pl.String, pl.Null, pl.Categorical):
            raise UserError(f"{where}: {name} is {given}, declared {kind}.", "Restore the column's type.")
        columns.append(column.cast(kind))
    try:
        return rows.select(columns)
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{where} does not hold the declared types: {reason}", "Restore the columns' types.") from None
