"""What people read of a training: report, model card, charts, and the figures as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ..core.contract import Estimator, Model, Problem
from ..modeling.evaluation import MIN_SLICE_ROWS, calibration
from ..modeling.split import judged_on
from ..reporting import pages

if TYPE_CHECKING:
    from .register import Training

REPORT = "report.html"
MODEL_CARD = "model_card.md"
_TOP_FEATURES = 20
_EXPLAINED_ROWS = 2_000
_CONTRIBUTION = "mean absolute contribution"


def write_documents(folder: Path, training: Training, problem: Problem, name: str) -> None:
    """Write all of it to a new folder; `name` is that of the registered model."""
    model = problem.model
    holdout = training.holdout
    predicted = training.estimator.predict(holdout)
    calibrated = calibration(holdout[model.target.label].to_numpy(), predicted, model.target)
    contributions = _contributions(training.estimator, holdout, training.recipe.seed)
    charts = _charts(training, model, calibrated, contributions, pages.WIDE)
    narrow = _charts(training, model, calibrated, contributions, pages.NARROW)

    context = {
        "name": name,
        "model": model,
        "training": training,
        "overall": training.overall,
        "judged_on": judged_on(problem),
        "baseline": _baseline(model),
        "is_drawn": problem.holdout == "drawn",
        "min_slice_rows": MIN_SLICE_ROWS,
        "windows": [(window, getattr(training.parts, window.name)) for window in training.windows],
        "charts": {
            key: pages.figure(f"{key} of {name}", charts[key], narrow[key]) for key in charts
        },
    }
    folder.mkdir()
    for document, template in {
        REPORT: "training.html.jinja",
        MODEL_CARD: "model_card.md.jinja",
    }.items():
        text = pages.render(template, **context)
        (folder / document).write_text(text, encoding="utf-8")
    for key, chart in charts.items():
        (folder / f"{key}.png").write_bytes(pages.png(chart))
    training.results.write_csv(folder / "results.csv")
    training.fitted.trials.write_csv(folder / "trials.csv")
    calibrated.write_csv(folder / "calibration.csv")
    contributions.write_csv(folder / "contributions.csv")


def _baseline(model: Model) -> str:
    return f"mean by {' and '.join(model.baseline)}" if model.baseline else "mean of all rows"


def _charts(
    training: Training,
    model: Model,
    calibrated: pl.DataFrame,
    contributions: pl.DataFrame,
    width: int,
) -> dict[str, dict[str, Any]]:
    first = training.overall[0]["metric"]
    sliced = training.results.filter(pl.col("slice") != "")
    several = len(model.target.scores) > 1
    strongest = contributions.head(_TOP_FEATURES)
    return {
        "slices": pages.chart("intervals", sliced, first, width),
        "calibration": pages.chart(
            "calibration", calibrated, model.target.unit, width, several=several
        ),
        "contributions": pages.chart("contributions", strongest, _CONTRIBUTION, width),
    }


def _contributions(estimator: Estimator, holdout: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Mean absolute contribution per feature, in units of the raw score."""
    sample = holdout.sample(min(_EXPLAINED_ROWS, holdout.height), seed=seed)
    values = np.abs(estimator.explain(sample))
    mean = values.mean(axis=tuple(range(values.ndim - 1)))
    table = pl.DataFrame({"feature": list(estimator.features), "contribution": mean})
    return table.sort("contribution", descending=True)
