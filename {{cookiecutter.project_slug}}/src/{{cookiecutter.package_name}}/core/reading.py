"""Reads tables as a problem declares them: files of the project, Delta tables, database queries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl

from .contract import ROW, Form, Schema, polars_schema
from .errors import UserError
from .project import project_above
from .words import counted

DRIVERS = {"postgresql": "adbc_driver_postgresql", "sqlite": "adbc_driver_sqlite"}
"""Databases by the scheme of their addresses."""
TEXT_FILES = (".csv", ".tsv", ".txt")
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "\\N", "?")
"""What stands for a missing value in a text file."""
YES = ("true", "t", "yes", "y")
NO = ("false", "f", "no", "n")
EPOCHS = {"epoch": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
"""Instead of a format: seconds, milliseconds or microseconds since 1970, in microseconds."""
# The driver quotes parts of an address that it cannot read, and its password may be among them.
_PART = r"([^:/?@%\s]|%[0-9A-Fa-f]{2})*"
_VALUE = r"([^&=@%\s]|%[0-9A-Fa-f]{2})*"
_ADDRESS = re.compile(rf"\w+://({_PART}(:{_PART})?@)?[^@?%\s]*(\?\w+={_VALUE}(&\w+={_VALUE})*)?")
# Numbers whose thousands are set apart, by decimal mark.
_GROUPED = {
    ".": r"^[+-]?\d{1,3}(,\d{3})+(\.\d*)?$",
    ",": r"^[+-]?\d{1,3}(\.\d{3})+(,\d*)?$",
}
_ISO = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
_OFFSET = r"([+-]\d{2}:?\d{2})$"
_QUERY_ROWS = 100_000


def read(place: str, schema: Schema, form: Form | None = None, query: str = "") -> pl.DataFrame:
    """Read a table with the declared columns and types.

    A column `row` that the source does not have is the number of the row.

    Args:
        place: A .csv or .parquet file or a Delta table, relative to the project, or the address of
            a database (sqlite:///, postgresql://).
        schema: Columns and types.
        form: How the source writes what it holds; by default as polars does.
        query: SQL, for a database.

    Raises:
        UserError: Not readable; or columns are missing or hold what their types cannot: names all.
    """
    form = form or Form()
    named = with_names(given(place, form, query), form)
    if ROW in schema and ROW not in named.columns:
        named = named.with_row_index(ROW)
    theirs = {ours: name for name, ours in form.names.items()}
    wanted = polars_schema(schema)
    absent = [name for name in wanted if name not in named.columns]
    faults = [f"no column {theirs.get(name, name)}" for name in absent]
    typed = {}
    for name, kind in wanted.items():
        if name not in absent:
            typed[name] = as_type(named[name], kind, form)
            faults.extend(_lost(named[name], typed[name]))
    if faults:
        message = f"{place} does not hold what is declared: {'; '.join(faults)}."
        raise UserError(message, "Restore the table, or correct problem/sources.py.")
    return pl.DataFrame(typed)


def with_names(rows: pl.DataFrame, form: Form) -> pl.DataFrame:
    """Rows with our names of the columns."""
    return rows.rename({name: ours for name, ours in form.names.items() if name in rows.columns})


def given(place: str, form: Form, query: str = "") -> pl.DataFrame:
    """All of a table as its source has it; of a text file every column is text.

    Raises:
        UserError: Not readable, or not a kind of table that is known.
    """
    if "://" in place and place.partition(":")[0] in DRIVERS:
        return pl.concat(query_rows(place, query, _QUERY_ROWS))
    path = in_project(place)
    try:
        if path.suffix in TEXT_FILES:
            return scan_text(path, form).collect()
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        if "://" in place or (path / "_delta_log").is_dir():
            from deltalake import DeltaTable

            table = DeltaTable(place if "://" in place else path)
            return pl.scan_delta(table).collect()
    except (OSError, pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        reason = str(error).strip().partition("\n")[0]
        message = f"Cannot read {place}: {reason}"
        raise UserError(message, "Restore it, or correct problem/sources.py.") from None
    message = f"{place} is no .csv or .parquet file, no Delta table, and no database."
    raise UserError(message, "Convert it to one of these.")


def in_project(path: str) -> Path:
    """A path relative to the project in which the command runs."""
    here = Path.cwd()
    return (project_above(here) or here) / path


def query_rows(address: str, query: str, rows: int) -> Iterator[pl.DataFrame]:
    """Rows of a database query, some at a time; first none, to show the columns.

    Raises:
        UserError: No driver for the address, an address that is no URI, or what the database says.
    """
    from adbc_driver_manager import Error
    from arro3.core import RecordBatchReader

    scheme = address.partition(":")[0]
    if scheme not in DRIVERS:
        message = f"No driver for {scheme}:// addresses."
        raise UserError(message, f"Use one of: {', '.join(DRIVERS)}.")
    options: dict[str, Any] = {}
    if scheme == "sqlite":
        address = str(in_project(address.removeprefix("sqlite:///")))
        options = {"adbc.sqlite.query.batch_rows": rows}  # rows that show the types of columns
    elif not _ADDRESS.fullmatch(address):
        message = "The address of the database is not written as a URI."
        remedy = "Percent-encode what is special in its user and password: %40 for @."
        raise UserError(message, remedy)
    dbapi = import_module(f"{DRIVERS[scheme]}.dbapi")
    try:
        if scheme == "sqlite":
            Path(address).stat()  # SQLite would make it
        with dbapi.connect(address) as connection, connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**options)
            cursor.execute(query)
            batches = RecordBatchReader.from_stream(cursor.fetch_arrow())
            yield pl.DataFrame(batches.schema.empty_table())
            yield from map(pl.DataFrame, batches)
    except (OSError, Error) as error:
        reason = str(error).strip().partition("\n")[0]
        message = f"Cannot read the query's rows: {reason}"
        raise UserError(message, "Correct the address or the query.") from None


def as_type(values: pl.Series, kind: pl.DataType, form: Form) -> pl.Series:
    """Values as a type; null where they cannot be, and where a number is not finite."""
    typed = _as_type(values, kind, form)
    return typed.set(~typed.is_finite(), None) if typed.dtype.is_float() else typed


def _as_type(values: pl.Series, kind: pl.DataType, form: Form) -> pl.Series:
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    text_format = form.times.get(values.name, "")
    if values.dtype == pl.String:
        return _parsed(values, kind, form.decimal, text_format)
    if isinstance(kind, pl.Datetime):
        return _moments(values, text_format)
    return values.cast(kind, strict=False)


def scan_text(path: Path, form: Form) -> pl.LazyFrame:
    """Rows of a text file, lazily; every column is text, without blanks around it."""
    source: Any = path
    if form.encoding != "utf8":
        source = path.read_bytes().decode(form.encoding).encode()
    rows = pl.scan_csv(
        source,
        separator=form.separator,
        infer_schema=False,
        null_values=list(MISSING),
        with_column_names=lambda names: [name.strip().replace('""', '"') for name in names],
    )
    return rows.with_columns(pl.all().str.strip_chars().replace(dict.fromkeys(MISSING)))


def _parsed(texts: pl.Series, kind: pl.DataType, decimal: str, text_format: str) -> pl.Series:
    if kind == pl.String:
        return texts
    if isinstance(kind, pl.Datetime):
        return _times(texts, text_format)
    if kind == pl.Boolean:
        words = {**dict.fromkeys(YES, True), **dict.fromkeys(NO, False)}
        lower = texts.str.to_lowercase()
        return lower.replace_strict(words, default=None, return_dtype=pl.Boolean)
    group = "." if decimal == "," else ","
    grouped = texts.str.contains(_GROUPED[decimal])
    plain = pl.select(
        pl.when(grouped).then(texts.str.replace_all(group, "", literal=True)).otherwise(texts)
    ).to_series()
    return plain.str.replace(decimal, ".", literal=True).cast(kind, strict=False)


def _times(texts: pl.Series, text_format: str) -> pl.Series:
    if text_format in EPOCHS:
        return _moments(texts.cast(pl.Float64, strict=False), text_format)
    utc = pl.Datetime("us", "UTC")
    if text_format:
        texts, text_format = _whole(texts, text_format)
        return texts.str.to_datetime(text_format, strict=False, time_unit="us", time_zone="UTC")
    plain = texts.str.replace("T", " ", literal=True).str.strip_suffix("Z")
    offset = plain.str.extract(_OFFSET).is_not_null() & (plain.str.len_chars() > 12)
    found = [
        plain.str.to_datetime(item, strict=False, time_unit="us", time_zone="UTC") for item in _ISO
    ]
    with_offset = plain.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", strict=False, time_unit="us")
    local = pl.coalesce(*found)
    shifted = with_offset.dt.convert_time_zone("UTC").cast(utc)
    return pl.select(pl.when(offset).then(shifted).otherwise(local).cast(utc)).to_series()


def _whole(texts: pl.Series, text_format: str) -> tuple[pl.Series, str]:
    """Years and months as the first of their days."""
    if "%d" in text_format or "%j" in text_format:
        return texts, text_format
    first = "-01-01" if "%m" not in text_format else "-01"
    return texts + first, text_format + ("-%m-%d" if "%m" not in text_format else "-%d")


def _moments(values: pl.Series, text_format: str) -> pl.Series:
    """Times in UTC of times, dates, years or epochs; those without a zone are taken as UTC."""
    utc = pl.Datetime("us", "UTC")
    if values.dtype.is_numeric():
        if text_format in EPOCHS:
            since_1970 = (values * EPOCHS[text_format]).cast(pl.Int64)
            return since_1970.cast(pl.Datetime("us")).cast(utc)
        years = values.cast(pl.Int64, strict=False).cast(pl.String)
        return _times(years, text_format or "%Y")
    if isinstance(values.dtype, pl.Datetime) and values.dtype.time_zone:
        return values.dt.convert_time_zone("UTC").cast(utc)
    return values.cast(pl.Datetime("us"), strict=False).dt.replace_time_zone("UTC")


def _lost(before: pl.Series, after: pl.Series) -> list[str]:
    """What a column holds that its type cannot."""
    lost = before.filter(before.is_not_null() & after.is_null() & ~infinite(before))
    if lost.is_empty():
        return []
    rows = counted(lost.len(), "row")
    return [f"{after.name} is to be {after.dtype}, but is {lost[0]!r} in {rows}"]


def infinite(values: pl.Series) -> pl.Series:
    """Where values are numbers that are none, which tables have in place of missing ones."""
    if values.dtype == pl.String:
        values = values.cast(pl.Float64, strict=False)
    if not values.dtype.is_float():
        return pl.repeat(value=False, n=values.len(), eager=True)
    return ~values.is_finite().fill_null(value=True)
