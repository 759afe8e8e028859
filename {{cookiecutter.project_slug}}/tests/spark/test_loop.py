"""The loop on Spark is the loop on polars, and each goes on where the other stopped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock

import narwhals as nw
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pyspark.sql import SparkSession

from {{cookiecutter.package_name}} import flows
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import (
    KNOWN_AT,
    UTC_TIME,
    Table,
    polars_schema,
)
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.data.ingest import ingest
from {{cookiecutter.package_name}}.data.prepare import prepare
from {{cookiecutter.package_name}}.features.build import build_features
from {{cookiecutter.package_name}}.inference import batch
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.engines import delta
from {{cookiecutter.package_name}}.store.engines.spark import SparkEngine
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse
from {{cookiecutter.package_name}}.store.measurements import RUN
from {{cookiecutter.package_name}}.tracking.registry import CHAMPION

from tests.conftest import copy_project
from tests.parcels import PROBLEM
from tests.spark.conftest import TRAINED, opened

LATER = TRAINED + timedelta(days=1)
# Which engine does what in the project that is compared with polars alone.
DAYS = {TRAINED + timedelta(days=1): "polars", TRAINED + timedelta(days=8): "spark"}
UNCOMPARED = {"latency_ms", "feature_versions", "subject", "at"}  # clocks, numbers of commits, ids
THINGS = Table("things", {"id": nw.Int64, KNOWN_AT: UTC_TIME}, ("id",), KNOWN_AT)


class Both(NamedTuple):
    """The same weeks on polars alone, and on Spark with a day of polars in between."""

    polars: Context
    spark: Context


def step(context: Context, as_of: datetime) -> None:
    flows.ingest(context, as_of)
    flows.prepare(context, as_of)
    flows.features(context, as_of)


def live(folder: Path, *, on_spark: bool) -> Context:
    """Train, promote, and some days of production."""
    engines = {name: opened(folder, name) for name in ("polars", "spark")}
    context = engines["spark" if on_spark else "polars"]
    step(context, TRAINED)
    flows.deploy(context, flows.train(context, TRAINED).version, "tester")
    for day, engine in DAYS.items():
        today = engines[engine if on_spark else "polars"]
        step(today, day)
        flows.predict(today, day)
        flows.monitor(today, day)
    return context


@pytest.fixture(scope="module")
def both(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folders = [
        copy_project(tmp_path_factory.mktemp(name) / "my project") for name in ("one", "other")
    ]
    return Both(live(folders[0], on_spark=False), live(folders[1], on_spark=True))


@pytest.fixture
def lakehouse(spark: SparkSession, tmp_path: Path) -> Lakehouse:
    """An empty one on Spark; its path has a space and an umlaut."""
    return Lakehouse(str(tmp_path / "see häuser"), engine=SparkEngine(spark))


def held(context: Context, table: Table) -> pl.DataFrame:
    """What a table holds, as polars reads it, in order."""
    rows = opened(context.settings.project, "polars").lakehouse.read(table)
    compared = rows.drop(UNCOMPARED & set(rows.columns))
    return compared.sort(compared.columns)


@pytest.mark.parametrize(
    "table",
    [table for table in tables.every(PROBLEM) if table != tables.MEASUREMENTS],
    ids=lambda table: table.name,
)
def test_tables_are_equal_row_by_row(both: Both, table: Table) -> None:
    assert_frame_equal(held(both.spark, table), held(both.polars, table), rel_tol=0, abs_tol=1e-9)


def test_the_same_is_measured_and_violated(both: Both) -> None:
    measured = (pl.col("producer") != RUN) & (pl.col("metric") != "batch_latency_ms")
    expected, found = (held(item, tables.MEASUREMENTS).filter(measured) for item in both)
    assert expected.filter(producer="monitoring").height > 20
    assert_frame_equal(found, expected, rel_tol=0, abs_tol=1e-9)


def test_the_same_champion_is_chosen(both: Both) -> None:
    assert [item.registry.aliased(CHAMPION) for item in both] == ["1", "1"]


def test_done_again_nothing_changes(both: Both) -> None:
    context, day = both.spark, max(DAYS)
    before = [context.lakehouse.version(table) for table in tables.every(PROBLEM)]
    ingest(context, day)
    prepare(context, day)
    build_features(context, day)
    batch.predict(context, day, batch.due(context, day), complete=True)
    assert [context.lakehouse.version(table) for table in tables.every(PROBLEM)] == before


def things(*numbers: int, at: datetime = TRAINED) -> pl.DataFrame:
    rows = pl.DataFrame({"id": numbers}).with_columns(pl.lit(at).alias(KNOWN_AT))
    return rows.cast(polars_schema(THINGS.schema))


def ids(lakehouse: Lakehouse) -> list[int]:
    return lakehouse.read(THINGS)["id"].sort().to_list()


def test_a_write_that_is_cut_off_leaves_the_table_and_comes_again(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given files that are written when the process dies before their commit
    lakehouse.append(THINGS, things(1), TRAINED)
    until = TRAINED + timedelta(days=1)
    with monkeypatch.context() as patch:
        patch.setattr(delta, "commit_properties", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            lakehouse.append(THINGS, things(2, at=until), until)
    # then nothing of it is seen, and a rerun adds it once
    assert ids(lakehouse) == [1]
    for _ in range(2):
        lakehouse.append(THINGS, things(2, at=until), until)
    assert ids(lakehouse) == [1, 2]


def by_zero(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(id=rows.height // 0)


def test_what_a_function_of_the_user_raises_on_the_cluster_names_its_line(
    lakehouse: Lakehouse,
) -> None:
    lakehouse.append(THINGS, things(1), TRAINED)
    mapped = lakehouse.map_batches(lakehouse.scan(THINGS), by_zero, THINGS.schema)
    with pytest.raises(UserError, match=r"test_loop\.py, line \d+: ZeroDivisionError: "):
        lakehouse.collect(mapped)


def test_what_the_other_engine_wrote_can_be_mounted_and_only_read(
    spark: SparkSession, tmp_path: Path
) -> None:
    # given a table that polars wrote elsewhere
    Lakehouse(str(tmp_path / "prod")).append(THINGS, things(1, 2), TRAINED)
    mounts = {"things": str(tmp_path / "prod")}
    development = Lakehouse(str(tmp_path / "dev"), mounts, SparkEngine(spark))
    # then Spark reads it, and may not write it
    assert ids(development) == [1, 2]
    with pytest.raises(UserError, match="things"):
        development.append(THINGS, things(3, at=LATER), LATER)
    assert ids(development) == [1, 2]


def test_of_two_writers_one_is_first(lakehouse: Lakehouse) -> None:
    lakehouse.append(THINGS, things(0), TRAINED)

    def write(number: int) -> bool:
        return lakehouse.append_if_unchanged(THINGS, things(number), 0)

    with ThreadPoolExecutor(2) as pool:
        won = list(pool.map(write, [1, 2]))
    assert sorted(won) == [False, True]
    assert ids(lakehouse) == [0, 1 + won.index(True)]


def test_two_who_merge_at_once_add_no_row_twice(lakehouse: Lakehouse) -> None:
    lakehouse.append(THINGS, things(0), TRAINED)
    with ThreadPoolExecutor(2) as pool:
        merged = pool.map(partial(lakehouse.merge, THINGS), [things(0, 1, 2), things(2, 3)])
    assert sum(merged) >= 3
    assert ids(lakehouse) == [0, 1, 2, 3]
