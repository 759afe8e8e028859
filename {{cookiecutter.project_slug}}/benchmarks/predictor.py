"""What other servers predict by: the function for single rows that the project's server calls."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from {{cookiecutter.package_name}}.core.contract import SingleRow
from {{cookiecutter.package_name}}.modeling import stored


def predictor(folder: Path) -> Callable[[Sequence[Any]], Sequence[float]]:
    """Load a version's own code; what comes takes a row's values in the model's order.

    Raises:
        SystemExit: Its estimator does not predict single rows.
    """
    estimator = stored.read(folder, "served_by_another")
    if not isinstance(estimator, SingleRow):
        raise SystemExit("The estimator does not predict single rows.")
    return estimator.predictor()
