"""Drift: how far the rows of a window are from those of the training, column by column."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from scipy.special import chdtri, ndtri, stdtrit

from ..core.contract import Array
from ..core.settings import MonitoringSettings
from ..modeling.neighbours import scatter
from ..modeling.profile import Histogram, Profile, Values
from ..modeling.relations import Relation, residuals
from .seen import FULLEST, NEW, OUTSIDE, Seen, related

_MIN_WINDOWS = 3
# No limit is farther than so many times the farthest window of the training. Outages come seldom
# and together: the windows of a training tell less of them.
_FARTHEST = {"drift": 3.5, "unseen": 3.0, "missing": 5.0}
_FARTHEST_POSSIBLE = 1.0  # of distances and of shares
_MISSING = -1  # positions of bins
_UNSEEN = -2
# What data of the training's source cannot be, whatever the weeks are like: shares of rows.
_OUT_OF_RANGE = 0.5
_NEW_VALUES = 0.75
_CONSTANT = 0.98
_BROKEN = 2.5  # times the farthest run of the training, and
_FEW_WINDOWS = 2  # over the number of its windows more
_FORETOLD = 0.5  # spreads; a column that others foretell no better is not held against them
_TOWARDS_CHANCE = 2 / 3  # of the way from the farthest run of the training to a scatter of 1
_MEASURED = {
    "slice": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "threshold": pl.Float64,
    "status": pl.String,
    "rows": pl.Int64,
}


def measure(reference: Profile, seen: Seen, settings: MonitoringSettings) -> pl.DataFrame:
    """How far the rows of a window are from those of the training, column by column.

    Each column gives `drift` (as `distance`), `missing` (share of nulls) and, if it holds texts,
    `unseen` (share of values that the training did not list). The same is taken of every window of
    that length inside the training, against the days before it: a day's rows are alike, so that no
    test for independent rows holds, and the next week is farther off than one in between. A value
    is violated beyond the one-sided prediction interval for one more such window (Hahn & Meeker
    1991, section 4.7), at a level that is divided by the number of statistics (Bonferroni); also
    beyond `beyond` times the farthest window of the training and `min_shift`, and by more than
    chance allows so few rows.

    What no week explains is told by itself: `out_of_range` and `new_values` (other units, values
    that cannot be), `constant` (a feed that is stuck), and values of other rows: `relation`, how
    far a column is from what the others foretell, and `scatter`, how much it differs from one row
    to the next.

    Args:
        reference: Of the model that scored the rows.
        seen: What the rows show of its inputs and predictions.
        settings: Length of windows and the levels above.

    Returns:
        slice, metric, value, threshold, status (ok, violated; unknown: no such column, too few
        rows, fewer than three windows in the training, or windows so far apart that no value is
        beyond the limit) and rows.
    """
    statistics = sum(3 if histogram.categories else 2 for histogram in reference.values())
    level = settings.false_alarms / statistics
    found: list[dict[str, Any]] = []
    relations = related(reference)
    apart = {}
    if relations and seen.rows:
        apart = residuals(relations, seen.products(1 + 2 * len(relations)))
    scattered = {name: scatter(steps) for name, steps in seen.steps()}
    for name, histogram in reference.items():
        now = seen.bins(name, histogram)
        measured = list(_column(histogram, now, level, settings))
        if name in seen.columns and seen.rows:
            measured += _impossible(name, histogram.values, seen, now, settings)
        if name in apart and _is_foretold(relations[name]):
            widened_by = 1 + _FEW_WINDOWS / max(_windows(histogram, settings), 1)
            farthest = widened_by * float(relations[name].seen.max())
            limit = max(_BROKEN * farthest, settings.min_shift)
            measured.append(_above("relation", apart[name], limit, now, settings))
        if not np.isnan(scattered.get(name, np.nan)) and histogram.neighbours:
            farthest = histogram.neighbours.farthest
            limit = farthest + _TOWARDS_CHANCE * (1 - farthest)
            measured.append(_above("scatter", scattered[name], limit, now, settings))
        found.extend({"slice": f"feature={name}", **statistic} for statistic in measured)
    return pl.DataFrame(found, schema=_MEASURED)


def distance(first: Array, second: Array) -> Array:
    """Jensen-Shannon distance of two histograms, in [0, 1] (Lin 1991), less what chance gives.

    Drawn from one distribution, the divergence (in bits) of n and m rows in k bins has the mean
    (k - 1) (1/n + 1/m) / (8 ln 2) (Grosse et al. 2002); it is taken off before the root.

    Args:
        first: Rows by bin, shape (..., bins).
        second: The same of the other.

    Returns:
        Shape (...).
    """
    one, other = _shares(first), _shares(second)
    middle = np.where(one + other > 0, (one + other) / 2, 1)
    divergence = (_relative_entropy(one, middle) + _relative_entropy(other, middle)) / 2
    bins, unit = _chance(first, second)
    return np.asarray(np.sqrt(np.maximum(divergence - (bins - 1) * unit, 0)))


def _column(
    histogram: Histogram, now: Array, level: float, settings: MonitoringSettings
) -> Iterator[dict[str, Any]]:
    """Statistics of one column, each with its limit and status."""
    runs, before = histogram.runs(settings.window_days)
    total = histogram.days.sum(axis=0)
    length = _windows(histogram, settings)

    seen = {"drift": distance(runs, before), "missing": _share(runs, _MISSING)}
    values = {"drift": distance(now, total), "missing": _share(now, _MISSING)}
    if histogram.categories:
        seen["unseen"] = _share(runs, _UNSEEN)
        values["unseen"] = _share(now, _UNSEEN)

    is_known = now.sum() >= settings.min_rows and length >= _MIN_WINDOWS
    for metric, value in values.items():
        limit = None
        if is_known:
            allowed = _chance_distance if metric == "drift" else _chance_share
            most = _FARTHEST[metric] * float(seen[metric].max())
            limit = _limit(seen[metric], length, level, settings, most)
            limit = allowed(limit, level, now, total)
        yield {
            "metric": metric,
            "value": float(value) if now.any() else None,
            "threshold": limit,
            "status": _status(float(value), limit),
            "rows": int(now.sum()),
        }


def _windows(histogram: Histogram, settings: MonitoringSettings) -> float:
    """How many windows the training's days are."""
    return float(histogram.days.any(axis=1).sum()) / settings.window_days


def _impossible(
    name: str, known: Values, seen: Seen, now: Array, settings: MonitoringSettings
) -> Iterator[dict[str, Any]]:
    """Shares of rows with values that data like those of the training do not have."""
    present = int(now.sum() - now[_MISSING])
    if not present:
        return
    limits = {
        "out_of_range": (OUTSIDE, max(_OUT_OF_RANGE, settings.beyond * known.farthest)),
        "new_values": (NEW, max(_NEW_VALUES, settings.beyond * known.newest)),
        "constant": (FULLEST, _CONSTANT),
    }
    is_enough = present >= settings.min_rows
    for metric, (what, limit) in limits.items():
        rows = seen.count(name, what)
        if rows is not None:
            yield _judged(metric, rows / present, limit if is_enough else None, present)


def _is_foretold(relation: Relation) -> bool:
    return len(relation.seen) > 0 and float(relation.seen.max()) <= _FORETOLD


def _above(
    metric: str, value: float, limit: float, now: Array, settings: MonitoringSettings
) -> dict[str, Any]:
    """A statistic that, unlike distances and shares, may be more than 1."""
    rows = int(now.sum())
    if rows < settings.min_rows:
        return _judged(metric, value, None, rows)
    status = "violated" if value > limit else "ok"
    return {**_judged(metric, value, limit, rows), "status": status}


def _judged(metric: str, value: float, limit: float | None, rows: int) -> dict[str, Any]:
    return {
        "metric": metric,
        "value": value,
        "threshold": limit,
        "status": _status(value, limit),
        "rows": rows,
    }


def _status(value: float, limit: float | None) -> str:
    if limit is None or limit >= _FARTHEST_POSSIBLE:
        return "unknown"
    return "violated" if value > limit else "ok"


def _limit(
    seen: Array, windows: float, level: float, settings: MonitoringSettings, most: float
) -> float:
    """Of windows as large as those of the training.

    The prediction interval of few windows is wide: it is cut at `most`.
    """
    quantile = stdtrit(windows - 1, 1 - level)
    spread = quantile * seen.std(ddof=1) * np.sqrt(1 + 1 / windows)
    interval = min(seen.mean() + spread, most)
    return float(max(interval, settings.beyond * seen.max(), settings.min_shift))


def _chance_distance(limit: float, level: float, now: Array, total: Array) -> float:
    """A limit on distances, raised by what chance allows so few rows."""
    bins, unit = _chance(now, total)
    excess = max(chdtri(bins - 1, level) - (bins - 1), 0)
    return float(np.sqrt(limit**2 + excess * unit))


def _chance_share(limit: float, level: float, now: Array, total: Array) -> float:
    """A limit on shares, raised by what chance allows so few rows."""
    spread = np.sqrt(limit * max(1 - limit, 0) / now.sum())
    return float(limit + ndtri(1 - level) * spread)


def _chance(first: Array, second: Array) -> tuple[Array, Array]:
    """Bins that are not empty, and the unit of the divergence.

    A chi-squared variable multiplied by the unit is distributed as the divergence.
    """
    bins = (first + second > 0).sum(axis=-1)
    one = np.maximum(first.sum(axis=-1), 1)
    other = np.maximum(second.sum(axis=-1), 1)
    return bins, (1 / one + 1 / other) / (8 * np.log(2))


def _relative_entropy(part: Array, middle: Array) -> Array:
    """Kullback-Leibler divergence in bits, shape (...)."""
    ratio = np.where(part > 0, part / middle, 1)
    return np.asarray((part * np.log2(ratio)).sum(axis=-1))


def _shares(counts: Array) -> Array:
    return np.asarray(counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1))


def _share(counts: Array, index: int) -> Array:
    return np.asarray(counts[..., index] / np.maximum(counts.sum(axis=-1), 1))
