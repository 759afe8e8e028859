from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import narwhals as nw
import polars as pl
import pytest

from {{cookiecutter.package_name}}.core.contract import (
    KNOWN_AT,
    UTC_TIME,
    Frame,
    Problem,
    Source,
    Table,
)
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.data.changes import remember
from {{cookiecutter.package_name}}.data.ingest import ingest
from {{cookiecutter.package_name}}.data.prepare import _readable, prepare
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse

from tests.conftest import Intervene, within

DAY = timedelta(days=1)
BEGIN = datetime(2020, 1, 1, tzinfo=UTC)
TEN_DAYS = BEGIN + 10 * DAY


@pytest.fixture
def orders(toy: Problem) -> Source:
    return toy.sources[0]


def edited(source: Source, edit: pl.Expr) -> Source:
    """The source as it is when its rows come edited."""

    def load(since: datetime | None, until: datetime) -> Frame:
        rows: pl.LazyFrame = source.load(since, until).to_native()
        return nw.from_native(rows.with_columns(edit))

    return replace(source, load=load)


def amount(values: dict[int, float | None]) -> pl.Expr:
    """Other amounts for some orders."""
    given = pl.col("order").replace_strict(values, default=None, return_dtype=pl.Float64)
    return (
        pl.when(pl.col("order").is_in(list(values))).then(given).otherwise("amount").alias("amount")
    )


def rows(lakehouse: Lakehouse, table: Table) -> pl.DataFrame:
    frame = pl.DataFrame(lakehouse.scan(table).collect("polars").to_native())
    return frame.sort("order", "amount")


def test_ingest_appends_what_became_known_once(
    lakehouse: Lakehouse, toy: Problem, orders: Source
) -> None:
    assert ingest(within(lakehouse, toy), TEN_DAYS) == {"orders": 100, "payments": 91}
    assert ingest(within(lakehouse, toy), TEN_DAYS) == {}
    assert ingest(within(lakehouse, toy), TEN_DAYS + DAY) == {"orders": 10, "payments": 10}
    known = rows(lakehouse, tables.raw(orders))[KNOWN_AT]
    assert (known.n_unique(), known.max()) == (110, TEN_DAYS + DAY)


def test_ingest_skips_tables_that_are_only_read(tmp_path: Path, toy: Problem) -> None:
    theirs = Lakehouse(str(tmp_path / "theirs"))
    ours = Lakehouse(str(tmp_path / "ours"), mounts={"raw_orders": theirs.root})
    assert ingest(within(ours, toy), TEN_DAYS) == {"payments": 91}
    assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (pl.lit(1).alias("extra"), "undeclared column extra"),
        (pl.col("amount").cast(pl.Int64), "amount is Int64, declared Float64"),
    ],
)
def test_ingest_refuses_another_schema(
    lakehouse: Lakehouse, orders: Source, edit: pl.Expr, message: str
) -> None:
    with pytest.raises(UserError, match=f"raw_orders: {message}"):
        ingest(within(lakehouse, edited(orders, edit)), TEN_DAYS)
    assert lakehouse.version(tables.raw(orders)) is None


def test_prepare_needs_raw_tables(lakehouse: Lakehouse, toy: Problem, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="raw_orders is not there yet"):
        prepare(within(lakehouse, toy), TEN_DAYS)


def test_rows_that_fail_go_to_quarantine_with_reasons(
    lakehouse: Lakehouse, orders: Source, tmp_path: Path
) -> None:
    bad = edited(orders, amount({3: 150.0, 5: -1.0}))
    ingest(within(lakehouse, bad), TEN_DAYS)
    assert prepare(within(lakehouse, bad), TEN_DAYS) == {"orders": (98, 2)}
    quarantine = rows(lakehouse, tables.quarantine(bad))
    assert quarantine.select("order", "amount", "reason").rows() == [
        (3, 150.0, "A plausible amount"),
        (5, -1.0, "A plausible amount"),
    ]
    assert set(rows(lakehouse, tables.prepared(bad))["order"]) == set(range(1, 101)) - {3, 5}
    [page] = (Path(lakehouse.root) / "reports").glob("checks_orders_*.html")
    assert "A plausible amount" in page.read_text(encoding="utf-8")
    assert pl.read_csv(page.with_suffix(".csv"))["order"].to_list() == [3, 5]


def test_each_run_keeps_its_page_on_checks_and_leads_to_the_ones_before(
    lakehouse: Lakehouse, orders: Source
) -> None:
    bad = edited(orders, amount({3: 150.0, 55: -1.0}))
    pages = []
    for as_of in (TEN_DAYS - timedelta(days=5), TEN_DAYS):
        ingest(within(lakehouse, bad), as_of)
        prepare(within(lakehouse, bad), as_of)
        pages.append(f"checks_orders_{as_of:%Y%m%dT%H%M}.html")
    first, second = (
        (Path(lakehouse.root) / "reports" / name).read_text(encoding="utf-8") for name in pages
    )
    assert "1 of 50 new rows" in " ".join(first.split())
    assert "1 of 50 new rows" in " ".join(second.split())
    assert (pages[0] in first, pages[0] in second) == (False, True)


def test_a_day_of_rounds_has_one_page_on_checks(lakehouse: Lakehouse, orders: Source) -> None:
    bad = edited(orders, amount({45: 150.0, 49: -1.0}))
    context = within(lakehouse, bad)
    noon = BEGIN + 4.5 * DAY
    for as_of in (noon, noon + 0.4 * DAY):
        ingest(context, as_of)
        prepare(context, as_of, is_round=True)
    assert rows(lakehouse, tables.quarantine(bad))["order"].to_list() == [45, 49]
    [page] = (Path(lakehouse.root) / "reports").glob("checks_orders_*.html")
    assert page.name == f"checks_orders_{noon:%Y%m%d}.html"
    assert pl.read_csv(page.with_suffix(".csv"))["order"].to_list() == [49]


def test_every_failed_check_is_a_reason(
    lakehouse: Lakehouse, orders: Source, tmp_path: Path
) -> None:
    both = replace(
        edited(orders, amount({4: 150.0})),
        checks=lambda to: orders.checks(to).col_vals_lt("amount", 140),
    )
    ingest(within(lakehouse, both), TEN_DAYS)
    prepare(within(lakehouse, both), TEN_DAYS)
    reasons = rows(lakehouse, tables.quarantine(both))["reason"].to_list()
    assert reasons == ["A plausible amount; col_vals_lt(amount)"]


def test_rows_with_a_null_key_go_to_quarantine(lakehouse: Lakehouse, orders: Source) -> None:
    nameless = pl.when(pl.col("order") != 7).then("order").alias("order")
    bad = edited(orders, nameless)
    ingest(within(lakehouse, bad), TEN_DAYS)
    assert prepare(within(lakehouse, bad), TEN_DAYS) == {"orders": (99, 1)}
    assert set(rows(lakehouse, tables.quarantine(bad))["order"]) == {None}
    assert set(rows(lakehouse, tables.prepared(bad))["order"]) == set(range(1, 101)) - {7}


def repeated(source: Source, *others: pl.Expr) -> Source:
    """The source as it is when it gives the seventh order again, as many times, each edited."""

    def load(since: datetime | None, until: datetime) -> Frame:
        rows: pl.LazyFrame = source.load(since, until).to_native()
        seventh = rows.filter(pl.col("order") == 7)
        again = [seventh.with_columns(edit) for edit in others]
        return nw.from_native(pl.concat([rows, *again]))

    return replace(source, load=load)


def test_identical_rows_are_one_row(lakehouse: Lakehouse, orders: Source) -> None:
    twice = repeated(orders, pl.col("amount"), pl.col("amount"))
    ingest(within(lakehouse, twice), TEN_DAYS)
    prepare(within(lakehouse, twice), TEN_DAYS)
    assert lakehouse.count(tables.quarantine(twice)) == 0
    assert rows(lakehouse, tables.prepared(twice))["order"].to_list() == list(range(1, 101))


def test_of_rows_that_differ_neither_is_believed(lakehouse: Lakehouse, orders: Source) -> None:
    torn = repeated(orders, (pl.col("amount") / 2).alias("amount"), pl.col("amount"))
    ingest(within(lakehouse, torn), TEN_DAYS)
    prepare(within(lakehouse, torn), TEN_DAYS)
    quarantine = rows(lakehouse, tables.quarantine(torn))
    assert quarantine["order"].to_list() == [7, 7]
    assert quarantine["reason"].str.contains("same key").all()
    assert set(rows(lakehouse, tables.prepared(torn))["order"]) == set(range(1, 101)) - {7}


def test_of_corrections_the_last_holds(lakehouse: Lakehouse, orders: Source) -> None:
    later = (pl.col(KNOWN_AT) + pl.duration(hours=1)).alias(KNOWN_AT)
    corrected = repeated(orders, later)
    corrected = edited(
        corrected,
        pl.when(pl.col(KNOWN_AT) == pl.col(KNOWN_AT).max().over("order"))
        .then(pl.when(pl.col("order") == 7).then(1.5).otherwise("amount"))
        .otherwise("amount")
        .alias("amount"),
    )
    ingest(within(lakehouse, corrected), TEN_DAYS)
    prepare(within(lakehouse, corrected), TEN_DAYS)
    held = rows(lakehouse, tables.prepared(corrected))
    assert held.height == 100
    assert held.filter(order=7)["amount"].to_list() == [1.5]


def test_too_many_failures_stop_it_and_commit_nothing(
    lakehouse: Lakehouse, orders: Source, tmp_path: Path
) -> None:
    bad = edited(orders, amount(dict.fromkeys(range(1, 12), 999.0)))
    ingest(within(lakehouse, bad), TEN_DAYS)
    message = (
        r"11 of 100 rows of orders fail .*10\.0%; most often: A plausible amount \(11\)"
        r"(?s:.*)checks_orders_\d+T\d+\.html"
    )
    with pytest.raises(UserError, match=message):
        prepare(within(lakehouse, bad), TEN_DAYS)
    [page] = (Path(lakehouse.root) / "reports").glob("checks_orders_*.html")
    assert "Nothing was committed" in page.read_text(encoding="utf-8")
    assert lakehouse.version(tables.prepared(bad)) is None
    assert lakehouse.version(tables.quarantine(bad)) is None


def test_as_many_failures_as_allowed_do_not_stop_it(
    lakehouse: Lakehouse, orders: Source, tmp_path: Path
) -> None:
    bad = edited(orders, amount(dict.fromkeys(range(1, 11), 999.0)))
    ingest(within(lakehouse, bad), TEN_DAYS)
    assert prepare(within(lakehouse, bad), TEN_DAYS) == {"orders": (90, 10)}


def test_all_rows_in_quarantine_stop_it(
    lakehouse: Lakehouse, orders: Source, tmp_path: Path
) -> None:
    bad = edited(orders, pl.lit(-1.0).alias("amount"))
    ingest(within(lakehouse, bad), TEN_DAYS)
    with pytest.raises(UserError, match="100 of 100 rows of orders fail"):
        prepare(within(lakehouse, bad), TEN_DAYS)


def test_no_news_is_no_failure(lakehouse: Lakehouse, orders: Source, tmp_path: Path) -> None:
    ingest(within(lakehouse, orders), BEGIN - DAY)
    assert prepare(within(lakehouse, orders), BEGIN - DAY) == {"orders": (0, 0)}
    assert lakehouse.complete_until(tables.prepared(orders)) == BEGIN - DAY


def test_a_check_that_cannot_run_is_named(
    lakehouse: Lakehouse, orders: Source, tmp_path: Path
) -> None:
    bad = replace(orders, checks=lambda to: to.col_vals_gt("absent", 0, brief="More than nothing"))
    ingest(within(lakehouse, bad), TEN_DAYS)
    with pytest.raises(UserError, match="'More than nothing' of orders cannot run"):
        prepare(within(lakehouse, bad), TEN_DAYS)


def test_prepare_step_by_step_equals_prepare_at_once(tmp_path: Path, orders: Source) -> None:
    bad = edited(orders, amount({3: 150.0, 90: -1.0}))
    at_once, daily = Lakehouse(str(tmp_path / "a")), Lakehouse(str(tmp_path / "b"))
    for lakehouse, days in ((at_once, [10]), (daily, [4, 10])):
        for day in days:
            ingest(within(lakehouse, bad), BEGIN + day * DAY)
            prepare(within(lakehouse, bad), BEGIN + day * DAY)
    for table in (tables.prepared(bad), tables.quarantine(bad)):
        assert rows(daily, table).equals(rows(at_once, table))


def test_an_earlier_as_of_changes_nothing(
    lakehouse: Lakehouse, orders: Source, tmp_path: Path
) -> None:
    ingest(within(lakehouse, orders), TEN_DAYS)
    prepare(within(lakehouse, orders), TEN_DAYS)
    before = lakehouse.version(tables.prepared(orders))
    assert ingest(within(lakehouse, orders), TEN_DAYS - DAY) == {}
    assert prepare(within(lakehouse, orders), TEN_DAYS - DAY) == {}
    assert lakehouse.version(tables.prepared(orders)) == before


def test_a_row_that_comes_again_replaces_its_former_self(
    lakehouse: Lakehouse, orders: Source, tmp_path: Path
) -> None:
    ingest(within(lakehouse, orders), TEN_DAYS)
    prepare(within(lakehouse, orders), TEN_DAYS)
    corrected = edited(orders, (pl.col("order") - 50).alias("order"))
    remember(within(lakehouse, corrected), TEN_DAYS)
    ingest(within(lakehouse, corrected), TEN_DAYS + DAY)
    prepare(within(lakehouse, corrected), TEN_DAYS + DAY)
    prepared = rows(lakehouse, tables.prepared(orders))
    assert prepared.height == 100
    assert prepared.filter(pl.col("order").is_between(51, 60))[
        KNOWN_AT
    ].min() == TEN_DAYS + timedelta(minutes=144)


def dated(source: Source, values: pl.Expr, **declared: Any) -> Source:
    """The source with another column, a time."""
    schema = {**source.raw, "day": UTC_TIME}
    of_orders = edited(source, values.cast(pl.Datetime("us", "UTC")).alias("day"))
    return replace(of_orders, raw=schema, prepared=schema, **declared)


@pytest.mark.parametrize(
    ("days", "reason"),
    [
        (-366 * 2000, "day is not long before the row became known"),
        (-3661, "day is not long before the row became known"),
        (367, "day is not too long after the row became known"),
        (366 * 93, "day is not too long after the row became known"),
        (2**62 // 86_400_000_000, "day is not too long after the row became known"),
    ],
)
def test_times_that_cannot_be_go_to_quarantine(
    lakehouse: Lakehouse, orders: Source, days: int, reason: str
) -> None:
    one = pl.when(pl.col("order") == 7).then(days).otherwise(0)
    source = dated(orders, pl.col(KNOWN_AT) + pl.duration(days=one))
    ingest(within(lakehouse, source), TEN_DAYS)
    assert prepare(within(lakehouse, source), TEN_DAYS) == {"orders": (99, 1)}
    failed = lakehouse.scan(tables.quarantine(source)).select("reason")
    assert lakehouse.collect(failed)["reason"].to_list() == [reason]


def test_a_source_that_tells_of_the_past_gives_nothing_known_before_it_happened(
    lakehouse: Lakehouse, orders: Source
) -> None:
    one = pl.when(pl.col("order") == 7).then(1).otherwise(0)
    told = pl.col(KNOWN_AT) + pl.duration(minutes=one)
    source = dated(orders, told, max_ahead=timedelta(0))
    ingest(within(lakehouse, source), TEN_DAYS)
    assert prepare(within(lakehouse, source), TEN_DAYS) == {"orders": (99, 1)}


def test_what_became_known_long_before_the_data_begin_goes_to_quarantine(
    lakehouse: Lakehouse, orders: Source
) -> None:
    early = pl.datetime(1, 1, 2, time_zone="UTC").cast(pl.Datetime("us", "UTC"))
    known = pl.when(pl.col("order") == 7).then(early).otherwise(KNOWN_AT)
    source = edited(orders, known.alias(KNOWN_AT))
    ingest(within(lakehouse, source), TEN_DAYS)
    assert prepare(within(lakehouse, source), TEN_DAYS) == {"orders": (99, 1)}
    reasons = rows(lakehouse, tables.quarantine(source))["reason"].to_list()
    assert reasons == ["Became known when there were data"]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_go_to_quarantine(
    lakehouse: Lakehouse, orders: Source, number: float
) -> None:
    unchecked = replace(edited(orders, amount({7: number})), checks=lambda to: to)
    ingest(within(lakehouse, unchecked), TEN_DAYS)
    assert prepare(within(lakehouse, unchecked), TEN_DAYS) == {"orders": (99, 1)}
    reasons = rows(lakehouse, tables.quarantine(unchecked))["reason"].to_list()
    assert reasons == ["amount is a finite number"]


def test_a_feed_without_its_time_zone_is_refused(lakehouse: Lakehouse, orders: Source) -> None:
    naive = edited(orders, pl.col(KNOWN_AT).dt.replace_time_zone(None))
    with pytest.raises(UserError, match=r"known_at is Datetime.*declared Datetime.*UTC"):
        ingest(within(lakehouse, naive), TEN_DAYS)
    assert lakehouse.version(tables.raw(orders)) is None


def test_preparing_that_loses_the_time_zone_is_refused(
    lakehouse: Lakehouse, orders: Source
) -> None:
    def prepare_orders(batch: pl.DataFrame, _: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        return batch.with_columns(pl.col("day").dt.replace_time_zone(None))

    source = dated(orders, pl.col(KNOWN_AT), prepare=prepare_orders)
    ingest(within(lakehouse, source), TEN_DAYS)
    with pytest.raises(UserError, match=r"`prepare` of orders gives Datetime.* for day"):
        prepare(within(lakehouse, source), TEN_DAYS)
    assert lakehouse.version(tables.prepared(source)) is None


def test_a_process_killed_before_the_good_rows_were_written_leaves_no_bad_row_twice(
    lakehouse: Lakehouse, orders: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = edited(orders, amount({3: 150.0, 103: 150.0}))
    ingest(within(lakehouse, bad), TEN_DAYS)
    with monkeypatch.context() as patch:
        patch.setattr(Lakehouse, "merge_known", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(within(lakehouse, bad), TEN_DAYS)
    ingest(within(lakehouse, bad), TEN_DAYS + DAY)
    prepare(within(lakehouse, bad), TEN_DAYS + DAY)
    assert rows(lakehouse, tables.quarantine(bad))["order"].to_list() == [3, 103]


@pytest.mark.parametrize("number", [1, 2])  # of its writes: to quarantine, to the prepared table
def test_of_two_who_prepare_the_newer_row_holds(
    lakehouse: Lakehouse, orders: Source, intervene: Intervene, number: int
) -> None:
    # Given an order that is corrected, and a process that prepares the correction meanwhile
    known_at = [BEGIN + DAY, BEGIN + 3 * DAY]
    given = {"order": [1, 1], "shop": ["a", "a"], "amount": [1.0, 2.0], KNOWN_AT: known_at}
    versions = pl.LazyFrame(given)

    def load(since: datetime | None, until: datetime) -> Frame:
        known = pl.col(KNOWN_AT).is_between(since or BEGIN, until, closed="right")
        return nw.from_native(versions.filter(known))

    context = within(lakehouse, replace(orders, load=load))

    def overtake() -> None:
        ingest(context, BEGIN + 4 * DAY)
        prepare(context, BEGIN + 4 * DAY)

    ingest(context, BEGIN + 2 * DAY)
    intervene(number, "before", overtake)
    # When
    prepare(context, BEGIN + 2 * DAY)
    # Then
    table = tables.prepared(orders)
    assert rows(lakehouse, table)["amount"].to_list() == [2.0]
    assert lakehouse.complete_until(table) == BEGIN + 4 * DAY


def test_times_are_shown_to_the_second_unless_there_is_a_fraction() -> None:
    moments = [BEGIN, BEGIN + timedelta(milliseconds=250)]
    shown = _readable(pl.DataFrame({"at": moments, "on": [BEGIN.date()] * 2}))
    assert shown["at"].to_list() == ["2020-01-01 00:00:00", "2020-01-01 00:00:00.250"]
    assert shown["on"].to_list() == ["2020-01-01"] * 2
