"""The training pipeline: from feature tables as of a moment to a registered model version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from ..context import Context
from ..core.console import step
from ..core.words import counted
from ..modeling.evaluation import compare, group_means
from ..modeling.split import judged_on, split
from ..store import tables
from ..store.measurements import record
from ..store.point_in_time import require_row_by_row, training_set
from ..tracking.provenance import fingerprint, provenance
from .fit import fit
from .register import Training, register
from .split import require_enough, windows_of

PRODUCER = "training"


@dataclass(frozen=True)
class Trained:
    """A registered version, its HTML report, and its results (None: it was there already)."""

    version: str
    report: Path
    results: pl.DataFrame | None


def train(context: Context, as_of: datetime) -> Trained:
    """Tune, fit, evaluate and register a model on what was known at `as_of`.

    The same data, code, configuration and seed are one training: done again, it returns the version
    that is there.

    Raises:
        UserError: Features are not built until `as_of`, the windows hold too little, inputs are not
            computed row by row, or what keeps the version's files is not installed.
    """
    started = datetime.now(UTC)
    settings = context.settings
    model = context.problem.model
    versions = _input_versions(context, as_of)
    code = provenance(settings.project)
    training_id = _identity(context, as_of, versions, code)
    page = settings.reports / f"training_{training_id}.html"
    if done := context.registry.find_training(training_id):
        return Trained(str(done.version), page, None)
    context.registry.require_files()

    windows = windows_of(context.problem, as_of, settings.training)
    with step("training set") as notes:
        rows = training_set(context.lakehouse, context.problem, windows[0].start, as_of, versions)
        require_row_by_row(context.lakehouse, context.problem, rows, as_of, versions)
        parts = split(rows, windows, context.problem)
        require_enough(parts, windows, context.problem, settings.training.min_rows)
        notes.append(f"{counted(rows.height, 'row')}, {counted(len(model.features), 'feature')}")
    with step("fit") as notes:
        journal = settings.state / "studies.log"
        fitted = fit(parts.train, parts.validation, model, settings, training_id, journal)
        trials = settings.training.trials if model.search_space else 0
        notes.append(f"validation loss {fitted.loss:.4f}, best of {counted(trials, 'trial')}")
    with step("evaluate") as notes:
        results = compare(
            parts.holdout,
            fitted.estimator.predict(parts.holdout),
            group_means(parts.train, parts.holdout, model),
            model,
        )
        judged = windows[-1]
        record(context.lakehouse, results, PRODUCER, training_id, judged.start, judged.end)
        notes.append(f"{counted(parts.holdout.height, 'row')}, {judged_on(context.problem)}")
    with step("register") as notes:
        training = Training(
            training_id=training_id,
            as_of=as_of,
            windows=windows,
            versions=versions,
            code=code,
            parts=parts,
            started=started,
            fitted=fitted,
            results=results,
        )
        version = register(context, training, page)
        notes.append(f"version {version}")
    return Trained(version, page, results)


def _input_versions(context: Context, as_of: datetime) -> dict[str, int | None]:
    """Delta version of each table that is read; all are complete until `as_of`."""
    inputs = tables.inputs(context.problem)
    for table in inputs:
        context.lakehouse.require(table, as_of)
    return {table.name: context.lakehouse.version(table) for table in inputs}


def _identity(
    context: Context,
    as_of: datetime,
    versions: Mapping[str, int | None],
    code: Mapping[str, str],
) -> str:
    """Equal inputs, equal identity."""
    return fingerprint(
        {
            "as_of": as_of,
            "budget": context.settings.training.model_dump(),
            "seed": context.settings.seed,
            "versions": versions,
            "lock": code["lock_sha256"],
            "source": code["source_sha256"],
        }
    )
