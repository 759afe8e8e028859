"""The stream on a cluster: Spark's Structured Streaming hands over requests, batches score them.

Spark gives each micro-batch a number, and hands over the same requests under the same number until
they are done. Every commit of their answers records that number as an application transaction: a
batch that comes again after a kill adds nothing that is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial, reduce
from threading import Event
from typing import NamedTuple, TypeAlias

import msgspec
import narwhals as nw
import polars as pl
import pyspark.sql.functions as F  # noqa: N812 as all of Spark's users call it
from py4j.protocol import Py4JError  # which comes with pyspark
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession, Window

from ..context import Context
from ..core.contract import KNOWN_AT, Estimator, Frame, Problem, Table
from ..core.errors import UserError
from ..store import tables
from ..store.engines.delta import reason
from ..store.engines.spark import SparkEngine
from ..store.point_in_time import seen_by, spine_of
from ..tracking.stages import require_untouched
from .kafka import Reader, connection
from .score import score
from .stream import Meter, Streamed

_CHECKPOINTS = "_checkpoints"
_ID = "request_id"
_REASON = "reason"
_TIMES = "_times"
_WITHOUT_ID = "It has no request_id, and Spark gives none."
_LEFT_OUT = "The problem does not score such a row."
_SERVERS = "bootstrap.servers"
_OF_MESSAGE = ("topic", "partition", "offset", "value", "timestamp")
Kind: TypeAlias = Callable[[Problem], type[msgspec.Struct]]
"""Makes the type of a message from the problem."""


class _Requests(NamedTuple):
    """Where requests come from."""

    stream: DataFrame  # of Spark's source
    name: str  # of its checkpoint
    read: Callable[[DataFrame], DataFrame]  # requests, and in `reason` why something is none


def consume_on_spark(context: Context, kind: Kind, stop: Event, *, once: bool) -> Streamed:
    """Score requests as they come, until told to stop or, `once`, until none is left.

    Args:
        context: Tables, registry, problem; a topic, where `stream.source` is Kafka.
        kind: Makes the type of a message from the problem.
        stop: Set, it ends within seconds; what is not committed yet is scored the next time.
        once: End when no request is left.

    Raises:
        UserError: The session is Spark Connect's; or storage, registry, Kafka or cluster fail.
            Nothing is lost: start it again.
    """
    lakehouse = context.lakehouse
    engine = lakehouse.engine
    if context.settings.spark.remote or not isinstance(engine, SparkEngine):
        message = "A stream on Spark needs a session in this process, not one of Spark Connect."
        raise UserError(message, "Set `spark.master` in place of `spark.remote`.")
    if context.settings.stream.source == "kafka":
        requests = _of_topic(context, engine.session, kind)
    else:
        requests = _of_table(context, engine.session)
    checkpoint = f"{lakehouse.root.rstrip('/')}/{_CHECKPOINTS}/{requests.name}"
    answering = _Answering(context, requests.read)
    writer = requests.stream.writeStream.foreachBatch(answering.answer)
    writer = writer.option("checkpointLocation", checkpoint)
    if once:
        writer = writer.trigger(availableNow=True)
    else:
        writer = writer.trigger(processingTime=f"{context.settings.stream.poll_seconds} seconds")
    try:
        query = writer.start()
        answering.numbered_by.set_result(f"spark:{query.id}")
        while not query.awaitTermination(1):
            if stop.is_set():
                query.stop()
    except PySparkException as error:
        if answering.fault is not None:
            raise answering.fault from None
        message = f"The stream on Spark ended: {reason(error)}"
        raise UserError(message, "What is committed stays; start it again.") from None
    answering.meter.record()
    return answering.done


def _of_table(context: Context, session: SparkSession) -> _Requests:
    """Requests of their table, made where it is not there."""
    lakehouse = context.lakehouse
    table = tables.requests(context.problem)
    lakehouse.create_feed(table)
    stream = session.readStream.format("delta").load(lakehouse.place(table.name))

    def read(rows: DataFrame) -> DataFrame:
        return rows.withColumn(_REASON, F.lit(None).cast("string"))

    return _Requests(stream, str(lakehouse.identity(table)), read)


def _of_topic(context: Context, session: SparkSession, kind: Kind) -> _Requests:
    """Requests of their topic; what is committed there counts.

    Raises:
        UserError: No servers, a secret that is not there, no connector, or no such topic.
    """
    settings = context.settings.kafka
    reached = connection(settings)
    options = {
        "subscribe": settings.requests,
        "startingOffsets": "earliest",
        "maxOffsetsPerTrigger": str(context.settings.stream.batch_rows),
        "groupIdPrefix": settings.group or context.settings.mlflow.model,
        "kafka.isolation.level": "read_committed",
    }
    client = {f"kafka.{name}": value for name, value in reached.items()}
    try:
        stream = session.readStream.format("kafka").options(**options, **client).load()
    except PySparkException as error:
        remedy = "Add its connector to `spark.options`: spark-sql-kafka-0-10, of Spark's version."
        raise UserError(f"Spark cannot read Kafka: {reason(error)}", remedy) from None
    letters = tables.dead_letters(context.problem)
    decoded = partial(_decoded, kind, context.problem)

    def read(rows: DataFrame) -> DataFrame:
        messages: Frame = nw.from_native(rows.select(*_OF_MESSAGE))
        return _native(context.lakehouse.map_batches(messages, decoded, letters.schema))

    return _Requests(stream, _identity(session, reached, settings.requests), read)


def _identity(session: SparkSession, reached: Mapping[str, str], topic: str) -> str:
    """What tells a topic from one that is made anew under its name; the connector's client knows.

    Raises:
        UserError: Kafka does not answer, or has no such topic.
    """
    java = session.sparkContext._jvm  # noqa: SLF001 the only way to Java's clients
    try:
        client = java.org.apache.kafka.clients.admin.Admin.create(java.java.util.HashMap(reached))
        with closing(client):
            names = java.java.util.Collections.singletonList(topic)
            found = client.describeTopics(names).allTopicNames().get()
            return f"kafka-{found[topic].topicId()}"
    except Py4JError as error:
        message = f"Cannot use the topic {topic} of {reached[_SERVERS]}: {_cause(error)}."
        remedy = "Correct `kafka` in conf/, or create the topic."
        raise UserError(message, remedy) from None


def _cause(error: Py4JError) -> str:
    """What Java's client says."""
    thrown = getattr(error, "java_exception", None)
    if thrown is None:
        return reason(error)
    return str((thrown.getCause() or thrown).getMessage())


def _decoded(kind: Kind, problem: Problem, messages: pl.DataFrame) -> pl.DataFrame:
    """Messages as requests, with the reason where they are none; runs on the cluster."""
    letters = tables.dead_letters(problem)
    reader = Reader(kind(problem), tables.requests(problem), letters)
    found = reader.read([_Sent(*row) for row in messages.select(*_OF_MESSAGE).iter_rows()])
    together = pl.concat([letters.empty(), found.rows, found.unreadable], how="diagonal")
    return together.select(*letters.schema)


@dataclass(frozen=True)
class _Sent:
    """A row of Spark's source as a message."""

    of_topic: str
    of_partition: int
    at_offset: int
    content: bytes | None
    at: datetime

    def topic(self) -> str:
        return self.of_topic

    def partition(self) -> int:
        return self.of_partition

    def offset(self) -> int:
        return self.at_offset

    def value(self) -> bytes | None:
        return self.content

    def timestamp(self) -> tuple[int, int]:
        return 0, round(1000 * self.at.timestamp())


class _Answering:
    """What micro-batches are handed to."""

    def __init__(self, context: Context, read: Callable[[DataFrame], DataFrame]) -> None:
        self._context = context
        self._read = read
        self._lakehouse = context.lakehouse
        self._problem = context.problem
        self._keys = list(context.problem.model.keys)
        self._log = tables.inference_log(self._problem)
        self._loaded: dict[str, Estimator] = {}
        self.meter = Meter(context)
        self.done = Streamed()
        self.fault: UserError | None = None
        self.numbered_by: Future[str] = Future()  # the query, which is known once it has begun

    def answer(self, rows: DataFrame, batch: int) -> None:
        """Score a micro-batch, and commit those answers that are not there."""
        try:
            asked = self._kept(_judged(self._read(rows), self._keys))
            refused = asked.filter(F.col(_REASON).isNotNull())
            wanted = self._numbered(asked.filter(F.col(_REASON).isNull()))
            scored = self._scored(wanted)
            left_out = wanted.join(scored.select(_ID), _ID, "left_anti")
            without = left_out.withColumn(_REASON, F.lit(_LEFT_OUT)).drop(_TIMES)
            letters = self._kept(refused.unionByName(without))
            self._commit(wanted, scored, letters, batch + 1)
            self._count(wanted, letters)
        except UserError as error:
            self.fault = error
            raise

    def _numbered(self, asked: DataFrame) -> DataFrame:
        """Requests, each once, with how many there were for the same entity, itself included."""
        so_far = Window.partitionBy(*self._keys).orderBy("requested_at", _ID)
        each = asked.drop(_REASON).dropDuplicates([_ID])
        return self._kept(each.withColumn(_TIMES, F.row_number().over(so_far)))

    def _scored(self, wanted: DataFrame) -> DataFrame:
        """Rows of the inference log; of an entity that is asked for again, one at a time."""
        times = wanted.agg(F.max(_TIMES)).collect()[0][0] or 0
        none = _native(self._lakehouse.frame(self._log.empty()))
        parts = [self._scored_once(wanted.filter(F.col(_TIMES) == n + 1)) for n in range(times)]
        return reduce(DataFrame.unionByName, parts, none)

    def _scored_once(self, part: DataFrame) -> DataFrame:
        """Rows of the inference log, each of another entity."""
        lakehouse = self._lakehouse
        problem = self._problem
        now = datetime.now(UTC)
        told = part.select(*problem.scored.prepared).withColumn(KNOWN_AT, F.lit(now))
        asked = spine_of(problem, {problem.model.scored: nw.from_native(told)})
        champion, estimator = self._champion()
        versions = {table.name: lakehouse.version(table) for table in tables.inputs(problem)}
        made_with = {
            "model_version": F.lit(champion),
            "feature_versions": F.lit(json.dumps(versions, sort_keys=True)),
        }
        ids = part.select(*self._keys, _ID)
        kept = []
        for spine, features in seen_by(lakehouse, problem, [asked], now, versions):
            rows = _native(score(self._context, estimator, spine, features))
            logged = rows.join(ids, self._keys).withColumns(made_with)
            kept.append(self._kept(_as(logged, self._log)))
        return kept[0]

    def _champion(self) -> tuple[str, Estimator]:
        """The champion as it is now."""
        registry = self._context.registry
        champion = require_untouched(self._lakehouse, registry).champion
        if champion is None:
            remedy = "Promote one: `deploy`, then `approve` where a person decides."
            raise UserError("There is no champion yet.", remedy)
        if champion not in self._loaded:
            self._loaded = {champion: registry.load(champion)}
        return champion, self._loaded[champion]

    def _commit(
        self, wanted: DataFrame, scored: DataFrame, letters: DataFrame, number: int
    ) -> None:
        """Add answers to the tables, each once; the log decides what they are."""
        lakehouse = self._lakehouse
        writer = self.numbered_by.result()
        answers = scored
        if not lakehouse.append_once(self._log, nw.from_native(scored), writer, number):
            logged = _native(lakehouse.scan(self._log))
            answers = logged.join(wanted.select(_ID), _ID, "left_semi")
        of_entity = Window.partitionBy(*self._keys)
        last = wanted.withColumn("_last", F.max(_TIMES).over(of_entity))
        newest = last.filter(F.col("_last") == F.col(_TIMES)).select(_ID)
        predictions = tables.predictions(self._problem)
        rows = _as(answers.join(newest, _ID, "left_semi"), predictions)
        lakehouse.merge_once(predictions, nw.from_native(rows), writer, number)
        dead_letters = tables.dead_letters(self._problem)
        refused = nw.from_native(_as(letters, dead_letters))
        lakehouse.append_once(dead_letters, refused, writer, number)

    def _count(self, wanted: DataFrame, letters: DataFrame) -> None:
        refused = letters.count()
        asked, earliest = wanted.agg(F.count("*"), F.min("requested_at")).collect()[0]
        without_key = letters.join(wanted.select(_ID), _ID, "left_anti").count()
        rows = asked + without_key
        self.meter.add(rows, refused, earliest and earliest.astimezone(UTC))
        self.done.scored += rows - refused
        self.done.refused += refused
        if self.meter.is_due():
            self.meter.record()

    def _kept(self, rows: DataFrame) -> DataFrame:
        """Rows computed once; the cluster lets go of them when nobody asks any more."""
        with self._lakehouse.staged(nw.from_native(rows)) as kept:
            return _native(kept)


def _judged(rows: DataFrame, keys: Sequence[str]) -> DataFrame:
    """Requests with the first reason why they cannot be scored; null where they can."""
    without_key = reduce(Column.__or__, [F.col(key).isNull() for key in keys])
    because = F.when(F.col(_REASON).isNotNull(), F.col(_REASON))
    because = because.when(F.col(_ID).isNull(), F.lit(_WITHOUT_ID))
    because = because.when(without_key, F.lit(f"A null key: {', '.join(keys)}."))
    return rows.withColumn(_REASON, because)


def _as(rows: DataFrame, table: Table) -> DataFrame:
    """Rows with the table's columns and types."""
    frame: Frame = nw.from_native(rows)
    return _native(frame.select(*(nw.col(name).cast(kind) for name, kind in table.schema.items())))


def _native(frame: Frame) -> DataFrame:
    rows: DataFrame = frame.to_native()
    return rows
