"""What shifted: each column's distribution in the training and in a window, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import polars as pl

from ..core.contract import Array
from ..core.settings import Settings
from ..modeling.profile import Histogram, Profile
from ..reporting import pages
from .seen import Seen
from .windows import Window

_SHOWN_CATEGORIES = 15


@dataclass(frozen=True)
class Bin:
    """Values of a column, and the share of rows that hold them in the training and the window."""

    name: str
    before: float
    now: float


def write_page(
    settings: Settings,
    version: str,
    window: Window,
    reference: Profile,
    seen: Seen,
    measured: pl.DataFrame,
) -> None:
    """Write the page on a window that a version scored.

    Args:
        settings: Say where pages lie.
        version: Number of the version.
        window: Its prediction times.
        reference: Distributions in the training.
        seen: What the version's inputs and predictions show.
        measured: As `drift.measure`.
    """
    by_column = measured.with_columns(pl.col("slice").str.strip_prefix("feature="))
    columns = []
    for name, histogram in reference.items():
        found = by_column.filter(slice=name).rows(named=True)
        now = seen.bins(name, histogram)
        columns.append((name, found, list(bins(histogram, now))))
    columns.sort(key=lambda column: -_farthest(column[1]))
    page = pages.render(
        "shift.html.jinja",
        version=version,
        window=window,
        rows=seen.rows,
        columns=columns,
        model=settings.mlflow.model,
        violated=measured.filter(status="violated").height,
        within=measured.filter(status="ok").height,
        unknown=measured.filter(status="unknown").height,
        statistics=measured.height,
    )
    path = settings.reports / f"shift_{pages.stamp(window.end)}_{version}.html"
    pages.write(path, page)


def bins(histogram: Histogram, now: Array) -> Iterator[Bin]:
    """Bins of a column in order; of many categories those with the largest shares.

    Args:
        histogram: Of the training.
        now: Rows of the window by bin, shape (bins,).
    """
    total = histogram.days.sum(axis=0)
    before, after = (counts / max(counts.sum(), 1) for counts in (total, now))
    *known, others, missing = (
        Bin(name, float(old), float(new))
        for name, old, new in zip(_names(histogram), before, after, strict=True)
    )
    if not histogram.categories:
        yield from (*known, others)
    else:
        known.sort(key=lambda item: -max(item.before, item.now))
        yield from known[:_SHOWN_CATEGORIES]
        rest = known[_SHOWN_CATEGORIES:]
        if rest:
            shares = (sum(item.before for item in rest), sum(item.now for item in rest))
            yield Bin(f"{len(rest)} further values", *shares)
        yield Bin("not seen in the training", others.before, others.now)
    yield missing


def _names(histogram: Histogram) -> Sequence[str]:
    """A name per bin; that of missing values is the last."""
    if histogram.categories:
        return [*histogram.categories, "others", "missing"]
    cuts = [f"{cut:.6g}" for cut in histogram.cuts]
    if not cuts:
        return ["any value", "missing"]
    between = [f"{low} to {high}" for low, high in pairwise(cuts)]
    return [f"up to {cuts[0]}", *between, f"above {cuts[-1]}", "missing"]


def _farthest(found: Sequence[dict[str, Any]]) -> float:
    """How far a column is from its limits; unknown comes last."""
    ratios = [row["value"] / row["threshold"] for row in found if row["threshold"] and row["value"]]
    return max(ratios, default=0.0)
