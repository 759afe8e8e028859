"""Compliance: what every version must satisfy before it may challenge the champion."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from ..context import Context
from ..core.contract import PREDICTION_TIME
from ..core.errors import UserError
from ..modeling.evaluation import compare, group_means
from ..store import tables
from ..store.point_in_time import training_set
from ..tracking.provenance import provenance
from ..tracking.registry import CHAMPION, TRAINING_ID
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
        return {tag: datetime.fromisoformat(self.version.tags[tag]) for tag in (*_WINDOWS, "as_of")}

    @cached_property
    def alone(self) -> dict[str, Any]:
        """A process without the project: `scores` of the example and median `latency_ms` of a row, or `failure`."""
        command = [sys.executable, "-I", "-B", "-c", _CLEAN_PROCESS, str(self.folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        except subprocess.CalledProcessError as error:
            return {"failure": (error.stderr.strip().splitlines() or ["no message"])[-1]}
        except subprocess.TimeoutExpired as error:
            return {"failure": f"no answer in {error.timeout:g} s"}
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """Metrics on its holdout against the baseline, recomputed from the data that it recorded."""
        context, model, times = self.context, self.context.problem.model, self.times
        versions, time = json.loads(self.version.tags["data_versions"]), pl.col(PREDICTION_TIME)
        rows = training_set(
            context.lakehouse, context.problem, times["train_start"], times["as_of"], versions
        )
        learned, holdout = (
            rows.filter(time < times["train_end"]),
            rows.filter(time >= times["holdout_start"]),
        )
        guess = group_means(learned, holdout, model.baseline, model.target.label)
        predicted, settings = (
            context.registry.load(self.version.version).predict(holdout),
            context.settings,
        )
        resamples = settings.training.bootstrap_resamples
        return compare(holdout, predicted, guess, model, resamples, settings.seed).rows(named=True)


def _described(candidate: Candidate) -> str:
    tags = candidate.version.tags | {"description": _own_description(candidate.version)}
    missing = [tag for tag in (*_TAGS, "description") if not tags.get(tag)]
    return f"without {', '.join(missing)}" if missing else ""


def _own_description(version: ModelVersion) -> str:
    return (version.description or "").partition(_SUMMARY)[0].strip()


def _model_card(candidate: Candidate) -> str:
    try:
        card = mlflow.artifacts.load_text(
            f"runs:/{candidate.version.run_id}/evaluation/model_card.md"
        )
    except (MlflowException, OSError):
        return "no model card among the run's artifacts"
    return "" if card.strip() else "the model card is empty"


def _signature(candidate: Candidate) -> str:
    features = list(candidate.context.problem.model.features)
    if not mlflow.models.Model.load(str(candidate.folder)).saved_input_example_info:
        return "no input example"
    differing = sorted(set(candidate.inputs) ^ set(features)) or "their order"
    return "" if candidate.inputs == features else f"inputs differ from the features in {differing}"


def _no_outcome(candidate: Candidate) -> str:
    told = sorted(set(candidate.inputs) & set(candidate.context.problem.model.forbidden))
    return f"takes the outcome as an input: {', '.join(told)}" if told else ""


def _plausible(candidate: Candidate) -> str:
    for metric, result in zip(
        candidate.context.problem.model.target.metrics, candidate.results, strict=False
    ):
        value = result["value"]
        if value > metric.too_good if metric.higher_is_better else value < metric.too_good:
            return f"{metric.name} {value:.3f} is too good to be true: an input tells the outcome"
    return ""


def _in_its_time(candidate: Candidate) -> str:
    times = list(candidate.times.values())
    return "" if times == sorted(times) else "windows overlap, or reach beyond the as-of"


def _data(candidate: Candidate) -> str:
    recorded, lakehouse = (
        json.loads(candidate.version.tags["data_versions"]),
        candidate.context.lakehouse,
    )
    inputs = tables.inputs(candidate.context.problem)
    newest = {table.name: lakehouse.version(table) for table in inputs}
    lost = [
        name
        for name, now in newest.items()
        if recorded.get(name) is None or now is None or recorded[name] > now
    ]
    return f"no version recorded, or left, of {', '.join(lost)}" if lost else ""


def _clean_code(candidate: Candidate) -> str:
    dirty, wanted = (
        candidate.version.tags["git_dirty"],
        candidate.context.settings.deployment.clean_git,
    )
    return (
        f"trained from uncommitted code (git_dirty: {dirty})" if wanted and dirty != "false" else ""
    )


def _lock(candidate: Candidate) -> str:
    here = provenance(candidate.context.settings.project)["lock_sha256"]
    return (
        ""
        if candidate.version.tags["lock_sha256"] == here
        else "trained with another requirements/run.txt"
    )


def _scores(candidate: Candidate) -> str:
    if failure := candidate.alone.get("failure"):
        return f"fails in a clean process: {failure}"
    scores = pl.Series(candidate.alone["scores"], dtype=pl.Float64)
    return (
        ""
        if scores.len() and scores.is_finite().all()
        else f"scores its example as {scores.to_list()}"
    )


def _latency(candidate: Candidate) -> str:
    taken, allowed = (
        candidate.alone.get("latency_ms", inf),
        candidate.context.settings.deployment.max_latency_ms,
    )
    return "" if taken <= allowed else f"takes {taken:.1f} ms for a row, {allowed:g} are allowed"


def _size(candidate: Candidate) -> str:
    size = sum(path.stat().st_size for path in candidate.folder.rglob("*") if path.is_file()) / 1e6
    allowed = candidate.context.settings.deployment.max_size_mb
    return "" if size <= allowed else f"takes {size:.1f} MB, {allowed:g} are allowed"


def _better_than_baseline(candidate: Candidate) -> str:
    result, floor = candidate.results[0], candidate.context.settings.deployment.min_gain
    sure = f"gain in {result['metric']} over the baseline may be {result['gain_lower']:.4f}, not above {floor:g}"
    return "" if result["gain_lower"] > floor else sure


CHECKS: dict[str, Callable[[Candidate], str]] = {
    "described": _described,
    "digest": lambda candidate: "" if candidate.folder.is_dir() else "no files",
    "model_card": _model_card,
    "signature": _signature,
    "no_outcome_among_inputs": _no_outcome,
    "in_its_time": _in_its_time,
    "data_versions": _data,
    "clean_code": _clean_code,
    "lock": _lock,
    "scores_in_clean_process": _scores,
    "latency": _latency,
    "size": _size,
    "plausible": _plausible,
    "better_than_baseline": _better_than_baseline,
}
"""Each tells what is wrong, or nothing."""


def check(context: Context, number: str, who: str) -> dict[str, str]:
    """Examine a version: it becomes the challenger, or is archived.

    Each outcome becomes a tag `compliance.<check>`, the summary part of the description.

    Returns:
        What is wrong, by check; empty where the version passed all.

    Raises:
        UserError: The version is the champion, or there is no such version.
    """
    registry, version = context.registry, context.registry.version(number)
    reconcile(context)
    if registry.aliased(CHAMPION) == number:
        raise UserError(f"Version {number} is the champion.", "Check another version.")
    candidate = Candidate(version, context)
    outcomes = {name: _outcome(examine, candidate) for name, examine in CHECKS.items()}
    failed = {name: why for name, why in outcomes.items() if why}
    summary = f"{len(outcomes) - len(failed)} of {len(outcomes)} compliance checks passed"
    why = "; ".join([summary, *(f"{name}: {reason}" for name, reason in failed.items())])
    tags = {
        f"compliance.{name}": f"fail: {wrong}" if wrong else "pass"
        for name, wrong in outcomes.items()
    }
    registry.annotate(number, tags, f"{_own_description(version)} {_SUMMARY} {why}.")
    move(context, "archive" if failed else "stage", number, who, why)
    return failed


def _outcome(examine: Callable[[Candidate], str], candidate: Candidate) -> str:
    try:
        return examine(candidate)
    except UserError as error:
        return str(error).partition("\n")[0]
    except Exception as error:  # noqa: BLE001 whatever a version makes a check raise speaks against the version
        return f"cannot be examined: {type(error).__name__} {error}"
