"""Inputs that tell the outcome: what each explains alone, and what all others explain together.

No value of a metric is too good in itself: on easy data a good model is nearly perfect, and so are
several of its inputs. What gives a leak away is that a few inputs tell nearly all where all others
together tell little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ..core.contract import Array, Target

_NEARLY_ALL = {  # an input that alone explains so large a share of the outcome is suspected
    "binary_classification": 0.85,
    "multiclass_classification": 0.85,
    "regression": 0.95,  # quantities are often nearly proportional to an honest input
}
_LITTLE = 0.5  # of what the suspects explain: less from all others together confirms it
_FEW = 4  # suspects are at most one in so many inputs
_BINS = (8, 32)  # fewest and most
_ROWS_OF_BIN = 20
_PRIOR_ROWS = 1.0  # with which the mean of a group is drawn to that of all rows
_MOST_ROWS = 50_000
_RIDGE = 1e-3


@dataclass(frozen=True)
class Leak:
    """An input that tells the outcome: the share that it explains, and that of all the others."""

    name: str
    alone: float
    others: float

    def __str__(self) -> str:
        """What was found, in a sentence."""
        return (
            f"{self.name} alone explains {self.alone:.0%} of the outcome, "
            f"all other inputs together {self.others:.0%}"
        )


def leaks(
    known: pl.DataFrame,
    unseen: pl.DataFrame,
    features: Sequence[str],
    target: Target,
    trusted: Sequence[str] = (),
) -> list[Leak]:
    """Inputs that are suspected of telling the outcome, most telling first.

    An input alone is the mean label of its value, or of its bin of equally many rows; the others
    together are a linear regression on what each of them says alone. Explained is the share of the
    label's variance on rows that were not learned from: of classes the skill of the Brier score, of
    a quantity the variance of its rank, which no few large values decide.

    Args:
        known: Rows to learn from.
        unseen: Rows to measure on.
        features: Inputs: numbers, booleans or texts. One input has nothing to be held against.
        target: Label and classes.
        trusted: Inputs that are no leaks, whatever they tell.
    """
    known = _some(known)
    unseen = _some(unseen)
    learned = _outcome(known, known, target)
    wanted = _outcome(unseen, known, target)
    told = [_alone(known[name], unseen[name], learned) for name in features]
    alone = np.array([_explained(wanted, learned, said) for _, said in told])
    least = _NEARLY_ALL[target.kind]
    doubted = [index for index in np.argsort(-alone) if features[index] not in trusted]
    suspects = [index for index in doubted if alone[index] >= least]
    if not suspects or len(suspects) > max(1, len(features) // _FEW) or len(features) == 1:
        return []
    rest = [said for index, said in enumerate(told) if index not in suspects]
    others = _explained(wanted, learned, _together(rest, learned))
    if others > _LITTLE * alone[suspects[0]]:
        return []
    return [Leak(features[index], float(alone[index]), max(others, 0.0)) for index in suspects]


def _some(rows: pl.DataFrame) -> pl.DataFrame:
    """At most so many rows, evenly among all."""
    return rows.gather_every(1 + rows.height // _MOST_ROWS)


def _outcome(rows: pl.DataFrame, known: pl.DataFrame, target: Target) -> Array:
    """Labels, shape (rows, outputs): an indicator of each class, or a quantity's rank in [0, 1]."""
    label = rows[target.label].cast(pl.Float64).to_numpy()
    if target.kind == "binary_classification":
        return label[:, None]
    if target.kind == "regression":
        ordered = np.sort(known[target.label].cast(pl.Float64).to_numpy())
        ranks = np.searchsorted(ordered, label) + np.searchsorted(ordered, label, side="right")
        return np.asarray(ranks / (2 * len(ordered)))[:, None]
    return np.asarray(np.eye(len(target.classes))[label.astype(np.int64)])


def _alone(known: pl.Series, unseen: pl.Series, outcome: Array) -> tuple[Array, Array]:
    """What an input says of the rows it has learned from, and of others; (rows, outputs) each."""
    groups = _groups(known, unseen)
    first = groups[: known.len()]
    count = int(groups.max()) + 1
    rows = np.bincount(first, minlength=count)[:, None]
    overall = outcome.mean(axis=0)
    sums = np.zeros((count, outcome.shape[1]))
    np.add.at(sums, first, outcome)
    means = (sums + _PRIOR_ROWS * overall) / (rows + _PRIOR_ROWS)
    # Of a row that is learned from, the mean of the others: its own label must not count.
    sums_of_others = sums[first] - outcome
    others = rows[first] - 1
    left_out = (sums_of_others + _PRIOR_ROWS * overall) / (others + _PRIOR_ROWS)
    return left_out, means[groups[known.len() :]]


def _groups(known: pl.Series, unseen: pl.Series) -> Array:
    """A number for each value, or each bin of equally many rows, of both one after the other."""
    both = pl.concat([known, unseen])
    fewest, most = _BINS
    bins = max(fewest, min(most, known.len() // _ROWS_OF_BIN))
    if not both.dtype.is_numeric() or known.n_unique() <= bins:
        return both.rank("dense").fill_null(0).to_numpy().astype(np.int64)
    values = both.cast(pl.Float64).fill_null(np.nan).to_numpy()
    shares = np.linspace(0, 1, bins + 1)[1:-1]
    cuts = np.unique(np.nanquantile(values[: known.len()], shares))
    return np.where(np.isnan(values), len(cuts) + 1, np.searchsorted(cuts, values))


def _together(said: Sequence[tuple[Array, Array]], outcome: Array) -> Array:
    """A ridge regression of the outcome on what several inputs say alone."""
    if not said:
        return np.zeros((0, outcome.shape[1]))
    known, unseen = (np.hstack(part) for part in zip(*said, strict=True))
    center = known.mean(axis=0)
    known = known - center
    unseen = unseen - center
    mean = outcome.mean(axis=0)
    strength = _RIDGE * len(known) * known.var()
    penalty = strength * np.eye(known.shape[1])
    squares = known.T @ known + penalty
    products = known.T @ (outcome - mean)
    weights, *_ = np.linalg.lstsq(squares, products, rcond=None)
    return np.asarray(unseen @ weights + mean)


def _explained(wanted: Array, learned: Array, said: Array) -> float:
    """Share of the variance around the mean of the rows learned from; negative: worse than it."""
    total = ((wanted - learned.mean(axis=0)) ** 2).sum()
    if not len(said) or not total:
        return 0.0
    return float(1 - ((wanted - said) ** 2).sum() / total)
