"""A stream on Spark answers what the embedded one answers, each request once."""

from __future__ import annotations

import shutil
from datetime import timedelta
from threading import Event
from typing import NamedTuple

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pyspark.sql import SparkSession

from {{cookiecutter.package_name}} import flows
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import KNOWN_AT, Table
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.inference.stream import Streamed
from {{cookiecutter.package_name}}.inference.stream_tables import send
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse

from tests.conftest import copy_project
from tests.parcels import PROBLEM
from tests.spark.conftest import TRAINED, opened

LOG, PREDICTIONS = tables.inference_log(PROBLEM), tables.predictions(PROBLEM)
LETTERS, REQUESTS = tables.dead_letters(PROBLEM), tables.requests(PROBLEM)
UNCOMPARED = ("request_id", "latency_ms", "feature_versions", "requested_at")


class Both(NamedTuple):
    """The same requests, answered by either."""

    embedded: Context
    spark: Context


def asked(context: Context) -> pl.DataFrame:
    """Parcels of the last hours, some of them twice, and one without a key."""
    parcels = context.lakehouse.read(tables.prepared(PROBLEM.scored)).drop(KNOWN_AT)
    posted = pl.col("posted_at")
    recent = parcels.filter(posted > TRAINED - timedelta(hours=12), posted <= TRAINED).sort(
        "parcel"
    )
    nobody = recent.head(1).with_columns(parcel=pl.lit(None, dtype=pl.Int64))
    return pl.concat([recent, recent.head(3), nobody])


@pytest.fixture(scope="module")
def both(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Two projects with the same champion and the same waiting requests."""
    folders = [tmp_path_factory.mktemp(name) / "my project" for name in ("polars", "spark")]
    context = opened(copy_project(folders[0]), "polars")
    for verb in (flows.ingest, flows.prepare, flows.features):
        verb(context, TRAINED)
    flows.deploy(context, flows.train(context, TRAINED).version, "tester")
    send(context, [asked(context)])
    shutil.copytree(folders[0], folders[1])
    return Both(context, opened(folders[1], "spark"))


def held(context: Context, table: Table) -> pl.DataFrame:
    """What a table holds, as polars reads it, in order."""
    rows = opened(context.settings.project, "polars").lakehouse.read(table)
    rows = rows.filter(pl.col("request_id") != tables.BATCH) if table == LOG else rows
    return rows.drop(UNCOMPARED, strict=False).sort(pl.all())


def test_the_same_is_answered(both: Both) -> None:
    # When
    done = [flows.stream(context, Event(), once=True) for context in both]
    # Then
    assert done[0] == done[1]
    assert done[0].refused == 1
    for table in (LOG, PREDICTIONS, LETTERS):
        found, expected = held(both.spark, table), held(both.embedded, table)
        assert expected.height > 0
        assert_frame_equal(found, expected, rel_tol=0, abs_tol=1e-9)
    # And nothing is answered again
    assert flows.stream(both.spark, Event(), once=True) == Streamed()


@pytest.mark.parametrize("name", ["append_once", "merge_once"])
def test_a_batch_that_was_cut_off_is_answered_once(
    both: Both, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # Given a process that dies after its first such write
    context = both.spark
    send(opened(context.settings.project, "polars"), [asked(context).head(20)])
    write = getattr(Lakehouse, name)

    def cut_off(*arguments: object) -> bool:
        write(*arguments)
        raise UserError("Cut off.", "")

    with monkeypatch.context() as patch:
        patch.setattr(Lakehouse, name, cut_off)
        with pytest.raises(UserError, match="Cut off"):
            flows.stream(context, Event(), once=True)
    # When
    flows.stream(context, Event(), once=True)
    # Then
    lakehouse = opened(context.settings.project, "polars").lakehouse
    logged = lakehouse.read(LOG)
    letters = lakehouse.read(LETTERS)
    answered = [*logged["request_id"], *letters["request_id"]]
    assert sorted(set(answered) - {tables.BATCH}) == sorted(lakehouse.read(REQUESTS)["request_id"])
    streamed = [name for name in answered if name != tables.BATCH]
    assert len(set(streamed)) == len(streamed)
