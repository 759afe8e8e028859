"""Search and fit: Optuna over the space that the problem declares, then a fit on all rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import polars as pl
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from ..core.console import bar
from ..core.contract import Estimator, Learner, Model, Report
from ..core.settings import Settings
from ..modeling.recipe import Recipe, follow, task_of

_REPORT_EVERY = 10
_TRIALS = pl.Schema(
    {"number": pl.Int64(), "state": pl.String(), "loss": pl.Float64(), "parameters": pl.String()}
)


@dataclass(frozen=True)
class Fitted:
    """An estimator, how it was fit, and its loss on the validation rows."""

    estimator: Estimator
    recipe: Recipe
    loss: float
    curve: list[tuple[int, float]]  # round and validation loss of the last fit
    trials: pl.DataFrame  # number, state, loss, parameters as JSON; a row per trial


def fit(
    train: pl.DataFrame,
    validation: pl.DataFrame,
    model: Model,
    settings: Settings,
    study_name: str,
    journal: Path,
) -> Fitted:
    """Search parameters on a sample of the training rows, then fit on all of them.

    Args:
        train: Rows to learn from.
        validation: Later rows, which stop a fit and rank the trials.
        model: Estimator, inputs, search space and fixed parameters.
        settings: Budget and seed.
        study_name: Identity of this training; a study of that name is resumed.
        journal: File that remembers finished trials.
    """
    budget = settings.training
    trials = pl.DataFrame(schema=_TRIALS)
    recipe = Recipe(
        fixed=dict(model.params),
        searched={},
        seed=settings.seed,
        rounds=budget.rounds,
        patience=budget.early_stopping_rounds,
    )
    if model.search_space is not None:
        sample = train.sample(min(budget.tuning_rows, train.height), seed=settings.seed)
        task = task_of(model, train, recipe, settings.threads)
        objective = _objective(
            model.estimator.learner(sample, validation, task), model.search_space
        )
        study = _search(objective, study_name, journal, budget.trials, settings.seed)
        trials = _table(study)
        recipe = replace(recipe, searched=study.best_params)
    curve: list[tuple[int, float]] = []
    report = _drawing(curve)
    estimator, loss = follow(recipe, model, train, validation, settings.threads, report)
    return Fitted(estimator, recipe, loss, curve, trials)


def _objective(
    learn: Learner, search_space: Callable[[optuna.Trial], dict[str, Any]]
) -> Callable[[optuna.Trial], float]:
    """The validation loss of a trial, as Optuna minimises it."""

    def objective(trial: optuna.Trial) -> float:
        _, loss = learn(search_space(trial), _pruning(trial))
        return loss

    return objective


def _search(
    objective: Callable[[optuna.Trial], float], name: str, journal: Path, trials: int, seed: int
) -> optuna.Study:
    """Run the trials that are missing.

    Each trial's sampler is seeded by how many were finished before it, so that the trials are the
    same however often a killed run was resumed.
    """
    study = _resumed_study(name, journal)
    states = optuna.trial.TrialState
    finished = len(study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED)))
    for number in bar(range(finished, trials), "trials", total=trials - finished):
        study.sampler = optuna.samplers.TPESampler(seed=seed + number)
        study.optimize(objective, n_trials=1)
    return study


def _table(study: optuna.Study) -> pl.DataFrame:
    """Trials that came to an end, in order."""
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    rows = [
        (trial.number, trial.state.name.lower(), trial.value, json.dumps(trial.params))
        for trial in study.get_trials(deepcopy=False, states=states)
    ]
    return pl.DataFrame(rows, schema=_TRIALS, orient="row")


def _resumed_study(name: str, journal: Path) -> optuna.Study:
    """The study of that name; trials that a killed process left running count as failed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a warning shows the whole traceback
    journal.parent.mkdir(parents=True, exist_ok=True)
    # A killed process may have left the journal locked.
    lock = JournalFileOpenLock(str(journal), grace_period=3)
    study = optuna.create_study(
        study_name=name,
        storage=JournalStorage(JournalFileBackend(str(journal), lock)),
        load_if_exists=True,
        direction="minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=2 * _REPORT_EVERY),
    )
    running = optuna.trial.TrialState.RUNNING
    for abandoned in study.get_trials(deepcopy=False, states=(running,)):
        study.tell(abandoned.number, state=optuna.trial.TrialState.FAIL)
    return study


def _pruning(trial: optuna.Trial) -> Report:
    """Ends a trial that falls behind the others."""

    def report(step: int, loss: float) -> None:
        if step % _REPORT_EVERY:
            return
        trial.report(loss, step=step)
        if trial.should_prune():
            raise optuna.TrialPruned

    return report


def _drawing(curve: list[tuple[int, float]]) -> Report:
    """Keeps the learning curve of a fit."""

    def report(step: int, loss: float) -> None:
        if step % _REPORT_EVERY == 0:
            curve.append((step, float(loss)))

    return report
