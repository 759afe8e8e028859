from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from {{cookiecutter.package_name}}.core.contract import (
    KNOWN_AT,
    PREDICTION_TIME,
    Problem,
)
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.core.settings import Settings, TrainingSettings
from {{cookiecutter.package_name}}.modeling.lightgbm import LightGBM
from {{cookiecutter.package_name}}.modeling.split import Windows, split
from {{cookiecutter.package_name}}.training.fit import fit
from {{cookiecutter.package_name}}.training.split import (
    require_enough,
    windows_of,
    windows_until,
)

BUDGET = TrainingSettings(
    train_days=30,
    validation_days=10,
    holdout_days=10,
    min_rows=50,
    trials=5,
    tuning_rows=200,
    rounds=25,
    early_stopping_rounds=5,
)
days = st.integers(1, 400)


@pytest.fixture
def rows(feed: pl.DataFrame) -> pl.DataFrame:
    return feed.rename({KNOWN_AT: PREDICTION_TIME}).with_columns(
        last_amount=pl.col("amount").shift(1)
    )


@pytest.fixture
def windows(toy: Problem) -> Windows:
    return windows_until(toy.begins + timedelta(days=60), BUDGET)


@pytest.fixture
def small(settings: Settings) -> Settings:
    return settings.model_copy(update={"training": BUDGET, "threads": 1})


@given(
    st.datetimes(timezones=st.just(UTC)).filter(lambda moment: moment.year > 2000), days, days, days
)
def test_windows_adjoin_and_end_at_the_as_of(
    as_of: datetime, train: int, validation: int, holdout: int
) -> None:
    lengths = {"train_days": train, "validation_days": validation, "holdout_days": holdout}
    windows = windows_until(as_of, BUDGET.model_copy(update=lengths))
    assert [window.name for window in windows] == ["train", "validation", "holdout"]
    assert [(window.end - window.start).days for window in windows] == list(lengths.values())
    assert all(earlier.end == later.start for earlier, later in pairwise(windows))
    assert windows[-1].end == as_of


def test_every_row_is_in_one_window(rows: pl.DataFrame, windows: Windows) -> None:
    parts = [window.of(rows) for window in windows]
    inside = rows.filter(pl.col(PREDICTION_TIME) >= windows[0].start)
    assert pl.concat(parts).equals(inside)
    for earlier, later in pairwise(parts):
        assert earlier[PREDICTION_TIME].max() < later[PREDICTION_TIME].min()  # type: ignore[operator]


def test_enough_is_enough(rows: pl.DataFrame, windows: Windows, toy: Problem) -> None:
    require_enough(split(rows, windows, toy), windows, toy, 100)


@pytest.mark.parametrize("name", ["train", "validation", "holdout"])
def test_too_few_rows_are_refused_by_window(
    rows: pl.DataFrame, windows: Windows, toy: Problem, name: str
) -> None:
    window = next(window for window in windows if window.name == name)
    inside = pl.col(PREDICTION_TIME).is_between(window.start, window.end, closed="left")
    few = pl.concat([rows.filter(~inside), rows.filter(inside).head(99)])
    with pytest.raises(
        UserError, match=rf"The {name} window \(.*\) has 99 labelled rows; .* asks for 100"
    ):
        require_enough(split(few, windows, toy), windows, toy, 100)


def test_one_class_only_is_refused_for_classes_and_not_for_a_quantity(
    rows: pl.DataFrame, windows: Windows, toy: Problem
) -> None:
    one = rows.with_columns(paid=pl.lit(1.0))
    target = replace(toy.model.target, classes=())
    quantity = replace(toy, model=replace(toy.model, target=target))
    parts = split(one, windows, toy)
    require_enough(parts, windows, quantity, 100)
    with pytest.raises(UserError, match="shows 1 of the 2 classes"):
        require_enough(parts, windows, toy, 100)


# Rows without times


@pytest.fixture
def timeless(toy: Problem) -> Problem:
    return replace(toy, holdout="drawn")


@pytest.fixture
def undated(rows: pl.DataFrame, toy: Problem) -> pl.DataFrame:
    begins = pl.lit(toy.begins).cast(pl.Datetime("us", "UTC"))
    return rows.with_columns(begins.alias(PREDICTION_TIME))


def drawn(rows: pl.DataFrame, problem: Problem) -> dict[str, set[int]]:
    windows = windows_of(problem, problem.begins + timedelta(days=60), BUDGET)
    return {name: set(part["order"]) for name, part in vars(split(rows, windows, problem)).items()}


def test_rows_without_times_are_drawn_in_every_class(
    undated: pl.DataFrame, timeless: Problem
) -> None:
    rare = undated.with_columns(paid=(pl.col("order") % 60 == 0).cast(pl.Float64))
    found = drawn(rare, timeless)
    assert {name: len(orders) for name, orders in found.items()} == {
        "train": 360,
        "validation": 120,
        "holdout": 120,
    }
    assert sorted(set.union(*found.values())) == list(range(600))
    for orders in found.values():
        assert sum(order % 60 == 0 for order in orders) >= 2


def test_a_drawn_row_stays_where_it_was_when_others_become_known(
    undated: pl.DataFrame, timeless: Problem
) -> None:
    first = undated.sample(fraction=1, shuffle=True, seed=1).head(400)
    later = undated.join(first, on="order", how="anti")
    later = later.with_columns(pl.col(PREDICTION_TIME).dt.offset_by("3d"))
    before, after = drawn(first, timeless), drawn(pl.concat([later, first]), timeless)
    for name, orders in before.items():
        assert orders <= after[name]


# Fit


def fitted(
    rows: pl.DataFrame,
    windows: Windows,
    toy: Problem,
    settings: Settings,
    journal: Path,
    **changes: Any,
) -> tuple[LightGBM, dict[str, Any]]:
    known, later = windows[0].of(rows), windows[1].of(rows)
    model = replace(toy.model, **changes)
    done = fit(known, later, model, settings, "study", journal)
    assert isinstance(done.estimator, LightGBM)
    return done.estimator, done.recipe.parameters


def text(predictor: LightGBM) -> str:
    return predictor.booster.model_to_string()


def test_fit_learns_and_says_with_which_parameters(
    rows: pl.DataFrame, windows: Windows, toy: Problem, small: Settings, tmp_path: Path
) -> None:
    predictor, params = fitted(rows, windows, toy, small, tmp_path / "journal")
    holdout = windows[2].of(rows)
    loss = ((predictor.predict(holdout) - holdout["paid"].to_numpy()) ** 2).mean()
    assert loss < holdout["paid"].var() * 0.9  # type: ignore[operator]
    assert params["min_data_in_leaf"] == 5
    assert 2 <= params["num_leaves"] <= 31
    assert predictor.features == toy.model.features
    assert predictor.categories == {"shop": ["a", "b", "c"]}


def test_fit_keeps_declared_directions(
    rows: pl.DataFrame, windows: Windows, toy: Problem, small: Settings, tmp_path: Path
) -> None:
    predictor, _ = fitted(rows, windows, toy, small, tmp_path / "journal")
    grid = pl.DataFrame(
        {
            "shop": ["a"] * 50,
            "amount": [2.0 * step for step in range(50)],
            "last_amount": [5.0] * 50,
        }
    )
    predicted = predictor.predict(grid)
    assert (predicted[1:] >= predicted[:-1]).all()
    assert predicted[-1] > predicted[0]


def test_fit_is_deterministic(
    rows: pl.DataFrame, windows: Windows, toy: Problem, small: Settings, tmp_path: Path
) -> None:
    first, first_params = fitted(rows, windows, toy, small, tmp_path / "a")
    second, second_params = fitted(rows, windows, toy, small, tmp_path / "b")
    assert (text(first), first_params) == (text(second), second_params)


def test_what_inputs_are_called_changes_nothing(
    rows: pl.DataFrame, windows: Windows, toy: Problem, small: Settings, tmp_path: Path
) -> None:
    # Given
    names = {"shop": 'The "shop"', "amount": "Amount [€]", "last_amount": "last: amount, {€}"}
    model = toy.model
    changes = {
        "features": tuple(names[name] for name in model.features),
        "categorical": tuple(names[name] for name in model.categorical),
        "monotone": {names[name]: way for name, way in model.monotone.items()},
    }
    renamed = rows.rename(names)
    # When
    plain, _ = fitted(rows, windows, toy, small, tmp_path / "a")
    odd, _ = fitted(renamed, windows, toy, small, tmp_path / "b", **changes)
    # Then
    assert (odd.predict(renamed) == plain.predict(rows)).all()


def test_fit_does_not_look_at_the_holdout(
    rows: pl.DataFrame, windows: Windows, toy: Problem, small: Settings, tmp_path: Path
) -> None:
    other = rows.with_columns(
        paid=pl.when(pl.col(PREDICTION_TIME) >= windows[2].start)
        .then(1 - pl.col("paid"))
        .otherwise("paid")
    )
    first, _ = fitted(rows, windows, toy, small, tmp_path / "a")
    second, _ = fitted(other, windows, toy, small, tmp_path / "b")
    assert text(first) == text(second)


@pytest.mark.parametrize("finished", [0, 1, 3])
def test_an_interrupted_search_is_resumed_and_ends_the_same(
    rows: pl.DataFrame,
    windows: Windows,
    toy: Problem,
    small: Settings,
    tmp_path: Path,
    finished: int,
) -> None:
    calls = []

    def interrupted(trial: optuna.Trial) -> dict[str, Any]:
        calls.append(trial.number)
        if len(calls) > finished:
            raise KeyboardInterrupt
        assert toy.model.search_space
        return toy.model.search_space(trial)

    whole, params = fitted(rows, windows, toy, small, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fitted(rows, windows, toy, small, tmp_path / "cut", search_space=interrupted)
    resumed, resumed_params = fitted(rows, windows, toy, small, tmp_path / "cut")
    assert len(calls) == finished + 1
    assert (text(resumed), resumed_params) == (text(whole), params)


def test_every_trial_tries_something_else(
    rows: pl.DataFrame, windows: Windows, toy: Problem, small: Settings, tmp_path: Path
) -> None:
    tried = []

    def noted(trial: optuna.Trial) -> dict[str, Any]:
        assert toy.model.search_space
        tried.append(toy.model.search_space(trial))
        return tried[-1]

    _, params = fitted(rows, windows, toy, small, tmp_path / "journal", search_space=noted)
    assert len({trial["eta"] for trial in tried}) == len(tried) == BUDGET.trials
    assert {name: params[name] for name in tried[0]} in tried


def test_a_finished_search_is_not_run_again(
    rows: pl.DataFrame, windows: Windows, toy: Problem, small: Settings, tmp_path: Path
) -> None:
    whole, _ = fitted(rows, windows, toy, small, tmp_path / "journal")

    def never(trial: optuna.Trial) -> dict[str, Any]:
        return pytest.fail("was searched again")

    again, _ = fitted(rows, windows, toy, small, tmp_path / "journal", search_space=never)
    assert text(again) == text(whole)
