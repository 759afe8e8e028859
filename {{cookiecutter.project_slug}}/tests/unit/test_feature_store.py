from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from {{cookiecutter.package_name}}.core.contract import (
    AVAILABLE_AT,
    KNOWN_AT,
    PREDICTION_TIME,
    Frame,
    Frames,
    Problem,
)
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.data.ingest import ingest
from {{cookiecutter.package_name}}.data.prepare import prepare
from {{cookiecutter.package_name}}.features.build import build_features
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse
from {{cookiecutter.package_name}}.store.parts import in_parts
from {{cookiecutter.package_name}}.store.point_in_time import (
    available,
    newest_in_parts,
    newest_of_each,
    point_in_time_join,
    prepared,
    seen_by,
    training_set,
    with_features,
)
from {{cookiecutter.package_name}}.store.point_in_time import spine_of as whole_spine

from tests.conftest import within

Key = str | None
MOMENT = pl.Datetime("us", "UTC")
DAY = timedelta(days=1)
Known = dict[tuple[Key, int], tuple[int | None, str | None]]
keys = st.sampled_from(["a", "b", None])
spines = st.lists(st.tuples(keys, st.integers(0, 9), st.integers()), max_size=12)
values = st.tuples(st.none() | st.integers(-9, 9), st.none() | st.sampled_from("xyz"))
features = st.dictionaries(st.tuples(keys, st.integers(0, 9)), values, max_size=12)


EPOCH = datetime(2020, 1, 1, tzinfo=UTC)


def moment(minutes: int) -> datetime:
    return EPOCH + timedelta(minutes=minutes)


def spine_of(spine: list[tuple[Key, int, int]]) -> Frame:
    schema = {"key": pl.String, "at": pl.Int64, "number": pl.Int64}
    rows = [(key, at, number % 2**31) for key, at, number in spine]
    time = (pl.lit(EPOCH).cast(MOMENT) + pl.duration(minutes="at")).alias(PREDICTION_TIME)
    return nw.from_native(pl.LazyFrame(rows, schema=schema, orient="row").with_columns(time))


def features_of(known: Known) -> Frame:
    schema = {
        "key": pl.String,
        "at": pl.Int64,
        "since": pl.Int64,
        "value": pl.Int64,
        "text": pl.String,
    }
    rows = [(key, at, at, *pair) for (key, at), pair in known.items()]
    time = (pl.lit(EPOCH).cast(MOMENT) + pl.duration(minutes="at")).alias(AVAILABLE_AT)
    native = pl.LazyFrame(rows, schema=schema, orient="row")
    return nw.from_native(native.select("key", time, "since", "value", "text"))


def join(spine: list[tuple[Key, int, int]], known: Known) -> pl.DataFrame:
    features = features_of(known)
    joined = point_in_time_join(spine_of(spine), features, ["key"], ["since", "value", "text"])
    return pl.DataFrame(joined.collect("polars").to_native())


@given(spines, features)
def test_join_equals_brute_force(spine: list[tuple[Key, int, int]], known: Known) -> None:
    def newest(key: Key, moment: int) -> tuple[int | None, int | None, str | None]:
        times = [at for other, at in known if other == key is not None and at <= moment]
        return (max(times), *known[key, max(times)]) if times else (None, None, None)

    expected = sorted(
        ((key, at, number % 2**31, *newest(key, at)) for key, at, number in spine), key=repr
    )
    assert sorted(join(spine, known).drop(PREDICTION_TIME).rows(), key=repr) == expected


@given(spines, features)
def test_join_keeps_the_spine_and_never_sees_the_future(
    spine: list[tuple[Key, int, int]], known: Known
) -> None:
    joined = join(spine, known)
    assert joined.columns == ["key", "at", "number", PREDICTION_TIME, "since", "value", "text"]
    assert joined.height == len(spine)
    assert joined.filter(pl.col("since") > pl.col("at")).is_empty()
    assert joined.filter(pl.col("key").is_null() & pl.col("since").is_not_null()).is_empty()


def test_the_newest_row_of_each_entity() -> None:
    known: Known = {("a", 1): (1, "x"), ("a", 3): (3, "x"), ("b", 2): (2, "y")}
    newest = newest_of_each(features_of(known), ["key"])
    assert sorted(pl.DataFrame(newest.collect("polars").to_native())["value"]) == [2, 3]


@given(features, st.integers(1, 12))
def test_the_newest_row_is_the_same_in_parts(known: Known, at_most: int) -> None:
    whole = newest_of_each(features_of(known), ["key"]).collect("polars").to_native()
    lakehouse = Lakehouse("nowhere")
    with newest_in_parts(lakehouse, features_of(known), ["key"], at_most) as newest:
        found = lakehouse.collect(newest)
    assert_frame_equal(found, pl.DataFrame(whole), check_row_order=False)


def test_a_null_in_the_newest_row_stays_null() -> None:
    joined = join([("a", 5, 0)], {("a", 1): (1, "x"), ("a", 4): (None, None)})
    assert joined.select("since", "value", "text").row(0) == (4, None, None)


def test_a_row_available_at_the_prediction_time_counts_and_one_later_does_not() -> None:
    joined = join([("a", 5, 0)], {("a", 5): (5, "x"), ("a", 6): (6, "y")})
    assert joined["value"].to_list() == [5]


@given(
    st.permutations([("a", 3, n) for n in range(4)]),
    st.permutations([(("a", t), (t, "x")) for t in range(6)]),
)
def test_ties_and_the_order_of_rows_do_not_matter(
    spine: list[tuple[Key, int, int]],
    known: list[tuple[tuple[Key, int], tuple[int | None, str | None]]],
) -> None:
    joined = join(spine, dict(known)).sort("number")
    assert joined.select("number", "value").rows() == [(number, 3) for number in range(4)]


# What parts of a spine can see


@pytest.mark.parametrize("days", [(5, 6, 9, 30, 70), (30, 31, 5, 9, 40)], ids=["on", "back"])
def test_parts_of_a_spine_see_what_the_whole_sees(
    filled: Lakehouse, toy: Problem, days: Sequence[int]
) -> None:
    # Given
    as_of = toy.begins + 60 * DAY
    time = nw.col(PREDICTION_TIME)
    spine = whole_spine(toy, prepared(filled, toy, as_of, {}))
    parts = [
        spine.filter(time >= toy.begins + (day - 3) * DAY, time < toy.begins + day * DAY)
        for day in days
    ]
    every = available(filled, toy, as_of, {})
    # When
    for part, seen in seen_by(filled, toy, parts, as_of, {}):
        found = filled.collect(with_features(filled, toy, part, seen))
        # Then
        expected = filled.collect(with_features(filled, toy, part, every))
        assert_frame_equal(found, expected, check_row_order=False)


def test_parts_read_of_a_table_what_has_come_since_the_part_before(
    filled: Lakehouse, toy: Problem
) -> None:
    # Given
    as_of = toy.begins + 60 * DAY
    time = nw.col(PREDICTION_TIME)
    spine = whole_spine(toy, prepared(filled, toy, as_of, {}))
    days = [toy.begins + day * DAY for day in (20, 21, 22)]
    parts = [spine.filter(time >= day, time < day + DAY) for day in days]
    (table,) = toy.feature_tables
    # When
    read = [filled.rows(seen[table.name]) for _, seen in seen_by(filled, toy, parts, as_of, {})]
    # Then
    entities = filled.collect(available(filled, toy, as_of, {})[table.name])["shop"].n_unique()
    assert max(read) <= entities + 2 * filled.rows(parts[0])


# Building in parts


@given(st.lists(st.integers(0, 60 * 60), max_size=40), st.integers(1, 12))
def test_parts_hold_every_row_once_and_no_more_than_they_may(
    minutes: list[int], at_most: int
) -> None:
    times = sorted(moment(item) for item in minutes)
    rows = pl.DataFrame({"at": times}, schema={"at": MOMENT})
    # When
    parts = list(in_parts(Lakehouse(""), nw.from_native(rows.lazy()), "at", at_most))
    # Then
    inside = [[time for time in times if start <= time < end] for start, end in parts]
    assert [time for part in inside for time in part] == times
    for (start, end), held in zip(parts, inside, strict=True):
        assert held
        assert len(held) <= at_most or end - start == timedelta(hours=1)


def test_features_built_in_parts_equal_features_built_at_once(
    filled: Lakehouse, toy: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    end = toy.begins + 70 * DAY
    monkeypatch.setenv(f"{ENV_PREFIX}FEATURES__CHUNK_ROWS", "50")
    apart = Lakehouse(str(tmp_path / "apart"), mounts={"prepared_*": filled.root})
    (table,) = [tables.features(declared) for declared in toy.feature_tables]
    # When
    build_features(within(apart, toy), end)
    # Then
    assert (apart.version(table) or 0) > 5
    assert filled.version(table) == 0
    assert_frame_equal(apart.read(table), filled.read(table), check_row_order=False)
    assert apart.complete_until(table) == end


def test_a_rebuild_in_parts_takes_back_nothing_that_is_complete(
    filled: Lakehouse, toy: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    end = toy.begins + 70 * DAY
    (table,) = [tables.features(declared) for declared in toy.feature_tables]
    before = filled.read(table)
    complete = []
    # When
    monkeypatch.setenv(f"{ENV_PREFIX}FEATURES__CHUNK_ROWS", "50")
    overwrite = Lakehouse.overwrite

    def watched(*given: Any) -> int:
        rows = overwrite(*given)
        complete.append(filled.complete_until(table))
        return rows

    monkeypatch.setattr(Lakehouse, "overwrite", watched)
    build_features(within(filled, toy), end, since=toy.begins + 30 * DAY)
    # Then
    assert len(complete) > 3
    assert set(complete) == {end}
    assert_frame_equal(filled.read(table), before, check_row_order=False)


# The training set


@pytest.fixture
def filled(lakehouse: Lakehouse, toy: Problem) -> Lakehouse:
    """Prepared and feature tables, complete until after all data."""
    end = toy.begins + 70 * DAY
    for source in toy.sources:
        lakehouse.merge(tables.prepared(source), nw.from_native(source.load(None, end)), end)
    build_features(within(lakehouse, toy), end)
    return lakehouse


def test_training_set_has_the_rows_of_its_window_in_order(filled: Lakehouse, toy: Problem) -> None:
    start, as_of = toy.begins + 5 * DAY, toy.begins + 20 * DAY
    rows = training_set(filled, toy, start, as_of, {})
    assert rows.columns == ["order", PREDICTION_TIME, "shop", "amount", "last_amount", "paid"]
    assert rows[PREDICTION_TIME].is_between(start, as_of - timedelta(hours=23)).all()
    assert rows.height == 10 * 14 + 1
    assert rows.equals(rows.sort(PREDICTION_TIME, "order"))
    assert rows.select("paid", "shop").null_count().sum_horizontal().item() == 0


@pytest.mark.parametrize("part", ["features", "categorical", "slices", "baseline"])
def test_training_set_refuses_a_column_that_no_row_has(
    filled: Lakehouse, toy: Problem, part: str
) -> None:
    named: dict[str, Any] = {part: ("nowhere",)}
    problem = replace(toy, model=replace(toy.model, **named))
    with pytest.raises(UserError, match="The model names nowhere, which rows do not have"):
        training_set(filled, problem, toy.begins, toy.begins + 20 * DAY, {})


def test_training_set_never_contains_a_label_known_after_the_as_of(
    filled: Lakehouse, toy: Problem
) -> None:
    as_of = toy.begins + 20 * DAY
    planted = pl.DataFrame(
        {"order": [100], "paid": [1.0], KNOWN_AT: [as_of + timedelta(microseconds=1)]}
    )
    filled.merge(
        tables.prepared(toy.sources[1]), nw.from_native(planted.cast({KNOWN_AT: MOMENT}).lazy())
    )
    before = training_set(filled, toy, toy.begins, as_of, {})
    after = training_set(filled, toy, toy.begins, as_of + timedelta(microseconds=1), {})
    assert set(after["order"]) - set(before["order"]) == {100}


def test_training_set_never_contains_a_prediction_after_the_as_of(
    filled: Lakehouse, toy: Problem
) -> None:
    as_of = toy.begins + timedelta(hours=24)
    early = pl.DataFrame({"order": [8, 9, 10], "paid": [1.0] * 3, KNOWN_AT: [toy.begins] * 3})
    filled.merge(
        tables.prepared(toy.sources[1]), nw.from_native(early.cast({KNOWN_AT: MOMENT}).lazy())
    )
    assert training_set(filled, toy, toy.begins, as_of, {})["order"].to_list() == [8, 9]


def test_training_set_of_a_past_as_of_does_not_change_when_more_becomes_known(
    toy: Problem, tmp_path: Path
) -> None:
    as_of, found = toy.begins + 20 * DAY, []
    for end in (as_of, as_of + 30 * DAY):
        lakehouse = Lakehouse(str(tmp_path / f"{end:%j}"))
        for source in toy.sources:
            lakehouse.merge(tables.prepared(source), nw.from_native(source.load(None, end)), end)
        build_features(within(lakehouse, toy), end)
        found.append(training_set(lakehouse, toy, toy.begins, as_of, {}))
    assert found[0].equals(found[1])


def test_training_set_joins_the_last_row_available_at_the_prediction(
    filled: Lakehouse, toy: Problem
) -> None:
    rows = training_set(filled, toy, toy.begins, toy.begins + 20 * DAY, {})
    for row in rows.tail(30).to_dicts():
        earlier = rows.filter(
            pl.col("shop") == row["shop"],
            pl.col(PREDICTION_TIME) <= row[PREDICTION_TIME] - timedelta(hours=1),
        )
        assert row["last_amount"] == earlier["amount"][-1]


def test_training_set_reads_the_versions_that_it_is_given(filled: Lakehouse, toy: Problem) -> None:
    versions = {table.name: filled.version(table) for table in tables.inputs(toy)}
    before = training_set(filled, toy, toy.begins, toy.begins + 20 * DAY, versions)
    orders = tables.prepared(toy.sources[0])
    filled.merge(orders, filled.scan(orders).with_columns(nw.col("amount") * 2))
    assert training_set(filled, toy, toy.begins, toy.begins + 20 * DAY, versions).equals(before)
    assert not training_set(filled, toy, toy.begins, toy.begins + 20 * DAY, {}).equals(before)


def test_labels_that_are_all_null_are_said(filled: Lakehouse, toy: Problem) -> None:
    unknown = nw.lit(None).cast(nw.Float64).alias(toy.model.target.label)

    def labels(frames: Frames) -> Frame:
        return toy.model.labels(frames).with_columns(unknown)

    nameless = replace(toy, model=replace(toy.model, labels=labels))
    with pytest.raises(UserError, match=r"no labelled row; [0-9]+ labels paid are null"):
        training_set(filled, nameless, toy.begins, toy.begins + 20 * DAY, {})


@pytest.mark.parametrize("divisor", [0.0, float("nan"), float("inf")])
def test_what_is_no_finite_number_is_null_in_features_inputs_and_labels(
    lakehouse: Lakehouse, toy: Problem, divisor: float
) -> None:
    last = toy.feature_tables[0]
    wrong = (nw.col("amount") - nw.col("amount")) / divisor
    wrong = wrong + (nw.col("amount") * 1e308 * 1e308)

    def build(frames: Frames) -> Frame:
        orders = frames["orders"].with_columns(wrong.alias("amount"))
        return last.build({**frames, "orders": orders})

    def labels(frames: Frames) -> Frame:
        first = nw.when(nw.col("order") < 50).then(nw.lit(float("nan")))
        return toy.model.labels(frames).with_columns(first.otherwise(nw.col("paid")).alias("paid"))

    def on_demand(rows: Frame) -> Frame:
        return rows.with_columns((nw.col("amount") / 0.0).alias("amount"))

    model = replace(toy.model, labels=labels, on_demand=on_demand)
    problem = replace(toy, model=model, feature_tables=(replace(last, build=build),))
    end = toy.begins + 70 * DAY
    for source in problem.sources:
        lakehouse.merge(tables.prepared(source), nw.from_native(source.load(None, end)), end)
    build_features(within(lakehouse, problem), end)
    stored = lakehouse.read(tables.features(problem.feature_tables[0]))["last_amount"]
    assert stored.len() == stored.null_count() > 0
    rows = training_set(lakehouse, problem, toy.begins, end, {})
    assert rows["order"].min() == 50
    assert rows["amount"].null_count() == rows.height > 0


FUNCTIONS = ("load", "prepare", "checks", "build", "spine", "labels", "on_demand")


def without_return(problem: Problem, name: str) -> Problem:
    """A problem one of whose functions forgets to return what it made."""
    forgetful: dict[str, Any] = {name: lambda *_: None}
    if hasattr(problem.model, name):
        return replace(problem, model=replace(problem.model, **forgetful))
    if name == "build":
        built = tuple(replace(table, **forgetful) for table in problem.feature_tables)
        return replace(problem, feature_tables=built)
    return replace(
        problem, sources=tuple(replace(source, **forgetful) for source in problem.sources)
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_the_problem_that_returns_nothing_is_named(
    lakehouse: Lakehouse, toy: Problem, name: str
) -> None:
    forgetful = without_return(toy, name)

    def make_training_set() -> None:
        context, end = within(lakehouse, forgetful), toy.begins + 20 * DAY
        ingest(context, end)
        prepare(context, end)
        build_features(context, end)
        training_set(lakehouse, forgetful, toy.begins, end, {})

    with pytest.raises(UserError, match=f"`{name}` of .* returns nothing"):
        make_training_set()
