"""A random forest of scikit-learn, stored with skops: no pickle is read or written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import narwhals as nw
import numpy as np
from narwhals.typing import IntoDataFrame
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.metrics import log_loss, mean_squared_error
from skops import io

if TYPE_CHECKING:
    import polars as pl

    from {{cookiecutter.package_name}}.core.contract import Learner, Report, Task

Array = np.ndarray[Any, np.dtype[Any]]

# Trees index their nodes without looking at bounds. What is loaded here was fit by this project and
# carries the digest of its registration; skops goes on refusing all other types.
TRUSTED = ["sklearn.tree._tree.Tree"]


@dataclass(frozen=True)
class Forest:
    """Trees, what is encoded how, and what an input is replaced by to see what it contributes."""

    packages: ClassVar[tuple[str, ...]] = ("narwhals", "numpy", "scikit-learn", "skops")

    trees: Any
    features: Sequence[str]
    categories: Mapping[str, Sequence[str]]
    usual: Sequence[float]

    @classmethod
    def learner(cls, train: pl.DataFrame, validation: pl.DataFrame, task: Task) -> Learner:
        """Encode once; a fit grows as many trees as the task allows rounds."""
        known = encode(train, task.features, task.categories)
        later = encode(validation, task.features, task.categories)
        usual = np.nan_to_num(np.nanmedian(known, axis=0)).tolist()

        def fit(parameters: Mapping[str, Any], report: Report) -> tuple[Forest, float]:
            kind = RandomForestClassifier if task.classes else RandomForestRegressor
            trees = kind(
                n_estimators=task.rounds,
                random_state=task.seed,
                n_jobs=task.threads or -1,
                max_depth=parameters.get("max_depth", 8),
                min_samples_leaf=5,
            )
            trees.fit(known, train[task.label].to_numpy())
            trees.set_params(n_jobs=1)
            forest = cls(trees, task.features, task.categories, usual)
            loss = _loss(validation[task.label].to_numpy(), forest.outputs(later), task)
            report(task.rounds, loss)
            return forest, loss

        return fit

    def outputs(self, matrix: Array) -> Array:
        """A quantity, shape (rows,), or a probability per class, shape (rows, classes)."""
        if hasattr(self.trees, "predict_proba"):
            return np.asarray(self.trees.predict_proba(matrix))
        return np.asarray(self.trees.predict(matrix))

    def predict(self, rows: IntoDataFrame) -> Array:
        """A quantity or a probability, shape (rows,); of several classes shape (rows, classes)."""
        outputs = self.outputs(encode(rows, self.features, self.categories))
        is_binary = outputs.ndim == 2 and outputs.shape[1] == 2
        return outputs[:, 1] if is_binary else outputs

    def explain(self, rows: IntoDataFrame) -> Array:
        """How far the output moves when an input is replaced by its usual value.

        Returns:
            Shape (rows, features); of several classes (rows, classes, features).
        """
        matrix = encode(rows, self.features, self.categories)
        whole = self.outputs(matrix)
        moved = []
        for position, usual in enumerate(self.usual):
            replaced = matrix.copy()
            replaced[:, position] = usual
            moved.append(whole - self.outputs(replaced))
        stacked = np.stack(moved, axis=-1)
        is_binary = whole.ndim == 2 and whole.shape[1] == 2
        return stacked[:, 1] if is_binary else stacked

    def save(self, folder: Path) -> None:
        """Write the trees in skops' own format and the rest as JSON."""
        io.dump(self.trees, folder / "trees.skops")
        rest = {
            "features": list(self.features),
            "categories": dict(self.categories),
            "usual": list(self.usual),
        }
        (folder / "encoding.json").write_text(json.dumps(rest), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Forest:
        """Read what `save` wrote; skops refuses types that it does not trust."""
        rest = json.loads((folder / "encoding.json").read_text(encoding="utf-8"))
        return cls(io.load(folder / "trees.skops", trusted=TRUSTED), **rest)


def encode(
    frame: IntoDataFrame, features: Sequence[str], categories: Mapping[str, Sequence[str]]
) -> Array:
    """Rows as numbers, shape (rows, features): the code of a category; missing is NaN."""
    rows = nw.from_native(frame, eager_only=True)
    columns = []
    for name in features:
        column = rows[name]
        if name in categories:
            codes = {value: float(code) for code, value in enumerate(categories[name])}
            columns.append([codes.get(value, np.nan) for value in column.to_list()])
        else:
            columns.append(column.cast(nw.Float64).fill_null(float("nan")).to_list())
    return np.asarray(columns, dtype=np.float64).T


def _loss(label: Array, outputs: Array, task: Task) -> float:
    if not task.classes:
        return float(mean_squared_error(label, outputs))
    return float(log_loss(label, outputs, labels=list(range(task.classes))))
