"""Registration: all that is needed to trust a version, logged and then made a version in one call."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
from mlflow.data.delta_dataset_source import DeltaDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from .. import report
from ..contract import Model
from ..lakehouse import Lakehouse
from ..metrics import Measurement
from ..registry import TRAINING_ID, Registry
from ..scoring import BOOSTER, ENCODING
from .dataset import Windows
from .evaluate import MIN_SLICE_ROWS, Evaluation
from .fit import Fitted

REPORT, MODEL_CARD = "report.html", "model_card.md"
_TOP_FEATURES = 20
_EXAMPLE_ROWS = 3


@dataclass(frozen=True)
class Training:
    """A finished training, before it is registered.

    Attributes:
        training_id: Identity: equal inputs, equal id.
        as_of: Moment until which everything was known.
        windows: Train, validation, holdout.
        versions: Delta version of each input table.
        code: As `registry.provenance`.
        seed: Of sampling, search and boosting.
        rows: The training set.
        fitted: The model.
        evaluation: Its results on the holdout.
    """

    training_id: str
    as_of: datetime
    windows: Windows
    versions: Mapping[str, int | None]
    code: Mapping[str, str]
    seed: int
    rows: pl.DataFrame
    fitted: Fitted
    evaluation: Evaluation

    @property
    def holdout(self) -> pl.DataFrame:
        """Rows that the model was measured on."""
        return self.windows.holdout.select(self.rows)


def register(
    registry: Registry, lakehouse: Lakehouse, training: Training, model: Model, page: str
) -> str:
    """Log a run with everything in it and create the version.

    Returns:
        The version's number.
    """
    windows = {
        f"{name}_{side}": getattr(window, side).isoformat()
        for name, window in training.windows.items()
        for side in ("start", "end")
    }
    tags = {
        TRAINING_ID: training.training_id,
        "as_of": training.as_of.isoformat(),
        "target": model.target.label,
        "data_versions": json.dumps(dict(training.versions)),
        **windows,
        **training.code,
    }
    evaluation = training.evaluation
    with registry.run(training.training_id, tags) as run_id, tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        mlflow.log_params({"seed": training.seed, **training.fitted.params})
        mlflow.log_metrics(
            {row["metric"]: row["model"] for row in evaluation.metrics.iter_rows(named=True)}
            | {f"{row['metric']}_gain": row["gain"] for row in evaluation.metrics.iter_rows(named=True)}
        )
        for name, version in training.versions.items():
            source = DeltaDatasetSource(path=lakehouse.place(name), delta_table_version=version)
            mlflow.log_input(MetaDataset(source, name=name), context="training")
        mlflow.log_artifacts(str(_write_documents(folder / "evaluation", training, model, page)))
        uri = registry.log_model(
            _write_model(folder, training.fitted), _example(training, model), _signature(training)
        )
        return registry.register(uri, run_id, tags, summary(training, model)).version


def summary(training: Training, model: Model) -> str:
    """One sentence for the version's description."""
    first = training.evaluation.metrics.row(0, named=True)
    return (
        f"Predicts {model.target.unit}. On {training.evaluation.rows:,} later rows: "
        f"{first['metric']} {first['model']:.3f} ({first['model_lower']:.3f} to "
        f"{first['model_upper']:.3f}), baseline {first['baseline']:.3f}."
    )


def measurements(training: Training) -> list[Measurement]:
    """The evaluation as rows of the metrics table."""
    holdout = training.windows.holdout
    where: dict[str, Any] = {
        "producer": "training",
        "subject": training.training_id,
        "window_start": holdout.start,
        "window_end": holdout.end,
    }
    evaluation = training.evaluation
    overall = []
    for row in evaluation.metrics.iter_rows(named=True):
        overall.append(
            Measurement(
                **where,
                metric=row["metric"],
                value=row["model"],
                lower=row["model_lower"],
                upper=row["model_upper"],
                rows=evaluation.rows,
            )
        )
        overall.append(
            Measurement(
                **where,
                metric=f"{row['metric']}_gain",
                value=row["gain"],
                lower=row["gain_lower"],
                upper=row["gain_upper"],
                rows=evaluation.rows,
            )
        )
    metric = evaluation.metrics["metric"][0]
    return overall + [
        Measurement(
            **where,
            metric=metric,
            slice=row["slice"],
            value=row["model"],
            lower=row["lower"],
            upper=row["upper"],
            rows=row["rows"],
        )
        for row in evaluation.slices.iter_rows(named=True)
    ]


def training_report(training: Training, model: Model, name: str) -> str:
    """The HTML report of a training."""
    charts = {
        key: report.svg(chart, text) for key, (chart, text) in _charts(training, model).items()
    }
    return report.render("training.html.jinja", **_context(training, model, name), **charts)


def _context(training: Training, model: Model, name: str) -> dict[str, Any]:
    label = model.target.label
    windows = []
    for title, window in training.windows.items():
        rows = window.select(training.rows)
        windows.append(
            {
                "name": title,
                "start": window.start,
                "end": window.end,
                "rows": rows.height,
                "mean": rows[label].mean(),
            }
        )
    tables = ", ".join(f"{table} v{version}" for table, version in training.versions.items())
    return {
        "name": name,
        "as_of": training.as_of,
        "unit": model.target.unit,
        "card": model.card,
        "baseline": " and ".join(model.baseline),
        "evaluation": training.evaluation,
        "first": training.evaluation.metrics.row(0, named=True),
        "min_slice_rows": MIN_SLICE_ROWS,
        "windows": windows,
        "provenance": {
            "training": training.training_id,
            "seed": training.seed,
            **training.code,
            "tables": tables,
        },
    }


def _charts(training: Training, model: Model) -> dict[str, tuple[Any, str]]:
    evaluation = training.evaluation
    metric = evaluation.metrics["metric"][0]
    top = evaluation.contributions.head(_TOP_FEATURES)
    return {
        "slices": (
            report.interval_chart(evaluation.slices, "slice", metric),
            f"{metric} of model and baseline by slice",
        ),
        "calibration": (
            report.calibration_chart(evaluation.calibration, model.target.unit),
            "Mean outcome against mean prediction in ten bins",
        ),
        "contributions": (
            report.bar_chart(top, "feature", "contribution", "mean absolute contribution"),
            f"The {_TOP_FEATURES} features with the largest contributions",
        ),
    }


def _write_documents(folder: Path, training: Training, model: Model, page: str) -> Path:
    folder.mkdir()
    (folder / REPORT).write_text(page, encoding="utf-8")
    card = report.render("model_card.md.jinja", **_context(training, model, model.target.label))
    (folder / MODEL_CARD).write_text(card, encoding="utf-8")
    for name, (chart, _) in _charts(training, model).items():
        (folder / f"{name}.png").write_bytes(report.png(chart))
    for name in ("metrics", "slices", "calibration", "contributions"):
        getattr(training.evaluation, name).write_csv(folder / f"{name}.csv")
    return folder


def _write_model(folder: Path, fitted: Fitted) -> dict[str, Path]:
    booster, encoding = folder / "booster.txt", folder / "encoding.json"
    fitted.booster.save_model(str(booster), num_iteration=fitted.booster.best_iteration)
    encoding.write_text(
        json.dumps({"features": fitted.features, "categories": fitted.categories}),
        encoding="utf-8",
    )
    return {BOOSTER: booster, ENCODING: encoding}


def _example(training: Training, model: Model) -> Any:
    numeric = [name for name in model.features if name not in model.categorical]
    rows = training.holdout.head(_EXAMPLE_ROWS).select(model.features)
    return rows.with_columns(pl.col(numeric).cast(pl.Float64)).to_pandas()


def _signature(training: Training) -> ModelSignature:
    categories = training.fitted.categories
    inputs = [
        ColSpec(DataType.string if name in categories else DataType.double, name, required=True)
        for name in training.fitted.features
    ]
    return ModelSignature(Schema(inputs), Schema([ColSpec(DataType.double)]))
