"""Whether one version loses less than another: tested while rows arrive, as often as one likes."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log, sqrt

import numpy as np
from scipy.special import ndtri, stdtrit

from ..core.contract import Array

FEWEST_CLUSTERS = 5
_ERROR = 0.05  # chance of either bound being wrong at any time, whoever looks whenever
_BEST = -2 * log(_ERROR) + log(-2 * log(_ERROR) + 1)  # see below: rho² times the planned rows


@dataclass(frozen=True)
class Bounds:
    """A mean, and bounds that hold at all times at once; infinite while clusters are few."""

    value: float
    lower: float
    upper: float


def bounds(gains: Array, cluster: Array, planned: int) -> Bounds:
    """A mean, and for each side a bound that may be looked at after every row.

    A confidence interval holds for one look: who looks every day until it excludes zero will see
    it do so. This is a confidence sequence: the chance that it is wrong at *any* time is 5 %. It is
    the one-sided asymptotic one of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024,
    Time-uniform central limit theory and asymptotic confidence sequences, Annals of Statistics 52),
    which mixes over normal alternatives as the mixture SPRT of Robbins (1970) does:

        mean - sd sqrt(2 (n rho² + 1) / (n² rho²) log(1 + sqrt(n rho² + 1) / (2 error)))

    with n rows and a rho that makes it narrowest about the planned number. Rows of a cluster share
    a fate, so that the variance is that of the clusters' sums; because these are few at first, it
    is widened as Student's t is against the normal. `tests/unit/test_sequential.py` simulates it.

    Args:
        gains: Shape (rows,).
        cluster: Codes of what shares a fate, shape (rows,).
        planned: About how many rows the decision is expected to take.
    """
    rows = len(gains)
    if rows == 0:
        return Bounds(float("nan"), -inf, inf)
    value = float(gains.mean())
    clusters = len(np.unique(cluster))
    if clusters < FEWEST_CLUSTERS:
        return Bounds(value, -inf, inf)
    sums = np.bincount(cluster, weights=gains - value)
    variance = float((sums**2).sum()) / rows * clusters / (clusters - 1)
    widened = float(stdtrit(clusters - 1, 1 - _ERROR / 2) / ndtri(1 - _ERROR / 2))
    seen = _BEST * rows / planned  # n rho²
    width = widened * sqrt(
        variance / rows * 2 * (seen + 1) / seen * log(1 + sqrt(seen + 1) / (2 * _ERROR))
    )
    return Bounds(value, value - width, value + width)
