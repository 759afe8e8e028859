from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from {{cookiecutter.package_name}}.core.contract import (
    PREDICTION_TIME,
    Array,
    Metric,
    Model,
    Problem,
)
from {{cookiecutter.package_name}}.modeling.metrics import brier, log_loss, mae, roc_auc
from {{cookiecutter.package_name}}.modeling.reliability import (
    biases,
    guards,
    reliability,
    slope,
    surprises,
    worse_guards,
)

from tests.conftest import START

DAYS, A_DAY = 30, 60
ROWS = DAYS * A_DAY


@pytest.fixture
def chances() -> Array:
    return np.random.default_rng(0).beta(2, 6, ROWS)


@pytest.fixture
def guess(chances: Array) -> Array:
    """What the mean of all says."""
    return np.full(ROWS, chances.mean())


@pytest.fixture
def rows(chances: Array) -> pl.DataFrame:
    """What comes true as often as foretold; one shop has a row a day."""
    random = np.random.default_rng(1)
    minutes = pl.int_range(ROWS) * (24 * 60 // A_DAY)
    start = pl.lit(START).cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame(
        {
            "paid": (random.random(ROWS) < chances).astype(float),
            "shop": ["small" if number % A_DAY == 0 else "large" for number in range(ROWS)],
        }
    ).with_columns((start + pl.duration(minutes=minutes)).alias(PREDICTION_TIME))


@pytest.fixture
def model(toy: Problem) -> Model:
    return toy.model


def measured(rows: pl.DataFrame, scores: Array, model: Model) -> dict[str, tuple[float, float]]:
    guess = np.full(ROWS, rows["paid"].to_numpy().mean())
    found = reliability(rows, scores, guess, model)
    return {row["metric"]: (row["lower"], row["upper"]) for row in found.iter_rows(named=True)}


def test_what_comes_true_as_often_as_foretold_has_a_slope_of_one(
    rows: pl.DataFrame, chances: Array, model: Model
) -> None:
    lower, upper = measured(rows, chances, model)["calibration_slope"]
    assert 0.7 < lower < 1 < upper < 1.3


@pytest.mark.parametrize("squeeze", [0.01, 0.2, 0.4])
def test_squeezed_scores_are_surely_too_flat(
    squeeze: float, rows: pl.DataFrame, chances: Array, model: Model
) -> None:
    lower, _ = measured(rows, 0.5 + squeeze * (chances - 0.5), model)["calibration_slope"]
    assert lower > 1.5


def test_reversed_scores_have_a_negative_slope(
    rows: pl.DataFrame, chances: Array, model: Model
) -> None:
    assert measured(rows, 1 - chances, model)["calibration_slope"][1] < 0


def test_a_constant_has_no_slope(rows: pl.DataFrame, model: Model) -> None:
    assert list(measured(rows, np.full(ROWS, 0.3), model)) == ["calibration_bias"]


def test_the_slope_of_classes_is_that_of_all_probabilities() -> None:
    label = np.array([0.0, 1.0, 2.0, 0.0])
    certain = np.eye(3)[label.astype(int)]
    weights = np.ones((2, 4))
    assert slope(label, certain, weights) == pytest.approx([1, 1])
    assert slope(label, 1 / 3 + (certain - 1 / 3) / 2, weights) == pytest.approx([2, 2])


def test_honest_scores_surprise_nowhere(
    rows: pl.DataFrame, chances: Array, guess: Array, model: Model
) -> None:
    assert surprises(rows, chances, model) == {}
    assert biases(rows, chances, guess, model) == {}


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_a_small_slice_that_is_given_no_chance_surprises(
    score: float, rows: pl.DataFrame, chances: Array, model: Model
) -> None:
    planted = np.where(rows["shop"].to_numpy() == "small", score, chances)
    assert list(surprises(rows, planted, model)) == ["shop=small"]


def test_slices_of_few_rows_are_pooled(rows: pl.DataFrame, chances: Array, model: Model) -> None:
    # given shops of one row each, some of them without a name
    names = [None if number % 120 else str(number) for number in range(0, ROWS, 60)]
    shop = [names[number // 60] if number % 60 == 0 else "large" for number in range(ROWS)]
    scattered = rows.with_columns(pl.Series("shop", shop))
    planted = np.where(rows["shop"].to_numpy() == "small", 1.0, chances)
    assert list(surprises(scattered, planted, model)) == ["shop=(others)"]


def test_a_small_slice_that_is_far_off_on_average_is_found(
    rows: pl.DataFrame, chances: Array, guess: Array, model: Model
) -> None:
    planted = np.where(rows["shop"].to_numpy() == "small", 0.95, chances)
    assert list(biases(rows, planted, guess, model)) == ["shop=small"]


def test_what_the_baseline_misses_as_far_is_no_fault_of_the_scores(
    rows: pl.DataFrame, chances: Array, guess: Array, model: Model
) -> None:
    # given outcomes that have moved since the training, by more than their spread
    moved = rows.with_columns(pl.col("paid") + 5)
    # then scores that are nearer to them than the baseline pass, and others do not
    assert biases(moved, guess + 1, guess, model) == {}
    assert list(biases(moved, guess - 1, guess, model)) == ["", "shop=large", "shop=small"]


def test_one_bad_day_of_a_slice_is_no_bias(
    rows: pl.DataFrame, chances: Array, guess: Array, model: Model
) -> None:
    first = rows[PREDICTION_TIME] < rows[PREDICTION_TIME][A_DAY]
    planted = np.where(first.to_numpy(), 0.95, chances)
    assert biases(rows, planted, guess, model) == {}


def test_proper_scores_guard_and_others_where_the_problem_says_so(model: Model) -> None:
    metrics = (
        Metric("roc_auc", roc_auc, higher_is_better=True, too_good=1.0),
        Metric("log_loss", log_loss, higher_is_better=False, too_good=0.0),
        Metric("brier", brier, higher_is_better=False, too_good=0.0, guards=False),
        Metric("mae", mae, higher_is_better=False, too_good=0.0, guards=True),
    )
    assert guards(replace(model.target, metrics=metrics)) == ["log_loss", "mae"]


@pytest.mark.parametrize(
    ("gain", "upper", "worse"),
    [
        (-0.02, -0.001, ["log_loss"]),
        (-0.009, -0.001, []),
        (-0.02, 0.001, []),
        (None, None, ["log_loss"]),
    ],
)
def test_a_guard_objects_where_it_is_surely_worse_than_its_margin(
    gain: float | None, upper: float | None, worse: list[str], model: Model
) -> None:
    metric = Metric("log_loss", log_loss, higher_is_better=False, too_good=0.0)
    target = replace(model.target, metrics=(model.target.metrics[0], metric))
    rows = {"slice": "", "metric": "log_loss", "reference": 1.0, "gain": gain, "gain_upper": upper}
    kinds = {"gain": pl.Float64, "gain_upper": pl.Float64}
    results = pl.DataFrame([rows], schema_overrides=kinds)
    assert worse_guards(results, target, 0.01) == worse
