"""Compliance: what every version must satisfy before it may challenge the champion."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import mlflow
import polars as pl
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from ..contract import Problem
from ..errors import UserError
from ..evaluation import compare, group_means
from ..feature_store import input_tables, training_set
from ..lakehouse import Lakehouse
from ..registry import CHAMPION, TRAINING_ID, Registry, provenance
from ..settings import Settings
from . import transitions

_WINDOWS = ("train_start", "train_end", "validation_start", "validation_end", "holdout_start", "holdout_end")
_TAGS = (TRAINING_ID, "as_of", "target", "data_versions", "git_commit", "lock_sha256", "source_sha256", *_WINDOWS)
_MEGABYTE = 1e6
SUMMARY = "Compliance:"
_CLEAN_PROCESS = """
import json, statistics, sys, time
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
example = model.input_example
scores = [float(score) for score in model.predict(example)]
times = []
for _ in range(20):
    begun = time.perf_counter()
    model.predict(example.head(1))
    times.append(1000 * (time.perf_counter() - begun))
print(json.dumps({"scores": scores, "latency_ms": statistics.median(times)}))
"""


@dataclass(frozen=True)
class Candidate:
    """A version under examination, and what it is examined with."""

    version: ModelVersion
    lakehouse: Lakehouse
    registry: Registry
    settings: Settings
    problem: Problem

    @cached_property
    def folder(self) -> Path:
        """Its files, digest checked."""
        return self.registry.download(self.version.version)

    def moment(self, tag: str) -> datetime:
        """A tag that holds a moment."""
        return datetime.fromisoformat(self.version.tags[tag])

    @cached_property
    def in_clean_process(self) -> dict[str, object]:
        """Scores of the input example and median latency (ms) of one row, in a process without the project."""
        command = [sys.executable, "-I", "-B", "-c", _CLEAN_PROCESS, str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"it does not load and score in a clean process: {last}", "")
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))

    @cached_property
    def result(self) -> dict[str, object]:
        """First metric on its holdout, recomputed from the recorded data, against the baseline."""
        model, versions = self.problem.model, json.loads(self.version.tags["data_versions"])
        rows = training_set(self.lakehouse, self.problem, self.moment("train_start"), self.moment("as_of"), versions)
        learned = rows.filter(pl.col("prediction_time") < self.moment("train_end"))
        holdout = rows.filter(pl.col("prediction_time") >= self.moment("holdout_start"))
        guess = group_means(learned, holdout, model.baseline, model.target.label)
        predicted = self.registry.load(self.version.version).predict(holdout)
        resamples, seed = self.settings.training.bootstrap_resamples, self.settings.seed
        return compare(holdout, predicted, guess, model, resamples, seed, first_only=True).row(0, named=True)


def _described(candidate: Candidate) -> str:
    missing = [tag for tag in _TAGS if not candidate.version.tags.get(tag)]
    if not (candidate.version.description or "").strip():
        missing.append("a description")
    return f"without {', '.join(missing)}" if missing else ""


def _model_card(candidate: Candidate) -> str:
    path = f"runs:/{candidate.version.run_id}/evaluation/model_card.md"
    try:
        return "" if mlflow.artifacts.load_text(path).strip() else "the model card is empty"
    except (MlflowException, OSError):
        return "no model card among the run's artifacts"


def _signature(candidate: Candidate) -> str:
    model = mlflow.models.Model.load(str(candidate.folder))
    if model.signature is None or not model.saved_input_example_info:
        return "no signature or no input example"
    given, wanted = model.signature.inputs.input_names(), list(candidate.problem.model.features)
    return "" if given == wanted else f"inputs differ from the features: {sorted(set(given) ^ set(wanted)) or 'order'}"


def _no_outcome(candidate: Candidate) -> str:
    given = mlflow.models.Model.load(str(candidate.folder)).signature.inputs.input_names()
    forbidden = sorted(set(given) & set(candidate.problem.model.forbidden))
    return f"takes the outcome as an input: {', '.join(forbidden)}" if forbidden else ""


def _plausible(candidate: Candidate) -> str:
    metric, value = candidate.problem.model.target.metrics[0], float(str(candidate.result["value"]))
    leaks = value > metric.too_good if metric.higher_is_better else value < metric.too_good
    return f"{metric.name} {value:.3f} is too good to be true: an input tells the outcome" if leaks else ""


def _in_its_time(candidate: Candidate) -> str:
    times = [candidate.moment(tag) for tag in _WINDOWS]
    if times != sorted(times) or times[-1] > candidate.moment("as_of"):
        return f"windows overlap or reach beyond the as-of {candidate.moment('as_of'):%Y-%m-%d %H:%M}"
    return ""


def _data(candidate: Candidate) -> str:
    recorded, tables = json.loads(candidate.version.tags["data_versions"]), input_tables(candidate.problem)
    unknown = [
        table.name
        for table in tables
        if recorded.get(table.name) is None or recorded[table.name] > (candidate.lakehouse.version(table) or 0)
    ]
    return f"no recorded version of {', '.join(unknown)}" if unknown else ""


def _code(candidate: Candidate) -> str:
    tags = candidate.version.tags
    if not candidate.settings.deployment.clean_git:
        return ""
    return "" if tags["git_dirty"] == "false" else f"trained from uncommitted code (git_dirty: {tags['git_dirty']})"


def _lock(candidate: Candidate) -> str:
    here = provenance(candidate.settings.project)["lock_sha256"]
    return "" if candidate.version.tags["lock_sha256"] == here else "trained with another lock than requirements/run.txt"


def _digest(candidate: Candidate) -> str:
    return "" if candidate.folder else ""


def _scores(candidate: Candidate) -> str:
    scores = candidate.in_clean_process["scores"]
    finite = pl.Series(scores, dtype=pl.Float64).is_finite()
    return "" if finite.len() and finite.all() else f"scores its example as {scores}"


def _latency(candidate: Candidate) -> str:
    taken, allowed = float(str(candidate.in_clean_process["latency_ms"])), candidate.settings.deployment.max_latency_ms
    return "" if taken <= allowed else f"takes {taken:.1f} ms for a row, {allowed:g} are allowed"


def _size(candidate: Candidate) -> str:
    size = sum(path.stat().st_size for path in candidate.folder.rglob("*") if path.is_file()) / _MEGABYTE
    allowed = candidate.settings.deployment.max_size_mb
    return "" if size <= allowed else f"takes {size:.1f} MB, {allowed:g} are allowed"


def _better_than_baseline(candidate: Candidate) -> str:
    lower, floor = float(str(candidate.result["gain_lower"])), candidate.settings.deployment.min_gain
    metric = candidate.result["metric"]
    return "" if lower > floor else f"gain in {metric} over the baseline may be {lower:.4f}, not above {floor:g}"


CHECKS: dict[str, Callable[[Candidate], str]] = {
    "described": _described,
    "digest": _digest,
    "model_card": _model_card,
    "signature": _signature,
    "no_outcome_among_inputs": _no_outcome,
    "in_its_time": _in_its_time,
    "data_versions": _data,
    "clean_code": _code,
    "lock": _lock,
    "scores_in_clean_process": _scores,
    "latency": _latency,
    "size": _size,
    "plausible": _plausible,
    "better_than_baseline": _better_than_baseline,
}
"""Each tells what is wrong, or nothing."""


def check(
    lakehouse: Lakehouse, registry: Registry, settings: Settings, problem: Problem, number: str, who: str
) -> dict[str, str]:
    """Examine a version: it becomes the challenger, or is archived.

    Each outcome becomes a tag `compliance.<check>`, the summary part of the description.

    Returns:
        What is wrong, by check; empty where the version passed all.
    """
    version = registry.version(number)
    if registry.aliased(CHAMPION) == number:
        raise UserError(f"Version {number} is the champion.", "Check another version.")
    candidate = Candidate(version, lakehouse, registry, settings, problem)
    outcomes = {name: _outcome(examine, candidate) for name, examine in CHECKS.items()}
    failed = {name: why for name, why in outcomes.items() if why}
    summary = f"{len(outcomes) - len(failed)} of {len(outcomes)} compliance checks passed"
    why = "; ".join([summary, *(f"{name}: {reason}" for name, reason in failed.items())])
    registry.tag(number, {f"compliance.{name}": f"fail: {why}" if why else "pass" for name, why in outcomes.items()})
    registry.describe(number, f"{(version.description or '').partition(SUMMARY)[0].strip()} {SUMMARY} {why}.")
    move = transitions.archive if failed else transitions.stage
    move(lakehouse, registry, number, who, why)
    return failed


def _outcome(examine: Callable[[Candidate], str], candidate: Candidate) -> str:
    try:
        return examine(candidate)
    except UserError as error:
        return str(error).partition("\n")[0]
    except (KeyError, ValueError, AttributeError) as error:
        return f"cannot be examined: {type(error).__name__} {error}"
