"""Feature tables: pure functions of prepared tables, the same on polars and on Spark.

A row's `available_at` is when it could have been used, not the time that it describes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import narwhals as nw

from ..core.contract import AVAILABLE_AT, KNOWN_AT, FeatureTable, Frame, Schema

LATE_MINUTES = 15
"""A flight is late when it arrives more than so many minutes after its scheduled time."""

_DELAY_WINDOWS = {"3h": 3, "24h": 24, "7d": 7 * 24}
_MEASURES = ("flights", "late", "arrival_delay")
_MEANS = {"late_share": "late", "arrival_delay": "arrival_delay"}


def rolling_sums(
    events: Frame, keys: Sequence[str], measures: Sequence[str], windows: Mapping[str, int]
) -> Frame:
    """Sum measures over sliding windows, at every hour at which a sum changes.

    A sweep: an event enters a window when it becomes known and leaves it a window's length later;
    the running total in between is the sum. Measures are whole numbers, so totals are exact and do
    not depend on where the sweep began.

    Args:
        events: `keys`, `known_at` (UTC) and integer `measures`.
        keys: Entity columns.
        measures: What to sum.
        windows: Suffix to length in hours.

    Returns:
        `keys`, `available_at` (full hours, UTC) and `<measure>_<suffix>`.
    """
    sums = [f"{name}_{suffix}" for suffix in windows for name in measures]
    full_hour = nw.col(KNOWN_AT).dt.truncate("1h").dt.offset_by("1h").alias(AVAILABLE_AT)
    hourly = (
        events.with_columns(full_hour).group_by(*keys, AVAILABLE_AT).agg(nw.col(*measures).sum())
    )

    def moved(hours: int, sign: Mapping[str, int]) -> Frame:
        values = (nw.col(name) * sign[suffix] for suffix in windows for name in measures)
        renamed = (value.alias(name) for value, name in zip(values, sums, strict=True))
        return hourly.select(*keys, nw.col(AVAILABLE_AT).dt.offset_by(f"{hours}h"), *renamed)

    enter = moved(0, dict.fromkeys(windows, 1))
    leave = [
        moved(hours, dict.fromkeys(windows, 0) | {suffix: -1}) for suffix, hours in windows.items()
    ]
    steps = (
        nw.concat([enter, *leave], how="vertical")
        .group_by(*keys, AVAILABLE_AT)
        .agg(nw.col(*sums).sum())
    )
    return steps.with_columns(nw.col(*sums).cum_sum().over(*keys, order_by=AVAILABLE_AT))


def delay_statistics(
    flights: Frame, name: str, keys: Sequence[str], windows: Mapping[str, int]
) -> Frame:
    """Flights that landed in each window, the share that was late, and the mean delay (minutes)."""
    flown = flights.drop_nulls("arrival_delay").with_columns(
        nw.lit(1).cast(nw.Int64).alias("flights"),
        (nw.col("arrival_delay") > LATE_MINUTES).cast(nw.Int64).alias("late"),
    )
    sums = rolling_sums(flown, keys, _MEASURES, windows)
    columns = []
    for suffix in windows:
        count = nw.col(f"flights_{suffix}")
        columns.append(count.alias(f"{name}_flights_{suffix}"))
        for mean, measure in _MEANS.items():
            value = nw.col(f"{measure}_{suffix}").cast(nw.Float64) / count.cast(nw.Float64)
            columns.append(nw.when(count > 0).then(value).alias(f"{name}_{mean}_{suffix}"))
    return sums.select(*keys, AVAILABLE_AT, *columns)


def delay_table(name: str, keys: Schema, windows: Mapping[str, int]) -> FeatureTable:
    """Declare delay statistics by `keys`."""
    counts = dict.fromkeys((f"{name}_flights_{suffix}" for suffix in windows), nw.Int64)
    means = dict.fromkeys(
        (f"{name}_{mean}_{suffix}" for suffix in windows for mean in _MEANS), nw.Float64
    )
    return FeatureTable(
        name=name,
        keys=keys,
        values={**counts, **means},
        build=lambda frames: delay_statistics(frames["flights"], name, tuple(keys), windows),
        lookback=timedelta(hours=max(windows.values()) + 1),
    )


def as_given(name: str, source: str, key: str, values: Schema) -> FeatureTable:
    """Declare columns of a prepared table as features, available when they became known."""
    return FeatureTable(
        name=name,
        keys={key: nw.String},
        values=values,
        build=lambda frames: frames[source].select(
            key, nw.col(KNOWN_AT).alias(AVAILABLE_AT), *values
        ),
        lookback=timedelta(0),
    )


WEATHER = (
    "temperature",
    "dew_point",
    "humidity",
    "wind_direction",
    "wind_speed",
    "wind_gust",
    "precipitation",
)
FEATURE_TABLES = (
    delay_table("carrier_origin", {"carrier": nw.String, "origin": nw.String}, _DELAY_WINDOWS),
    delay_table("origin", {"origin": nw.String}, _DELAY_WINDOWS),
    delay_table("destination", {"dest": nw.String}, _DELAY_WINDOWS),
    delay_table("flight_number", {"carrier": nw.String, "flight": nw.Int64}, {"28d": 28 * 24}),
    as_given(
        "weather",
        "weather",
        "origin",
        dict.fromkeys((*WEATHER, "pressure", "visibility"), nw.Float64),
    ),
    as_given(
        "aircraft",
        "planes",
        "tailnum",
        {"manufacturer": nw.String, "built": nw.Int64, "seats": nw.Int64},
    ),
)
