"""A stream on Spark answers what the embedded one answers, each request once."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import NamedTuple

import polars as pl
import pytest
from confluent_kafka import Producer
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

from tests.conftest import ROOT, copy_project
from tests.endurance.conftest import Home
from tests.kafka.broker import Broker, unique
from tests.killing import KILLS
from tests.parcels import PROBLEM
from tests.spark.conftest import TRAINED, opened

LOG, PREDICTIONS = tables.inference_log(PROBLEM), tables.predictions(PROBLEM)
LETTERS, REQUESTS = tables.dead_letters(PROBLEM), tables.requests(PROBLEM)
SOME_KILLS = max(KILLS // 5, 1)  # each begins a Spark of its own
BATCH = 100  # requests
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


POISON = (b"", b"\xff\xfe", b"[1]", b'{"parcel": "x"}', b"[" * 100_000)


@pytest.fixture
def topic(broker: Broker) -> str:
    """A topic that nobody else has."""
    name = unique("requests")
    broker.create(name, partitions=2)
    return name


def of_topic(context: Context, broker: Broker, topic: str) -> Context:
    """The environment with requests that come from Kafka."""
    settings = context.settings
    own = {"servers": broker.address, "requests": topic, "group": topic}
    changed = {
        "stream": settings.stream.model_copy(update={"source": "kafka"}),
        "kafka": settings.kafka.model_copy(update=own),
    }
    return replace(context, settings=settings.model_copy(update=changed))


def produce(broker: Broker, topic: str, *values: bytes) -> None:
    """Send messages as they are."""
    producer = Producer({"bootstrap.servers": broker.address})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(60) == 0


def test_the_same_is_answered_from_a_topic(both: Both, broker: Broker, topic: str) -> None:
    # Given
    rows = asked(both.embedded)
    produce(broker, topic, *rows.write_ndjson().encode().splitlines(), *POISON)
    contexts = [of_topic(context, broker, topic) for context in both]
    # When
    done = [flows.stream(context, Event(), once=True) for context in contexts]
    # Then
    assert done == [Streamed(scored=rows.height - 1, refused=1 + len(POISON))] * 2
    for table in (LOG, PREDICTIONS, LETTERS):
        found, expected = held(both.spark, table), held(both.embedded, table)
        assert_frame_equal(found, expected, rel_tol=0, abs_tol=1e-9)
    # And nothing is answered again
    assert flows.stream(contexts[1], Event(), once=True) == Streamed()


@pytest.mark.parametrize(
    ("stream", "kafka", "said"),
    [
        ({}, {"requests": "none"}, "Cannot use the topic none"),
        ({"sink": "kafka"}, {}, "takes requests to tables"),
        ({"source": "predictions"}, {}, "takes requests to tables"),
    ],
)
def test_what_spark_does_not_do_with_kafka_is_said(
    both: Both,
    broker: Broker,
    topic: str,
    stream: dict[str, str],
    kafka: dict[str, str],
    said: str,
) -> None:
    settings = of_topic(both.spark, broker, topic).settings
    changed = {
        "stream": settings.stream.model_copy(update=stream),
        "kafka": settings.kafka.model_copy(update=kafka),
    }
    context = replace(both.spark, settings=settings.model_copy(update=changed))
    with pytest.raises(UserError, match=said):
        flows.stream(context, Event(), once=True)


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
    requests = sorted(lakehouse.read(REQUESTS)["request_id"])
    answered = [*lakehouse.read(LOG)["request_id"], *lakehouse.read(LETTERS)["request_id"]]
    assert sorted(name for name in answered if name in requests) == requests


@pytest.mark.long
@pytest.mark.parametrize("source", ["table", "kafka"])
def test_every_request_is_answered_once_though_processes_are_killed(
    both: Both, broker: Broker, topic: str, tmp_path: Path, source: str
) -> None:
    # Given
    home = Home(tmp_path / "my project")
    shutil.copytree(both.embedded.settings.project, home.folder)
    context = opened(home.folder, "polars")
    shutil.rmtree(context.lakehouse.place(REQUESTS.name))
    parcels = pl.concat([asked(context)] * 2)
    rows = parcels.with_columns(parcel=pl.int_range(pl.len()) + 10**6)
    if source == "kafka":
        produce(broker, topic, *rows.write_ndjson().encode().splitlines())
    else:
        send(context, rows.iter_slices(BATCH))
    settings = {
        "ENGINE": "spark",
        "KAFKA__REQUESTS": topic,
        "KAFKA__SERVERS": broker.address,
        "STREAM__BATCH_ROWS": str(BATCH),
        "STREAM__SOURCE": source,
    }
    # When
    script = ROOT / "tests" / "spark" / "streamer.py"
    process = home.start(str(script), str(SOME_KILLS), "7", **settings)
    said, _ = process.communicate()
    # Then
    assert process.returncode == 0, said
    killed = re.search(r"killed: (\d+)", said)
    assert killed is not None
    assert int(killed[1]) > 0
    for table in (LOG, PREDICTIONS):
        answers = context.lakehouse.read(table, order=("parcel",))
        assert answers["parcel"].filter(answers["parcel"] >= 10**6).equals(rows["parcel"])
