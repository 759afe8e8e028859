"""Scores a version's example, apart from everything: `python -I -B clean_process.py FOLDER`.

Started with an empty environment, this process takes the network away from itself, scores the
example twice and then row by row, and prints what it found as JSON: `scores`, `again`, and
`cpu_ms`, the median CPU time of a row alone.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

_REPEATS = 20


def main(folder: str) -> None:
    """Score and print."""
    import mlflow
    import numpy as np

    sys.addaudithook(_refuse_network)
    model = mlflow.pyfunc.load_model(folder)
    example = model.input_example

    def scores() -> list[float]:
        return [float(score) for score in np.asarray(model.predict(example)).ravel()]

    taken = []
    for _ in range(_REPEATS):
        begun = time.process_time()
        model.predict(example.head(1))
        taken.append(1000 * (time.process_time() - begun))
    found = {"scores": scores(), "again": scores(), "cpu_ms": statistics.median(taken)}
    print(json.dumps(found))  # noqa: T201 its answer


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.getaddrinfo"):
        message = f"a version must not use the network: {event} {arguments[1:]}"
        raise PermissionError(message)


if __name__ == "__main__":
    main(sys.argv[1])
