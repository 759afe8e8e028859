from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from {{cookiecutter.package_name}}.core.contract import KNOWN_AT, Frame, Problem, Source, Table
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.data.ingest import ingest
from {{cookiecutter.package_name}}.data.prepare import prepare
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.engines.polars import PolarsEngine
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse

from tests.conftest import within

DAY = timedelta(days=1)
BEGIN = datetime(2020, 1, 1, tzinfo=UTC)
TEN_DAYS = BEGIN + 10 * DAY


@pytest.fixture
def orders(toy: Problem) -> Source:
    return toy.sources[0]


def edited(source: Source, edit: pl.Expr) -> Source:
    """The source as it is when its rows come edited."""

    def load(since: datetime | None, until: datetime) -> Frame:
        found = pl.DataFrame(source.load(since, until).collect("polars").to_native())
        return PolarsEngine().lazy(found.with_columns(edit))

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
    assert "A plausible amount" in (
        Path(lakehouse.root) / "reports" / "checks_orders.html"
    ).read_text(encoding="utf-8")


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


@pytest.mark.parametrize("key", [1, None])
def test_rows_with_a_repeated_or_null_key_go_to_quarantine(
    lakehouse: Lakehouse, orders: Source, tmp_path: Path, key: int | None
) -> None:
    bad = edited(orders, pl.when(pl.col("order") == 7).then(key).otherwise("order").alias("order"))
    ingest(within(lakehouse, bad), TEN_DAYS)
    prepare(within(lakehouse, bad), TEN_DAYS)
    assert set(rows(lakehouse, tables.quarantine(bad))["order"]) == {key}
    assert set(rows(lakehouse, tables.prepared(bad))["order"]) == set(range(1, 101)) - {key, 7}


def test_too_many_failures_stop_it_and_commit_nothing(
    lakehouse: Lakehouse, orders: Source, tmp_path: Path
) -> None:
    bad = edited(orders, amount(dict.fromkeys(range(1, 12), 999.0)))
    ingest(within(lakehouse, bad), TEN_DAYS)
    message = r"11 of 100 rows of orders fail .*10\.0%; most often: A plausible amount \(11\)(?s:.*)checks_orders\.html"
    with pytest.raises(UserError, match=message):
        prepare(within(lakehouse, bad), TEN_DAYS)
    assert (Path(lakehouse.root) / "reports" / "checks_orders.html").exists()
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
    with pytest.raises(UserError, match="'More than nothing' cannot run"):
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
    ingest(within(lakehouse, corrected), TEN_DAYS + DAY)
    prepare(within(lakehouse, corrected), TEN_DAYS + DAY)
    prepared = rows(lakehouse, tables.prepared(orders))
    assert prepared.height == 100
    assert prepared.filter(pl.col("order").is_between(51, 60))[
        KNOWN_AT
    ].min() == TEN_DAYS + timedelta(minutes=144)


# Batches and keys


def repeated(source: Source, edit: pl.Expr) -> Source:
    """The source whose first three rows come twice, the second time edited."""

    def load(since: datetime | None, until: datetime) -> Frame:
        found = pl.DataFrame(source.load(since, until).collect("polars").to_native())
        again = found.filter(pl.col("order") <= 3).with_columns(edit)
        return PolarsEngine().lazy(pl.concat([found, again]))

    return replace(source, load=load)


def in_batches(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let every lakehouse work on batches of so many rows."""
    monkeypatch.setattr(Lakehouse, "engine", PolarsEngine(batch_rows=size))


@pytest.mark.parametrize("size", [7, 1_000])
def test_identical_rows_are_one_row(
    lakehouse: Lakehouse, orders: Source, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    twice = repeated(orders, pl.col("amount"))
    in_batches(monkeypatch, size)
    ingest(within(lakehouse, twice), TEN_DAYS)
    assert prepare(within(lakehouse, twice), TEN_DAYS) == {"orders": (100, 0)}
    assert lakehouse.count(tables.raw(twice)) == 103
    assert rows(lakehouse, tables.prepared(twice))["order"].to_list() == list(range(1, 101))


@pytest.mark.parametrize("size", [7, 1_000])
def test_rows_that_differ_under_one_key_go_to_quarantine_all_of_them(
    lakehouse: Lakehouse, orders: Source, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    twice = repeated(orders, pl.col("amount") / 2)
    in_batches(monkeypatch, size)
    ingest(within(lakehouse, twice), TEN_DAYS)
    assert prepare(within(lakehouse, twice), TEN_DAYS) == {"orders": (97, 6)}
    quarantine = rows(lakehouse, tables.quarantine(twice))
    assert quarantine["order"].to_list() == [1, 1, 2, 2, 3, 3]
    assert set(quarantine["reason"]) == {"Other rows have the same key (order)"}
    assert set(rows(lakehouse, tables.prepared(twice))["order"]) == set(range(4, 101))


def test_prepare_in_many_batches_equals_prepare_in_one(
    tmp_path: Path, orders: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = edited(repeated(orders, pl.col("amount") / 2), amount({3: 150.0, 90: -1.0}))
    seen = []

    def noted(batch: pl.DataFrame, _: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        seen.append(batch.height)
        return batch

    found = {}
    for size in (1, 7, 1_000):
        lakehouse = Lakehouse(str(tmp_path / f"{size}"))
        in_batches(monkeypatch, size)
        context = within(lakehouse, replace(bad, prepare=noted))
        ingest(context, TEN_DAYS)
        seen.clear()
        prepare(context, TEN_DAYS)
        assert max(seen) <= size
        assert sum(seen) == 103
        found[size] = [
            rows(lakehouse, table) for table in (tables.prepared(bad), tables.quarantine(bad))
        ]
    assert all(a.equals(b) for a, b in zip(found[1], found[1_000], strict=True))
    assert all(a.equals(b) for a, b in zip(found[7], found[1_000], strict=True))


def test_a_source_gets_the_raw_rows_that_it_looks_up_as_of_then(
    lakehouse: Lakehouse, toy: Problem
) -> None:
    asked = []

    def noted(batch: pl.DataFrame, lookups: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        asked.append({name: found.height for name, found in lookups.items()})
        return batch

    orders = replace(toy.sources[0], prepare=noted, lookups=("payments",))
    problem = replace(toy, sources=(orders, toy.sources[1]))
    ingest(within(lakehouse, problem), TEN_DAYS + DAY)
    prepare(within(lakehouse, problem), TEN_DAYS)
    assert asked == [{"payments": 91}]


def test_the_report_of_failed_checks_is_ours_and_escapes_what_it_shows(
    lakehouse: Lakehouse, orders: Source
) -> None:
    bad = edited(orders, amount(dict.fromkeys(range(1, 12), 999.0)))
    bad = replace(bad, max_rejected=0.5)
    shop = pl.when(pl.col("order") == 1).then(pl.lit("<b>")).otherwise("shop").alias("shop")
    ingest(within(lakehouse, edited(bad, shop)), TEN_DAYS)
    prepare(within(lakehouse, edited(bad, shop)), TEN_DAYS)
    page = (Path(lakehouse.root) / "reports" / "checks_orders.html").read_text(encoding="utf-8")
    assert "Failed by 11 rows, 11.00 % of all." in page
    assert page.count("<td>999.000</td>") == 10
    assert "<b>" not in page
    assert "http" not in page.replace("http-equiv", "")
