"""The face that MLflow sees: this file is stored with every version ("models from code").

It imports nothing of this project and scores with the estimator's code in the version's own folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import pandas as pd

ESTIMATOR = "estimator"


class Scorer(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """A version as MLflow loads it."""

    def load_context(self, context: Any) -> None:
        """Load the estimator with its own code."""
        folder = Path(context.artifacts[ESTIMATOR])
        card = json.loads((folder / "estimator.json").read_text(encoding="utf-8"))
        module = ModuleType(f"estimator_{abs(hash(folder))}")
        sys.modules[module.__name__] = module  # where dataclasses look for it
        code = (folder / "estimator.py").read_bytes()
        exec(compile(code, folder / "estimator.py", "exec"), module.__dict__)  # noqa: S102
        self.estimator = getattr(module, card["class"]).load(folder)
        self.scores = card["scores"]

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> Any:
        """Scores by row, shape (rows,); of several classes a column for each."""
        predicted = self.estimator.predict(model_input)
        if len(self.scores) == 1:
            return predicted
        return pd.DataFrame(predicted, columns=self.scores)


mlflow.models.set_model(Scorer())
