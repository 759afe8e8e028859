from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from {{cookiecutter.package_name}}.core.settings import DeploymentSettings
from {{cookiecutter.package_name}}.deployment.comparison import _disagreements, judge
from {{cookiecutter.package_name}}.modeling.evaluation import RESULTS

from tests.parcels import PROBLEM

SETTINGS = DeploymentSettings(
    approval="policy",
    four_eyes=False,
    clean_git=False,
    min_gain=0,
    margin=0.01,
    slice_margin=0.05,
    max_cpu_ms=50,
    max_size_mb=50,
)


def results(*rows: dict[str, object]) -> pl.DataFrame:
    """Results of a reference of 2.0: margins are 0.02 overall and 0.1 on a slice."""
    common = {
        "metric": "loss",
        "rows": 500,
        "value": 2.0,
        "lower": 1.9,
        "upper": 2.1,
        "reference": 2.0,
    }
    return pl.DataFrame([{**common, "slice": "", **row} for row in rows], schema=RESULTS)


def gain(
    value: float | None, lower: float | None, upper: float | None, **more: object
) -> dict[str, object]:
    return {"gain": value, "gain_lower": lower, "gain_upper": upper, **more}


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (gain(0.1, 0.05, 0.2), "ok"),
        (gain(0.0, -0.019, 0.01), "ok"),
        (gain(0.0, -0.021, 0.01), "worse"),
        (gain(0.5, -0.021, 1.0), "worse"),
        (gain(-0.5, -0.6, -0.4), "worse"),
        (gain(float("nan"), float("nan"), float("nan")), "worse"),
        (gain(None, None, None), "worse"),
    ],
)
def test_overall_the_gain_is_surely_above_minus_the_margin(
    row: dict[str, object], status: str
) -> None:
    assert judge(results(row), SETTINGS)["status"].to_list() == [status]


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (gain(0.1, -0.3, 0.2), "ok"),
        (gain(-0.09, -0.3, -0.01), "ok"),
        (gain(-0.2, -0.5, 0.01), "ok"),
        (gain(-0.11, -0.3, -0.01), "worse"),
        (gain(float("nan"), float("nan"), float("nan")), "worse"),
    ],
)
def test_a_slice_objects_when_it_is_worse_than_its_margin_and_surely_worse(
    row: dict[str, object], status: str
) -> None:
    judged = judge(results(gain(0.1, 0.05, 0.2), {**row, "slice": "shop=a"}), SETTINGS)
    assert judged["status"].to_list() == ["ok", status]


@pytest.mark.parametrize("reference", [2.0, -2.0])
def test_margins_are_shares_of_the_size_of_the_reference(reference: float) -> None:
    row = gain(0.0, 0.0, 0.0, reference=reference)
    judged = judge(results(row, {**row, "slice": "shop=a"}), SETTINGS)
    assert judged["threshold"].to_list() == pytest.approx([-0.02, -0.1])


def test_the_first_metric_and_guards_are_judged() -> None:
    ours = results(gain(0.1, 0.05, 0.2), gain(-1.0, -2.0, -0.5, metric="other"))
    assert judge(ours, SETTINGS).select("metric", "status").rows() == [("loss_gain", "ok")]
    judged = judge(ours, SETTINGS, ["other"]).select("metric", "status").rows()
    assert judged == [("loss_gain", "ok"), ("other_gain", "worse")]


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (gain(0.0, -0.3, 0.1), "ok"),
        (gain(-0.019, -0.3, -0.001), "ok"),
        (gain(-0.03, -0.3, 0.001), "ok"),
        (gain(-0.03, -0.3, -0.001), "worse"),
        (gain(float("nan"), float("nan"), float("nan")), "worse"),
    ],
)
def test_a_guard_objects_where_it_is_surely_worse(row: dict[str, object], status: str) -> None:
    ours = results(gain(0.1, 0.05, 0.2), {**row, "metric": "log_loss"})
    assert judge(ours, SETTINGS, ["log_loss"])["status"].to_list() == ["ok", status]


@pytest.mark.parametrize(("labels", "shown"), [([1.0, 0.0], [1, 0]), ([1.5, 0.0], [1.5, 0.0])])
def test_labels_that_are_counts_are_shown_as_counts(
    labels: list[float], shown: list[float]
) -> None:
    model = PROBLEM.model
    keys = {name: ["a", "b"] for name in model.keys}
    holdout = pl.DataFrame({**keys, model.target.label: labels})
    apart = _disagreements(holdout, np.array([0.9, 0.5]), np.array([0.1, 0.4]), model)
    found = apart[model.target.label]
    assert found.to_list() == shown
    assert found.dtype.is_float() is not (shown == [1, 0])
