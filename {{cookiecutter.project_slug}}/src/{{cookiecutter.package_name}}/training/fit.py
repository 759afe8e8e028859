"""Search and fit: Optuna over the declared space, LightGBM with early stopping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightgbm as lgb
import optuna
import polars as pl
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from ..core.console import bar
from ..core.contract import Model
from ..core.settings import Settings
from ..modeling.scoring import Predictor, encode

_REPORT_EVERY = 10


def fit(
    train: pl.DataFrame,
    validation: pl.DataFrame,
    model: Model,
    settings: Settings,
    study_name: str,
    journal: Path,
) -> tuple[Predictor, dict[str, Any]]:
    """Search parameters on a sample of the training window, then fit on all of it; returns model and parameters.

    Args:
        train: Rows to learn from.
        validation: Later rows, which stop the boosting and rank the trials.
        model: Inputs, search space and fixed parameters.
        settings: Budget and seed.
        study_name: Identity of this training; a study of that name is continued.
        journal: File that remembers finished trials.
    """
    budget = settings.training
    categories = {
        name: train[name].drop_nulls().unique().sort().to_list() for name in model.categorical
    }
    fixed = {
        **model.target.params,
        **model.params,
        "monotone_constraints": [model.monotone.get(name, 0) for name in model.features],
        "num_threads": settings.threads,
        "seed": settings.seed,
        "deterministic": True,
        "force_col_wise": True,
        "feature_pre_filter": False,
        "verbosity": -1,
    }

    def dataset(rows: pl.DataFrame, reference: lgb.Dataset | None = None) -> lgb.Dataset:
        return lgb.Dataset(
            encode(rows, model.features, categories),
            label=rows[model.target.label].to_numpy(),
            feature_name=list(model.features),
            categorical_feature=list(model.categorical),
            reference=reference,
            params=fixed,
            free_raw_data=False,
        ).construct()

    def boost(
        data: lgb.Dataset, params: dict[str, Any], callbacks: Sequence[Callable[[Any], None]] = ()
    ) -> lgb.Booster:
        return lgb.train(
            fixed | params,
            data,
            num_boost_round=budget.rounds,
            valid_sets=[dataset(validation, data)],
            valid_names=["validation"],
            callbacks=[lgb.early_stopping(budget.early_stopping_rounds, verbose=False), *callbacks],
        )

    sample = dataset(train.sample(min(budget.tuning_rows, train.height), seed=settings.seed))

    def objective(trial: optuna.Trial) -> float:
        scores = boost(sample, model.search_space(trial), [_pruning(trial)]).best_score[
            "validation"
        ]
        return float(next(iter(scores.values())))

    best = _search(objective, study_name, journal, budget.trials, settings.seed)
    return Predictor(boost(dataset(train), best), model.features, categories), fixed | best


def _search(
    objective: Callable[[optuna.Trial], float], name: str, journal: Path, trials: int, seed: int
) -> dict[str, Any]:
    """Run the trials that are missing and return the best parameters.

    Each trial's sampler is seeded by how many were finished before it, so that the trials are the same
    however often a killed run was resumed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalFileOpenLock(
        str(journal), grace_period=3
    )  # a killed process may have left it locked
    study = optuna.create_study(
        study_name=name,
        storage=JournalStorage(JournalFileBackend(str(journal), lock)),
        load_if_exists=True,
        direction="minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=2 * _REPORT_EVERY),
    )
    state = optuna.trial.TrialState
    for abandoned in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
        study.tell(abandoned.number, state=state.FAIL)
    finished = len(study.get_trials(deepcopy=False, states=(state.COMPLETE, state.PRUNED)))
    for done in bar(range(finished, trials), "trials", total=trials - finished):
        study.sampler = optuna.samplers.TPESampler(seed=seed + done)
        study.optimize(objective, n_trials=1)
    best: dict[str, Any] = study.best_params
    return best


def _pruning(trial: optuna.Trial) -> Callable[[Any], None]:
    def callback(env: Any) -> None:
        if env.iteration % _REPORT_EVERY == 0:
            trial.report(env.evaluation_result_list[0][2], step=env.iteration)
            if trial.should_prune():
                raise optuna.TrialPruned

    return callback
