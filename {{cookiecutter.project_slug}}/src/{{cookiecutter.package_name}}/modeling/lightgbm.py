"""Gradient-boosted trees: the estimator that a problem takes unless it brings its own.

A version carries a copy of this file and scores with that copy. So the file imports nothing of this
project, and changing it changes the versions of tomorrow, never the champion of today.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import lightgbm as lgb
import narwhals as nw
import numpy as np
from narwhals.typing import IntoDataFrame

if TYPE_CHECKING:
    import polars as pl

    from ..core.contract import Learner, Report, Task

Array = np.ndarray[Any, np.dtype[Any]]

BOOSTER = "booster.txt"
ENCODING = "encoding.json"
_OBJECTIVES = {
    "binary_classification": "binary",
    "multiclass_classification": "multiclass",
    "regression": "regression",
}


@dataclass(frozen=True)
class LightGBM:
    """A booster and the encoding that it was fit on."""

    packages: ClassVar[tuple[str, ...]] = ("lightgbm", "narwhals", "numpy")

    booster: lgb.Booster
    features: Sequence[str]
    categories: Mapping[str, Sequence[str]]

    @classmethod
    def learner(cls, train: pl.DataFrame, validation: pl.DataFrame, task: Task) -> Learner:
        """Encode and bin the training rows once, for any number of fits."""
        fixed = _fixed_parameters(task)
        known = _dataset(train, task, fixed)

        def fit(parameters: Mapping[str, Any], report: Report) -> tuple[LightGBM, float]:
            booster = lgb.train(
                {**fixed, **parameters},
                known,
                num_boost_round=task.rounds,
                valid_sets=[_dataset(validation, task, fixed, reference=known)],
                valid_names=["validation"],
                callbacks=[lgb.early_stopping(task.patience, verbose=False), _reporting(report)],
            )
            loss = next(iter(booster.best_score["validation"].values()))
            return cls(booster, task.features, task.categories), float(loss)

        return fit

    def predict(self, rows: IntoDataFrame) -> Array:
        """A quantity or a probability, shape (rows,); of several classes shape (rows, classes)."""
        return np.asarray(self.booster.predict(encode(rows, self.features, self.categories)))

    def explain(self, rows: IntoDataFrame) -> Array:
        """SHAP values (Lundberg et al. 2020) in units of the raw score.

        Returns:
            Shape (rows, features); of several classes (rows, classes, features).
        """
        matrix = encode(rows, self.features, self.categories)
        flat = np.asarray(self.booster.predict(matrix, pred_contrib=True))
        outputs = self.booster.num_model_per_iteration()
        # The last of each output's columns is what is expected of any row.
        values = flat.reshape(len(flat), outputs, len(self.features) + 1)[..., :-1]
        return values[:, 0] if outputs == 1 else values

    def save(self, folder: Path) -> None:
        """Write the booster as text and the encoding as JSON."""
        booster = self.booster
        booster.save_model(str(folder / BOOSTER), num_iteration=booster.best_iteration)
        encoding = {"features": list(self.features), "categories": dict(self.categories)}
        (folder / ENCODING).write_text(json.dumps(encoding), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> LightGBM:
        """Read what `save` wrote."""
        encoding = json.loads((folder / ENCODING).read_text(encoding="utf-8"))
        booster = lgb.Booster(model_file=str(folder / BOOSTER))
        return cls(booster, encoding["features"], encoding["categories"])


def encode(
    frame: IntoDataFrame, features: Sequence[str], categories: Mapping[str, Sequence[str]]
) -> Array:
    """Turn rows into the numbers that a booster is fit on.

    Args:
        frame: Any eager frame that holds the features.
        features: Columns in the booster's order.
        categories: Known values of each text column; others and null become missing.

    Returns:
        Shape (rows, features), float32; missing is NaN. Columns stay whole in memory: LightGBM
        reads them as fast as rows.
    """
    rows = nw.from_native(frame, eager_only=True)
    columns = []
    for name in features:
        column = nw.col(name)
        if rows[name].is_null().all():  # such a column may have lost its type
            column = nw.lit(None, dtype=nw.Float32).alias(name)
        elif name in categories:
            known = categories[name]
            codes = dict(zip(known, range(len(known)), strict=True))
            column = column.replace_strict(codes, default=None, return_dtype=nw.Float32)
        columns.append(column.cast(nw.Float32))
    encoded = rows.with_columns(*columns).select(*features)
    return np.asarray(encoded.to_numpy(), dtype=np.float32)


def _fixed_parameters(task: Task) -> dict[str, Any]:
    parameters = {
        "objective": _OBJECTIVES[task.kind],
        **task.parameters,
        "monotone_constraints": [task.monotone.get(name, 0) for name in task.features],
        "num_threads": task.threads,
        "seed": task.seed,
        "deterministic": True,
        "force_col_wise": True,
        "feature_pre_filter": False,
        "verbosity": -1,
    }
    if task.kind == "multiclass_classification":
        parameters["num_class"] = task.classes
    return parameters


def _dataset(
    rows: pl.DataFrame,
    task: Task,
    parameters: Mapping[str, Any],
    reference: lgb.Dataset | None = None,
) -> lgb.Dataset:
    dataset = lgb.Dataset(
        encode(rows, task.features, task.categories),
        label=rows[task.label].to_numpy(),
        feature_name=list(task.features),
        categorical_feature=list(task.categories),
        reference=reference,
        params=dict(parameters),
        free_raw_data=False,
    )
    return dataset.construct()


def _reporting(report: Report) -> Callable[[Any], None]:
    def callback(env: Any) -> None:
        loss = env.evaluation_result_list[0][2]
        report(env.iteration, float(loss))

    return callback
