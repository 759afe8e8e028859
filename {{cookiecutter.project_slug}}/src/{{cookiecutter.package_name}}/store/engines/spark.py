"""The cluster's engine: Spark computes and merges; rows are added by a commit of deltalake.

Delta on Spark has no way to say "only if the table is still as I saw it". A merge by keys and the
replacement of an interval are right on any version; to add rows is not, so that Spark writes the
files and deltalake commits them.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import reduce
from types import MappingProxyType
from typing import Any

import narwhals as nw
import polars as pl
import pyarrow as pa
import pyspark.sql.functions as F  # noqa: N812 as all of Spark's users call it
from deltalake import Schema as DeltaSchema
from deltalake.transaction import AddAction, create_table_with_add_actions
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import types as T  # noqa: N812
from pyspark.sql.pandas.types import from_arrow_schema

from ...core.contract import Frame, Schema, polars_schema
from ...core.errors import UserError
from ...core.failures import as_user_error
from ...core.settings import SparkSettings
from . import delta
from .base import Interval, OvertakenError, Snapshot, StorageError
from .polars import PolarsEngine

_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}
_DELTA = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}
_TRANSACTION = "spark.databricks.delta.write.txn"
_ROWS_SENT = 100_000  # to the cluster at a time
_RAISED = "raised for the user: "
_MEASURED = (T.LongType, T.TimestampType)
_TIME_IN_LOG = "yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'"
_LOCAL = PolarsEngine()


def open_session(settings: SparkSettings) -> SparkSession:
    """The session that is active, or a new one with Delta.

    Raises:
        UserError: No session can be had.
    """
    # Nothing here passes through pandas.
    warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
    try:
        if active := SparkSession.getActiveSession():
            return active
        builder = SparkSession.builder.config(map={**_DELTA, **settings.options})
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # of workers of this machine
        if settings.remote:
            builder = builder.remote(settings.remote)
        elif settings.master:
            builder = builder.master(settings.master)
        return builder.getOrCreate()
    except (PySparkException, OSError, RuntimeError) as error:
        message = f"Spark gives no session: {delta.reason(error)}"
        raise UserError(message, "Check `spark` in conf/, and that Java is installed.") from None


@dataclass(frozen=True)
class SparkEngine(delta.DeltaLog):
    """Data frames of a Spark session over Delta tables.

    `storage_options` are for Delta's library, which reads the log; the session has its own.
    """

    session: SparkSession
    storage_options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Times are in UTC, and written so that others read them as they are."""
        for key, value in _SETTINGS.items():
            self.session.conf.set(key, value)

    def frame(self, rows: pl.DataFrame) -> Frame:
        """Rows in memory as a frame."""
        return _frame(self._sent(rows))

    def adopt(self, frame: Frame) -> Frame:
        """A frame that a source gave; one of polars is sent to the cluster, some rows at a time."""
        rows = frame.to_native()
        if isinstance(rows, DataFrame):
            return frame
        sent = [self._sent(batch) for batch in _LOCAL.batches(frame, _ROWS_SENT)]
        return _frame(reduce(DataFrame.unionAll, sent or [_native(self.frame(_no_rows(frame)))]))

    def _sent(self, rows: pl.DataFrame) -> DataFrame:
        """Rows as the session's; where there are none, Spark Connect must be told their types."""
        table = _arrow(rows)
        if table.num_rows:
            return self.session.createDataFrame(table)
        return self.session.createDataFrame([], from_arrow_schema(table.schema))

    def collect(self, frame: Frame) -> pl.DataFrame:
        """What is small by nature, in memory."""
        with _as_the_user_knows_it():
            return _polars(_native(frame).toArrow())

    def batches(self, frame: Frame, rows: int) -> Iterator[pl.DataFrame]:
        """A frame in its order, so many rows at a time."""

        def packed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                buffer = io.BytesIO()
                with pa.ipc.new_stream(buffer, batch.schema) as stream:
                    stream.write_batch(batch)
                yield pa.record_batch({"packed": pa.array([buffer.getvalue()], pa.binary())})

        with _as_the_user_knows_it():
            for row in _native(frame).mapInArrow(packed, "packed binary").toLocalIterator():
                read = _polars(pa.ipc.open_stream(row.packed).read_all())
                yield from read.iter_slices(rows)

    def map_batches(
        self, frame: Frame, function: Callable[[pl.DataFrame], pl.DataFrame], schema: Schema
    ) -> Frame:
        """Apply a function to the rows of a frame, some at a time; it must treat each row alone."""
        empty = _arrow(pl.DataFrame(schema=polars_schema(schema)))
        of_spark = from_arrow_schema(empty.schema)

        def mapped(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                with _sent_to_the_user():
                    rows = function(_polars(pa.Table.from_batches([batch])))
                yield from _arrow(rows).cast(empty.schema).to_batches()

        return _frame(_native(frame).mapInArrow(mapped, of_spark))

    def each_row(self, frame: Frame, function: Callable[[Frame], Frame]) -> Frame:
        """Apply a function that treats each row alone; it is given frames of polars."""
        schema = function(_LOCAL.frame(_no_rows(frame))).collect_schema()

        def applied(rows: pl.DataFrame) -> pl.DataFrame:
            return _LOCAL.collect(function(_LOCAL.frame(rows)))

        return self.map_batches(frame, applied, schema)

    def without(self, rows: Frame, others: Frame, on: Sequence[str]) -> Frame:
        """Rows that agree with none of the others in the columns `on`; two nulls agree."""
        left, right = _native(rows).alias("l"), _native(others).select(*on).alias("r")
        agree = F.expr(" AND ".join(f"l.`{name}` <=> r.`{name}`" for name in on))
        return _frame(left.join(right, agree, "left_anti"))

    def scan(self, snapshot: Snapshot, columns: Sequence[str]) -> Frame:
        """Rows of a table."""
        reader = self.session.read.format("delta").option("versionAsOf", snapshot.version)
        return _frame(reader.load(snapshot.place).select(*columns))

    @contextmanager
    def stage(self, rows: Frame) -> Iterator[Frame]:
        """Compute rows once and keep them, on the cluster, for the time of a write."""
        with _as_the_user_knows_it():
            kept = _native(rows).localCheckpoint(eager=True)
        yield _frame(kept)

    def append(
        self,
        place: str,
        staged: Frame,
        seen: Snapshot | None,
        until: datetime | None,
        batches: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Add rows, and record the number of a batch by its writer."""
        rows = _native(staged)
        with delta.committing(place, seen, self.storage_options, (PySparkException,)):
            added = self._written(place, rows)
            properties = delta.commit_properties(until, batches)
            schema = DeltaSchema.from_arrow(_arrow(_no_rows(staged)).schema)
            if seen:
                seen.handle.create_write_transaction(
                    added, "append", schema, commit_properties=properties
                )
            else:
                create_table_with_add_actions(
                    place,
                    schema,
                    added,
                    configuration=delta.NEW_TABLE,
                    storage_options=dict(self.storage_options),
                    commit_properties=properties,
                )

    def replace(
        self,
        place: str,
        staged: Frame,
        seen: Snapshot | None,
        column: str,
        interval: Interval,
        until: datetime,
    ) -> None:
        """Replace the rows whose `column` lies in the interval; the table is complete `until`."""
        if seen is None:
            self.append(place, staged, None, until)
            return
        with self._committing(seen, until):
            writer = _native(staged).write.format("delta").mode("overwrite")
            writer.option("replaceWhere", delta.inside(column, interval)).save(place)

    def merge(
        self,
        staged: Frame,
        seen: Snapshot,
        keys: Sequence[str],
        until: datetime | None,
        batches: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Update rows whose keys are there, add the others."""
        agree = " AND ".join(f"s.`{key}` = t.`{key}`" for key in keys)
        with self._committing(seen, until, batches):
            self.session.sql(
                f"MERGE INTO {_name(seen.place)} t "
                "USING {staged} s "
                f"ON {agree} "
                "WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *",
                staged=_native(staged),
            ).collect()

    def compact(self, place: str) -> None:
        """Join the files that many small commits have left; the rows stay as they are."""
        snapshot = self.open(place)
        if snapshot and delta.has_many_files(snapshot):
            with suppress(PySparkException):  # somebody writes meanwhile: another time
                self.session.sql(f"OPTIMIZE {_name(place)}").collect()

    def _written(self, place: str, rows: DataFrame) -> list[AddAction]:
        """Write rows to files of a table that no commit names yet; what a commit says of them."""
        folder = uuid.uuid4().hex
        rows.write.parquet(f"{place}/{folder}")
        measured = [item for item in rows.schema if isinstance(item.dataType, _MEASURED)]
        bounds = [
            _readable(which(item.name), item.dataType).alias(f"{kind} {item.name}")
            for kind, which in (("minValues", F.min), ("maxValues", F.max))
            for item in measured
        ]
        written = self.session.read.schema(rows.schema).parquet(f"{place}/{folder}")
        files = written.groupBy("_metadata.file_name", "_metadata.file_size").agg(
            F.count("*").alias("rows"), *bounds
        )
        return [_added(folder, file.asDict()) for file in files.collect()]

    @contextmanager
    def _committing(
        self,
        seen: Snapshot,
        until: datetime | None,
        batches: Mapping[str, int] = MappingProxyType({}),
    ) -> Iterator[None]:
        """A write of Spark's on a table that is as it was seen; its commit records `until`.

        Or one batch: Spark's writes record one transaction each.
        """
        newest = self.open(seen.place)
        if newest is None or newest.version != seen.version:
            raise OvertakenError(f"It is at version {newest.version if newest else None}.")
        recorded = {}
        for writer, number in batches.items():
            recorded = {"AppId": writer, "Version": str(number)}
        if until and (seen.complete_until is None or seen.complete_until < until):
            # Delta passes over a write whose transaction is recorded already.
            recorded = {"AppId": delta.COMPLETE_UNTIL, "Version": str(delta.recorded_as(until))}
        for key, value in recorded.items():
            self.session.conf.set(f"{_TRANSACTION}{key}", value)
        try:
            refusals = (PySparkException,)
            with delta.committing(seen.place, seen, self.storage_options, refusals):
                yield
        finally:
            for key in recorded:
                self.session.conf.unset(f"{_TRANSACTION}{key}")


def _frame(rows: DataFrame) -> Frame:
    frame: Frame = nw.from_native(rows)
    return frame


def _native(frame: Frame) -> DataFrame:
    rows: DataFrame = frame.to_native()
    return rows


def _no_rows(frame: Frame) -> pl.DataFrame:
    """The columns of a frame."""
    return pl.DataFrame(schema=frame.collect_schema().to_polars())


def _name(place: str) -> str:
    """A table's address in SQL."""
    return f"delta.`{place}`"


def _arrow(rows: pl.DataFrame) -> pa.Table:
    return rows.to_arrow(compat_level=pl.CompatLevel.oldest())


def _polars(rows: pa.Table) -> pl.DataFrame:
    return pl.DataFrame(rows)


def _readable(value: Column, kind: T.DataType) -> Column:
    """A bound as Delta's log has it."""
    return F.date_format(value, _TIME_IN_LOG) if isinstance(kind, T.TimestampType) else value


def _added(folder: str, file: Mapping[str, Any]) -> AddAction:
    """What a commit says of a file: where it is, and the bounds by which readers pass it over."""
    statistics: dict[str, Any] = {"numRecords": file["rows"], "minValues": {}, "maxValues": {}}
    for name, value in file.items():
        kind, _, column = name.partition(" ")
        if column and value is not None:
            statistics[kind][column] = value
    return AddAction(
        path=f"{folder}/{file['file_name']}",
        size=file["file_size"],
        partition_values={},
        modification_time=time.time_ns() // 1_000_000,
        data_change=True,
        stats=json.dumps(statistics),
    )


@contextmanager
def _sent_to_the_user() -> Iterator[None]:
    """On the cluster: put what a user must know into words that reach the driver."""
    try:
        yield
    except Exception as error:
        told = as_user_error(error)
        if told is None:
            raise
        words = json.dumps([told.what, told.remedy])
        raise RuntimeError(f"{_RAISED}{words}") from None


@contextmanager
def _as_the_user_knows_it() -> Iterator[None]:
    """On the driver: raise again what was raised for the user on the cluster."""
    try:
        yield
    except PySparkException as error:
        if found := re.search(f"{_RAISED}(.*)", str(error)):
            raise UserError(*json.loads(found[1])) from None
        raise StorageError(delta.reason(error)) from error
