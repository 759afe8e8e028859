"""The training pipeline: from feature tables as of a date to a registered model version."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from ..context import Context
from ..core.console import step
from ..modeling.evaluation import compare, group_means
from ..store import tables
from ..store.measurements import record
from ..store.point_in_time import training_set
from ..tracking.provenance import fingerprint, provenance
from .fit import fit
from .register import Training, register
from .split import require_enough, windows_until


@dataclass(frozen=True)
class Trained:
    """Number of the registered version, its HTML report, and its results (None: it was there already)."""

    version: str
    report: Path
    results: pl.DataFrame | None


def train(context: Context, as_of: datetime) -> Trained:
    """Tune, fit, evaluate and register a model on what was known at `as_of`.

    The same data, code, configuration and seed are one training: done again, it returns the version
    that is there.

    Raises:
        UserError: Features are not built until `as_of`, or the windows hold too little.
    """
    lakehouse, problem, settings = context.lakehouse, context.problem, context.settings
    model, budget, seed = problem.model, settings.training, settings.seed
    windows, inputs = windows_until(as_of, budget), tables.inputs(problem)
    for table in inputs:
        lakehouse.require(table, as_of)
    versions = {table.name: lakehouse.version(table) for table in inputs}
    code = provenance(settings.project)
    identity = {"as_of": as_of, "budget": budget.model_dump(), "seed": seed, "versions": versions}
    training_id = fingerprint(
        {**identity, "lock": code["lock_sha256"], "source": code["source_sha256"]}
    )
    page = settings.state / "reports" / f"training_{training_id}.html"
    if done := context.registry.find_training(training_id):
        return Trained(done.version, page, None)

    with step("training set") as notes:
        rows = training_set(lakehouse, problem, windows[0].start, as_of, versions)
        require_enough(rows, windows, model, budget.min_rows)
        known, later, holdout = (window.of(rows) for window in windows)
        notes.append(f"{rows.height:,} rows, {len(model.features)} features")
    with step("fit") as notes:
        predictor, params = fit(
            known, later, model, settings, training_id, settings.state / "studies.log"
        )
        notes.append(f"{predictor.booster.best_iteration} trees, best of {budget.trials} trials")
    with step("evaluate") as notes:
        guess = group_means(known, holdout, model.baseline, model.target.label)
        results = compare(
            holdout, predictor.predict(holdout), guess, model, budget.bootstrap_resamples, seed
        )
        record(lakehouse, results, "training", training_id, windows[-1].start, windows[-1].end)
        notes.append(f"{holdout.height:,} rows later than all it has seen")
    with step("register") as notes:
        training = Training(
            training_id, as_of, windows, versions, code, seed, rows, predictor, params, results
        )
        version = register(context, training, page)
        notes.append(f"version {version}")
    return Trained(version, page, results)
