"""Tests of this problem, whose two files are made up when pytest collects them."""

from __future__ import annotations

import numpy as np
import polars as pl

from PACKAGE.problem import DATA, PROBLEM

ROWS = 60 * 100
MINUTES_APART = 14


def publish() -> None:
    """Write the files that the documentation speaks of."""
    random = np.random.default_rng(0)
    depot = random.choice(["north", "south"], ROWS)
    kilograms = random.uniform(0.1, 40, ROWS)
    late = (kilograms - 20) / 4 + 3 * (depot == "north") + random.normal(0, 4, ROWS)
    begins = pl.lit(PROBLEM.begins).cast(pl.Datetime("us", "UTC"))
    posted_at = begins + pl.duration(minutes=MINUTES_APART * pl.col("parcel"))
    delivered_at = posted_at + pl.duration(hours=12)
    rows = pl.DataFrame(
        {"parcel": range(ROWS), "depot": depot, "kilograms": kilograms, "hours_late": late}
    )
    parcels = rows.select("parcel", "depot", "kilograms", posted_at.alias("posted_at"))
    deliveries = rows.select("parcel", "depot", delivered_at.alias("delivered_at"), "hours_late")
    DATA.mkdir(exist_ok=True)
    parcels.write_parquet(DATA / "parcels.parquet")
    deliveries.write_parquet(DATA / "deliveries.parquet")


publish()


def test_there_are_deliveries_of_both_depots() -> None:
    deliveries = pl.read_parquet(DATA / "deliveries.parquet")
    assert set(deliveries["depot"]) == {"north", "south"}
