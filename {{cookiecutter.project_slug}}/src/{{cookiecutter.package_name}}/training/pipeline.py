"""The training pipeline: from feature tables as of a date to a registered model version."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from .. import report
from ..console import step
from ..contract import Problem
from ..lakehouse import Lakehouse
from ..metrics import record
from ..registry import Registry, fingerprint, provenance
from ..settings import Settings
from .dataset import input_tables, require_enough, training_set, windows_until
from .evaluate import evaluate
from .fit import fit
from .register import Training, measurements, register, training_report


@dataclass(frozen=True)
class Trained:
    """What a training ended in.

    Attributes:
        version: Number of the registered model version.
        report: The HTML report.
        metrics: As `Evaluation.metrics`; None where the training had been done before.
    """

    version: str
    report: Path
    metrics: pl.DataFrame | None


def train(
    lakehouse: Lakehouse,
    registry: Registry,
    settings: Settings,
    problem: Problem,
    as_of: datetime,
) -> Trained:
    """Tune, fit, evaluate and register a model on what was known at `as_of`.

    The same data, code, configuration and seed are one training: done again, it returns the version
    that is there.

    Raises:
        UserError: Features are not built until `as_of`, or the windows hold too little.
    """
    model, budget, seed = problem.model, settings.training, settings.seed
    windows = windows_until(as_of, budget)
    inputs = input_tables(problem)
    for table in inputs:
        lakehouse.require(table, as_of)
    versions = {table.name: lakehouse.version(table) for table in inputs}
    code = provenance(settings.project)
    identity = {
        "as_of": as_of,
        "budget": budget.model_dump(),
        "seed": seed,
        "versions": versions,
        "lock": code["lock_sha256"],
        "source": code["source_sha256"],
    }
    training_id = fingerprint(identity)
    page = settings.reports / f"training_{training_id}.html"
    if done := registry.find_training(training_id):
        return Trained(done.version, page, None)

    with step("training set") as notes:
        rows = training_set(lakehouse, problem, windows, versions)
        require_enough(rows, windows, model, budget.min_rows)
        notes.append(f"{rows.height:,} rows, {len(model.features)} features")
    known, later = windows.train.select(rows), windows.validation.select(rows)
    with step("fit") as notes:
        journal = settings.state / "studies.log"
        fitted = fit(known, later, model, settings, training_id, journal)
        notes.append(f"{fitted.booster.best_iteration} trees after {budget.trials} trials")
    with step("evaluate") as notes:
        holdout = windows.holdout.select(rows)
        results = evaluate(fitted, known, holdout, model, budget.bootstrap_resamples, seed)
        notes.append(f"{holdout.height:,} rows later than all it has seen")
    with step("register") as notes:
        training = Training(
            training_id, as_of, windows, versions, code, seed, rows, fitted, results
        )
        record(lakehouse, measurements(training))
        html = training_report(training, model, settings.mlflow.model)
        report.write(page, html)
        version = register(registry, lakehouse, training, model, html)
        notes.append(f"version {version}")
    return Trained(version, page, results.metrics)
