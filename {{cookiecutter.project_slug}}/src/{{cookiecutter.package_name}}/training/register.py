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
import numpy as np
import pandas as pd
import polars as pl
from mlflow.data.delta_dataset_source import DeltaDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from ..context import Context
from ..core.contract import PREDICTION_TIME, Model
from ..modeling import drift
from ..modeling.evaluation import MIN_SLICE_ROWS, calibration
from ..modeling.scoring import Predictor
from ..reporting import pages
from ..tracking.registry import HOLDOUT, PROFILE, TRAINING_ID
from .split import Windows

REPORT, MODEL_CARD = "report.html", "model_card.md"
_TOP_FEATURES, _EXAMPLE_ROWS, _EXPLAINED_ROWS = 20, 3, 2_000


@dataclass(frozen=True)
class Training:
    """A finished training, before it is registered."""

    training_id: str  # equal inputs, equal id
    as_of: datetime  # moment until which everything was known
    windows: Windows
    versions: Mapping[str, int | None]  # Delta version of each input table
    code: Mapping[str, str]  # as `registry.provenance`
    seed: int
    rows: pl.DataFrame  # the training set
    predictor: Predictor
    params: Mapping[str, Any]  # LightGBM parameters of the predictor
    results: pl.DataFrame  # as `evaluation.compare`: on the holdout, against the baseline


def register(context: Context, training: Training, page: Path) -> str:
    """Write the report to `page`, log a run with everything in it, create the version; returns its number."""
    registry, model = context.registry, context.problem.model
    bounds = {
        f"{w.name}_{side}": getattr(w, side).isoformat()
        for w in training.windows
        for side in ("start", "end")
    }
    tags = {
        TRAINING_ID: training.training_id,
        "as_of": training.as_of.isoformat(),
        "target": model.target.label,
        "data_versions": json.dumps(dict(training.versions)),
        **bounds,
        **training.code,
    }
    overall = training.results.filter(pl.col("slice") == "").rows(named=True)
    gains = {f"{row['metric']}_gain": row["gain"] for row in overall}
    with (
        registry.run(training.training_id, tags) as run_id,
        tempfile.TemporaryDirectory() as scratch,
    ):
        mlflow.log_params({"seed": training.seed, **training.params})
        mlflow.log_metrics({row["metric"]: row["value"] for row in overall} | gains)
        for name, version in training.versions.items():
            source = DeltaDatasetSource(
                path=context.lakehouse.place(name), delta_table_version=version
            )
            dataset = MetaDataset(source, name=name)  # type: ignore[abstract]
            mlflow.log_input(dataset, context="training")
        folder = Path(scratch) / "evaluation"
        _write_documents(folder, training, model, registry.settings.model)
        pages.write(page, (folder / REPORT).read_text(encoding="utf-8"))
        mlflow.log_artifacts(str(folder), folder.name)
        files = training.predictor.save(Path(scratch)) | _reference(Path(scratch), training, model)
        uri = registry.log_model(files, _example(training, model), _signature(training.predictor))
        return registry.register(uri, run_id, tags, _summary(overall[0], model.target.unit)).version


def _reference(folder: Path, training: Training, model: Model) -> dict[str, str]:
    """Files that monitoring compares with: how inputs and out-of-sample scores were distributed; scores and labels."""
    profile, holdout = folder / PROFILE, folder / HOLDOUT
    _, validation, last = training.windows
    new = training.rows.filter(pl.col(PREDICTION_TIME) >= validation.start)
    scored = new.with_columns(prediction=training.predictor.predict(new))
    inputs = drift.profile(training.rows, model.features)
    drift.save({**inputs, **drift.profile(scored, ("prediction",))}, profile)
    last.of(scored).select(PREDICTION_TIME, "prediction", model.target.label).write_parquet(holdout)
    return {path.name: str(path) for path in (profile, holdout)}


def _summary(first: Mapping[str, Any], unit: str) -> str:
    interval = f"{first['lower']:.3f} to {first['upper']:.3f}"
    return (
        f"Predicts {unit}. {first['metric']} {first['value']:.3f} ({interval}) on {first['rows']:,} later rows; "
        f"baseline {first['reference']:.3f}."
    )


def _write_documents(folder: Path, training: Training, model: Model, name: str) -> None:
    """Report, model card, charts as pictures, and the figures as CSV."""
    holdout = training.windows[-1].of(training.rows)
    calibrated = calibration(
        holdout[model.target.label].to_numpy(), training.predictor.predict(holdout)
    )
    contributions = _contributions(training.predictor, holdout, training.seed)
    overall, sliced = (
        training.results.filter(pl.col("slice") == ""),
        training.results.filter(pl.col("slice") != ""),
    )
    charts = {
        "slices": pages.chart("intervals", sliced, overall["metric"][0]),
        "calibration": pages.chart("calibration", calibrated, model.target.unit, several=False),
        "contributions": pages.chart(
            "contributions", contributions.head(_TOP_FEATURES), "mean absolute contribution"
        ),
    }
    windows = [
        (window, window.of(training.rows)[model.target.label]) for window in training.windows
    ]
    context = {
        "name": name,
        "model": model,
        "training": training,
        "overall": overall.rows(named=True),
        "min_slice_rows": MIN_SLICE_ROWS,
        "windows": windows,
        "charts": {key: pages.svg(chart, f"{key} of {name}") for key, chart in charts.items()},
    }
    folder.mkdir()
    (folder / REPORT).write_text(pages.render("training.html.jinja", **context), encoding="utf-8")
    (folder / MODEL_CARD).write_text(
        pages.render("model_card.md.jinja", **context), encoding="utf-8"
    )
    for key, chart in charts.items():
        (folder / f"{key}.png").write_bytes(pages.png(chart))
    for key, frame in {
        "results": training.results,
        "calibration": calibrated,
        "contributions": contributions,
    }.items():
        frame.write_csv(folder / f"{key}.csv")


def _contributions(predictor: Predictor, holdout: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Mean absolute SHAP value per feature (Lundberg et al. 2020), in raw score units."""
    sample = holdout.sample(min(_EXPLAINED_ROWS, holdout.height), seed=seed)
    mean = np.abs(predictor.predict(sample, pred_contrib=True)[:, :-1]).mean(axis=0)
    return pl.DataFrame({"feature": predictor.features, "contribution": mean}).sort(
        "contribution", descending=True
    )


def _example(training: Training, model: Model) -> Any:
    rows, texts = training.windows[-1].of(training.rows).head(_EXAMPLE_ROWS), model.categorical
    columns = (
        pl.col(name) if name in texts else pl.col(name).cast(pl.Float64) for name in model.features
    )
    return pd.DataFrame({column.name: column.to_numpy() for column in rows.select(columns)})


def _signature(predictor: Predictor) -> ModelSignature:
    strings, features = predictor.categories, predictor.features
    kinds = ((name, DataType.string if name in strings else DataType.double) for name in features)
    return ModelSignature(
        Schema([ColSpec(kind, name) for name, kind in kinds]), Schema([ColSpec(DataType.double)])
    )
