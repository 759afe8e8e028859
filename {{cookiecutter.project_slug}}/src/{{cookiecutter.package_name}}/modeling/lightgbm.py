"""Gradient-boosted trees: the estimator that a problem takes unless it brings its own.

A version carries a copy of this file and scores with that copy. So the file imports nothing of this
project, and changing it changes the versions of tomorrow, never the champion of today.

LightGBM's Python package takes seconds and 200 MB to import, so it is imported where it is used; to
predict single rows its C library alone is enough.
"""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import finalize

import narwhals as nw
import numpy as np
from narwhals.typing import IntoDataFrame

if TYPE_CHECKING:
    import lightgbm as lgb
    import polars as pl

    from ..core.contract import Learner, Report, Task

Array = np.ndarray[Any, np.dtype[Any]]

BOOSTER = "booster.txt"
ENCODING = "encoding.json"
_MISSING = float("nan")
_OBJECTIVES = {
    "binary_classification": "binary",
    "multiclass_classification": "multiclass",
    "regression": "regression",
}


@dataclass(frozen=True)
class LightGBM:
    """A booster and the encoding that it was fit on."""

    packages: ClassVar[tuple[str, ...]] = ("lightgbm", "narwhals", "numpy")

    text: str  # the booster in LightGBM's own format
    features: Sequence[str]
    categories: Mapping[str, Sequence[str]]

    @cached_property
    def booster(self) -> lgb.Booster:
        """The booster, ready to use."""
        import lightgbm as lgb

        return lgb.Booster(model_str=self.text)

    @classmethod
    def learner(cls, train: pl.DataFrame, validation: pl.DataFrame, task: Task) -> Learner:
        """Encode and bin the training rows once, for any number of fits."""
        import lightgbm as lgb

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
            text = booster.model_to_string(num_iteration=booster.best_iteration)
            return cls(text, task.features, task.categories), float(loss)

        return fit

    def predict(self, rows: IntoDataFrame) -> Array:
        """A quantity or a probability, shape (rows,); of several classes shape (rows, classes)."""
        return np.asarray(self.booster.predict(encode(rows, self.features, self.categories)))

    def predictor(self) -> Callable[[Sequence[Any]], Sequence[float]]:
        """A function that predicts a row as `predict` does, to the bit, thousands of times faster.

        It takes values in the order of `features`, and only one thread may call it at a time.
        """
        return _SingleRow(self.text, self.features, self.categories)

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
        (folder / BOOSTER).write_text(self.text, encoding="utf-8")
        encoding = {"features": list(self.features), "categories": dict(self.categories)}
        (folder / ENCODING).write_text(json.dumps(encoding), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> LightGBM:
        """Read what `save` wrote."""
        encoding = json.loads((folder / ENCODING).read_text(encoding="utf-8"))
        text = (folder / BOOSTER).read_text(encoding="utf-8")
        return cls(text, encoding["features"], encoding["categories"])


class _SingleRow:
    """A booster of LightGBM's C library, with all that a row needs set up beforehand.

    Source: `LGBM_BoosterPredictForMatSingleRowFast` in LightGBM's C API.
    """

    _FLOAT32 = 0
    _PREDICTION = 0
    _ALL_ITERATIONS = -1

    def __init__(
        self, text: str, features: Sequence[str], categories: Mapping[str, Sequence[str]]
    ) -> None:
        self._library = _c_library()
        self._codes = [
            {value: float(code) for code, value in enumerate(categories[name])}
            if name in categories
            else None
            for name in features
        ]
        booster = ctypes.c_void_p()
        fast = ctypes.c_void_p()
        outputs = ctypes.c_int()
        self._call(
            "LoadModelFromString", text.encode(), ctypes.byref(outputs), ctypes.byref(booster)
        )
        finalize(self, self._library.LGBM_BoosterFree, booster)
        self._call("GetNumClasses", booster, ctypes.byref(outputs))
        self._call(
            "PredictForMatSingleRowFastInit",
            booster,
            self._PREDICTION,
            0,
            self._ALL_ITERATIONS,
            self._FLOAT32,
            len(features),
            b"num_threads=1",
            ctypes.byref(fast),
        )
        finalize(self, self._library.LGBM_FastConfigFree, fast)
        self._row = (ctypes.c_float * len(features))()
        self._scores = (ctypes.c_double * outputs.value)()
        self._arguments = (fast, self._row, ctypes.byref(ctypes.c_int64()), self._scores)
        self._predict = self._library.LGBM_BoosterPredictForMatSingleRowFast

    def __call__(self, values: Sequence[Any]) -> Sequence[float]:
        """Scores of one row, shape (outputs,)."""
        self._row[:] = [
            codes.get(value, _MISSING)
            if codes is not None
            else (_MISSING if value is None else value)
            for value, codes in zip(values, self._codes, strict=True)
        ]
        if self._predict(*self._arguments):
            raise RuntimeError(self._reason())
        return self._scores[:]

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._library, f"LGBM_Booster{name}")(*arguments):
            raise RuntimeError(self._reason())

    def _reason(self) -> str:
        return str(self._library.LGBM_GetLastError().decode())


@cache
def _c_library() -> ctypes.CDLL:
    """The library inside the Python package, which is found but not imported.

    Raises:
        ImportError: The package is not installed, or holds no such library.
    """
    package = find_spec("lightgbm")
    folders = package.submodule_search_locations if package else None
    found = [path for folder in folders or () for path in Path(folder).glob("lib/lib_lightgbm.*")]
    if not found:
        message = "There is no LightGBM with its C library."
        raise ImportError(message)
    library = ctypes.CDLL(str(found[0]))
    library.LGBM_GetLastError.restype = ctypes.c_char_p
    return library


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
    import lightgbm as lgb

    dataset = lgb.Dataset(
        encode(rows, task.features, task.categories),
        label=rows[task.label].to_numpy(),
        feature_name=_names(task.features),
        categorical_feature=[task.features.index(name) for name in task.categories],
        reference=reference,
        params=dict(parameters),
        free_raw_data=False,
    )
    return dataset.construct()


def _names(features: Sequence[str]) -> list[str]:
    """Names as LightGBM takes them: without spaces, and without what JSON is made of."""
    taken = [re.sub(r"\W", "_", name) for name in features]
    if taken == list(features):
        return taken
    return [f"{number}_{name}" for number, name in enumerate(taken)]


def _reporting(report: Report) -> Callable[[Any], None]:
    def callback(env: Any) -> None:
        loss = env.evaluation_result_list[0][2]
        report(env.iteration, float(loss))

    return callback
