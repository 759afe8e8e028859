"""Events reach all tables once, as batches would bring them, wherever a process dies."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import narwhals as nw
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from {{cookiecutter.package_name}} import flows
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import KNOWN_AT, Frame, Problem, Source
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.data.events import send_events
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.engines import delta
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse, OvertakenWriteError
from {{cookiecutter.package_name}}.store.online.embedded import _opened
from {{cookiecutter.package_name}}.store.online.features import STATE, unpack

from tests.conftest import START, Intervene, within

DAY = timedelta(days=1)
ROUNDS = [START + number * DAY for number in (3, 4, 5)]
LAST = ROUNDS[-1] + DAY


def silent(source: Source) -> Source:
    """A source of which only events tell."""

    def nothing(since: datetime | None, until: datetime) -> Frame:
        empty = tables.raw(source).empty()
        return nw.from_native(empty.lazy())

    return replace(source, load=nothing)


@pytest.fixture
def streamed(lakehouse: Lakehouse, toy: Problem) -> Context:
    """The toy, whose rows come as events: ten in a commit, in order."""
    context = within(lakehouse, replace(toy, sources=tuple(map(silent, toy.sources))))
    for source in toy.sources:
        rows = loaded(source, LAST)
        send_events(context, source, rows.iter_slices(10))
    return context


def loaded(source: Source, until: datetime) -> pl.DataFrame:
    """What a source gives."""
    rows: pl.LazyFrame = source.load(None, until).to_native()
    return rows.collect().sort(KNOWN_AT)


@pytest.fixture
def at_once(toy: Problem, tmp_path: Path) -> Context:
    """The same, loaded in one batch."""
    context = within(Lakehouse(str(tmp_path / "at once")), toy)
    flows.refresh(context, LAST)
    return context


def assert_same(found: Context, expected: Context) -> None:
    """The tables are equal row by row, and the online store's newest rows are."""
    for kind in (tables.raw, tables.prepared, tables.quarantine):
        for source in expected.problem.sources:
            assert_frame_equal(*(rows(item, kind(source)) for item in (found, expected)))
    for declared in expected.problem.feature_tables:
        table = tables.features(declared)
        assert_frame_equal(*(rows(item, table) for item in (found, expected)))
    assert newest_online(found) == newest_online(expected)


def rows(context: Context, table: Any) -> pl.DataFrame:
    return context.lakehouse.read(table, order=list(table.schema))


def newest_online(context: Context) -> dict[bytes, object]:
    """By entity, what the online store holds as newest."""
    folder = context.settings.state / "online"
    with _opened(str(folder.absolute()), os.getpid()).begin() as transaction:
        held = {bytes(key): bytes(value) for key, value in transaction.cursor()}
    return {key: next(unpack(value)) for key, value in held.items() if key != STATE}


def test_events_taken_day_by_day_are_a_batch_at_once(streamed: Context, at_once: Context) -> None:
    # When
    done = [flows.refresh(streamed, moment) for moment in (*ROUNDS, LAST)]
    # Then
    assert all(item.rows and item.earliest for item in done)
    assert_same(streamed, at_once)
    assert flows.refresh(streamed, LAST).rows == 0


def die() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", range(1, 8))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_process_that_dies_loses_and_doubles_nothing(
    streamed: Context, at_once: Context, intervene: Intervene, number: int, moment: str
) -> None:
    # Given
    first, now, _ = ROUNDS
    flows.refresh(streamed, first)
    intervene(number, moment, die)
    with pytest.raises(KeyboardInterrupt):
        flows.refresh(streamed, now)
    # When
    for later in (now + DAY / 2, LAST):
        flows.refresh(streamed, later)
    # Then
    assert_same(streamed, at_once)


@pytest.mark.parametrize("number", range(1, 8))
def test_of_two_who_take_the_same_events_one_does(
    streamed: Context, at_once: Context, intervene: Intervene, number: int
) -> None:
    # Given
    first, now, _ = ROUNDS
    flows.refresh(streamed, first)
    intervene(number, "before", lambda: flows.refresh(streamed, now + DAY / 2))
    # When
    with suppress(OvertakenWriteError):
        flows.refresh(streamed, now)
    flows.refresh(streamed, LAST)
    # Then
    assert_same(streamed, at_once)


@pytest.mark.parametrize("number", range(1, 8))
def test_of_two_who_follow_both_end_and_every_event_is_taken_once(
    streamed: Context, toy: Problem, intervene: Intervene, tmp_path: Path, number: int
) -> None:
    # Given the same events, which one alone takes
    alone = within(Lakehouse(str(tmp_path / "alone")), streamed.problem)
    for source in toy.sources:
        send_events(alone, source, [loaded(source, LAST)])
    flows.follow(alone, Event(), once=True)
    # When another takes them at a write of the first one
    follow = partial(flows.follow, streamed, Event(), once=True)
    intervene(number, "before", follow)
    follow()
    # Then
    assert_same(streamed, alone)


def test_a_late_event_became_known_when_it_was_read(streamed: Context, toy: Problem) -> None:
    # Given
    orders = toy.sources[0]
    flows.refresh(streamed, ROUNDS[0])
    early = START + timedelta(hours=1)
    late = pl.DataFrame({"order": [901, 902], "shop": ["a", "a"], "amount": [1.0, 2.0]})
    for one in late.with_columns(pl.lit(early).alias(KNOWN_AT)).iter_slices(1):
        send_events(streamed, orders, [one])
    # When
    flows.refresh(streamed, LAST)
    # Then each is newer than the one before, and features know of them from then on
    table = tables.prepared(orders)
    found = streamed.lakehouse.read(table, nw.col("order") > 900, order=("order",))
    assert found[KNOWN_AT].to_list() == [LAST - timedelta(microseconds=1), LAST]


def test_an_event_is_known_at_the_latest_when_it_is_committed(
    streamed: Context, toy: Problem
) -> None:
    # Given one that tells no time, and one that tells a time to come
    orders = toy.sources[0]
    began = datetime.now(UTC) - timedelta(seconds=1)
    given = pl.DataFrame({"order": [901, 902], "shop": ["a", "a"], "amount": [1.0, 2.0]})
    to_come = pl.lit(datetime.now(UTC) + DAY)
    send_events(streamed, orders, [given[:1], given[1:].with_columns(to_come.alias(KNOWN_AT))])
    # When
    flows.follow(streamed, Event(), once=True)
    # Then
    table = tables.raw(orders)
    found = streamed.lakehouse.read(table, nw.col("order") > 900)
    assert found.height == 2
    assert found[KNOWN_AT].is_between(began, datetime.now(UTC)).all()
    # And what it took is measured
    measured = streamed.lakehouse.read(tables.MEASUREMENTS, nw.col("subject") == "events")
    assert set(measured["metric"]) == {
        "events_lag_seconds",
        "events_refused",
        "events_rows_per_second",
    }


def test_events_of_a_file_are_sent_as_they_are(
    streamed: Context, toy: Problem, tmp_path: Path
) -> None:
    # Given
    path = str(tmp_path / "rows.parquet")
    rows = pl.DataFrame({"order": [901], "shop": ["a"], "amount": [1.0]})
    rows.write_parquet(path)
    # When
    sent = flows.send(streamed, path, to="orders")
    # Then
    table = tables.events(toy.sources[0])
    found = streamed.lakehouse.read(table, nw.col("order") > 900)
    assert sent == 1
    assert found.drop(KNOWN_AT).equals(rows)
    assert found[KNOWN_AT].null_count() == 1
    with pytest.raises(UserError, match="no source nobody"):
        flows.send(streamed, path, to="nobody")
    with pytest.raises(UserError, match="no column paid"):
        flows.send(streamed, path, to="payments")


def test_one_bad_event_of_few_does_not_stop_the_others(streamed: Context, toy: Problem) -> None:
    # Given
    orders = toy.sources[0]
    flows.refresh(streamed, LAST)
    bad = pl.DataFrame({"order": [901, 902], "shop": ["a", "a"], "amount": [-1.0, 2.0]})
    send_events(streamed, orders, [bad])
    # When
    done = flows.follow(streamed, Event(), once=True)
    # Then
    assert (done.rows, done.refused) == (2, 1)


def test_joining_files_fills_no_table_of_the_online_store_again(
    streamed: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    monkeypatch.setattr(delta, "_MANY_FILES", 1)
    lakehouse = streamed.lakehouse
    for moment in ROUNDS:
        flows.refresh(streamed, moment)
    table = tables.features(streamed.problem.feature_tables[0])
    version = lakehouse.version(table)
    # When
    lakehouse.compact(table)
    # Then
    assert lakehouse.version(table) != version
    assert streamed.publish() == {"last": 0}


def test_events_of_a_table_that_is_made_anew_are_read_from_its_beginning(
    streamed: Context, toy: Problem
) -> None:
    # Given
    orders = toy.sources[0]
    flows.refresh(streamed, LAST)
    shutil.rmtree(streamed.lakehouse.place(tables.events(orders).name))
    # When
    send_events(streamed, orders, [pl.DataFrame({"order": [901], "shop": ["a"], "amount": [1.0]})])
    # Then
    assert flows.follow(streamed, Event(), once=True).rows == 1


def test_a_table_of_events_without_a_feed_is_refused(lakehouse: Lakehouse, toy: Problem) -> None:
    table = tables.events(toy.sources[0])
    lakehouse.append_if_unchanged(table, table.empty(), None)
    with pytest.raises(UserError, match="enableChangeDataFeed"):
        flows.refresh(within(lakehouse, toy), LAST)


def test_where_data_end_nothing_is_followed(lakehouse: Lakehouse, toy: Problem) -> None:
    with pytest.raises(UserError, match="end on"):
        flows.follow(within(lakehouse, replace(toy, ends=LAST)), Event(), once=True)
