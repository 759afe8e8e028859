"""The online store answers as the point-in-time join does, whatever became of the tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from {{cookiecutter.package_name}}.core.contract import (
    PREDICTION_TIME,
    UTC_TIME,
    FeatureTable,
    polars_schema,
)
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse
from {{cookiecutter.package_name}}.store.online import (
    OnlineError,
    OnlineFeatures,
    open_backend,
    publish,
    publishing,
)
from {{cookiecutter.package_name}}.store.online.features import microseconds
from {{cookiecutter.package_name}}.store.point_in_time import point_in_time_join

from tests.conftest import START

HOUR = timedelta(hours=1)
HISTORY = 6 * HOUR
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


@given(data=st.data(), built=builds)
def test_online_row_is_the_offline_row_to_the_bit(
    data: st.DataObject, built: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Given
    folder = tmp_path_factory.mktemp("online")
    lakehouse, backend = Lakehouse(str(folder / "lake")), open_backend(folder / "online")
    features = OnlineFeatures([TABLE], backend)
    done: datetime | None = None
    for hours, again, given_rows in built:
        since = max(START, done - again * HOUR) if done else None
        done = (done or START) + hours * HOUR
        # When
        build(lakehouse, since, done, given_rows)
        if data.draw(st.booleans()):  # some builds are published together
            publish(lakehouse, [TABLE], backend, HISTORY)
    publish(lakehouse, [TABLE], backend, HISTORY)
    # Then
    assert done is not None
    minutes = data.draw(st.lists(st.integers(-6 * 60, 3 * 60), min_size=1, max_size=5))
    spine = asked([done + minute * timedelta(minutes=1) for minute in minutes])
    assert exactly(online(features, spine)) == exactly(offline(lakehouse, spine))


def every_hour(hours: int) -> dict[Any, Any]:
    """Rows of one shop."""
    return {
        ("a", 0, 60 * hour): (float(hour), hour, "x", True, None) for hour in range(1, hours + 1)
    }


@pytest.fixture
def published(lakehouse: Lakehouse, tmp_path: Path) -> tuple[OnlineFeatures, Any]:
    """A store with a row per hour of one shop."""
    given_rows = every_hour(24)
    build(lakehouse, None, START + 24 * HOUR, given_rows)
    backend = open_backend(tmp_path / "online")
    publish(lakehouse, [TABLE], backend, HISTORY)
    return OnlineFeatures([TABLE], backend), backend


def test_what_is_known_later_is_not_found(published: tuple[OnlineFeatures, Any]) -> None:
    # Given
    features, _ = published
    moment = START + 20 * HOUR + timedelta(minutes=59)
    # When
    [[found]] = features.look_up([{"shop": "a", "number": 0}], [microseconds(moment)])
    # Then
    assert found is not None
    assert found.values[1] == 20
    assert found.available_at == microseconds(START + 20 * HOUR)


def test_longer_ago_than_the_store_goes_back_is_refused(
    published: tuple[OnlineFeatures, Any],
) -> None:
    features, _ = published
    with pytest.raises(OnlineError, match="goes back to 2020-01-01 18:00"):
        features.look_up([{"shop": "a", "number": 0}], [microseconds(START + 17 * HOUR)])


def test_rows_that_are_too_old_to_be_asked_for_are_not_kept(
    published: tuple[OnlineFeatures, Any], lakehouse: Lakehouse
) -> None:
    # Given
    features, backend = published
    key = features.codecs[0].key(["a", 0])
    before = len(backend.read([key])[0])
    # When
    build(lakehouse, START + 24 * HOUR, START + 123 * HOUR, every_hour(99))
    publish(lakehouse, [TABLE], backend, HISTORY)
    # Then
    assert len(backend.read([key])[0]) == before


def test_publishing_again_writes_nothing(
    published: tuple[OnlineFeatures, Any], lakehouse: Lakehouse
) -> None:
    assert publish(lakehouse, [TABLE], published[1], HISTORY) == {}


def test_only_new_rows_are_written_where_a_table_grew(
    published: tuple[OnlineFeatures, Any], lakehouse: Lakehouse
) -> None:
    # When
    build(lakehouse, START + 24 * HOUR, START + 25 * HOUR, {("b", 0, 30): (1.0, 1, "", True, None)})
    # Then
    assert publish(lakehouse, [TABLE], published[1], HISTORY) == {"shop": 1}


def test_an_update_that_fails_is_not_seen(
    published: tuple[OnlineFeatures, Any],
    lakehouse: Lakehouse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given
    features, backend = published
    before = features.published()
    build(lakehouse, None, START + 30 * HOUR, {("a", 0, 1): (1.0, 1, "", True, None)})

    def failing(*_: object) -> Iterator[object]:
        yield features.codecs[0].key(["a", 0]), []
        raise OSError

    monkeypatch.setattr(publishing, "_by_entity", failing)
    # When
    with pytest.raises(OSError):
        publish(lakehouse, [TABLE], backend, HISTORY)
    # Then
    [[found]] = features.look_up([{"shop": "a", "number": 0}], [microseconds(START + 24 * HOUR)])
    assert found is not None
    assert features.published() == before


def test_rows_of_another_declaration_are_not_served(
    published: tuple[OnlineFeatures, Any], lakehouse: Lakehouse
) -> None:
    # Given
    _, backend = published
    other = replace(TABLE, values={**TABLE.values, "count": nw.Float64})
    # When
    features = OnlineFeatures([other], backend)
    # Then
    with pytest.raises(OnlineError, match="other columns"):
        features.published()


def test_a_store_that_is_empty_says_so(tmp_path: Path) -> None:
    features = OnlineFeatures([TABLE], open_backend(tmp_path / "online"))
    with pytest.raises(OnlineError, match="not there yet"):
        features.published()


def test_a_table_that_is_no_longer_declared_goes(
    published: tuple[OnlineFeatures, Any], lakehouse: Lakehouse
) -> None:
    # Given
    features, backend = published
    # When
    publish(lakehouse, [], backend, HISTORY)
    # Then
    assert backend.read([features.codecs[0].key(["a", 0])]) == [None]


def test_a_type_that_cannot_be_looked_up_is_refused(tmp_path: Path) -> None:
    other = replace(TABLE, values={"many": nw.List(nw.Int64)})
    with pytest.raises(OnlineError, match="many is List"):
        OnlineFeatures([other], open_backend(tmp_path / "online"))


def test_long_keys_are_told_apart() -> None:
    features = OnlineFeatures([TABLE], open_backend(Path("online")))
    codec = features.codecs[0]
    keys = {codec.key(["x" * 1_000 + end, 0]) for end in "ab"}
    assert len(keys) == 2
    assert all(len(key) < 511 for key in keys)


def test_zeros_and_nans_are_told_apart() -> None:
    assert exactly([(0.0,)]) != exactly([(-0.0,)])
    assert exactly([(math.nan,)]) == exactly([(math.nan,)])
