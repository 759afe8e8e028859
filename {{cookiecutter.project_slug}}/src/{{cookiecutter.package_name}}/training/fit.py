"""Search and fit: Optuna over the declared space, LightGBM with early stopping."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import optuna
import polars as pl

from ..console import bar
from ..contract import Model
from ..scoring import encode
from ..settings import Settings

_REPORT_EVERY = 10


@dataclass(frozen=True)
class Fitted:
    """A booster, the encoding it was fit on, and how it came to be."""

    booster: lgb.Booster
    features: tuple[str, ...]
    categories: dict[str, list[str]]
    params: dict[str, Any]

    def predict(self, rows: pl.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Predictions, shape (rows,)."""
        return np.asarray(self.booster.predict(encode(rows, self.features, self.categories)))


def fit(
    train: pl.DataFrame,
    validation: pl.DataFrame,
    model: Model,
    settings: Settings,
    study_name: str,
    storage: Path,
) -> Fitted:
    """Search parameters on a sample of the training window, then fit on all of it.

    The search is resumed where a killed run left it: each trial's sampler is seeded by how many
    were finished before it, so the trials are the same however often it was interrupted.

    Args:
        train: Rows to learn from.
        validation: Later rows that stop the boosting and rank the trials.
        model: Inputs, search space and fixed parameters.
        settings: Budget and seed.
        study_name: Identity of this training; a study of that name is continued.
        storage: Journal file of the studies.
    """
    categories = {
        name: train[name].drop_nulls().unique().sort().to_list() for name in model.categorical
    }
    fixed = _fixed_params(model, settings)
    budget = settings.training
    sample = train.sample(min(budget.tuning_rows, train.height), seed=settings.seed)

    def objective(trial: optuna.Trial) -> float:
        booster = boost(
            sample_data, validation_data, model.search_space(trial), [_pruning(trial)]
        )
        return float(booster.best_score["validation"][_loss(booster)])

    def boost(
        data: lgb.Dataset, valid: lgb.Dataset, params: dict[str, Any], more: list[Any]
    ) -> lgb.Booster:
        return lgb.train(
            fixed | params,
            data,
            num_boost_round=budget.rounds,
            valid_sets=[valid],
            valid_names=["validation"],
            callbacks=[lgb.early_stopping(budget.early_stopping_rounds, verbose=False), *more],
        )

    def datasets(rows: pl.DataFrame) -> tuple[lgb.Dataset, lgb.Dataset]:
        data = _dataset(rows, model, categories, fixed)
        return data, _dataset(validation, model, categories, fixed, reference=data)

    sample_data, validation_data = datasets(sample)
    best = _search(objective, study_name, storage, settings)
    train_data, validation_data = datasets(train)
    booster = boost(train_data, validation_data, best, [])
    return Fitted(booster, model.features, categories, fixed | best)


def _fixed_params(model: Model, settings: Settings) -> dict[str, Any]:
    return {
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


def _dataset(
    rows: pl.DataFrame,
    model: Model,
    categories: dict[str, list[str]],
    params: dict[str, Any],
    reference: lgb.Dataset | None = None,
) -> lgb.Dataset:
    return lgb.Dataset(
        encode(rows, model.features, categories),
        label=rows[model.target.label].to_numpy(),
        feature_name=list(model.features),
        categorical_feature=list(model.categorical),
        reference=reference,
        params=params,
        free_raw_data=False,
    ).construct()


def _search(
    objective: Callable[[optuna.Trial], float], name: str, storage: Path, settings: Settings
) -> dict[str, Any]:
    """Run what is missing of the trials and return the best parameters."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage.parent.mkdir(parents=True, exist_ok=True)
    journal = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(storage))
    )
    study = optuna.create_study(
        study_name=name,
        storage=journal,
        load_if_exists=True,
        direction="minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=2 * _REPORT_EVERY),
    )
    state = optuna.trial.TrialState
    for abandoned in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
        study.tell(abandoned.number, state=state.FAIL)
    finished = len(study.get_trials(deepcopy=False, states=(state.COMPLETE, state.PRUNED)))
    trials = settings.training.trials
    for done in bar(range(finished, trials), "trials", total=trials - finished):
        study.sampler = optuna.samplers.TPESampler(seed=settings.seed + done)
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


def _loss(booster: lgb.Booster) -> str:
    return next(iter(booster.best_score["validation"]))
