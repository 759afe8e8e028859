"""Runs of days inside a training, each beside the days before it: what a later window is like."""

from __future__ import annotations

import numpy as np

from ..core.contract import Array


def runs(by_day: Array, length: int) -> tuple[Array, Array]:
    """Sums over each run of so many days, and over all days before it.

    As many days as a run has come before the first: a window comes after its training, too.

    Args:
        by_day: What is to be summed, shape (days, ...).
        length: Days of a run.

    Returns:
        Twice shape (runs, ...); no run where there are fewer than two lengths of days.
    """
    nothing = np.zeros_like(by_day[:1])
    total = np.cumsum(np.concatenate([nothing, by_day]), axis=0)
    before = total[length:-length]
    return total[2 * length :] - before, before
