"""What is known of a depot and of a region, and from when on."""

from __future__ import annotations

from datetime import timedelta

import narwhals as nw

from {{cookiecutter.package_name}}.core.contract import (
    AVAILABLE_AT,
    KNOWN_AT,
    FeatureTable,
    Frame,
    Frames,
)


def of_yesterday(frames: Frames) -> Frame:
    """Mean lateness and number of a depot's deliveries of a day, known when the day is over."""
    day_is_over = nw.col(KNOWN_AT).dt.truncate("1d").dt.offset_by("1d").alias(AVAILABLE_AT)
    days = frames["deliveries"].with_columns(day_is_over).group_by("depot", AVAILABLE_AT)
    return days.agg(
        nw.col("minutes_late").mean().alias("depot_minutes_late"),
        nw.len().cast(nw.Int64).alias("depot_deliveries"),
    )


def last_weight(frames: Frames) -> Frame:
    """Weight of the parcel that was posted last, a minute later."""
    posted = frames["parcels"].with_columns(nw.col(KNOWN_AT).dt.offset_by("1m").alias(AVAILABLE_AT))
    heaviest = posted.group_by("region", AVAILABLE_AT).agg(nw.col("kilograms").max())
    return heaviest.rename({"kilograms": "region_kilograms"})


FEATURE_TABLES = (
    FeatureTable(
        name="depot",
        keys={"depot": nw.String},
        values={"depot_minutes_late": nw.Float64, "depot_deliveries": nw.Int64},
        build=of_yesterday,
        lookback=timedelta(days=1),
    ),
    FeatureTable(
        name="region",
        keys={"region": nw.String},
        values={"region_kilograms": nw.Float64},
        build=last_weight,
        lookback=timedelta(minutes=1),
    ),
)
