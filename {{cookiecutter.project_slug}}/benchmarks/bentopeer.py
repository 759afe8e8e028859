"""A version behind BentoML, as cheap as it can be made; `VERSION_FOLDER` says where it is.

A row's values come in the model's order, and nothing is looked up, checked or logged. It predicts
by the same function as the project's server.
"""

import os
from pathlib import Path
from typing import Any

import bentoml

from {{cookiecutter.package_name}}.core.contract import SingleRow
from {{cookiecutter.package_name}}.modeling import stored


@bentoml.service(workers=1)
class Version:
    """An estimator as BentoML wants it."""

    def __init__(self) -> None:
        """Load the version's own code."""
        estimator = stored.read(Path(os.environ["VERSION_FOLDER"]), "served_by_bentoml")
        if not isinstance(estimator, SingleRow):
            raise SystemExit("The estimator does not predict single rows.")
        self._predict = estimator.predictor()

    @bentoml.api  # type: ignore[untyped-decorator]
    async def predict(self, row: list[Any]) -> list[float]:
        """Its scores."""
        return list(self._predict(row))
