"""Compliance: what every version must satisfy before it may challenge the champion.

Checks go from cheap to costly, in three tiers: what can be read; what this project's code computes
again from the recorded data; what the version's own code gives. A tier runs only if the one before
has no objection: code that was tampered with does not run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
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
from ..core.contract import PREDICTION_TIME, Array
from ..core.errors import UserError
from ..core.words import counted
from ..modeling import pyfunc, stored
from ..modeling.evaluation import compare, group_means
from ..modeling.leaks import leaks
from ..modeling.recipe import Recipe, distance, follow
from ..modeling.reliability import BIAS, biases, reliability, surprises, worse_guards
from ..modeling.scores import scores_of
from ..modeling.signature import signature
from ..modeling.split import Parts
from ..store import tables
from ..tracking.lifetime import lifetime, parts_of
from ..tracking.provenance import data_fingerprint, provenance
from ..tracking.registry import CHAMPION, HOLDOUT
from ..tracking.signing import CLAIMS, SIGNATURE, WINDOWS
from . import clean_process
from .transitions import move, reconcile

_SUMMARY = "Compliance:"
_CPU_SECONDS = 300
_PATIENCE_S = 3600  # against code that sleeps; what it computes is limited by CPU time
_MEMORY_BYTES = 4 * 2**30
_FILE_BYTES = 2**28
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
_ENDED_BY = {
    9: "it was killed: memory, or somebody",
    24: f"it needs more than {_CPU_SECONDS} s of CPU time",
    25: "it writes too much",
}
_TOLERANCE = 1e-9
_CODE = frozenset(
    (".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".pth", ".pkl", ".pickle", ".joblib")
)
_FACE = ("mlflow.pyfunc.loaders.code_model", Path(pyfunc.__file__).name)


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
        tags = (*WINDOWS, "as_of")
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
    def recorded(self) -> Array:
        """Scores of its holdout as it recorded them.

        Raises:
            UserError: They are of other rows.
        """
        rows = pl.read_parquet(self.folder / "artifacts" / HOLDOUT)
        times = self.holdout[PREDICTION_TIME]
        if not rows[PREDICTION_TIME].equals(times):
            recorded = counted(rows.height, "row")
            message = f"recorded {recorded} of its holdout, which has {len(times):,}"
            raise UserError(message, "Train another.")
        return scores_of(rows, self.context.problem.model.target)

    @cached_property
    def alone(self) -> dict[str, Any]:
        """What a process without the project found, as `clean_process`, or its `failure`."""
        settings = self.context.settings
        return score_alone(self.folder, (settings.project, settings.state, Path.home()))

    @cached_property
    def predicted(self) -> Array:
        """Scores of its holdout by its own code, which is shown its inputs and nothing else."""
        inputs = self.holdout.select(self.inputs)
        return self.context.registry.load(self.version.version).predict(inputs)

    @cached_property
    def guess(self) -> Array:
        """What the baseline scores on its holdout."""
        return group_means(self.parts.train, self.holdout, self.context.problem.model)

    @cached_property
    def results(self) -> pl.DataFrame:
        """Metrics on its holdout against the baseline, recomputed."""
        model = self.context.problem.model
        return compare(self.holdout, self.predicted, self.guess, model)


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
    """What is wrong, by check; where the checks of a tier object, those of the next do not run."""
    outcomes: dict[str, str] = {}
    for tier in TIERS:
        if not any(outcomes.values()):
            outcomes |= {name: _outcome(examine, candidate) for name, examine in tier.items()}
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
    missing = [tag for tag in (*CLAIMS, SIGNATURE, "description") if not tags.get(tag)]
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
    stored = mlflow.models.Model.load(str(candidate.folder))
    if not stored.saved_input_example_info:
        return "no input example"
    if stored.signature is None:
        return "no signature"
    expected = signature(candidate.context.problem.model)
    features = expected.inputs.input_names()
    if candidate.inputs != features:
        differing = sorted(set(candidate.inputs) ^ set(features)) or "their order"
        return f"inputs differ from the features in {differing}"
    for given, wanted in zip(stored.signature.inputs, expected.inputs, strict=True):
        if given != wanted:
            return f"says that {given.name} is {_typed(given)}; it is {_typed(wanted)}"
    if stored.signature != expected:
        said = stored.signature.outputs or ()
        true = expected.outputs
        return f"says that it gives {_all_typed(said)}; it gives {_all_typed(true)}"
    return ""


def _typed(column: Any) -> str:
    return f"{column.type.name}{'' if column.required else ' or nothing'}"


def _all_typed(columns: Iterable[Any]) -> str:
    return ", ".join(f"{column.name or 'a score'} {_typed(column)}" for column in columns) or "none"


def _own_code(candidate: Candidate) -> str:
    """Only code of this project may run here: that of the estimator, and MLflow's face of it."""
    model = candidate.context.problem.model
    own = {
        f"artifacts/{pyfunc.ESTIMATOR}/{stored.CODE}": stored.source_of(model.estimator),
        Path(pyfunc.__file__).name: Path(pyfunc.__file__),
    }
    for path in sorted(candidate.folder.rglob("*")):
        name = path.relative_to(candidate.folder).as_posix()
        is_code = path.suffix in _CODE or "__pycache__" in path.parts[:-1]
        if is_code and (name not in own or path.read_bytes() != own[name].read_bytes()):
            return f"carries code that is not this project's: {name}"
    flavors = mlflow.models.Model.load(str(candidate.folder)).flavors
    face = flavors.get("python_function", {})
    runs = (face.get("loader_module"), Path(str(face.get("model_code_path"))).name)
    if set(flavors) != {"python_function"} or runs != _FACE or face.get("code"):
        return "has MLflow load something else than this project's code"
    card = json.loads((candidate.folder / "artifacts" / pyfunc.ESTIMATOR / stored.CARD).read_text())
    named = (card["class"], tuple(card["scores"]))
    if named != (model.estimator.__name__, model.target.scores):
        return f"scores with {card['class']} and gives {', '.join(card['scores'])}"
    return ""


def _no_outcome(candidate: Candidate) -> str:
    told = sorted(set(candidate.inputs) & set(candidate.context.problem.model.forbidden))
    return f"takes the outcome as an input: {', '.join(told)}" if told else ""


def _in_its_time(candidate: Candidate) -> str:
    times = list(candidate.times.values())
    if candidate.context.problem.holdout == "drawn":
        *bounds, as_of = times
        begins = bounds[::2]
        ends = bounds[1::2]
        is_one = len(set(begins)) == len(set(ends)) == 1
        is_past = begins[0] <= ends[0] <= as_of
        if is_one and is_past:
            return ""
        return "its parts are drawn from different rows, or beyond the as-of"
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


# Recomputed by the project's code ---------------------------------------------------------------


def _same_data(candidate: Candidate) -> str:
    """The tables that it recorded still give the rows that it learned from and was judged by."""
    recorded = json.loads(candidate.version.tags["data_fingerprint"])
    model = candidate.context.problem.model
    for name, digest in recorded.items():
        found = data_fingerprint(getattr(candidate.parts, name), model)
        if found != digest:
            return f"the rows of its {name} window are not those that it recorded"
    return ""


def _same_fit(candidate: Candidate) -> str:
    """A fit as it recorded, on the rows that it recorded, gives the scores that it recorded."""
    context = candidate.context
    model = candidate.context.problem.model
    recipe = Recipe.from_json(candidate.version.tags["recipe"])
    parts = candidate.parts
    refitted, _ = follow(recipe, model, parts.train, parts.validation, context.settings.threads)
    apart = distance(candidate.recorded, refitted.predict(candidate.holdout))
    if apart <= model.refit_tolerance:
        return ""
    return (
        f"a fit on the data that it recorded scores its holdout otherwise, by {apart:.3g} spreads "
        f"({model.refit_tolerance:g} are allowed)"
    )


# Active: the version's own code runs ----------------------------------------------------------


def _scores_alone(candidate: Candidate) -> str:
    if failure := candidate.alone.get("failure"):
        return f"fails in a clean process: {failure}"
    scores = candidate.alone["scores"]
    if not scores or not np.isfinite(scores).all():
        return f"scores its example as {scores}"
    if scores != candidate.alone["again"]:
        return "scores the same rows differently a second time"
    if not np.allclose(scores, candidate.alone["alone"], rtol=0, atol=_TOLERANCE):
        return "scores rows otherwise when they are alone"
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
    target = candidate.context.problem.model.target
    predicted = candidate.predicted
    if not np.isfinite(predicted).all():
        return "scores some rows of its holdout with no finite number"
    if not target.classes:
        return ""
    lowest = predicted.min()
    highest = predicted.max()
    if lowest < 0 or highest > 1:
        return f"its probabilities reach from {lowest:.3g} to {highest:.3g}"
    if predicted.ndim == 2 and np.abs(predicted.sum(axis=1) - 1).max() > 1e-6:
        return "its probabilities of all classes do not sum to 1"
    return ""


def _evidence(candidate: Candidate) -> str:
    """The holdout's scores that the version recorded are those that it gives."""
    apart = np.abs(candidate.recorded - candidate.predicted).max()
    return "" if apart <= _TOLERANCE else f"recorded other scores of its holdout (by {apart:.3g})"


def _plausible(candidate: Candidate) -> str:
    """No input tells the outcome, and no metric is better than it can be."""
    model = candidate.context.problem.model
    parts = candidate.parts
    inputs = candidate.inputs
    trusted = model.trusted
    if found := leaks(parts.learned, parts.holdout, inputs, model.target, trusted):
        return f"{found[0]}: leave it out, or name it in `trusted` of the model if it was known"
    results = candidate.results.rows(named=True)
    for metric, result in zip(model.target.metrics, results, strict=False):
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
    result = candidate.results.row(0, named=True)
    floor = candidate.context.settings.deployment.min_gain
    if result["gain_lower"] > floor:
        return ""
    if np.isnan(result["gain_lower"]):
        few = f"the holdout has {counted(result['rows'], 'row')}, too few in all or of a class"
        return f"{few}, to tell a gain in {result['metric']} over the baseline"
    return (
        f"gain in {result['metric']} over the baseline may be {result['gain_lower']:.4f}, "
        f"not above {floor:g}"
    )


def _proper_scores(candidate: Candidate) -> str:
    """By no proper score it is surely worse than the baseline."""
    target = candidate.context.problem.model.target
    margin = candidate.context.settings.deployment
    worse = worse_guards(candidate.results, target, margin.margin)
    return f"surely worse than the baseline by {', '.join(worse)}" if worse else ""


def _calibrated(candidate: Candidate) -> str:
    """What it foretells happens as often as it says."""
    model = candidate.context.problem.model
    if not model.target.calibrated:
        return ""
    measured = reliability(candidate.holdout, candidate.predicted, candidate.guess, model)
    allowed = candidate.context.settings.deployment
    for found in measured.iter_rows(named=True):
        if found["metric"] == BIAS.name:
            if found["gain"] < -allowed.max_bias and found["gain_upper"] < 0:
                return f"its mean score is {found['value']:.2f} spreads of the label off"
        elif found["lower"] > allowed.max_slope or found["upper"] < 1 / allowed.max_slope:
            return (
                f"outcomes rise {found['value']:.2f} times as steeply as its scores "
                f"({found['lower']:.2f} to {found['upper']:.2f})"
            )
    return ""


def _sound_on_slices(candidate: Candidate) -> str:
    """On no slice, however small, it is sure of what does not happen, or far off on average."""
    model = candidate.context.problem.model
    if not model.target.calibrated:
        return ""
    if model.target.classes:
        for name, share in surprises(candidate.holdout, candidate.predicted, model).items():
            return f"gave no chance to what happened in {share:.0%} of {name or 'all rows'}"
    found = biases(candidate.holdout, candidate.predicted, candidate.guess, model)
    for name, apart in found.items():
        return f"its mean score on {name or 'all rows'} is {apart:.1f} spreads of the label off"
    return ""


PASSIVE: dict[str, Callable[[Candidate], str]] = {
    "described": _described,
    "digest": _digest,
    "model_card": _model_card,
    "signature": _signature,
    "no_outcome_among_inputs": _no_outcome,
    "in_its_time": _in_its_time,
    "data_versions": _data_versions,
    "clean_code": _clean_code,
    "own_code": _own_code,
    "lock": _lock,
    "size": _size,
}
RECOMPUTED: dict[str, Callable[[Candidate], str]] = {
    "same_data": _same_data,
    "same_fit": _same_fit,
}
ACTIVE: dict[str, Callable[[Candidate], str]] = {
    "scores_in_clean_process": _scores_alone,
    "latency": _latency,
    "in_range": _in_range,
    "evidence": _evidence,
    "plausible": _plausible,
    "better_than_baseline": _better_than_baseline,
    "proper_scores": _proper_scores,
    "calibrated": _calibrated,
    "sound_on_slices": _sound_on_slices,
}
TIERS = (PASSIVE, RECOMPUTED, ACTIVE)
CHECKS = {name: examine for tier in TIERS for name, examine in tier.items()}
"""Each tells what is wrong, or nothing."""


def score_alone(folder: Path, hidden: Sequence[Path]) -> dict[str, Any]:
    """Score in a process that knows neither the project nor anything of this environment.

    Args:
        folder: Files of the version.
        hidden: Folders that it may not read, its own files and Python's aside.
    """
    with tempfile.TemporaryDirectory(prefix="clean-") as name:
        home = str(Path(name).resolve())
        alone = [sys.executable, "-I", "-B", str(clean_process.__file__)]
        try:
            done = subprocess.run(
                [*alone, str(folder), *map(str, hidden)],
                capture_output=True,
                text=True,
                timeout=_PATIENCE_S,
                check=True,
                cwd=home,
                env={"HOME": home, "TMPDIR": home, **dict.fromkeys(THREADS, "1")},
                preexec_fn=_limit if sys.platform != "win32" else None,
            )
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines()
            ended = _ENDED_BY.get(-error.returncode, f"ended with {error.returncode}")
            return {"failure": lines[-1] if lines else ended}
        except subprocess.TimeoutExpired:
            return {"failure": "no answer"}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _limit() -> None:
    """Limits of the process that is about to start."""
    import resource

    # Past the first of these it is told, past the second killed.
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS + 5))
    for limit, value in {
        resource.RLIMIT_DATA: _MEMORY_BYTES,
        resource.RLIMIT_FSIZE: _FILE_BYTES,
        resource.RLIMIT_CORE: 0,
    }.items():
        resource.setrlimit(limit, (value, value))
    os.umask(0o077)
