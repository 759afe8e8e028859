"""How a model version turns rows into predictions.

MLflow stores this file with every version ("models from code"), so it imports nothing of the
project: a version scores the same wherever it is loaded, and nothing is pickled.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightgbm as lgb
import mlflow
import narwhals as nw
import numpy as np
from narwhals.typing import IntoDataFrame

BOOSTER, ENCODING = "booster", "encoding"
Matrix = np.ndarray[Any, np.dtype[np.float32]]

warnings.filterwarnings("ignore", message=".*Add type hints to the `predict` method")


def encode(
    frame: IntoDataFrame, features: Sequence[str], categories: Mapping[str, Sequence[str]]
) -> Matrix:
    """Turn rows into the matrix that the booster was fit on.

    Args:
        frame: Any eager frame that holds the features.
        features: Columns in the booster's order.
        categories: Known values of each categorical column; others and null become missing.

    Returns:
        Shape (rows, features), float32; missing is NaN.
    """
    rows = nw.from_native(frame, eager_only=True)
    matrix = np.empty((len(rows), len(features)), dtype=np.float32, order="F")
    for index, name in enumerate(features):
        column = rows[name]
        if name in categories:
            known = list(categories[name])
            codes = list(range(len(known)))
            column = column.replace_strict(known, codes, default=None, return_dtype=nw.Float32)
        matrix[:, index] = column.cast(nw.Float32).to_numpy()
    return matrix


class Scorer(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """The pyfunc face of a version: a LightGBM text file and its encoding."""

    def load_context(self, context: Any) -> None:
        """Read both artifacts."""
        self.booster = lgb.Booster(model_file=context.artifacts[BOOSTER])
        encoding = json.loads(Path(context.artifacts[ENCODING]).read_text(encoding="utf-8"))
        self.features: list[str] = encoding["features"]
        self.categories: dict[str, list[str]] = encoding["categories"]

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """Score rows; shape (rows,), in the unit of the target.

        Unannotated on purpose: MLflow reads annotations here as a schema.
        """
        return self.booster.predict(encode(model_input, self.features, self.categories))


mlflow.models.set_model(Scorer())
