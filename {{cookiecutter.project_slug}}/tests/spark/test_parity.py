"""Spark computes what polars computes, to 1e-9, with the same functions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from polars.testing import assert_frame_equal
from pyspark.sql import SparkSession

from {{cookiecutter.package_name}}.core.contract import (
    AVAILABLE_AT,
    KNOWN_AT,
    PREDICTION_TIME,
    UTC_TIME,
    FeatureTable,
    Frame,
    Source,
)
from {{cookiecutter.package_name}}.modeling.profile import Profile, profile
from {{cookiecutter.package_name}}.monitoring.seen import look, related
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.engines import PolarsEngine
from {{cookiecutter.package_name}}.store.engines.spark import SparkEngine
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse
from {{cookiecutter.package_name}}.store.point_in_time import point_in_time_join

from tests.parcels import PROBLEM
from tests.unit.test_feature_store import Key, Known, features, features_of, spine_of, spines

Both = dict[str, tuple[Frame, Frame]]
BEGINS = {"spring": datetime(2024, 2, 20, tzinfo=UTC), "autumn": datetime(2024, 10, 20, tzinfo=UTC)}
ROWS, DAYS = 1_500, 30


def random_rows(source: Source, begin: datetime, seed: int) -> pl.DataFrame:
    """Prepared rows of few entities, a tenth of them null, across the change of the clocks."""
    rng = np.random.default_rng(seed)
    entities = {key for feature in PROBLEM.feature_tables for key in feature.keys}
    minutes = np.sort(rng.choice(DAYS * 24 * 60, ROWS, replace=False))
    moments = pl.Series([begin + timedelta(minutes=int(minute)) for minute in minutes])
    columns = {}
    for name, kind in tables.prepared(source).schema.items():
        if kind == UTC_TIME:
            values = moments
        elif kind == nw.String:
            values = pl.Series(rng.choice(["a", "b", "c"], ROWS))
        elif kind == nw.Boolean:
            values = pl.Series(rng.random(ROWS) < 0.1)
        else:
            values = pl.Series(rng.integers(-60, 200, ROWS)).cast(
                pl.Float64 if kind == nw.Float64 else pl.Int64
            )
        kept = pl.Series(rng.random(ROWS) > 0.1) | (name in {*source.keys, *entities, KNOWN_AT})
        columns[name] = pl.select(pl.when(kept).then(values)).to_series().alias(name)
    return pl.DataFrame(columns).unique(list(source.keys), maintain_order=True)


@pytest.fixture(scope="module", params=BEGINS)
def frames(
    request: pytest.FixtureRequest, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> Both:
    """The same prepared tables on polars and on Spark."""
    folder, both = tmp_path_factory.mktemp("tables"), {}
    for seed, source in enumerate(PROBLEM.sources):
        path = folder / f"{source.name}.parquet"
        random_rows(source, BEGINS[request.param], seed).write_parquet(path)
        both[source.name] = (nw.from_native(pl.scan_parquet(path)), on_spark(spark, path))
    return both


def on_spark(spark: SparkSession, path: Path) -> Frame:
    frame: Frame = nw.from_native(spark.read.parquet(str(path)))
    return frame


def built(feature: FeatureTable, frames: Both, engine: int) -> Frame:
    return feature.build({name: both[engine] for name, both in frames.items()})


def assert_equal(polars: Frame, spark: Frame, keys: list[str]) -> None:
    expected = pl.DataFrame(polars.collect("polars").to_native()).sort(keys)
    found = pl.DataFrame(spark.collect("polars").to_native()).select(expected.columns).sort(keys)
    assert expected.height > 2
    assert_frame_equal(found.cast(expected.schema), expected, rel_tol=0, abs_tol=1e-9)


@pytest.mark.parametrize("feature", PROBLEM.feature_tables, ids=lambda feature: feature.name)
def test_a_feature_table_is_the_same(frames: Both, feature: FeatureTable) -> None:
    assert_equal(
        built(feature, frames, 0), built(feature, frames, 1), list(tables.features(feature).keys)
    )


@pytest.mark.parametrize("feature", PROBLEM.feature_tables, ids=lambda feature: feature.name)
def test_a_point_in_time_join_is_the_same(
    frames: Both, feature: FeatureTable, spark: SparkSession, tmp_path: Path
) -> None:
    rng = np.random.default_rng(7)
    rows = pl.DataFrame(built(feature, frames, 0).collect("polars").to_native())
    drawn = rows.select(*feature.keys, AVAILABLE_AT).sample(500, with_replacement=True, seed=7)
    shift = pl.Series(rng.choice([-90, -1, 0, 1, 45], 500))
    spine = drawn.select(
        pl.Series("row", range(500)),
        *(pl.when(pl.Series(rng.random(500) > 0.05)).then(key).alias(key) for key in feature.keys),
        (pl.col(AVAILABLE_AT) + pl.duration(minutes=pl.lit(shift))).alias(PREDICTION_TIME),
    )
    spine.write_parquet(tmp_path / "spine.parquet")
    spines: tuple[Frame, Frame] = (
        nw.from_native(spine.lazy()),
        on_spark(spark, tmp_path / "spine.parquet"),
    )
    joined = [
        point_in_time_join(
            spines[engine],
            built(feature, frames, engine),
            tuple(feature.keys),
            tuple(feature.values),
        )
        for engine in (0, 1)
    ]
    assert_equal(joined[0], joined[1], ["row"])


@settings(max_examples=10)
@given(spines, features)
def test_no_row_of_the_future_is_joined(
    spark: SparkSession, spine: list[tuple[Key, int, int]], known: Known
) -> None:
    expected, found = (
        joined(Lakehouse("nowhere", engine=engine), spine, known)
        for engine in (PolarsEngine(), SparkEngine(spark))
    )
    assert found.filter(pl.col("since") > pl.col("at")).is_empty()
    assert_frame_equal(found, expected)


def joined(lakehouse: Lakehouse, spine: list[tuple[Key, int, int]], known: Known) -> pl.DataFrame:
    """What a spine is given of feature rows, in order; `since` is when a row became available."""
    asked, there = (
        lakehouse.frame(pl.DataFrame(rows.collect("polars").to_native()))
        for rows in (spine_of(spine), features_of(known))
    )
    rows = point_in_time_join(asked, there, ["key"], ["since", "value", "text"])
    found = lakehouse.collect(rows)
    return found.sort(found.columns)


def weather(days: int, seed: int) -> pl.DataFrame:
    """Hours at two places: pressure follows time, what is felt follows from heat."""
    rng = np.random.default_rng(seed)
    hours = pl.DataFrame({"hour": range(24 * days)})
    size = 2 * hours.height
    heat = rng.normal(70, 10, size).round(1)
    rows = hours.join(pl.DataFrame({"place": ["a", "b"]}), how="cross")
    walk = np.cumsum(rng.normal(0, 1, size)) + np.where(rows["place"] == "a", 0, 80)
    some = pl.Series(rng.random(size) > 0.1)
    return rows.select(
        pl.lit(BEGINS["spring"]).dt.offset_by(pl.format("{}h", "hour")).alias(PREDICTION_TIME),
        "place",
        pl.Series("number", rng.permutation(size)),
        pl.when(some).then(pl.Series(walk)).alias("pressure"),
        pl.Series("heat", heat),
        pl.Series("felt", heat - 2 + rng.normal(0, 1, size)),
    )


@pytest.fixture(scope="module")
def reference() -> Profile:
    """Of weeks in which columns are related, and one follows time."""
    return profile(weather(70, 0), ("place", "pressure", "heat", "felt"))


@pytest.mark.parametrize("lost", [[], ["place"], ["heat"]], ids=["all", "place", "heat"])
def test_drift_is_asked_the_same_of_a_window(
    reference: Profile, spark: SparkSession, lost: list[str]
) -> None:
    rows = weather(7, 1).drop(lost)
    both = [
        look(lakehouse, reference, lakehouse.frame(rows), ["number"])
        for lakehouse in (Lakehouse("nowhere"), Lakehouse("nowhere", engine=SparkEngine(spark)))
    ]
    expected, found = both
    assert found.rows == rows.height
    assert related(reference)
    assert bool(list(expected.steps())) is ("place" not in lost)
    assert found == expected
