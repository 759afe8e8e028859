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
    better = compare(rows, noisy(rows, 0), noisy(rows, 1), toy.model, 50, 0).filter(slice="")
    worse = compare(rows, noisy(rows, 1), noisy(rows, 0), toy.model, 50, 0).filter(slice="")
    assert better["metric"].to_list() == ["loss", "skill"]
    assert better["value"].to_list() == [0.0, 1.0]
    assert (better["gain_lower"] > 0).all()
    assert (worse["gain_upper"] < 0).all()
    assert worse["gain"].to_list() == pytest.approx([-gain for gain in better["gain"]])


def test_equal_predictions_have_no_gain(rows: pl.DataFrame, toy: Problem) -> None:
    result = compare(rows, noisy(rows, 1), noisy(rows, 1), toy.model, 50, 0)
    assert result.select("gain", "gain_lower", "gain_upper").unique().rows() == [(0.0, 0.0, 0.0)]


def test_intervals_contain_their_value_and_repeat_with_the_seed(
    rows: pl.DataFrame, toy: Problem
) -> None:
    result = compare(rows, noisy(rows, 0.5), noisy(rows, 1), toy.model, 200, 0)
    assert result.schema == RESULTS
    for name in ("", "gain_"):
        value = "value" if name == "" else "gain"
        assert result.filter(
            pl.col(f"{name}lower") < pl.col(value), pl.col(value) < pl.col(f"{name}upper")
        ).height == len(result)
    assert result.equals(compare(rows, noisy(rows, 0.5), noisy(rows, 1), toy.model, 200, 0))
    assert not result.equals(compare(rows, noisy(rows, 0.5), noisy(rows, 1), toy.model, 200, 1))


def test_intervals_are_wider_where_days_differ(rows: pl.DataFrame, toy: Problem) -> None:
    errors = np.where(np.arange(1000) % 2, 1.0, 0.0)
    by_day = np.where(np.arange(1000) // 25 % 2, 1.0, 0.0)
    label = rows["paid"].to_numpy()
    widths = []
    for error in (errors, by_day):
        first = compare(rows, label + error, label, toy.model, 100, 0).row(0, named=True)
        assert first["value"] == pytest.approx(0.5, abs=0.02)
        widths.append(first["upper"] - first["lower"])
    assert widths[1] > 3 * widths[0]


def test_slices_are_large_enough_and_show_both_labels(rows: pl.DataFrame, toy: Problem) -> None:
    one_label = rows.with_columns(
        pl.when(pl.col("shop") == "b").then(1.0).otherwise("paid").alias("paid")
    )
    for frame, expected in ((rows, ["shop=a", "shop=b"]), (one_label, ["shop=a", "shop=(others)"])):
        found = compare(frame, noisy(frame, 1), noisy(frame, 2), toy.model, 20, 0).filter(
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
    result = compare(rows, noisy(rows, 0.5), noisy(rows, 1), toy.model, 20, 0)
    window = (toy.begins, toy.begins + timedelta(days=40))
    assert record(lakehouse, result, "test", "thing", *window) == result.height
    assert record(lakehouse, result, "test", "thing", *window) == 0
    assert (
        record(lakehouse, result.with_columns(value=1.5), "test", "thing", *window) == result.height
    )
    stored = lakehouse.scan(MEASUREMENTS).collect("polars").to_native()
    assert stored.select("producer", "subject", "value").unique().rows() == [("test", "thing", 1.5)]
    assert stored.height == result.height
