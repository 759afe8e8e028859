"""Inputs that lean on other rows, or on the outcome, are refused before anything is learned."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import narwhals as nw
import pytest

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import (
    KNOWN_AT,
    PREDICTION_TIME,
    Frame,
    Frames,
)
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.store.point_in_time import (
    require_row_by_row,
    training_set,
)
from {{cookiecutter.package_name}}.training.pipeline import train

from tests.gates.conftest import LABEL, MODEL
from tests.parcels import PROBLEM

Change = Callable[[Frame], Frame]

KILOGRAMS = nw.col("kilograms")
LIGHT = nw.when(KILOGRAMS < 20).then(KILOGRAMS)
LEANING: dict[str, nw.Expr] = {
    "a mean over all": KILOGRAMS - KILOGRAMS.mean(),
    "a mean by group": KILOGRAMS - KILOGRAMS.mean().over("depot"),
    "how frequent a category is": nw.len().over("region").cast(nw.Float64),
    "a rank": KILOGRAMS.rank().over("region"),
    "the row before": KILOGRAMS.shift(1).over("depot", order_by=PREDICTION_TIME),
    "a running total": KILOGRAMS.cum_sum().over("depot", order_by=PREDICTION_TIME),
    "what is missing filled by a mean": LIGHT.fill_null(LIGHT.mean()),
    "a mean over all, far from the beginning": nw.when(
        nw.col(PREDICTION_TIME) > PROBLEM.begins + timedelta(days=30)
    )
    .then(KILOGRAMS.max())
    .otherwise(0.0),
}


def changed(context: Context, **changes: Any) -> Context:
    return Context(context.settings, replace(PROBLEM, model=replace(MODEL, **changes)))


def with_value(value: nw.Expr) -> Change:
    return lambda rows: MODEL.on_demand(rows).with_columns(value.alias(MODEL.features[-1]))


@pytest.mark.parametrize("value", LEANING.values(), ids=LEANING)
def test_an_input_that_leans_on_other_rows_is_refused(
    value: nw.Expr, arena: Context, as_of: datetime
) -> None:
    leaning = changed(arena, on_demand=with_value(value))
    with pytest.raises(UserError, match=f"^{MODEL.features[-1]}: other values when a row"):
        train(leaning, as_of)
    assert arena.registry.versions() == []


def test_inputs_of_the_row_alone_are_not_refused(context: Context, as_of: datetime) -> None:
    # given inputs of which one is a key
    start = as_of - timedelta(days=7)
    honest = changed(context, features=(*MODEL.features, *MODEL.keys))
    rows = training_set(honest.lakehouse, honest.problem, start, as_of, {})
    # when some are computed again, then they are the same
    require_row_by_row(honest.lakehouse, honest.problem, rows, as_of, {})


def test_the_label_is_not_there_when_inputs_are_computed(arena: Context, as_of: datetime) -> None:
    seen: list[list[str]] = []

    def look(rows: Frame) -> Frame:
        seen.append(rows.collect_schema().names())
        return MODEL.on_demand(rows)

    looking = changed(arena, on_demand=look)
    training_set(looking.lakehouse, looking.problem, as_of - timedelta(days=2), as_of, {})
    assert seen
    assert not {LABEL, *MODEL.forbidden} & set().union(*seen)


def test_an_outcome_that_a_feature_table_smuggles_in_is_taken_away(
    arena: Context, as_of: datetime
) -> None:
    # given a table that holds, under its own name, what the problem forbids
    smuggling = changed(arena, forbidden=(*MODEL.forbidden, "depot_minutes_late"))
    seen: list[list[str]] = []

    def look(rows: Frame) -> Frame:
        seen.append(rows.collect_schema().names())
        return MODEL.on_demand(rows).with_columns(nw.lit(0.0).alias("depot_minutes_late"))

    looking = changed(smuggling, on_demand=look, forbidden=smuggling.problem.model.forbidden)
    training_set(looking.lakehouse, looking.problem, as_of - timedelta(days=2), as_of, {})
    assert all("depot_minutes_late" not in names for names in seen)


def test_a_spine_that_asks_for_the_outcomes_is_refused(arena: Context, as_of: datetime) -> None:
    def spine(frames: Frames) -> Frame:
        outcomes = frames["deliveries"].drop(KNOWN_AT, "depot")
        return MODEL.spine(frames).join(outcomes, on="parcel", how="left")

    with pytest.raises(UserError, match="asks for 'deliveries'; it is made of 'parcels' alone"):
        train(changed(arena, spine=spine), as_of)


def test_a_version_is_shown_nothing_but_its_inputs(
    arena: Context, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from {{cookiecutter.package_name}}.deployment.comparison import compare_versions
    from {{cookiecutter.package_name}}.deployment.compliance import Candidate
    from {{cookiecutter.package_name}}.tracking.registry import Registry

    shown: list[list[str]] = []
    load = Registry.load

    class Watched:
        def __init__(self, estimator: Any) -> None:
            self.estimator = estimator
            self.features = estimator.features

        def predict(self, rows: Any) -> Any:
            shown.append(list(rows.columns))
            return self.estimator.predict(rows)

    monkeypatch.setattr(Registry, "load", lambda self, number: Watched(load(self, number)))
    number = add(arena)
    compare_versions(arena, number)
    candidate = Candidate(arena.registry.version(number), arena)
    assert len(candidate.predicted) == candidate.holdout.height
    assert shown == [list(MODEL.features)] * 2


@pytest.mark.parametrize("name", MODEL.forbidden)
def test_no_forbidden_name_is_an_input(name: str, arena: Context, as_of: datetime) -> None:
    telling = changed(arena, features=(*MODEL.features, name))
    with pytest.raises(Exception, match=re.escape(name)):
        train(telling, as_of)
    assert arena.registry.versions() == []
