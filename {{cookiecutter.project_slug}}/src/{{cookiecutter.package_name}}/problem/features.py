"""Feature tables: pure functions of prepared tables, the same on polars and on Spark.

A row's `available_at` is when it could have been used, not the time it describes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import narwhals as nw

from ..contract import AVAILABLE_AT, KNOWN_AT, FeatureTable, Frames, Schema

LATE_MINUTES = 15
"""A flight is late when it arrives more than so many minutes after its scheduled time."""

_HOUR = timedelta(hours=1)
_DELAY_WINDOWS = {"3h": 3, "24h": 24, "7d": 7 * 24}
_HISTORY_WINDOWS = {"28d": 28 * 24}
_MEASURES = ("flights", "late", "departure_delay", "arrival_delay")


def rolling_sums(
    events: nw.LazyFrame[Any],
    keys: Sequence[str],
    measures: Sequence[str],
    windows: Mapping[str, int],
) -> nw.LazyFrame[Any]:
    """Sum measures over sliding windows, at every hour at which a sum changes.

    A sweep: each event enters a window when it becomes known and leaves it a window's length later;
    the running total in between is the sum. Measures are whole numbers, so totals are exact and do
    not depend on where the sweep began.

    Args:
        events: `keys`, `known_at` (UTC) and integer `measures`.
        keys: Entity columns.
        measures: What to sum.
        windows: Suffix to length in hours.

    Returns:
        `keys`, `available_at` (full hours, UTC) and `<measure>_<suffix>`: the sum over events known
        in the window that ends then.
    """
    hourly = (
        events.with_columns(nw.col(KNOWN_AT).dt.truncate("1h").dt.offset_by("1h").alias(AVAILABLE_AT))
        .group_by(*keys, AVAILABLE_AT)
        .agg(nw.col(*measures).sum())
    )
    enter = hourly.select(
        *keys,
        AVAILABLE_AT,
        *(nw.col(name).alias(f"{name}_{suffix}") for suffix in windows for name in measures),
    )
    leave = [
        hourly.select(
            *keys,
            nw.col(AVAILABLE_AT).dt.offset_by(f"{hours}h"),
            *(
                (-nw.col(name) if suffix == window else nw.col(name) * 0).alias(f"{name}_{suffix}")
                for suffix in windows
                for name in measures
            ),
        )
        for window, hours in windows.items()
    ]
    sums = [f"{name}_{suffix}" for suffix in windows for name in measures]
    return (
        nw.concat([enter, *leave], how="vertical")
        .group_by(*keys, AVAILABLE_AT)
        .agg(nw.col(*sums).sum())
        .with_columns(nw.col(*sums).cum_sum().over(*keys, order_by=AVAILABLE_AT))
    )


def delay_statistics(
    flights: nw.LazyFrame[Any], prefix: str, keys: Sequence[str], windows: Mapping[str, int]
) -> nw.LazyFrame[Any]:
    """Number of flights that landed in each window, share late and mean delays (minutes) of them."""
    arrival = nw.col("arrival_delay")
    events = flights.filter(~arrival.is_null(), ~nw.col("departure_delay").is_null()).with_columns(
        nw.lit(1).cast(nw.Int64).alias("flights"),
        (arrival > LATE_MINUTES).cast(nw.Int64).alias("late"),
    )
    sums = rolling_sums(events, keys, _MEASURES, windows)
    columns = []
    for suffix in windows:
        flown = nw.col(f"flights_{suffix}")
        columns.append(flown.alias(f"{prefix}_flights_{suffix}"))
        for measure, name in (
            ("late", "late_share"),
            ("departure_delay", "departure_delay"),
            ("arrival_delay", "arrival_delay"),
        ):
            mean = nw.col(f"{measure}_{suffix}").cast(nw.Float64) / flown.cast(nw.Float64)
            columns.append(nw.when(flown > 0).then(mean).alias(f"{prefix}_{name}_{suffix}"))
    return sums.select(*keys, AVAILABLE_AT, *columns)


def delay_table(
    name: str, keys: tuple[str, ...], windows: Mapping[str, int], key_types: Schema | None = None
) -> FeatureTable:
    """Declare a feature table of delay statistics by `keys`."""
    values: dict[str, Any] = {}
    for suffix in windows:
        values[f"{name}_flights_{suffix}"] = nw.Int64
        for measure in ("late_share", "departure_delay", "arrival_delay"):
            values[f"{name}_{measure}_{suffix}"] = nw.Float64
    return FeatureTable(
        name=name,
        keys={key: (key_types or {}).get(key, nw.String) for key in keys},
        values=values,
        build=lambda frames: delay_statistics(frames["flights"], name, keys, windows),
        lookback=max(windows.values()) * _HOUR + _HOUR,
    )


def weather_rows(frames: Frames) -> nw.LazyFrame[Any]:
    """Observations, available when they were published."""
    return frames["weather"].select(
        "origin", nw.col(KNOWN_AT).alias(AVAILABLE_AT), *WEATHER.values
    )


def aircraft_rows(frames: Frames) -> nw.LazyFrame[Any]:
    """The register, available since it was published."""
    return frames["planes"].select(
        "tailnum", nw.col(KNOWN_AT).alias(AVAILABLE_AT), *AIRCRAFT.values
    )


WEATHER = FeatureTable(
    name="weather",
    keys={"origin": nw.String},
    values={
        **dict.fromkeys(("temperature", "dew_point", "humidity", "wind_direction"), nw.Float64),
        **dict.fromkeys(("wind_speed", "wind_gust", "precipitation"), nw.Float64),
        **dict.fromkeys(("pressure", "visibility"), nw.Float64),
    },
    build=weather_rows,
    lookback=_HOUR,
)
AIRCRAFT = FeatureTable(
    name="aircraft",
    keys={"tailnum": nw.String},
    values={"built": nw.Int64, "manufacturer": nw.String, "engines": nw.Int64, "seats": nw.Int64},
    build=aircraft_rows,
    lookback=_HOUR,
)
FEATURE_TABLES = (
    delay_table("carrier_origin", ("carrier", "origin"), _DELAY_WINDOWS),
    delay_table("origin", ("origin",), _DELAY_WINDOWS),
    delay_table("destination", ("dest",), _DELAY_WINDOWS),
    delay_table("flight_number", ("carrier", "flight"), _HISTORY_WINDOWS, {"flight": nw.Int64}),
    WEATHER,
    AIRCRAFT,
)
