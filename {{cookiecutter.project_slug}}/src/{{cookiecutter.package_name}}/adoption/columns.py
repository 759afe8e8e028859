"""What the columns of a table hold: numbers, flags, texts, dates, or nothing to learn from."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import polars as pl

from ..core.contract import AVAILABLE_AT, KNOWN_AT, PREDICTION, PREDICTION_TIME, ROW, Form
from ..core.reading import as_type, infinite

Role: TypeAlias = Literal["number", "flag", "text", "date"]

TYPES: dict[Role, pl.DataType] = {
    "number": pl.Float64(),
    "flag": pl.Boolean(),
    "text": pl.String(),
    "date": pl.Datetime("us", "UTC"),
}
MOST_CATEGORIES = 500
_LONGEST_NAME = 40
# Columns that tables and frames of the machinery have.
_TAKEN = {AVAILABLE_AT, KNOWN_AT, PREDICTION, PREDICTION_TIME, ROW, "label", "reason"}
_TAKEN |= {"model_version", "feature_versions", "latency_ms", "request_id", "requested_at"}
_SEPARATORS = (",", ";", "\t", "|")
_SAMPLE_LINES = 50
_SAMPLE_ROWS = 5_000
_FORMATS = (
    "",  # ISO 8601
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%m/%d/%Y",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %I:%M %p",
    "%m/%d/%Y %I:%M:%S %p",
    "%d/%m/%Y",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y %H:%M:%S",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%d-%m-%Y",
    "%b %d %Y",
    "%d %b %Y",
    "%Y-%m",
)
_LETTERS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "æ": "ae", "ø": "oe"})
_LETTERS |= str.maketrans({"Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "%": " percent ", "€": " euro "})
_CODE = r"^0\d+$"  # 00127 is no number, but the name of something
_IDENTIFIES = re.compile(r"(^|_)(id|key|uuid|guid|nr|no|number|code)$|id$", re.IGNORECASE)


@dataclass(frozen=True)
class Column:
    """A column that can be an input: our name of it, what it holds, how its times are written."""

    name: str
    role: Role
    time_format: str = ""


@dataclass(frozen=True)
class LeftOut:
    """A column that is no input, and why."""

    name: str
    why: str


# How a text file is written ---------------------------------------------------------------------


def form_of(path: Path) -> Form:
    """Encoding and separator of a text file, from its first lines."""
    content = path.read_bytes()
    encoding = "utf8"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        encoding = "cp1252"
        text = content.decode(encoding, errors="replace")
    lines = text.splitlines()[:_SAMPLE_LINES]
    separator = max(_SEPARATORS, key=lambda mark: _fields(lines, mark))
    if lines and _fields(lines, separator) < 2:
        separator = max(_SEPARATORS, key=lines[0].count)  # what is wrong is told by who reads it
    return Form(separator=separator, encoding=encoding)


def _fields(lines: list[str], separator: str) -> int:
    """In how many fields a separator cuts every line; 0: not all alike."""
    counts = {len(row) for row in csv.reader(lines, delimiter=separator) if row}
    return counts.pop() if len(counts) == 1 else 0


def decimal_of(rows: pl.DataFrame, form: Form) -> str:
    """The decimal mark by which more columns of texts are numbers."""
    sample = rows.head(_SAMPLE_ROWS).select(pl.col(pl.String))

    def numbers(decimal: str) -> int:
        written = Form(decimal=decimal)
        return sum(_holds(column, "number", written) for column in sample.iter_columns())

    marks = (".", ",") if form.separator != "," else (".",)
    return max(marks, key=numbers)


# Names ------------------------------------------------------------------------------------------


def names_for(given: Iterable[str]) -> dict[str, str]:
    """A name for each column that Python, Delta and Spark take, and that no other column has."""
    names: dict[str, str] = {}
    taken = set(_TAKEN)
    for theirs in given:
        base = plain(theirs) if not _is_plain(theirs) else theirs
        name, number = base, 1
        while name.casefold() in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name.casefold())
        names[theirs] = name
    return names


def plain(text: str, otherwise: str = "column") -> str:
    """Lower case letters, digits and underscores that say about the same."""
    bare = unicodedata.normalize("NFKD", text.translate(_LETTERS)).encode("ascii", "ignore")
    name = re.sub(r"[^a-z0-9]+", "_", bare.decode().lower()).strip("_")[:_LONGEST_NAME].rstrip("_")
    if not name:
        return otherwise
    return name if name[0].isalpha() else f"{otherwise}_{name}"


def _is_plain(name: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)) and len(name) <= _LONGEST_NAME


# What they hold ---------------------------------------------------------------------------------


def examine(values: pl.Series, form: Form) -> Column | LeftOut:
    """What a column holds, as an input; or why it can be none."""
    if why := _nothing_in(values):
        return LeftOut(values.name, why)
    role, time_format = role_of(values, form)
    if why := _nothing_to_learn(values.drop_nulls(), role, form):
        return LeftOut(values.name, why)
    return Column(values.name, role, time_format)


def _nothing_in(values: pl.Series) -> str:
    """Why a column says nothing; empty: it does."""
    known = values.drop_nulls()
    if known.is_empty():
        return "it is empty"
    if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object, pl.Time, pl.Duration):
        return f"it holds {values.dtype}"
    if values.n_unique() == 1:
        return "it is the same in all rows"
    return ""


def _nothing_to_learn(known: pl.Series, role: Role, form: Form) -> str:
    """Why nothing of a row can be learned from others with the same value; empty: it can."""
    distinct = known.n_unique()
    if role == "text" and distinct > MOST_CATEGORIES:
        return f"it has {distinct:,} different texts"
    if role == "text" and distinct > known.len() // 2:
        return "nearly every row has a text of its own"
    if role == "number" and _counts_rows(known, form):
        return "it counts the rows"
    return ""


def role_of(values: pl.Series, form: Form) -> tuple[Role, str]:
    """What a column holds, and the format of its times."""
    kind = values.dtype
    by_type: dict[Role, bool] = {
        "date": kind.is_temporal(),
        "number": kind.is_numeric(),
        "flag": kind == pl.Boolean,
    }
    for role, is_one in by_type.items():
        if is_one:
            return role, ""
    return _role_of_texts(values.cast(pl.String), form)


def _role_of_texts(texts: pl.Series, form: Form) -> tuple[Role, str]:
    if texts.str.contains(_CODE).any() and texts.n_unique() <= MOST_CATEGORIES:
        return "text", ""
    if _holds(texts, "number", form):
        return "number", ""
    if set(texts.drop_nulls().str.to_lowercase().unique()) <= {"true", "false"}:
        return "flag", ""
    for time_format in _FORMATS:
        if _holds(texts, "date", Form(times={texts.name: time_format})):
            return "date", time_format
    return "text", ""


def identifies(values: pl.Series) -> bool:
    """Whether a column looks like the key of its rows: told by its name, unique, without nulls."""
    is_whole = values.dtype.is_integer() or values.dtype == pl.String
    named = _IDENTIFIES.search(values.name) is not None
    return named and is_whole and values.null_count() == 0 and values.n_unique() == values.len()


def _holds(texts: pl.Series, role: Role, form: Form) -> bool:
    """Whether all texts of a column can be read as such."""
    sample = texts.head(_SAMPLE_ROWS)
    for part in (sample, texts):
        unreadable = as_type(part, TYPES[role], form).is_null() & ~infinite(part)
        if unreadable.sum() != part.null_count():
            return False
    return texts.null_count() < texts.len()


def _counts_rows(known: pl.Series, form: Form) -> bool:
    """Whether numbers rise by one from row to row."""
    numbers = as_type(known, pl.Float64(), form)
    return numbers.len() > 2 and bool((numbers.diff().drop_nulls() == 1).all())
