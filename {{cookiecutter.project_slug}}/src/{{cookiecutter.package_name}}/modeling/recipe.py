"""What a fit needs besides rows: a version records it, so that anybody can do the fit again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from ..core.contract import Array, Estimator, Model, Report, Task


@dataclass(frozen=True)
class Recipe:
    """Parameters, seed and budget of a fit."""

    fixed: Mapping[str, Any]  # parameters that were not searched
    searched: Mapping[str, Any]  # those that the search found
    seed: int
    rounds: int  # of an iterative fit, at most
    patience: int  # rounds without progress on the validation rows before it stops

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters of the estimator."""
        return {**self.fixed, **self.searched}

    def to_json(self) -> str:
        """The recipe as a text; numbers are read back as they were."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


def task_of(model: Model, train: pl.DataFrame, recipe: Recipe, threads: int) -> Task:
    """What the model is to learn; the known values of its categories come from the rows."""
    categories = {
        name: train[name].drop_nulls().unique().sort().to_list() for name in model.categorical
    }
    return Task(
        label=model.target.label,
        kind=model.target.kind,
        classes=len(model.target.classes),
        features=model.features,
        categories=categories,
        monotone=model.monotone,
        parameters=recipe.fixed,
        seed=recipe.seed,
        threads=threads,
        rounds=recipe.rounds,
        patience=recipe.patience,
    )


def unheard(step: int, loss: float) -> None:
    """Nobody follows this fit."""


def follow(
    recipe: Recipe,
    model: Model,
    train: pl.DataFrame,
    validation: pl.DataFrame,
    threads: int,
    report: Report = unheard,
) -> tuple[Estimator, float]:
    """Fit as the recipe says, without a search; `report` is told each round and its loss.

    Returns:
        The estimator, and its loss on the validation rows.
    """
    task = task_of(model, train, recipe, threads)
    return model.estimator.learner(train, validation, task)(recipe.searched, report)


def distance(scores: Array, others: Array) -> float:
    """How far scores of the same rows are apart: root mean square, in spreads of the others.

    Args:
        scores: Shape (rows,) or (rows, classes).
        others: Of the same shape.

    Returns:
        0: equal; 1: as far as rows are from their mean. Infinite where only one side is constant.
    """
    centred = others - others.mean(axis=0)
    apart = float(np.sqrt(np.mean((scores - others) ** 2)))
    spread = float(np.sqrt(np.mean(centred**2)))
    if apart == 0:
        return 0.0
    return apart / spread if spread else float("inf")
