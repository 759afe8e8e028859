"""Compliance: what every version must satisfy before it may challenge the champion.

Checks go from cheap and passive to costly and active. The code that a version carries runs only
after all that can be told without it has been found right.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from ..context import Context
from ..core.contract import Array
from ..core.errors import UserError
from ..modeling.evaluation import compare, group_means
from ..modeling.leaks import leaks
from ..modeling.scores import scores_of
from ..modeling.split import Parts
from ..store import tables
from ..tracking.lifetime import lifetime, parts_of
from ..tracking.provenance import provenance
from ..tracking.registry import CHAMPION, HOLDOUT, TRAINING_ID
from . import clean_process
from .transitions import move, reconcile

_WINDOWS = (
    "train_start",
    "train_end",
    "validation_start",
    "validation_end",
    "holdout_start",
    "holdout_end",
)
_TAGS = (
    TRAINING_ID,
    "as_of",
    "target",
    "data_versions",
    "git_commit",
    "lock_sha256",
    "source_sha256",
    *_WINDOWS,
)
_SUMMARY = "Compliance:"
_CPU_SECONDS = 300
_PATIENCE_S = 3600  # against code that sleeps; what it computes is limited by CPU time
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Candidate:
    """A version under examination; what is costly is found out once."""

    version: ModelVersion
    context: Context

    @cached_property
    def folder(self) -> Path:
        """Its files, digest checked."""
        return self.context.registry.download(self.version.version)

    @cached_property
    def inputs(self) -> list[str]:
        """Input columns of its signature."""
        signature = mlflow.models.Model.load(str(self.folder)).signature
        return list(signature.inputs.input_names()) if signature else []

    @cached_property
    def times(self) -> dict[str, datetime]:
        """Its windows and as-of."""
        tags = (*_WINDOWS, "as_of")
        return {tag: datetime.fromisoformat(self.version.tags[tag]) for tag in tags}

    @cached_property
    def parts(self) -> Parts:
        """Its training set, made again from the table versions that it recorded, and split."""
        context = self.context
        version = lifetime(context.registry, self.version.version)
        return parts_of(version, context.lakehouse, context.problem)

    @property
    def holdout(self) -> pl.DataFrame:
        """Rows of its holdout."""
        return self.parts.holdout

    @cached_property
    def alone(self) -> dict[str, Any]:
        """What a process without the project found, as `clean_process`, or its `failure`."""
        return _score_alone(self.folder)

    @cached_property
    def predicted(self) -> Array:
        """Scores of its holdout by its own code."""
        return self.context.registry.load(self.version.version).predict(self.holdout)

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """Metrics on its holdout against the baseline, recomputed."""
        model, settings = self.context.problem.model, self.context.settings
        guess = group_means(self.parts.train, self.holdout, model)
        resamples = settings.training.bootstrap_resamples
        measured = compare(self.holdout, self.predicted, guess, model, resamples, settings.seed)
        return measured.rows(named=True)


def check(context: Context, number: str, who: str) -> dict[str, str]:
    """Examine a version: it becomes the challenger, or is archived.

    Each outcome becomes a tag `compliance.<check>`, the summary part of the description.

    Returns:
        What is wrong, by check; empty where the version passed all.

    Raises:
        UserError: The version is the champion, or there is no such version.
    """
    registry = context.registry
    version = registry.version(number)
    reconcile(context)
    if registry.aliased(CHAMPION) == number:
        raise UserError(f"Version {number} is the champion.", "Check another version.")
    outcomes = _examine(Candidate(version, context))
    failed = {name: why for name, why in outcomes.items() if why}
    summary = f"{len(outcomes) - len(failed)}/{len(CHECKS)} checks passed"
    why = "; ".join([summary, *(f"{name}: {reason}" for name, reason in failed.items())])
    tags = {
        f"compliance.{name}": f"fail: {wrong}" if wrong else "pass"
        for name, wrong in outcomes.items()
    }
    tags |= {f"compliance.{name}": "not run" for name in CHECKS if name not in outcomes}
    registry.annotate(number, tags, f"{_own_description(version)} {_SUMMARY} {why}.")
    move(context, "archive" if failed else "stage", number, who, why)
    return failed


def _examine(candidate: Candidate) -> dict[str, str]:
    """What is wrong, by check; the version's code does not run where a passive check failed."""
    outcomes = {name: _outcome(examine, candidate) for name, examine in PASSIVE.items()}
    if not any(outcomes.values()):
        outcomes |= {name: _outcome(examine, candidate) for name, examine in ACTIVE.items()}
    return outcomes


def _outcome(examine: Callable[[Candidate], str], candidate: Candidate) -> str:
    try:
        return examine(candidate)
    except UserError as error:
        return str(error).partition("\n")[0]
    except Exception as error:  # noqa: BLE001 whatever a version makes a check raise counts against it
        reason = str(error).strip().partition("\n")[0]
        return f"cannot be examined: {type(error).__name__} {reason}"


# Passive: read, never run ---------------------------------------------------------------------


def _described(candidate: Candidate) -> str:
    tags = {**candidate.version.tags, "description": _own_description(candidate.version)}
    missing = [tag for tag in (*_TAGS, "description") if not tags.get(tag)]
    return f"without {', '.join(missing)}" if missing else ""


def _own_description(version: ModelVersion) -> str:
    return (version.description or "").partition(_SUMMARY)[0].strip()


def _digest(candidate: Candidate) -> str:
    return "" if candidate.folder.is_dir() else "no files"


def _model_card(candidate: Candidate) -> str:
    address = f"runs:/{candidate.version.run_id}/evaluation/model_card.md"
    try:
        card = mlflow.artifacts.load_text(address)
    except (MlflowException, OSError):
        return "no model card among the run's artifacts"
    return "" if card.strip() else "the model card is empty"


def _signature(candidate: Candidate) -> str:
    features = list(candidate.context.problem.model.features)
    if not mlflow.models.Model.load(str(candidate.folder)).saved_input_example_info:
        return "no input example"
    if candidate.inputs == features:
        return ""
    differing = sorted(set(candidate.inputs) ^ set(features)) or "their order"
    return f"inputs differ from the features in {differing}"


def _no_outcome(candidate: Candidate) -> str:
    told = sorted(set(candidate.inputs) & set(candidate.context.problem.model.forbidden))
    return f"takes the outcome as an input: {', '.join(told)}" if told else ""


def _in_its_time(candidate: Candidate) -> str:
    times = list(candidate.times.values())
    if candidate.context.problem.holdout == "drawn":
        *bounds, as_of = times
        begins, ends = bounds[::2], bounds[1::2]
        is_one = len(set(begins)) == len(set(ends)) == 1 and begins[0] <= ends[0] <= as_of
        return "" if is_one else "its parts are drawn from different rows, or beyond the as-of"
    return "" if times == sorted(times) else "windows overlap, or reach beyond the as-of"


def _data_versions(candidate: Candidate) -> str:
    recorded = json.loads(candidate.version.tags["data_versions"])
    lost = []
    for table in tables.inputs(candidate.context.problem):
        newest = candidate.context.lakehouse.version(table)
        version = recorded.get(table.name)
        if version is None or newest is None or version > newest:
            lost.append(table.name)
    return f"no version recorded, or left, of {', '.join(lost)}" if lost else ""


def _clean_code(candidate: Candidate) -> str:
    dirty = candidate.version.tags["git_dirty"]
    if candidate.context.settings.deployment.clean_git and dirty != "false":
        return f"trained from uncommitted code (git_dirty: {dirty})"
    return ""


def _lock(candidate: Candidate) -> str:
    here = provenance(candidate.context.settings.project)["lock_sha256"]
    same = candidate.version.tags["lock_sha256"] == here
    return "" if same else "trained with another requirements/run.txt"


def _size(candidate: Candidate) -> str:
    files = [path for path in candidate.folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    allowed = candidate.context.settings.deployment.max_size_mb
    return "" if size <= allowed else f"takes {size:.1f} MB, {allowed:g} are allowed"


# Active: the version's own code runs ----------------------------------------------------------


def _scores_alone(candidate: Candidate) -> str:
    if failure := candidate.alone.get("failure"):
        return f"fails in a clean process: {failure}"
    scores = candidate.alone["scores"]
    if not scores or not np.isfinite(scores).all():
        return f"scores its example as {scores}"
    if scores != candidate.alone["again"]:
        return "scores the same rows differently a second time"
    return ""


def _latency(candidate: Candidate) -> str:
    if "cpu_ms" not in candidate.alone:
        return "not measured"
    taken = candidate.alone["cpu_ms"]
    allowed = candidate.context.settings.deployment.max_cpu_ms
    if taken <= allowed:
        return ""
    return f"takes {taken:.1f} ms of CPU time for a row, {allowed:g} are allowed"


def _in_range(candidate: Candidate) -> str:
    """Probabilities are what a classifier gives, everywhere."""
    target, predicted = candidate.context.problem.model.target, candidate.predicted
    if not np.isfinite(predicted).all():
        return "scores some rows of its holdout with no finite number"
    if not target.classes:
        return ""
    lowest, highest = predicted.min(), predicted.max()
    if lowest < 0 or highest > 1:
        return f"its probabilities reach from {lowest:.3g} to {highest:.3g}"
    if predicted.ndim == 2 and np.abs(predicted.sum(axis=1) - 1).max() > 1e-6:
        return "its probabilities of all classes do not sum to 1"
    return ""


def _evidence(candidate: Candidate) -> str:
    """The holdout's scores that the version recorded are those that it gives."""
    target = candidate.context.problem.model.target
    recorded = pl.read_parquet(candidate.folder / "artifacts" / HOLDOUT)
    if recorded.height != candidate.holdout.height:
        return f"recorded {recorded.height:,} rows of its holdout, {candidate.holdout.height:,} are"
    apart = np.abs(scores_of(recorded, target) - candidate.predicted).max()
    return "" if apart <= _TOLERANCE else f"recorded other scores of its holdout (by {apart:.3g})"


def _plausible(candidate: Candidate) -> str:
    """No input tells the outcome, and no metric is better than it can be."""
    model, parts = candidate.context.problem.model, candidate.parts
    inputs = [name for name in candidate.inputs if name not in model.trusted]
    if found := leaks(parts.learned, parts.holdout, inputs, model.target):
        return f"{found[0]}: leave it out, or name it in `trusted` of the model if it was known"
    for metric, result in zip(model.target.metrics, candidate.results, strict=False):
        if metric.too_good is None:
            continue
        value = result["value"]
        better = value > metric.too_good if metric.higher_is_better else value < metric.too_good
        if better:
            return (
                f"{metric.name} {value:.3f} is too good to be true (`too_good` of the metric): "
                "an input tells the outcome"
            )
    return ""


def _better_than_baseline(candidate: Candidate) -> str:
    result = candidate.results[0]
    floor = candidate.context.settings.deployment.min_gain
    if result["gain_lower"] > floor:
        return ""
    return (
        f"gain in {result['metric']} over the baseline may be {result['gain_lower']:.4f}, "
        f"not above {floor:g}"
    )


PASSIVE: dict[str, Callable[[Candidate], str]] = {
    "described": _described,
    "digest": _digest,
    "model_card": _model_card,
    "signature": _signature,
    "no_outcome_among_inputs": _no_outcome,
    "in_its_time": _in_its_time,
    "data_versions": _data_versions,
    "clean_code": _clean_code,
    "lock": _lock,
    "size": _size,
}
ACTIVE: dict[str, Callable[[Candidate], str]] = {
    "scores_in_clean_process": _scores_alone,
    "latency": _latency,
    "in_range": _in_range,
    "evidence": _evidence,
    "plausible": _plausible,
    "better_than_baseline": _better_than_baseline,
}
CHECKS = {**PASSIVE, **ACTIVE}
"""Each tells what is wrong, or nothing."""


def _score_alone(folder: Path) -> dict[str, Any]:
    """Score in a process that knows neither the project nor anything of this environment."""
    command = [sys.executable, "-I", "-B", str(clean_process.__file__), str(folder)]
    with tempfile.TemporaryDirectory(prefix="clean-") as home:
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=_PATIENCE_S,
                check=True,
                cwd=home,
                env={"HOME": home, "TMPDIR": home, "OMP_NUM_THREADS": "1"},
                preexec_fn=_limit if sys.platform != "win32" else None,
            )
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines()
            return {"failure": lines[-1] if lines else f"ended with {error.returncode}"}
        except subprocess.TimeoutExpired:
            return {"failure": "no answer"}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _limit() -> None:
    """Limits of the process that is about to start."""
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    os.umask(0o077)
