"""Requests of a table are answered exactly once, wherever a consumer dies and whoever reads too."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from threading import Event

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import (
    PREDICTION_TIME,
    Problem,
    polars_schema,
)
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.inference import stream_tables
from {{cookiecutter.package_name}}.inference.stream import (
    Answers,
    Batch,
    Meter,
    Offsets,
    Streamed,
    consume,
)
from {{cookiecutter.package_name}}.inference.stream_tables import (
    Answered,
    Requests,
    send,
)
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse

from tests.conftest import START, Intervene, within
from tests.parcels import PROBLEM

NEGATIVE = "It is negative."


class Fake:
    """Scores an order by its amount, and refuses those that are negative."""

    def __init__(self, context: Context, version: str) -> None:
        self._log = polars_schema(tables.inference_log(context.problem).schema)
        self._version = version

    def follow(self) -> None:
        """There is no other version."""

    def score(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        refused = pl.col("amount") < 0
        scored = rows.filter(~refused).with_columns(
            pl.lit(START).alias(PREDICTION_TIME),
            prediction="amount",
            last_amount=pl.lit(None),
            model_version=pl.lit(self._version),
            feature_versions=pl.lit("{}"),
            latency_ms=pl.lit(0.5),
        )
        logged = scored.select(pl.col(name).cast(kind) for name, kind in self._log.items())
        return logged, rows.filter(refused).with_columns(reason=pl.lit(NEGATIVE))


def asked(*amounts: float) -> pl.DataFrame:
    """Requests for orders; amounts that differ after the point only are of the same order."""
    rows = pl.DataFrame({"amount": amounts}, schema={"amount": pl.Float64})
    order = pl.col("amount").cast(pl.Int64)
    return rows.select(order=order, shop=pl.lit("a"), amount="amount")


COMMITS = [(2, 2.5, -3, 4, 2.25), (5, -6, 4.5), (), (7, 2.75)]


@pytest.fixture
def context(lakehouse: Lakehouse, toy: Problem) -> Context:
    """A stream of batches of at most four rows; some requests are for the same order."""
    context = in_batches(within(lakehouse, toy), 4)
    send(context, [asked(*amounts) for amounts in COMMITS])
    return context


def in_batches(context: Context, rows: int) -> Context:
    """The same with batches of so many rows."""
    small = context.settings.stream.model_copy(update={"batch_rows": rows})
    return replace(context, settings=context.settings.model_copy(update={"stream": small}))


def run(context: Context, version: str = "1") -> Streamed:
    """A consumer that ends when nothing is left."""
    scorer = Fake(context, version)
    source = Requests(context)
    sink = Answered(context, source, scorer)
    return consume(context, source, scorer, sink, Event(), once=True)


def all_of(context: Context, since: int, until: int) -> Batch:
    """Requests between two offsets of the one partition."""
    source = Requests(context)
    return source.between({source._name: since}, {source._name: until})


def assert_answered_once(context: Context) -> None:
    """Each request is in the log or a dead letter; predictions are the newest of the log."""
    lakehouse, problem = context.lakehouse, context.problem
    requests = all_of(context, 0, 2**62).rows
    log = lakehouse.read(tables.inference_log(problem))
    letters = lakehouse.read(tables.dead_letters(problem))
    found = [*log["request_id"], *letters["request_id"]]
    assert sorted(found) == sorted(requests["request_id"])
    assert set(letters["reason"]) == {NEGATIVE}
    predictions = lakehouse.read(tables.predictions(problem)).sort("order")
    ordered = requests.select("request_id").join(log, on="request_id", maintain_order="left")
    newest = ordered.unique("order", keep="last", maintain_order=True).sort("order")
    assert predictions.equals(newest.select(predictions.columns))


def test_every_request_is_answered_once(context: Context) -> None:
    assert run(context) == Streamed(scored=8, refused=2)
    assert run(context) == Streamed(scored=0, refused=0)
    assert_answered_once(context)


def die() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", range(1, 11))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_consumer_that_dies_loses_and_repeats_nothing(
    context: Context, intervene: Intervene, number: int, moment: str
) -> None:
    # Given
    intervene(number, moment, die)
    with pytest.raises(KeyboardInterrupt):
        run(context, "1")
    # When
    run(context, "2")
    # Then
    assert_answered_once(context)


@pytest.mark.parametrize("number", range(1, 8))
@pytest.mark.parametrize("rows", [3, 10])
def test_a_consumer_that_is_overtaken_repeats_nothing(
    context: Context, intervene: Intervene, number: int, rows: int
) -> None:
    intervene(number, "before", lambda: run(in_batches(context, rows), "2"))
    run(context, "1")
    assert_answered_once(context)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_consumer_goes_on_where_another_has_overtaken_it_and_died(
    context: Context, intervene: Intervene, number: int, last: int
) -> None:
    def overtake() -> None:
        intervene(last, "after", die)
        with pytest.raises(KeyboardInterrupt):
            run(in_batches(context, 3), "2")

    intervene(number, "before", overtake)
    run(context, "1")
    assert_answered_once(context)


@settings(max_examples=15)
@given(
    commits=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
)
def test_requests_are_read_in_one_order_however_they_are_cut(
    commits: list[int], sizes: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Given
    lakehouse = Lakehouse(str(tmp_path_factory.mktemp("requests")))
    context = within(lakehouse, PROBLEM)
    table = tables.requests(PROBLEM)
    numbers = itertools.count()
    lakehouse.create_feed(table)
    for size in commits:
        rows = [{"parcel": next(numbers)} for _ in range(size)]
        given_rows = pl.DataFrame(rows, schema=polars_schema(table.schema))
        lakehouse.append_if_unchanged(table, given_rows, lakehouse.version(table))
    # When
    read = list(batches(context, sizes))
    # Then
    parcels = [parcel for batch in read for parcel in batch.rows["parcel"]]
    assert parcels == list(range(sum(commits)))
    ids = [name for batch in read for name in batch.rows["request_id"]]
    assert len(set(ids)) == len(ids)
    for batch in read:
        (since,), (until,) = batch.since.values(), batch.until.values()
        assert all_of(context, since, until).rows.equals(batch.rows)


def _at(partitions: Collection[str], offset: int) -> Offsets:
    return dict.fromkeys(partitions, offset)


def batches(context: Context, sizes: list[int]) -> Iterator[Batch]:
    """All batches; every other one is read by a consumer that has just begun."""
    source, reached = Requests(context), 0
    for number, size in enumerate(itertools.cycle(sizes)):
        if number % 2:
            source = Requests(context)
            source.start(partial(_at, offset=reached))
        batch = source.read(size)
        if batch is None:
            return
        yield batch
        (reached,) = batch.until.values()


def test_a_request_that_is_sent_twice_in_a_batch_is_one(context: Context) -> None:
    # Given
    table = tables.requests(context.problem)
    again = context.lakehouse.read(table).head(1)
    twice = pl.concat([again, again]).with_columns(request_id=pl.lit("twice"))
    run(context)
    context.lakehouse.append_if_unchanged(table, twice, context.lakehouse.version(table))
    # Then
    assert run(context) == Streamed(scored=1, refused=0)


def test_a_table_of_requests_that_is_made_anew_is_read_from_its_beginning(
    context: Context, toy: Problem
) -> None:
    # Given
    run(context)
    reading = Requests(context)
    place = context.lakehouse.place(tables.requests(toy).name)
    shutil.rmtree(place)
    # When
    send(context, [asked(8, 9)])
    # Then
    assert run(context) == Streamed(scored=2, refused=0)
    with pytest.raises(UserError, match="made anew"):
        reading.read(1)


def test_a_table_without_a_feed_of_its_changes_is_refused(
    lakehouse: Lakehouse, toy: Problem
) -> None:
    # Given
    table = tables.requests(toy)
    lakehouse.append_if_unchanged(table, table.empty(), None)
    # Then
    with pytest.raises(UserError, match="enableChangeDataFeed"):
        run(within(lakehouse, toy))


def test_what_is_not_read_yet_waits(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that is told to stop ends after the batch that it is at."""
    # Given
    stop = Event()
    scorer = Fake(context, "1")
    monkeypatch.setattr(scorer, "follow", stop.set)
    source = Requests(context)
    sink = Answered(context, source, scorer)
    # When
    done = consume(context, source, scorer, sink, stop, once=False)
    # Then
    assert done == Streamed(scored=3, refused=1)
    run(context)
    assert_answered_once(context)


def test_lag_and_refusals_are_measured_and_judged(context: Context) -> None:
    # Given
    rows = context.lakehouse.read(tables.requests(context.problem)).head(4)
    long_ago = rows.with_columns(requested_at=pl.lit(START).cast(pl.Datetime("us", "UTC")))
    answers = Answers(rows.head(3), rows.tail(1))
    clock = iter([0.0, 0.0, 2.0, 2.0])
    meter = Meter(context, lambda: next(clock, 100.0))
    # When
    meter.count(Batch(long_ago, rows.clear(), {}, {}), answers)
    meter.record()
    # Then
    found = context.lakehouse.read(tables.MEASUREMENTS)
    judged = dict(found.select("metric", "status").iter_rows())
    assert judged == {
        "stream_lag_seconds": "violated",
        "stream_refused": "violated",
        "stream_rows_per_second": None,
    }
    assert set(found["rows"]) == {4}


def test_requests_without_a_key_of_their_own_get_one(
    lakehouse: Lakehouse, toy: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    monkeypatch.setattr(stream_tables, "ROW", "order")
    context = within(lakehouse, toy)
    # When
    send(context, [asked(1, 1).drop("order"), asked(1).drop("order")])
    # Then
    orders = lakehouse.read(tables.requests(toy))["order"]
    assert orders.n_unique() == 3
