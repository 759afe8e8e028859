"""A version behind BentoML, as cheap as it can be made; `VERSION_FOLDER` says where it is.

A row's values come in the model's order, and nothing is looked up, checked or logged. It predicts
by the same function as the project's server.
"""

import os
from pathlib import Path
from typing import Any

import bentoml

from benchmarks.predictor import predictor


@bentoml.service(workers=1)
class Version:
    """An estimator as BentoML wants it."""

    def __init__(self) -> None:
        """Load the version's own code."""
        self._predict = predictor(Path(os.environ["VERSION_FOLDER"]))

    @bentoml.api  # type: ignore[untyped-decorator]
    async def predict(self, row: list[Any]) -> list[float]:
        """Its scores."""
        return list(self._predict(row))
