"""Search and fit: Optuna over the space that the problem declares, then a fit on all rows."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Fitted:
    """An estimator, how it was fit, and its loss on the validation rows."""

    estimator: Estimator
    recipe: Recipe
    loss: float


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
        best = _search(objective, study_name, journal, budget.trials, settings.seed)
        recipe = replace(recipe, searched=best)
    estimator, loss = follow(recipe, model, train, validation, settings.threads)
    return Fitted(estimator, recipe, loss)


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
) -> dict[str, Any]:
    """Run the trials that are missing and return the best parameters.

    Each trial's sampler is seeded by how many were finished before it, so that the trials are the
    same however often a killed run was resumed.
    """
    study = _resumed_study(name, journal)
    states = optuna.trial.TrialState
    finished = len(study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED)))
    for number in bar(range(finished, trials), "trials", total=trials - finished):
        study.sampler = optuna.samplers.TPESampler(seed=seed + number)
        study.optimize(objective, n_trials=1)
    best: dict[str, Any] = study.best_params
    return best


def _resumed_study(name: str, journal: Path) -> optuna.Study:
    """The study of that name; trials that a killed process left running count as failed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
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
