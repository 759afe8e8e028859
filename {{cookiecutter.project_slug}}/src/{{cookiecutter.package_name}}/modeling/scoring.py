"""How a model version turns rows into predictions.

MLflow stores this file with every version ("models from code"), so it imports nothing of the project:
a version scores the same wherever it is loaded, and nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm as lgb
import mlflow
import narwhals as nw
import numpy as np
import pandas as pd
from narwhals.typing import IntoDataFrame

BOOSTER, ENCODING = "booster.txt", "encoding.json"
Matrix = np.ndarray[Any, np.dtype[np.float32]]
Predictions = np.ndarray[Any, np.dtype[np.float64]]


def encode(
    frame: IntoDataFrame, features: Sequence[str], categories: Mapping[str, Sequence[str]]
) -> Matrix:
    """Turn rows into the numbers that a booster is fit on.

    Args:
        frame: Any eager frame that holds the features.
        features: Columns in the booster's order.
        categories: Known values of each categorical column; others and null become missing.

    Returns:
        Shape (rows, features); missing is NaN. Columns stay whole in memory: LightGBM reads them as fast as rows.
    """
    rows, columns = nw.from_native(frame, eager_only=True), []
    for name in features:
        column = nw.col(name)
        if rows[name].is_null().all():  # such a column may have lost its type
            column = nw.lit(None, dtype=nw.Float32).alias(name)
        elif name in categories:
            codes = dict(zip(categories[name], range(len(categories[name])), strict=True))
            column = column.replace_strict(codes, default=None, return_dtype=nw.Float32)
        columns.append(column.cast(nw.Float32))
    return np.asarray(rows.with_columns(*columns).select(*features).to_numpy(), dtype=np.float32)


@dataclass(frozen=True)
class Predictor:
    """A booster and the encoding that it was fit on."""

    booster: lgb.Booster
    features: Sequence[str]
    categories: Mapping[str, Sequence[str]]

    def predict(self, rows: IntoDataFrame, **options: Any) -> Predictions:
        """Predictions, shape (rows,); `options` go to LightGBM."""
        return np.asarray(
            self.booster.predict(encode(rows, self.features, self.categories), **options)
        )

    def save(self, folder: Path) -> dict[str, str]:
        """Write the booster as text and the encoding as JSON; returns the paths by name."""
        self.booster.save_model(str(folder / BOOSTER), num_iteration=self.booster.best_iteration)
        encoding = {"features": list(self.features), "categories": dict(self.categories)}
        (folder / ENCODING).write_text(json.dumps(encoding), encoding="utf-8")
        return {name: str(folder / name) for name in (BOOSTER, ENCODING)}

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """Read what `save` wrote."""
        encoding = json.loads((folder / ENCODING).read_text(encoding="utf-8"))
        return cls(
            lgb.Booster(model_file=str(folder / BOOSTER)),
            encoding["features"],
            encoding["categories"],
        )


class Scorer(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """The pyfunc face of a version."""

    def load_context(self, context: Any) -> None:
        """Read the artifacts."""
        self.predictor = Predictor.load(Path(context.artifacts[BOOSTER]).parent)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> Predictions:
        """Score rows; shape (rows,)."""
        return self.predictor.predict(model_input)


mlflow.models.set_model(Scorer())
