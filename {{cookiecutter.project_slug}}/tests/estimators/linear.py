"""A linear model by numpy alone: ridge regression, or logistic regression of each class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import narwhals as nw
import numpy as np
from narwhals.typing import IntoDataFrame
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

if TYPE_CHECKING:
    import polars as pl

    from {{cookiecutter.package_name}}.core.contract import Learner, Report, Task

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Linear:
    """Weights of standardized numbers and of indicators of categories."""

    packages: ClassVar[tuple[str, ...]] = ("narwhals", "numpy", "scipy")

    weights: Array  # shape (outputs, 1 + columns); the first column is the constant
    mean: Mapping[str, float]
    spread: Mapping[str, float]
    features: Sequence[str]
    categories: Mapping[str, Sequence[str]]

    @classmethod
    def learner(cls, train: pl.DataFrame, validation: pl.DataFrame, task: Task) -> Learner:
        """Standardize by the training rows."""
        numbers = [name for name in task.features if name not in task.categories]
        columns = {name: _numbers(nw.from_native(train), name) for name in numbers}
        mean = {name: float(np.nanmean(column)) for name, column in columns.items()}
        spread = {name: float(np.nanstd(column)) or 1.0 for name, column in columns.items()}
        outputs = task.classes or 1
        start = cls(np.empty((outputs, 0)), mean, spread, task.features, task.categories)
        known = start.encode(train)
        later = start.encode(validation)
        label = train[task.label].to_numpy()

        def fit(parameters: Mapping[str, Any], report: Report) -> tuple[Linear, float]:
            penalty = parameters.get("penalty", 1.0)
            weights = _ridge(known, label, penalty)
            if task.classes:
                weights = _logistic(known, label, task.classes, penalty)
            loss = _loss(later @ weights.T, validation[task.label].to_numpy(), task.classes)
            report(1, loss)
            return cls(weights, mean, spread, task.features, task.categories), loss

        return fit

    def encode(self, rows: IntoDataFrame) -> Array:
        """Shape (rows, 1 + columns): a constant, then the columns of each input."""
        frame = nw.from_native(rows, eager_only=True)
        parts = [np.ones((len(frame), 1))]
        parts += [self._columns(frame, name) for name in self.features]
        return np.hstack(parts)

    def predict(self, rows: IntoDataFrame) -> Array:
        """A quantity or a probability, shape (rows,); of several classes shape (rows, classes)."""
        raw = self.encode(rows) @ self.weights.T
        if len(self.weights) == 1:
            return np.asarray(raw[:, 0])
        probability = softmax(raw, axis=1)
        return np.asarray(probability[:, 1] if len(self.weights) == 2 else probability)

    def explain(self, rows: IntoDataFrame) -> Array:
        """Weight times value, summed over an input's columns.

        Returns:
            Shape (rows, features); of several classes (rows, classes, features).
        """
        frame = nw.from_native(rows, eager_only=True)
        found = []
        start = 1
        for name in self.features:
            columns = self._columns(frame, name)
            end = start + columns.shape[1]
            found.append(columns @ self.weights[:, start:end].T)
            start = end
        stacked = np.stack(found, axis=-1)
        if len(self.weights) == 2:
            return np.asarray(stacked[:, 1] - stacked[:, 0])
        return np.asarray(stacked[:, 0] if len(self.weights) == 1 else stacked)

    def save(self, folder: Path) -> None:
        """Write everything as JSON; a number is read back as it was."""
        content = {
            "weights": self.weights.tolist(),
            "mean": dict(self.mean),
            "spread": dict(self.spread),
            "features": list(self.features),
            "categories": dict(self.categories),
        }
        (folder / "linear.json").write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Linear:
        """Read what `save` wrote."""
        content = json.loads((folder / "linear.json").read_text(encoding="utf-8"))
        return cls(np.asarray(content.pop("weights")), **content)

    def _columns(self, frame: nw.DataFrame[Any], name: str) -> Array:
        if name in self.categories:
            values = frame[name].to_list()
            known = self.categories[name]
            return np.asarray([[value == one for one in known] for value in values], dtype=float)
        standard = (_numbers(frame, name) - self.mean[name]) / self.spread[name]
        return np.nan_to_num(standard)[:, None]


def _numbers(frame: nw.DataFrame[Any], name: str) -> Array:
    column = frame[name].cast(nw.Float64).fill_null(float("nan"))
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _ridge(matrix: Array, label: Array, penalty: float) -> Array:
    squares = matrix.T @ matrix + penalty * np.eye(matrix.shape[1])
    return np.asarray(np.linalg.solve(squares, matrix.T @ label))[None, :]


def _logistic(matrix: Array, label: Array, classes: int, penalty: float) -> Array:
    truth = np.eye(classes)[label.astype(int)]
    shape = (classes, matrix.shape[1])

    def objective(flat: Array) -> tuple[float, Array]:
        weights = flat.reshape(shape)
        log_probability = log_softmax(matrix @ weights.T, axis=1)
        loss = -(truth * log_probability).sum() + penalty * (weights**2).sum() / 2
        slope = (np.exp(log_probability) - truth).T @ matrix + penalty * weights
        return float(loss), slope.ravel()

    found = minimize(objective, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B")
    return np.asarray(found.x).reshape(shape)


def _loss(raw: Array, label: Array, classes: int) -> float:
    if not classes:
        return float(np.mean((raw[:, 0] - label) ** 2))
    log_probability = log_softmax(raw, axis=1)
    return float(-log_probability[np.arange(len(label)), label.astype(int)].mean())
