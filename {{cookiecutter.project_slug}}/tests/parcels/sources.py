"""Depots, parcels and deliveries."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import TYPE_CHECKING

import narwhals as nw
import numpy as np
import polars as pl

from {{cookiecutter.package_name}}.core.contract import (
    KNOWN_AT,
    UTC_TIME,
    Frame,
    Schema,
    Source,
)

if TYPE_CHECKING:
    import pointblank as pb

BEGINS = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 90
ENDS = BEGINS + timedelta(days=DAYS)
PARCELS_A_DAY = 240
REGIONS = {"north": "cold", "south": "warm", "east": "warm", "west": "cold"}
SLOWNESS = {"north": 6.0, "south": -6.0, "east": 0.0, "west": 2.0}  # hours
ANNOUNCED = timedelta(days=3)  # before it is posted
LIES_AFTER = "PARCELS_LIE_AFTER"  # environment variable: from then on the feed is nonsense
WRONG_EVERY = 300  # so many parcels there is one whose weight cannot be

DEPOTS: Schema = {"depot": nw.String, "region": nw.String}
PARCELS: Schema = {
    "parcel": nw.Int64,
    "depot": nw.String,
    "kilograms": nw.Float64,
    "express": nw.Boolean,
    "posted_at": UTC_TIME,
}
PREPARED_PARCELS: Schema = {**PARCELS, "region": nw.String}
DELIVERIES: Schema = {"parcel": nw.Int64, "depot": nw.String, "minutes_late": nw.Int64}


@cache
def everything() -> Mapping[str, pl.DataFrame]:
    """All that will ever be published, by source, with `known_at`."""
    published = truth()
    if moment := os.environ.get(LIES_AFTER):
        after = datetime.fromisoformat(moment)
        return {name: with_lies(rows, after) for name, rows in published.items()}
    return published


def with_lies(rows: pl.DataFrame, after: datetime) -> pl.DataFrame:
    """Rows of which all that becomes known later is shuffled."""
    numbers = [name for name in ("kilograms", "minutes_late") if name in rows.columns]
    is_told_later = pl.col(KNOWN_AT) > after
    return rows.with_columns(
        pl.when(is_told_later).then(pl.col(name).shuffle(seed=1)).otherwise(name).alias(name)
        for name in numbers
    )


def truth() -> Mapping[str, pl.DataFrame]:
    """What there is to know."""
    random = np.random.default_rng(7)
    count = DAYS * PARCELS_A_DAY
    minutes = np.sort(random.integers(0, DAYS * 24 * 60, count))
    depot = random.choice(list(SLOWNESS), count, p=[0.35, 0.3, 0.2, 0.15])
    kilograms = random.gamma(2.0, 4.0, count).round(2) + 0.1
    slow = np.vectorize(SLOWNESS.__getitem__)(depot)
    season = 3 * np.sin(minutes / (24 * 60) / 14)
    hours = slow + season + 0.8 * (kilograms - 8) + random.normal(0, 4, count)
    kilograms[::WRONG_EVERY] = -1.0

    posted = pl.lit(BEGINS).cast(pl.Datetime("us", "UTC")) + pl.duration(minutes=pl.col("minute"))
    parcels = pl.DataFrame(
        {
            "parcel": range(count),
            "depot": depot,
            "kilograms": kilograms,
            "express": random.random(count) < 0.2,
            "minute": minutes,
            "minutes_late": (60 * hours).astype(np.int64),
            "travelled": random.integers(2, 20, count),
        }
    ).with_columns(posted.alias("posted_at"))
    delivered = pl.col("posted_at") + pl.duration(hours=pl.col("travelled"))
    return {
        "depots": pl.DataFrame(
            {"depot": list(REGIONS), "region": list(REGIONS.values())}
        ).with_columns(pl.lit(BEGINS).cast(pl.Datetime("us", "UTC")).alias(KNOWN_AT)),
        "parcels": parcels.select(*PARCELS, (pl.col("posted_at") - ANNOUNCED).alias(KNOWN_AT)),
        "deliveries": parcels.select(*DELIVERIES, delivered.alias(KNOWN_AT)),
    }


def load(name: str, since: datetime | None, until: datetime) -> Frame:
    """Rows that became known in `(since, until]`."""
    rows = everything()[name].lazy().filter(pl.col(KNOWN_AT) <= until)
    return nw.from_native(rows if since is None else rows.filter(pl.col(KNOWN_AT) > since))


def feed(name: str) -> Callable[[datetime | None, datetime], Frame]:
    """What a source publishes."""
    return partial(load, name)


def with_region(rows: pl.DataFrame, lookups: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The region of each parcel's depot."""
    depots = lookups["depots"].select("depot", "region")
    return rows.join(depots, on="depot", how="left", maintain_order="left")


def check_parcels(rows: pb.Validate) -> pb.Validate:
    """Known depots, plausible weights."""
    known = rows.col_vals_in_set("depot", list(REGIONS))
    return known.col_vals_between("kilograms", 0, 100, brief="A weight that can be")


SOURCES = (
    Source(name="depots", raw=DEPOTS, load=feed("depots"), prepared=DEPOTS, keys=("depot",)),
    Source(
        name="parcels",
        raw=PARCELS,
        load=feed("parcels"),
        prepared=PREPARED_PARCELS,
        keys=("parcel",),
        prepare=with_region,
        lookups=("depots",),
        checks=check_parcels,
        max_age=timedelta(days=1),
    ),
    Source(
        name="deliveries",
        raw=DELIVERIES,
        load=feed("deliveries"),
        prepared=DELIVERIES,
        keys=("parcel",),
    ),
)
