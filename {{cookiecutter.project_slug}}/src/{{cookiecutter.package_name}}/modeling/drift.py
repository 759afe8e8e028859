"""Drift: how a model's rows were distributed day by day in its training, and how far later rows are from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.special import chdtri, ndtri, stdtrit

from ..core.contract import PREDICTION_TIME, Array
from ..core.settings import MonitoringSettings

_BINS, _CATEGORIES, _MIN_WINDOWS, _FARTHEST = 20, 200, 3, 3


@dataclass(frozen=True)
class Histogram:
    """Rows of a column by day and bin; the last bin holds what is missing."""

    cuts: Sequence[float]  # numbers: bounds between bins
    categories: Sequence[str]  # texts: a bin each, and the one before the last for all others
    days: Array  # shape (days, bins)

    def count(self, column: pl.Series) -> Array:
        """Rows by bin, shape (bins,)."""
        bins = _bins(column, self.cuts, self.categories)
        return np.bincount(bins, minlength=self.days.shape[1]).astype(np.float64)

    def windows(self, length: int) -> Array:
        """Rows by bin in every run of so many days, the last day followed by the first, shape (days, bins)."""
        total = np.cumsum(
            np.vstack([np.zeros_like(self.days[:1]), self.days, self.days[: length - 1]]), axis=0
        )
        return np.asarray(total[length:] - total[:-length])


Profile = Mapping[str, Histogram]


def profile(rows: pl.DataFrame, columns: Sequence[str]) -> Profile:
    """Histograms of columns; numbers in up to 20 bins of equally many rows, texts by their 200 most frequent values.

    Args:
        rows: Prediction time and the columns.
        columns: Numbers or strings.
    """
    day = rows[PREDICTION_TIME].dt.epoch("d").to_numpy()
    day = day - day.min()
    found = {}
    for name in columns:
        cuts: list[float] = []
        categories: list[str] = []
        known = rows[name].drop_nulls()
        if known.dtype == pl.String:
            frequent = known.value_counts().sort("count", name, descending=[True, False])
            categories = frequent[name].head(_CATEGORIES).to_list()
        elif known.len():
            shares = np.linspace(0, 1, _BINS + 1)[1:-1]
            cuts = np.unique(np.quantile(known.cast(pl.Float64).to_numpy(), shares)).tolist()
        bins, count = _bins(rows[name], cuts, categories), len(cuts or categories) + 2
        days = np.bincount(day * count + bins, minlength=(day.max() + 1) * count).reshape(-1, count)
        found[name] = Histogram(cuts, categories, days.astype(np.float64))
    return found


def save(given: Profile, path: Path) -> None:
    """Write a profile as parquet, a row per column."""
    rows = [
        {"column": name, **vars(item), "days": item.days.tolist()} for name, item in given.items()
    ]
    texts, numbers = pl.List(pl.String), pl.List(pl.Float64)
    schema = {"column": pl.String(), "cuts": numbers, "categories": texts, "days": pl.List(numbers)}
    pl.DataFrame(rows, schema=schema).write_parquet(path)


def load(path: Path) -> Profile:
    """Read what `save` wrote."""
    rows = pl.read_parquet(path).iter_rows()
    return {
        name: Histogram(cuts, categories, np.asarray(days)) for name, cuts, categories, days in rows
    }


def measure(reference: Profile, rows: pl.DataFrame, settings: MonitoringSettings) -> pl.DataFrame:
    """How far the rows of a window are from those of the training, column by column.

    Each column gives `drift` (as `distance`), `missing` (share of nulls) and, if it holds texts, `unseen`
    (share of values that the training did not list). The same is taken of every window of that length
    inside the training, against its other days: weather and jams make a day's rows alike, so that no test
    for independent rows holds. A value is violated beyond the one-sided prediction interval for one more
    such window (Hahn & Meeker 1991, section 4.7), at a level that is divided by the number of statistics
    (Bonferroni); also beyond `beyond` times the farthest window of the training and `min_shift`, and by
    more than chance allows so few rows.

    Args:
        reference: Of the model that scored the rows.
        rows: Its inputs and predictions.
        settings: Length of windows and the levels above.

    Returns:
        slice, metric, value, threshold, status (ok, violated; unknown: no such column, too few rows, or
        fewer than three windows in the training) and rows.
    """
    statistics = sum(3 if item.categories else 2 for item in reference.values())
    found = []
    for name, item in reference.items():
        windows, total = item.windows(settings.window_days), item.days.sum(axis=0)
        length = float(item.days.any(axis=1).sum()) / settings.window_days
        now = item.count(rows[name]) if name in rows.columns else np.zeros_like(total)
        seen = {"drift": distance(windows, total - windows), "missing": _share(windows, -1)}
        values = {"drift": distance(now, total), "missing": _share(now, -1)}
        if item.categories:
            seen["unseen"], values["unseen"] = _share(windows, -2), _share(now, -2)
        known = now.sum() >= settings.min_rows and length >= _MIN_WINDOWS
        for metric, value in values.items():
            limit = None
            if known:
                level = settings.false_alarms / statistics
                limit = _limit(seen[metric], length, level, settings)
                allowed = _chance_distance if metric == "drift" else _chance_share
                limit = allowed(limit, level, now, total)
            status = "unknown" if limit is None else "violated" if value > limit else "ok"
            measured = float(value) if now.any() else None
            found.append((f"feature={name}", metric, measured, limit, status, int(now.sum())))
    kinds = [pl.String, pl.String, pl.Float64, pl.Float64, pl.String, pl.Int64]
    names = ("slice", "metric", "value", "threshold", "status", "rows")
    return pl.DataFrame(found, schema=dict(zip(names, kinds, strict=True)), orient="row")


def distance(first: Array, second: Array) -> Array:
    """Jensen-Shannon distance of two histograms, in [0, 1] (Lin 1991), less what chance alone gives.

    Drawn from one distribution, the divergence (in bits) of n and m rows in k bins has the mean
    (k - 1) (1/n + 1/m) / (8 ln 2) (Grosse et al. 2002); it is taken off before the root.

    Args:
        first: Rows by bin, shape (..., bins).
        second: The same of the other.

    Returns:
        Shape (...).
    """
    one, other = (
        item / np.maximum(item.sum(axis=-1, keepdims=True), 1) for item in (first, second)
    )
    middle = np.where(one + other > 0, (one + other) / 2, 1)
    logs = (part * np.log2(np.where(part > 0, part / middle, 1)) for part in (one, other))
    divergence = sum(log.sum(axis=-1) for log in logs) / 2
    bins, unit = _chance(first, second)
    return np.asarray(np.sqrt(np.maximum(divergence - (bins - 1) * unit, 0)))


def _chance(first: Array, second: Array) -> tuple[Array, Array]:
    """Bins that are not empty, and what a chi-squared variable is multiplied with to give the divergence."""
    sizes = (np.maximum(item.sum(axis=-1), 1) for item in (first, second))
    return (first + second > 0).sum(axis=-1), sum(1 / size for size in sizes) / (8 * np.log(2))


def _limit(seen: Array, windows: float, level: float, settings: MonitoringSettings) -> float:
    """Of windows as large as those of the training; the interval of a few is wide, and cut at thrice the farthest."""
    spread = stdtrit(windows - 1, 1 - level) * seen.std(ddof=1) * np.sqrt(1 + 1 / windows)
    interval = min(seen.mean() + spread, _FARTHEST * seen.max())
    return float(max(interval, settings.beyond * seen.max(), settings.min_shift))


def _chance_distance(limit: float, level: float, now: Array, total: Array) -> float:
    bins, unit = _chance(now, total)
    return float(np.sqrt(limit**2 + max(chdtri(bins - 1, level) - (bins - 1), 0) * unit))


def _chance_share(limit: float, level: float, now: Array, total: Array) -> float:
    return float(limit + ndtri(1 - level) * np.sqrt(limit * max(1 - limit, 0) / now.sum()))


def _share(counts: Array, index: int) -> Array:
    return np.asarray(counts[..., index] / np.maximum(counts.sum(axis=-1), 1))


def _bins(column: pl.Series, cuts: Sequence[float], categories: Sequence[str]) -> Array:
    """Position of each row's bin; missing is the last."""
    if categories:
        codes = dict(zip(categories, range(len(categories)), strict=True))
        known = column.replace_strict(
            codes, default=len(categories), return_dtype=pl.Int64
        ).to_numpy()
    else:
        known = np.searchsorted(cuts, column.cast(pl.Float64).to_numpy())
    return np.where(column.is_null().to_numpy(), len(cuts or categories) + 1, known)
