"""Where rows that ask for a prediction come from: a file or a database, in the shape of their prepared table."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import polars as pl
import pyarrow as pa
from adbc_driver_manager import Error

from ..contract import Schema, polars_schema
from ..errors import UserError
from ..workspace import Workspace

_DRIVERS = {"postgresql": "adbc_driver_postgresql", "sqlite": "adbc_driver_sqlite"}
_SCANS = {".parquet": pl.scan_parquet, ".csv": lambda path: pl.scan_csv(path, infer_schema=False)}


def read(workspace: Workspace, source: str, query: str) -> Iterator[pl.DataFrame]:
    """Rows of a file or of a database query, in chunks, with the types of the prepared table.

    Args:
        workspace: Says which table rows are shaped like, and the size of chunks.
        source: Path of a .parquet or .csv file, or URI of a database (sqlite:///, postgresql://).
        query: SQL, for a database.

    Raises:
        UserError: A kind of source that is not known, not readable, or without the declared columns.
    """
    schema, rows = workspace.problem.requests.prepared, workspace.settings.inference.chunk_rows
    chunks = _query(source, query, rows) if "://" in source else _scan(Path(source), rows)
    try:
        for chunk in chunks:
            yield conform(chunk, schema, source.partition("?")[0].rpartition("@")[2])
    except (OSError, pl.exceptions.PolarsError, Error) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"Cannot read the rows to score: {reason}", "Mend the source or the query.") from None


def conform(rows: pl.DataFrame, schema: Schema, where: str) -> pl.DataFrame:
    """Give rows the declared types, where nothing is lost by it.

    Raises:
        UserError: A column is missing, or holds what its declared type cannot.
    """
    wanted, columns = polars_schema(schema), []
    if missing := [name for name in wanted if name not in rows.columns]:
        raise UserError(f"{where} has no column {', '.join(missing)}.", "It needs the columns of the prepared table.")
    for name, kind in wanted.items():
        column, given = pl.col(name), rows.schema[name]
        if isinstance(kind, pl.Datetime) and given == pl.String:
            column = column.str.to_datetime(time_unit="us", time_zone="UTC")
        elif isinstance(kind, pl.Datetime) and isinstance(given, pl.Datetime) and given.time_zone is None:
            column = column.dt.replace_time_zone("UTC")
        elif kind == pl.String and given not in (pl.String, pl.Null):
            raise UserError(f"{where}: {name} is {given}, declared {kind}.", "Restore the column's type.")
        columns.append(column.cast(kind))
    try:
        return rows.select(columns)
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{where} does not hold the declared types: {reason}", "Restore the columns' types.") from None


def _scan(path: Path, rows: int) -> Iterator[pl.DataFrame]:
    if path.suffix not in _SCANS:
        raise UserError(f"{path} is neither .parquet nor .csv.", "Convert it to one of these.")
    yield from _SCANS[path.suffix](path).collect_batches(chunk_size=rows, maintain_order=True)


def _query(uri: str, query: str, rows: int) -> Iterator[pl.DataFrame]:
    scheme = uri.partition(":")[0]
    if scheme not in _DRIVERS:
        raise UserError(f"No driver for {scheme}:// addresses.", f"Use one of: {', '.join(_DRIVERS)}.")
    address = uri.removeprefix("sqlite:///") if scheme == "sqlite" else uri
    try:
        dbapi = import_module(f"{_DRIVERS[scheme]}.dbapi")
    except ModuleNotFoundError:
        raise UserError(f"The driver {_DRIVERS[scheme]} is not installed.", "Declare it in pyproject.toml.") from None
    with dbapi.connect(address) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        waiting: list[pa.RecordBatch] = []
        for batch in cursor.fetch_record_batch():
            waiting.append(batch)
            if sum(part.num_rows for part in waiting) >= rows:
                yield pl.DataFrame(pa.Table.from_batches(waiting))
                waiting = []
        if waiting:
            yield pl.DataFrame(pa.Table.from_batches(waiting))
