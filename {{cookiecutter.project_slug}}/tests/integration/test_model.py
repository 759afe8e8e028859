"""How the trained model behaves."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from mlflow.entities.model_registry import ModelVersion

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import Estimator
from {{cookiecutter.package_name}}.modeling.evaluation import group_means
from {{cookiecutter.package_name}}.store.point_in_time import training_set
from {{cookiecutter.package_name}}.training.pipeline import Trained
from {{cookiecutter.package_name}}.training.split import windows_until

from tests.parcels import PROBLEM

MODEL, TARGET = PROBLEM.model, PROBLEM.model.target
ELSEWHERE = """
import json, sys
sys.modules["{package}"] = None
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
print(json.dumps([float(value) for value in model.predict(pd.read_parquet(sys.argv[2]))]))
"""


@pytest.fixture
def predictor(context: Context, version: ModelVersion) -> Estimator:
    return context.registry.load(version.version)


@pytest.fixture
def inputs(holdout: pl.DataFrame) -> pl.DataFrame:
    return holdout.select(MODEL.features)


def test_features_earn_their_keep(trained: tuple[Context, Trained]) -> None:
    results = trained[1].results
    assert results is not None
    first = results.row(0, named=True)
    assert (first["slice"], first["metric"]) == ("", TARGET.metrics[0].name)
    assert first["gain_lower"] > 0


def test_the_baseline_knows_the_training_window_only(
    context: Context, trained: tuple[Context, Trained], as_of: datetime, holdout: pl.DataFrame
) -> None:
    train, *_ = windows_until(as_of, context.settings.training)
    known = train.of(training_set(context.lakehouse, PROBLEM, train.start, as_of, {}))
    guess = group_means(known, holdout, MODEL)
    expected = TARGET.metrics[0].score(
        holdout[TARGET.label].to_numpy(), guess, np.ones(holdout.height)
    )
    assert trained[1].results is not None
    assert trained[1].results["reference"][0] == pytest.approx(float(expected))


def test_it_predicts_the_same_where_the_project_is_unknown(
    context: Context,
    version: ModelVersion,
    predictor: Estimator,
    inputs: pl.DataFrame,
    tmp_path: Path,
) -> None:
    rows = inputs.head(500).with_columns(
        pl.col(set(MODEL.features) - set(MODEL.categorical)).cast(pl.Float64)
    )
    rows.write_parquet(tmp_path / "rows.parquet")
    package = Context.__module__.partition(".")[0]
    command = [sys.executable, "-I", "-W", "ignore", "-c", ELSEWHERE.replace("{package}", package)]
    model = context.registry.download(version.version)
    arguments = [str(model), str(tmp_path / "rows.parquet")]
    done = subprocess.run(
        [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == predictor.predict(rows).tolist()


def test_predictions_are_plausible(predictor: Estimator, holdout: pl.DataFrame) -> None:
    predicted, label = predictor.predict(holdout), holdout[TARGET.label].to_numpy()
    assert np.isfinite(predicted).all()
    assert np.min(label) <= np.min(predicted) < np.max(predicted) <= np.max(label)
    assert abs(predicted.mean() - label.mean()) < label.std()


@pytest.mark.parametrize("rise", [1.0, 30.0])
def test_a_rise_of_what_may_only_raise_it_never_lowers_a_prediction(
    predictor: Estimator, inputs: pl.DataFrame, rise: float
) -> None:
    before = predictor.predict(inputs)
    after = predictor.predict(
        inputs.with_columns(pl.col(name) + sign * rise for name, sign in MODEL.monotone.items())
    )
    assert (after >= before - 1e-12).all()
    assert after.mean() > before.mean()


def test_unseen_categories_score(predictor: Estimator, inputs: pl.DataFrame) -> None:
    unseen = inputs.with_columns(pl.lit("never seen").alias(name) for name in MODEL.categorical)
    missing = inputs.with_columns(pl.lit(None, pl.String).alias(name) for name in MODEL.categorical)
    assert np.isfinite(predictor.predict(unseen)).all()
    assert (predictor.predict(unseen) == predictor.predict(missing)).all()


def test_a_row_of_nulls_scores(predictor: Estimator, inputs: pl.DataFrame) -> None:
    nulls = inputs.head(2).select(pl.lit(None).alias(name) for name in MODEL.features)
    assert np.isfinite(predictor.predict(nulls)).all()


def test_a_row_scores_alone_as_among_others(predictor: Estimator, inputs: pl.DataFrame) -> None:
    together = predictor.predict(inputs.head(20))
    alone = [predictor.predict(inputs.slice(index, 1))[0] for index in range(20)]
    assert alone == together.tolist()
