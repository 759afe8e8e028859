"""What is assumed of a table: which column is what, the windows that fit, and what leaks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import cast, get_args
from urllib.parse import urlsplit

import narwhals as nw
import polars as pl

from ..core.contract import ROW, Form, Kind, Target
from ..core.errors import UserError
from ..core.reading import TEXT_FILES, as_type, given, in_project
from ..core.words import counted
from ..modeling.leaks import leaks
from ..modeling.metrics import LOG_LOSS
from .columns import (
    TYPES,
    Column,
    LeftOut,
    decimal_of,
    examine,
    form_of,
    identifies,
    names_for,
    plain,
    role_of,
)

LABEL = "outcome"
_MOST_CLASSES = 50
_FEW_NUMBERS = 10  # whole numbers of at most so many values are classes
_SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)  # of the labelled rows, for validation and holdout
_USUAL_SHARE = 0.2  # less where that is ample: what judges comes late, and teaches nothing
_AMPLE_DAYS = 14
_AMPLE_ROWS = 500
_AMPLE_OF_CLASS = 50
_LEAST_DAYS = 5
_LEAST_ROWS = 20  # of a window of production, to be judged
_ENOUGH_ROWS = 200
_SLICES = 2
# Parts of the calendar, where the time itself is called like them.
_OTHER_NAMES = {"hour": "hour_of_day", "weekday": "day_of_week", "month": "month_of_year"}
_COPIES = 0.01
_YES = ("1", "1.0", "true", "yes", "y", "t", "positive", "pos")

Ask = Callable[[str, Sequence[str]], str | None]
"""Asks a person for one of several answers; None: there is nobody to ask."""


@dataclass(frozen=True)
class Asked:
    """What a person said of a table; empty: to be found out."""

    source: str
    label: str = ""
    time: str = ""
    keys: tuple[str, ...] = ()
    kind: Kind | None = None
    query: str = ""


@dataclass(frozen=True)
class Windows:
    """Days of the parts of a training set, and of a window of production; None: no times."""

    train: int
    validation: int
    holdout: int
    production: int

    def halved(self) -> Windows:
        """Windows that half of the days fill, so that `replay` can walk through the other half."""
        validation = math.ceil(self.validation / 2)
        holdout = math.ceil(self.holdout / 2)
        train = max(1, self.train // 2 - validation - holdout)
        return replace(self, train=train, validation=validation, holdout=holdout)


@dataclass(frozen=True)
class Assumed:
    """All that the files of a problem are written from."""

    table: str  # our name of the table
    place: str  # where it is, relative to the project
    query: str
    form: Form
    rows: int
    labelled: int
    label: str
    values: tuple[str, ...]  # what the label says of each class
    classes: tuple[str, ...]
    kind: Kind
    key_types: dict[str, str]  # key to the name of its type
    time: str
    columns: tuple[Column, ...]  # the inputs, without keys and time
    calendar: tuple[str, ...]  # inputs computed from the time
    left_out: tuple[LeftOut, ...]
    told: tuple[LeftOut, ...]  # columns that tell the outcome
    slices: tuple[str, ...]
    begins: datetime
    ends: datetime | None
    windows: Windows | None
    min_rows: int  # of a part
    notes: tuple[str, ...]  # what a person should know

    def names(self, role: str) -> list[str]:
        """Inputs of the table that hold such values."""
        return [column.name for column in self.columns if column.role == role]

    @property
    def part_rows(self) -> int:
        """Labelled rows that a model learns from, about."""
        return 3 * self.labelled // 5

    @property
    def judged_rows(self) -> int:
        """Labelled rows by which a window of production is judged: half of what one has."""
        few = self.min_rows
        if self.windows:
            few = self.labelled * self.windows.production // self.windows.train // 2
        return min(_ENOUGH_ROWS, max(_LEAST_ROWS, few))


def assume(asked: Asked, place: str, ask: Ask) -> Assumed:
    """Look at a table and decide on all that its files need.

    Args:
        asked: What a person said.
        place: Where the table will be, relative to the project; it is there already.
        ask: For what cannot be found out.

    Raises:
        UserError: There is no such column, nothing to learn, or an address that holds a secret.
    """
    _require_no_secret(place)
    rows, form = _table(place, asked.query)
    notes: list[str] = []
    label = _column(asked.label, rows, form, "--label", ask)
    if not label:
        message = f"Which column is to be predicted? {asked.source} has {_listed(rows.columns)}."
        raise UserError(message, "Name it: --label COLUMN.")
    time = _column(asked.time, rows, form, "--time", ask)
    keys = [_column(key, rows, form, "--key", ask) for key in asked.keys]
    if time:
        rows, form = _with_time(rows, time, form, notes)
    kind, values, classes = _outcome(rows[label], form, asked.kind, notes)
    outcome = _as_outcome(rows[label], values, form)
    rows = rows.with_columns(outcome)
    keys = keys or _key(rows, (label, time), notes)
    if keys and rows.select(keys).null_count().sum_horizontal().item():
        raise UserError(f"The key {', '.join(keys)} has missing values.", "Name another --key.")
    keys = _unique(rows, keys, time, notes)
    if not keys:
        _warn_of_copies(rows, notes)
    others = rows.drop({label, time, *keys} & set(rows.columns))
    examined = [examine(column, form) for column in others.iter_columns()]
    columns = [item for item in examined if isinstance(item, Column)]
    left_out = [item for item in examined if isinstance(item, LeftOut)]
    times = {column.name: column.time_format for column in columns if column.time_format}
    form = replace(form, times={**form.times, **times})
    told = _telling(rows, columns, form, Target(label, nw.col(label), (LOG_LOSS,), "", classes))
    columns = [item for item in columns if item.name not in {leak.name for leak in told}]
    if not columns and not time:
        raise UserError("No column is left to predict from.", "Bring a table with inputs.")
    labelled = rows.drop_nulls(label)
    dates = [column.name for column in columns if column.role == "date"]
    if dates and not time:
        notes.append(f"{', '.join(dates)}: times, taken as inputs (when rows were known: --time)")
    windows = _windows(labelled, time, label, classes, notes) if time else None
    if time and windows is None:
        notes.append("the rows are judged as if they had no times: the holdout is drawn among them")
    begins, ends = _span(rows, time)
    return Assumed(
        table=_table_name(asked.source),
        place=place,
        query=asked.query,
        form=_originals(form),
        rows=rows.height,
        labelled=labelled.height,
        label=label,
        values=values,
        classes=classes,
        kind=kind,
        key_types=_key_types(rows, keys, time, form),
        time=time,
        columns=tuple(columns),
        calendar=_calendar(rows, time),
        left_out=tuple(left_out),
        told=tuple(told),
        slices=_slices(labelled, columns),
        begins=begins,
        ends=ends,
        windows=windows,
        min_rows=_min_rows(labelled, time, windows, ends),
        notes=tuple(notes),
    )


def kind_of(name: str) -> Kind | None:
    """The kind of problem of that name; None: to be found out.

    Raises:
        UserError: There is no such kind.
    """
    for kind in get_args(Kind):
        if kind == name:
            return cast(Kind, kind)
    if not name:
        return None
    raise UserError(f"--problem-type: {name} is none.", f"Use one of: {', '.join(get_args(Kind))}.")


# The table --------------------------------------------------------------------------------------


def _require_no_secret(place: str) -> None:
    """Refuse an address with a password: it would be written to a file that git keeps."""
    if "://" in place and urlsplit(place).password:
        shown = place.replace(f":{urlsplit(place).password}@", "@")
        message = "The address holds a password, which would stand in problem/sources.py."
        remedy = f"Use {shown}; the database's client has it from PGPASSWORD or a password file."
        raise UserError(message, remedy)


def _table(place: str, query: str) -> tuple[pl.DataFrame, Form]:
    """Rows with our names of the columns, and how they are written."""
    form = Form()
    if "://" not in place and Path(place).suffix in TEXT_FILES:
        path = in_project(place)
        if not path.is_file():
            raise UserError(f"There is no file {place}.", "Name one that is there.")
        form = form_of(path)
    rows = given(place, form, query)
    if rows.is_empty():
        raise UserError(f"{place} has no rows.", "Bring a table with rows.")
    names = names_for(rows.columns)
    form = replace(form, decimal=decimal_of(rows, form), names=names)
    return rows.rename(names), form


def _originals(form: Form) -> Form:
    """Only those names that differ, and formats by our names."""
    names = {theirs: ours for theirs, ours in form.names.items() if theirs != ours}
    return replace(form, names=names)


def _column(wanted: str, rows: pl.DataFrame, form: Form, option: str, ask: Ask) -> str:
    """Our name of a column that somebody named."""
    if not wanted and option == "--label":
        answer = ask("Which column is to be predicted?", list(form.names))
        return form.names.get(answer or "", "")
    if not wanted:
        return ""
    if wanted in form.names:
        return form.names[wanted]
    if wanted in rows.columns:
        return wanted
    message = f"{option}: there is no column {wanted}; there are {_listed(list(form.names))}."
    raise UserError(message, "Name one of these.")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"


def _table_name(source: str) -> str:
    stem = Path(source.rstrip("/").partition("?")[0]).name.partition(".")[0]
    name = plain(stem, "rows")[:24].rstrip("_")
    return "rows" if name == LABEL + "s" else name


# Keys and times ---------------------------------------------------------------------------------


def _with_time(
    rows: pl.DataFrame, time: str, form: Form, notes: list[str]
) -> tuple[pl.DataFrame, Form]:
    """Rows whose time is one; those without are left out."""
    role, written = role_of(rows[time], form)
    if role == "number":
        largest = as_type(rows[time], pl.Float64(), form).max()
        written = _epoch(largest) if isinstance(largest, float) else ""
    elif role != "date":
        message = f"--time {time} holds texts such as {rows[time].drop_nulls()[0]!r}, no times."
        raise UserError(message, "Write them as 2024-11-01 or 2024-11-01T06:00, or leave it out.")
    form = replace(form, times={**form.times, time: written} if written else form.times)
    moments = as_type(rows[time], TYPES["date"], form)
    if absent := moments.null_count():
        notes.append(f"{absent:,} rows have no {time}: they are left out")
    timed = rows.with_columns(moments).drop_nulls(time)
    ahead = timed.filter(pl.col(time) > datetime.now(UTC)).height
    if timed.height and ahead == timed.height:
        message = f"--time {time} lies in the future in all rows."
        raise UserError(message, "Name a column that says when a row was known, or none.")
    if ahead:
        ahead_rows = counted(ahead, "row")
        notes.append(f"in {ahead_rows} {time} lies in the future: they are not known yet")
    return timed, form


def _epoch(largest: float) -> str:
    """What numbers count that are times; the year 3000 is 3e10 seconds after 1970."""
    limits = {"%Y": 3e3, "epoch": 3e10, "epoch_ms": 3e13}
    return next((name for name, limit in limits.items() if largest <= limit), "epoch_us")


def _key(rows: pl.DataFrame, others: Sequence[str], notes: list[str]) -> list[str]:
    """A column that looks like the key; none: rows are numbered."""
    for column in rows.iter_columns():
        if column.name not in others and identifies(_whole(column)):
            notes.append(f"{column.name} is taken for the key: it is unique (another: --key)")
            return [column.name]
    return []


def _whole(values: pl.Series) -> pl.Series:
    """Whole numbers that are written as texts, as numbers; 007 is none."""
    if values.dtype == pl.String and values.str.contains(r"^0\d").any():
        return values
    numbers = values.cast(pl.Int64, strict=False) if values.dtype == pl.String else values
    return values if numbers.null_count() > values.null_count() else numbers


def _unique(rows: pl.DataFrame, keys: list[str], time: str, notes: list[str]) -> list[str]:
    """The keys, with the time where it takes both; none where rows cannot be told apart."""
    for tried in ([*keys], [*keys, time] if time else []):
        if tried and not rows.select(tried).is_duplicated().any():
            return tried
    if keys:
        notes.append(f"the key {', '.join(keys)} repeats: rows are numbered instead")
    return []


def _warn_of_copies(rows: pl.DataFrame, notes: list[str]) -> None:
    """Say so where rows that nothing tells apart are no accident of a few short columns."""
    distinct = rows.n_unique()
    copies = rows.height - distinct
    if copies > _COPIES * rows.height and distinct > _COPIES * 10 * rows.height:
        notes.append(
            f"{copies:,} rows are copies of others: a model may have learned what judges it "
            "(keep one of each)"
        )


def _key_types(rows: pl.DataFrame, keys: list[str], time: str, form: Form) -> dict[str, str]:
    if not keys:
        return {ROW: "nw.Int64"}
    types = {}
    for key in keys:
        if key != time:
            is_whole = _whole(rows[key]).dtype.is_integer()
            types[key] = "nw.Int64" if is_whole else "nw.String"
    return types | ({time: "UTC_TIME"} if time in keys else {})


def _span(rows: pl.DataFrame, time: str) -> tuple[datetime, datetime | None]:
    """When the rows begin and end; rows without times are known for some days."""
    if not time:
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return today - timedelta(days=3), None
    first, last = rows[time].min(), rows[time].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        raise UserError(f"--time {time} is empty.", "Name another column, or none.")
    begins = first.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    ends = last.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    return begins.astimezone(UTC), ends.astimezone(UTC)


def _calendar(rows: pl.DataFrame, time: str) -> tuple[str, ...]:
    """What of the calendar varies, and has been seen more than once."""
    if not time:
        return ()
    moments, found = rows[time], []
    first, last = moments.min(), moments.max()
    days = (last - first).days if isinstance(last, datetime) and isinstance(first, datetime) else 0
    if moments.dt.hour().n_unique() > 1:
        found.append("hour")
    if moments.dt.weekday().n_unique() > 1 and days >= 14:
        found.append("weekday")
    if moments.dt.month().n_unique() > 1 and days >= 540:
        found.append("month")
    named = [_OTHER_NAMES[part] if part == time else part for part in found]
    return tuple(name for name in named if name not in rows.columns)


# The outcome ------------------------------------------------------------------------------------


def _outcome(
    label: pl.Series, form: Form, wanted: Kind | None, notes: list[str]
) -> tuple[Kind, tuple[str, ...], tuple[str, ...]]:
    """What kind of problem it is, what the label says of each class, and the classes' names."""
    known = label.drop_nulls()
    texts = known.cast(pl.String)
    distinct = texts.n_unique()
    if distinct < 2:
        message = f"{label.name} is the same in all rows: there is nothing to learn."
        raise UserError(message, "Name another --label.")
    role, _ = role_of(label, form)
    kind = wanted or _kind(known, role, distinct, form)
    if kind == "multiclass_classification" and distinct == 2:
        kind = "binary_classification"
    if kind != wanted:
        notes.append(f"{label.name} has {distinct:,} values: {kind.replace('_', ' ')}")
    _require_kind(label.name, kind, role, distinct)
    if kind == "regression":
        return kind, (), ()
    values = _class_values(texts, kind, role)
    if kind == "binary_classification":
        notes.append(f"what is predicted is the probability of {label.name} = {values[1]}")
    return kind, tuple(values), _class_names(values, label.name)


def _require_kind(name: str, kind: Kind, role: str, distinct: int) -> None:
    """Refuse a kind of problem that a label's values cannot be."""
    if kind == "regression" and role not in ("number", "flag"):
        message = f"{name} holds texts, no quantity."
        raise UserError(message, "Choose another --problem-type.")
    if kind == "binary_classification" and distinct != 2:
        message = f"{name} has {distinct} values, not two."
        raise UserError(message, "Choose --problem-type multiclass_classification.")
    if kind == "multiclass_classification" and distinct > _MOST_CLASSES:
        message = f"{name} has {distinct:,} values, more than {_MOST_CLASSES} classes."
        raise UserError(message, "Name another --label, or --problem-type regression.")


def _class_values(texts: pl.Series, kind: Kind, role: str) -> list[str]:
    """The label's values in the order of their codes; of two the rarer, or the yes, comes last."""
    counts = texts.value_counts().sort("count", texts.name, descending=[True, False])
    values: list[str] = counts[texts.name].to_list()
    if kind == "binary_classification":
        return values[::-1] if values[0].lower() in _YES else values
    return sorted(values, key=float) if role == "number" else sorted(values)


def _kind(known: pl.Series, role: str, distinct: int, form: Form) -> Kind:
    if distinct == 2:
        return "binary_classification"
    if role != "number":
        return "multiclass_classification"
    numbers = as_type(known, pl.Float64(), form)
    is_whole = bool((numbers == numbers.round()).all())
    few = distinct <= _FEW_NUMBERS and distinct * 5 <= known.len()
    return "multiclass_classification" if is_whole and few else "regression"


def _class_names(values: Sequence[str], label: str) -> tuple[str, ...]:
    words = {"1": "yes", "0": "no", "true": "yes", "false": "no", "1.0": "yes", "0.0": "no"}
    if len(values) == 2 and {value.lower() for value in values} <= set(words):
        return tuple(words[value.lower()] for value in values)
    return tuple(names_for([plain(value, plain(label)) for value in values]).values())


def _as_outcome(label: pl.Series, values: Sequence[str], form: Form) -> pl.Series:
    """Codes of classes, or the quantity."""
    if not values:
        return as_type(label, pl.Float64(), form)
    codes = {value: float(code) for code, value in enumerate(values)}
    return label.cast(pl.String).replace_strict(codes, default=None, return_dtype=pl.Float64)


def _telling(
    rows: pl.DataFrame, columns: Sequence[Column], form: Form, target: Target
) -> list[LeftOut]:
    """Columns that tell the outcome, on rows that were drawn at random."""
    typed = {item.name: as_type(rows[item.name], TYPES[item.role], form) for item in columns}
    for name, values in typed.items():
        if isinstance(values.dtype, pl.Datetime):
            typed[name] = values.dt.epoch("s")
    frame = pl.DataFrame({**typed, target.label: rows[target.label]}).drop_nulls(target.label)
    shuffled = frame.sample(fraction=1, shuffle=True, seed=0)
    cut = 3 * frame.height // 4
    found = leaks(shuffled.head(cut), shuffled.slice(cut), list(typed), target)
    return [LeftOut(leak.name, str(leak)) for leak in found]


def _slices(labelled: pl.DataFrame, columns: Sequence[Column]) -> tuple[str, ...]:
    """A few texts of few values, by which results are cut."""
    texts = [item.name for item in columns if item.role == "text"]
    return tuple(name for name in texts if labelled[name].n_unique() <= 6)[:_SLICES]


# Windows ----------------------------------------------------------------------------------------


def _windows(
    labelled: pl.DataFrame, time: str, label: str, classes: Sequence[str], notes: list[str]
) -> Windows | None:
    """Whole days that hold rows enough to judge by, and all classes; None: none do."""
    moments = labelled[time]
    first, last = moments.min(), moments.max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        return None
    ends = last.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    days = (ends - first) / timedelta(days=1)
    if days < _LEAST_DAYS:
        notes.append(f"the rows span {days:.1f} days, too few for windows of days")
        return None
    age = labelled.select(
        days=(pl.lit(ends) - pl.col(time)).dt.total_seconds() / 86_400, label=label
    ).sort("days")
    for share in _SHARES:
        holdout = _days_of(age, share)
        validation = _days_of(age, 2 * share) - holdout
        bounds = (0, holdout, holdout + validation, math.inf)
        parts = [
            age.filter(pl.col("days").is_between(low, high, closed="right"))
            for low, high in pairwise(bounds)
        ]
        wanted = max(2, len(classes))
        is_usable = validation > 0 and all(part["label"].n_unique() >= wanted for part in parts)
        is_ample = min(holdout, validation) >= _AMPLE_DAYS and all(map(_are_ample, parts))
        if is_usable and (is_ample or share >= _USUAL_SHARE):
            production = _production_days(labelled.height / days)
            return Windows(math.ceil(days), validation, holdout, production)
    notes.append("no windows of days hold all classes")
    return None


def _are_ample(part: pl.DataFrame) -> bool:
    """Whether a smaller part would do, too; of a quantity every value is rare."""
    frequent: list[int] = part["label"].value_counts()["count"].to_list()
    is_quantity = len(frequent) > _MOST_CLASSES
    rarest = part.height if is_quantity else min(frequent, default=0)
    return part.height >= _AMPLE_ROWS and rarest >= _AMPLE_OF_CLASS


def _days_of(age: pl.DataFrame, share: float) -> int:
    """Whole days before the end that hold such a share of the rows."""
    days: list[float] = age["days"].to_list()
    return math.ceil(days[min(int(share * age.height), age.height - 1)])


def _production_days(rows_a_day: float) -> int:
    """Days of a window of production: a week, or as many as hold a hundred rows."""
    return max(7, min(365, math.ceil(100 / rows_a_day)))


def _min_rows(
    labelled: pl.DataFrame, time: str, windows: Windows | None, ends: datetime | None
) -> int:
    """Half of what the smallest part has, at most a thousand."""
    smallest = labelled.height // 5
    if windows and ends:
        start = ends - timedelta(days=windows.holdout)
        middle = start - timedelta(days=windows.validation)
        holdout = labelled.filter(pl.col(time) >= start).height
        validation = labelled.filter(pl.col(time).is_between(middle, start, closed="left")).height
        smallest = min(holdout, validation)
    return max(2, min(1_000, smallest // 2))
