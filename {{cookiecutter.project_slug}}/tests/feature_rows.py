"""Feature tables that are built, rebuilt and published at random; any online store must keep step.

What it gives for a moment must be what the point-in-time join gives, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import narwhals as nw
import polars as pl
from hypothesis import strategies as st

from {{cookiecutter.package_name}}.core.contract import (
    PREDICTION_TIME,
    UTC_TIME,
    FeatureTable,
    polars_schema,
)
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse
from {{cookiecutter.package_name}}.store.online import Backend, OnlineFeatures
from {{cookiecutter.package_name}}.store.online.features import microseconds
from {{cookiecutter.package_name}}.store.online.publishing import publish
from {{cookiecutter.package_name}}.store.point_in_time import point_in_time_join

from tests.conftest import START

HOUR = timedelta(hours=1)
HISTORY = 6 * HOUR
ROWS_AT_ONCE = 5  # so that the newest of each shop is found in parts
SHOPS = ("a", "b", "c")
VALUES = ("amount", "count", "kind", "open", "day")
TABLE = FeatureTable(
    name="shop",
    keys={"shop": nw.String, "number": nw.Int64},
    values={
        "amount": nw.Float64,
        "count": nw.Int64,
        "kind": nw.String,
        "open": nw.Boolean,
        "day": nw.Date,
    },
    build=lambda frames: frames["shops"],
)
values = st.tuples(
    st.none() | st.floats(width=64),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.text(max_size=600),
    st.none() | st.booleans(),
    st.none() | st.dates(date(1, 1, 1), date(9999, 12, 31)),
)
rows = st.dictionaries(
    st.tuples(st.sampled_from(SHOPS), st.integers(0, 1), st.integers(1, 240)), values, max_size=12
)
builds = st.lists(
    st.tuples(st.integers(1, 8), st.integers(0, 12), rows), min_size=1, max_size=5
)  # hours built, hours of those before that are built anew, and rows by key and minute


def frame(rows: Mapping[tuple[str, int, datetime], Sequence[Any]]) -> pl.DataFrame:
    schema = polars_schema(tables.features(TABLE).schema)
    listed = [(*key, *of_key) for key, of_key in rows.items()]
    return pl.DataFrame(listed, schema=schema, orient="row")


def asked(moments: Sequence[datetime]) -> pl.DataFrame:
    every = [
        (shop, number, moment) for shop in (*SHOPS, None) for number in (0, 1) for moment in moments
    ]
    schema = polars_schema({**TABLE.keys, PREDICTION_TIME: UTC_TIME})
    return pl.DataFrame(every, schema=schema, orient="row")


def offline(lakehouse: Lakehouse, spine: pl.DataFrame) -> list[tuple[Any, ...]]:
    """By row, what the join finds."""
    joined = point_in_time_join(
        lakehouse.frame(spine), lakehouse.scan(tables.features(TABLE)), tuple(TABLE.keys), VALUES
    )
    order = ["shop", "number", PREDICTION_TIME]
    return lakehouse.collect(joined).sort(order).select(VALUES).rows()


def online(features: OnlineFeatures, spine: pl.DataFrame) -> list[tuple[Any, ...]]:
    """By row, what the online store finds."""
    ordered = spine.sort("shop", "number", PREDICTION_TIME)
    moments = [microseconds(moment) for moment in ordered[PREDICTION_TIME]]
    found = features.look_up(ordered.rows(named=True), moments)
    return [row.values if row else (None,) * len(VALUES) for (row,) in found]


def exactly(rows: Sequence[tuple[Any, ...]]) -> list[list[object]]:
    """Values by their bits: no two NaNs differ, and the zeros do."""
    return [[value.hex() if isinstance(value, float) else value for value in row] for row in rows]


def build(
    lakehouse: Lakehouse, since: datetime | None, until: datetime, given: Mapping[Any, Any]
) -> None:
    """Write the rows that lie in the interval."""
    start = since or START
    placed = {
        (shop, number, start + minute * timedelta(minutes=1)): of_key
        for (shop, number, minute), of_key in given.items()
    }
    inside = {key: of_key for key, of_key in placed.items() if key[2] <= until}
    lakehouse.overwrite(tables.features(TABLE), frame(inside), since, until)


def publish_shops(lakehouse: Lakehouse, backend: Backend) -> dict[str, int]:
    """Bring an online store in step with the table; returns new rows by table."""
    return publish(lakehouse, [TABLE], backend, HISTORY, ROWS_AT_ONCE)


def every_hour(hours: int) -> dict[Any, Any]:
    """Rows of one shop."""
    return {
        ("a", 0, 60 * hour): (float(hour), hour, "x", True, None) for hour in range(1, hours + 1)
    }


def check_parity(
    data: st.DataObject, built: Sequence[Any], lakehouse: Lakehouse, backend: Backend
) -> None:
    """Build as drawn, publish now and then, and compare both answers."""
    # Given
    features = OnlineFeatures([TABLE], backend)
    done: datetime | None = None
    for hours, again, given_rows in built:
        since = max(START, done - again * HOUR) if done else None
        done = (done or START) + hours * HOUR
        # When
        build(lakehouse, since, done, given_rows)
        if data.draw(st.booleans()):  # some builds are published together
            publish_shops(lakehouse, backend)
    publish_shops(lakehouse, backend)
    # Then
    assert done is not None
    minutes = data.draw(st.lists(st.integers(-6 * 60, 3 * 60), min_size=1, max_size=5))
    spine = asked([done + minute * timedelta(minutes=1) for minute in minutes])
    assert exactly(online(features, spine)) == exactly(offline(lakehouse, spine))
