from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from {{cookiecutter.package_name}}.core.contract import PREDICTION_TIME, Array, Problem
from {{cookiecutter.package_name}}.modeling.evaluation import (
    MIN_SLICE_ROWS,
    RESULTS,
    calibration,
    can_be_judged,
    clusters,
    compare,
    group_means,
)
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse
from {{cookiecutter.package_name}}.store.measurements import record
from {{cookiecutter.package_name}}.store.tables import MEASUREMENTS


@pytest.fixture
def rows(toy: Problem) -> pl.DataFrame:
    """40 days of 25 rows; shop c is too small to be a slice."""
    rng = np.random.default_rng(0)
    times = [
        toy.begins + timedelta(hours=24 * day, minutes=minute)
        for day in range(40)
        for minute in range(25)
    ]
    shops = rng.choice(["a", "b", "c"], 1000, p=[0.5, 0.4, 0.1])
    return pl.DataFrame(
        {PREDICTION_TIME: times, "shop": shops, "paid": (rng.random(1000) < 0.4).astype(float)}
    )


def noisy(rows: pl.DataFrame, noise: float) -> Array:
    label: Array = rows["paid"].to_numpy()
    return label + np.random.default_rng(3).normal(0, noise, len(label))


def test_perfect_beats_random_whichever_way_a_metric_points(
    rows: pl.DataFrame, toy: Problem
) -> None:
    better = compare(rows, noisy(rows, 0), noisy(rows, 1), toy.model).filter(slice="")
    worse = compare(rows, noisy(rows, 1), noisy(rows, 0), toy.model).filter(slice="")
    assert better["metric"].to_list() == ["loss", "skill"]
    assert better["value"].to_list() == [0.0, 1.0]
    assert (better["gain_lower"] > 0).all()
    assert (worse["gain_upper"] < 0).all()
    assert worse["gain"].to_list() == pytest.approx([-gain for gain in better["gain"]])


def test_equal_predictions_have_no_gain(rows: pl.DataFrame, toy: Problem) -> None:
    result = compare(rows, noisy(rows, 1), noisy(rows, 1), toy.model)
    assert result.select("gain", "gain_lower", "gain_upper").unique().rows() == [(0.0, 0.0, 0.0)]


def test_intervals_contain_their_value(rows: pl.DataFrame, toy: Problem) -> None:
    result = compare(rows, noisy(rows, 0.5), noisy(rows, 1), toy.model)
    assert result.schema == RESULTS
    for name in ("", "gain_"):
        value = "value" if name == "" else "gain"
        assert result.filter(
            pl.col(f"{name}lower") < pl.col(value), pl.col(value) < pl.col(f"{name}upper")
        ).height == len(result)


def test_intervals_are_wider_where_days_differ(rows: pl.DataFrame, toy: Problem) -> None:
    errors = np.where(np.arange(1000) % 2, 1.0, 0.0)
    by_day = np.where(np.arange(1000) // 25 % 2, 1.0, 0.0)
    label = rows["paid"].to_numpy()
    widths = []
    for error in (errors, by_day):
        first = compare(rows, label + error, label, toy.model).row(0, named=True)
        assert first["value"] == pytest.approx(0.5, abs=0.02)
        widths.append(first["upper"] - first["lower"])
    assert widths[1] > 3 * widths[0]


def test_slices_are_large_enough_and_show_both_labels(rows: pl.DataFrame, toy: Problem) -> None:
    one_label = rows.with_columns(
        pl.when(pl.col("shop") == "b").then(1.0).otherwise("paid").alias("paid")
    )
    for frame, expected in ((rows, ["shop=a", "shop=b"]), (one_label, ["shop=a", "shop=(others)"])):
        found = compare(frame, noisy(frame, 1), noisy(frame, 2), toy.model).filter(
            pl.col("slice") != ""
        )
        assert found["slice"].to_list() == expected
        assert set(found["metric"]) == {"loss"}
        assert (found["rows"] >= MIN_SLICE_ROWS).all()
        assert found["rows"][0] == (frame["shop"] == "a").sum()


def test_calibration_has_ten_even_bins_in_order(toy: Problem) -> None:
    rng = np.random.default_rng(0)
    predicted = rng.random(1003)
    label = (rng.random(1003) < predicted).astype(float)
    bins = calibration(label, predicted, toy.model.target)
    assert bins["rows"].sum() == 1003
    assert bins["rows"].max() - bins["rows"].min() <= 1  # type: ignore[operator]
    assert all(low < high for low, high in pairwise(bins["predicted"]))
    assert (bins["predicted"] - bins["observed"]).abs().max() < 0.15  # type: ignore[operator]
    assert bins["observed"].mean() == pytest.approx(label.mean(), abs=0.01)


def test_calibration_of_few_rows(toy: Problem) -> None:
    bins = calibration(np.array([0.0, 1.0]), np.array([0.2, 0.8]), toy.model.target)
    assert bins.rows() == [("prediction", 0.2, 0.0, 1), ("prediction", 0.8, 1.0, 1)]


def test_group_means_come_from_train_and_new_groups_get_the_mean_of_all(toy: Problem) -> None:
    train = pl.DataFrame({"shop": ["a", "a", "b"], "size": [1, 1, 2], "paid": [0.0, 1.0, 1.0]})
    rows = pl.DataFrame(
        {"shop": ["b", "a", "z", None, "a"], "size": [2, 1, 1, 1, 2], "paid": [9.0] * 5}
    )
    model = replace(toy.model, baseline=("shop", "size"))
    guess = group_means(train, rows, model)
    assert guess.tolist() == pytest.approx([1, 0.5, 2 / 3, 2 / 3, 2 / 3])


def test_metrics_recorded_again_change_nothing(
    lakehouse: Lakehouse, rows: pl.DataFrame, toy: Problem
) -> None:
    result = compare(rows, noisy(rows, 0.5), noisy(rows, 1), toy.model)
    window = (toy.begins, toy.begins + timedelta(days=40))
    assert record(lakehouse, result, "test", "thing", *window) == result.height
    assert record(lakehouse, result, "test", "thing", *window) == 0
    assert (
        record(lakehouse, result.with_columns(value=1.5), "test", "thing", *window) == result.height
    )
    stored = lakehouse.scan(MEASUREMENTS).collect("polars").to_native()
    assert stored.select("producer", "subject", "value").unique().rows() == [("test", "thing", 1.5)]
    assert stored.height == result.height


def test_an_interval_of_a_mean_is_students_t(toy: Problem) -> None:
    # given days of one row each, and a metric that is the mean of their errors
    errors = np.random.default_rng(0).gamma(2, 1, 9)
    rows = pl.DataFrame(
        {PREDICTION_TIME: [toy.begins + timedelta(days=day) for day in range(9)], "paid": 0.0}
    )
    model = replace(toy.model, slices=())
    # when
    found = compare(rows, np.sqrt(errors), np.zeros(9), model).row(0, named=True)
    # then the gain over no error at all has the textbook's interval
    mean, half = errors.mean(), 2.306004 * errors.std(ddof=1) / 3
    assert found["gain_lower"] == pytest.approx(-mean - half)
    assert found["gain_upper"] == pytest.approx(-mean + half)
    # and that of the loss is above 0, farther up than down
    assert 0 < found["lower"] < mean < found["upper"]
    assert found["upper"] - mean > mean - found["lower"]


def test_days_of_unequal_size_count_as_fewer(rows: pl.DataFrame, toy: Problem) -> None:
    # given three days of most rows and 37 of a row each
    number = pl.int_range(pl.len())
    day = pl.when(number < 963).then(number % 3).otherwise(number - 960)
    uneven = rows.with_columns((pl.lit(toy.begins) + pl.duration(days=day)).alias(PREDICTION_TIME))
    # then the interval is as wide as one of three days, which is wide indeed
    even, wide = (
        compare(frame, noisy(frame, 0.5), noisy(frame, 1), toy.model).row(0, named=True)
        for frame in (rows, uneven)
    )
    assert wide["gain_upper"] - wide["gain_lower"] > 1.5 * (even["gain_upper"] - even["gain_lower"])


@pytest.mark.parametrize("second_day", [0, 1, 10])
def test_one_day_tells_nothing_for_sure(rows: pl.DataFrame, toy: Problem, second_day: int) -> None:
    # given a day, and hardly a row of another
    number = pl.int_range(pl.len())
    day = (number >= 500 - second_day).cast(pl.Int64)
    times = pl.lit(toy.begins) + pl.duration(days=day, minutes=number % 60)
    most = rows[:500].with_columns(times.alias(PREDICTION_TIME))
    # when
    found = compare(most, noisy(most, 0.5), noisy(most, 1), toy.model).filter(slice="")
    # then
    for bound in ("lower", "upper", "gain_lower", "gain_upper"):
        assert found[bound].is_nan().all()


def test_rows_of_one_moment_are_independent(rows: pl.DataFrame) -> None:
    assert np.bincount(clusters(rows[PREDICTION_TIME])).tolist() == [25] * 40
    alike = clusters(rows.with_columns(pl.lit(rows[0, PREDICTION_TIME]).alias("at"))["at"])
    assert np.bincount(alike).tolist() == [17] * 40 + [16] * 20


def test_many_days_are_left_out_in_runs(toy: Problem) -> None:
    times = pl.Series([toy.begins + timedelta(days=day) for day in range(180)])
    assert clusters(times).tolist() == [day // 3 for day in range(180)]


def test_a_class_of_one_day_alone_cannot_be_judged(toy: Problem) -> None:
    target = toy.model.target
    label = np.array([0.0, 1, 0, 1])
    assert can_be_judged(label, np.array([0, 0, 1, 1]), target)
    assert not can_be_judged(label, np.array([0, 1, 0, 1]), target)
    assert not can_be_judged(np.zeros(4), np.array([0, 0, 1, 1]), target)
