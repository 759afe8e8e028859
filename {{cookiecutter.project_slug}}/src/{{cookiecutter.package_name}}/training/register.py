"""Registration: all that is needed to trust a version, logged, then made a version in one call."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import polars as pl
from mlflow.data.delta_dataset_source import DeltaDatasetSource
from mlflow.data.meta_dataset import MetaDataset

from ..context import Context
from ..core.contract import PREDICTION_TIME, Estimator, Model, Problem
from ..core.words import counted
from ..modeling import stored
from ..modeling.profile import profile, save
from ..modeling.pyfunc import ESTIMATOR
from ..modeling.recipe import Recipe
from ..modeling.scores import with_scores
from ..modeling.signature import signature
from ..modeling.split import Parts, Windows, judged_on
from ..reporting import pages
from ..tracking.provenance import data_fingerprint
from ..tracking.registry import HOLDOUT, PROFILE
from ..tracking.signing import TRAINING_ID
from .documents import MODEL_CARD, REPORT, write_documents
from .fit import Fitted

_EXAMPLE_ROWS = 3


@dataclass(frozen=True)
class Training:
    """A finished training, before it is registered."""

    training_id: str  # equal inputs, equal id
    as_of: datetime  # moment until which everything was known
    windows: Windows
    versions: Mapping[str, int | None]  # Delta version of each input table
    code: Mapping[str, str]  # as `provenance.provenance`
    parts: Parts  # the training set
    started: datetime  # by the clock
    fitted: Fitted
    results: pl.DataFrame  # as `evaluation.compare`: on the holdout, against the baseline

    @property
    def estimator(self) -> Estimator:
        """What was fit."""
        return self.fitted.estimator

    @property
    def recipe(self) -> Recipe:
        """How it was fit."""
        return self.fitted.recipe

    @property
    def holdout(self) -> pl.DataFrame:
        """Rows that the estimator has not seen."""
        return self.parts.holdout

    @property
    def overall(self) -> list[dict[str, Any]]:
        """Results on all rows of the holdout, a dict per metric."""
        return self.results.filter(slice="").rows(named=True)


def register(context: Context, training: Training, page: Path) -> str:
    """Log a run with everything in it and create the version.

    Args:
        context: Registry and model.
        training: What was learned, and from what.
        page: Where the report is written as well, with the model card beside it.

    Returns:
        The version's number.
    """
    registry = context.registry
    model = context.problem.model
    tags = _tags(training, model)
    name = f"as of {training.as_of:%Y-%m-%d} ({training.training_id})"
    with (
        registry.run(training.training_id, name, training.started, tags) as run,
        tempfile.TemporaryDirectory() as scratch,
    ):
        _log_figures(training)
        _log_inputs(context, training)
        folder = Path(scratch) / "evaluation"
        write_documents(folder, training, context.problem, registry.settings.model)
        pages.write(page, (folder / REPORT).read_text(encoding="utf-8"))
        card = (folder / MODEL_CARD).read_text(encoding="utf-8")
        pages.write(page.with_name(MODEL_CARD), card)
        mlflow.log_artifacts(str(folder), folder.name)
        model_uri = registry.log_model(
            _files(Path(scratch), training, model, context.settings.monitoring.window_days),
            packages=training.estimator.packages,
            example=_example(training, model),
            signature=signature(model),
        )
        summary = _summary(training, context.problem)
        return str(registry.register(model_uri, run, tags, summary).version)


def _tags(training: Training, model: Model) -> dict[str, str]:
    """What a version says of its origin."""
    bounds = {}
    fingerprints = {}
    for window in training.windows:
        fingerprints[window.name] = data_fingerprint(getattr(training.parts, window.name), model)
        bounds[f"{window.name}_start"] = window.start.isoformat()
        bounds[f"{window.name}_end"] = window.end.isoformat()
    return {
        TRAINING_ID: training.training_id,
        "as_of": training.as_of.isoformat(),
        "target": model.target.label,
        "data_versions": json.dumps(dict(training.versions)),
        "data_fingerprint": json.dumps(fingerprints),
        "recipe": training.recipe.to_json(),
        **bounds,
        **training.code,
    }


def _log_figures(training: Training) -> None:
    fitted = training.fitted
    mlflow.log_params({"seed": training.recipe.seed, **training.recipe.parameters})
    figures = {}
    for row in training.overall:
        figures[row["metric"]] = row["value"]
        figures[f"{row['metric']}_gain"] = row["gain"]
    figures["validation_loss"] = fitted.loss
    mlflow.log_metrics(figures)
    for step, loss in fitted.curve:
        mlflow.log_metric("learning_curve", loss, step=step)
    for number, loss in fitted.trials.drop_nulls("loss").select("number", "loss").iter_rows():
        mlflow.log_metric("trial_loss", loss, step=number)


def _log_inputs(context: Context, training: Training) -> None:
    """Record the tables that were read, each at its version."""
    for name, version in training.versions.items():
        place = context.lakehouse.place(name)
        source = DeltaDatasetSource(path=place, delta_table_version=version)
        dataset = MetaDataset(source, name=name)  # type: ignore[abstract]
        mlflow.log_input(dataset, context="training")


def _files(scratch: Path, training: Training, model: Model, window_days: int) -> dict[str, str]:
    """Files of the version: the estimator with its code, and what monitoring compares with.

    Of the inputs, how they were distributed; of the rows that the estimator has not learned from,
    how they were scored; of the holdout, scores and labels.
    """
    estimator = scratch / ESTIMATOR
    stored.write(training.estimator, model.target.scores, estimator)

    parts = training.parts
    unlearned = pl.concat([parts.validation, parts.holdout])
    scored = with_scores(unlearned, training.estimator.predict(unlearned), model.target)
    inputs = profile(pl.concat([parts.train, unlearned]), model.features, window_days)
    scores = profile(scored, model.target.scores, window_days, related=False)
    reference = scratch / PROFILE
    save({**inputs, **scores}, reference)

    judged = scratch / HOLDOUT
    kept = (PREDICTION_TIME, *model.target.scores, model.target.label)
    scored.tail(parts.holdout.height).select(kept).write_parquet(judged)
    return {path.name: str(path) for path in (estimator, reference, judged)}


def _example(training: Training, model: Model) -> pd.DataFrame:
    """A few rows of the holdout as the signature types them."""
    rows = training.holdout.head(_EXAMPLE_ROWS)
    columns = {}
    for name in model.features:
        column = rows[name]
        typed = column if name in model.categorical else column.cast(pl.Float64)
        columns[name] = typed.to_numpy()
    return pd.DataFrame(columns)


def _summary(training: Training, problem: Problem) -> str:
    first = training.overall[0]
    rows = counted(first["rows"], "row")
    return (
        f"Predicts {problem.model.target.unit}. "
        f"{first['metric']} {first['value']:.3f} ({first['lower']:.3f} to {first['upper']:.3f}) "
        f"on {rows} {judged_on(problem)}; baseline {first['reference']:.3f}."
    )
