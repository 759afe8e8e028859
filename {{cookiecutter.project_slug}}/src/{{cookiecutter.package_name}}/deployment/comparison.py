"""Challenger against champion, on rows that neither has learned from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import narwhals as nw
import polars as pl

from ..context import Context
from ..core.contract import PREDICTION_TIME, Array, Model
from ..core.errors import UserError
from ..core.settings import DeploymentSettings
from ..modeling.evaluation import calibration, compare, group_means
from ..reporting import pages
from ..store.measurements import record
from ..store.point_in_time import training_set
from ..tracking.registry import CHAMPION, Registry

_DISAGREEMENTS = 10


@dataclass(frozen=True)
class Comparison:
    """A challenger measured against the champion (None: the baseline), and what speaks against it."""

    challenger: str
    champion: str | None
    results: pl.DataFrame
    objections: list[str]
    report: Path

    @property
    def opponent(self) -> str:
        """Whom it was measured against."""
        return f"version {self.champion}" if self.champion else "the baseline"

    @property
    def evidence(self) -> str:
        """The outcome in a sentence."""
        first = self.results.row(0, named=True)
        return (
            f"{first['metric']} {first['value']:.4f} against {first['reference']:.4f} of {self.opponent} on "
            f"{first['rows']:,} rows (gain {first['gain']:.4f}, {first['gain_lower']:.4f} to {first['gain_upper']:.4f})"
        )


def compare_versions(context: Context, challenger: str) -> Comparison:
    """Measure a challenger against the champion; against the baseline where there is none.

    Both score the rows of the challenger's holdout, which must begin after everything that either has
    learned from. The challenger may be worse by a margin overall, and by another on no slice for sure.

    Raises:
        UserError: The holdout overlaps with what either has learned from, or the champion does not fit
            the features that there are now.
    """
    registry, settings, model = context.registry, context.settings, context.problem.model
    champion = registry.aliased(CHAMPION)
    start, end, train_start, train_end = (
        _recorded(registry, challenger, tag)
        for tag in ("holdout_start", "holdout_end", "train_start", "train_end")
    )
    for number in filter(None, (challenger, champion)):
        learned_until = _recorded(registry, number, "validation_end")
        if learned_until > start:
            raise UserError(
                f"The holdout begins on {start:%Y-%m-%d %H:%M}, but version {number} has learned from rows "
                f"until {learned_until:%Y-%m-%d %H:%M}.",
                "Train the challenger on a later --as-of, so that its holdout is new to both.",
            )
    loaded = [registry.load(number) for number in (challenger, champion) if number]
    features = dict.fromkeys(name for predictor in loaded for name in predictor.features)
    problem = replace(context.problem, model=replace(model, features=tuple(features)))
    try:
        rows = training_set(context.lakehouse, problem, start if champion else train_start, end, {})
    except nw.exceptions.ColumnNotFoundError as error:
        message = (
            f"Version {challenger} or {champion or 'the baseline'} needs what no table has: {error}"
        )
        raise UserError(
            message, "Keep a feature until a champion without it is in place."
        ) from None
    holdout, learned = (
        rows.filter(pl.col(PREDICTION_TIME) >= start),
        rows.filter(pl.col(PREDICTION_TIME) < train_end),
    )
    ours, *others = (predictor.predict(holdout) for predictor in loaded)
    theirs = (
        others[0] if others else group_means(learned, holdout, model.baseline, model.target.label)
    )
    results = compare(
        holdout, ours, theirs, model, settings.training.bootstrap_resamples, settings.seed
    )
    judged = judge(results, settings.deployment)
    worse = (
        judged.filter(status="worse")
        .select(pl.format("{} {}", "metric", "slice").str.strip_chars())
        .to_series()
    )
    page = settings.state / "reports" / f"comparison_{challenger}_{champion or 'baseline'}.html"
    done = Comparison(challenger, champion, results, worse.to_list(), page)
    record(
        context.lakehouse,
        judged,
        "comparison",
        f"version {challenger} against {done.opponent}",
        start,
        end,
    )
    pages.write(page, _page(done, holdout, ours, theirs, model))
    return done


def _recorded(registry: Registry, number: str, tag: str) -> datetime:
    if moment := registry.version(number).tags.get(tag):
        return datetime.fromisoformat(moment)
    raise UserError(
        f"Version {number} does not say what it has learned from (no tag {tag}).",
        "Retrain it: `train`.",
    )


def judge(results: pl.DataFrame, settings: DeploymentSettings) -> pl.DataFrame:
    """Gains of the first metric against their margins, as rows of the metrics table.

    Overall the gain must surely be above minus the margin (non-inferiority); a slice, where intervals
    are wide, objects if its gain is below minus its margin and surely below 0. Margins are shares of the
    opponent's metric. What could not be measured objects, too.
    """
    results = results.with_columns(pl.col("gain", "gain_lower", "gain_upper").fill_nan(None))
    overall = pl.col("slice") == ""
    margin = (
        pl.when(overall).then(settings.margin).otherwise(settings.slice_margin)
        * pl.col("reference").abs()
    )
    sliced_worse = (pl.col("gain") < -margin) & (pl.col("gain_upper") < 0)
    worse = (
        pl.when(overall)
        .then(pl.col("gain_lower") <= -margin)
        .otherwise(sliced_worse)
        .fill_null(value=True)
    )
    return results.filter(pl.col("metric") == results["metric"][0]).select(
        "slice",
        pl.format("{}_gain", "metric").alias("metric"),
        pl.col("gain").alias("value"),
        pl.col("gain_lower").alias("lower"),
        pl.col("gain_upper").alias("upper"),
        (-margin).alias("threshold"),
        pl.when(worse).then(pl.lit("worse")).otherwise(pl.lit("ok")).alias("status"),
        "rows",
    )


def _page(done: Comparison, holdout: pl.DataFrame, ours: Array, theirs: Array, model: Model) -> str:
    label = holdout[model.target.label].to_numpy()
    named = {f"version {done.challenger}": ours, done.opponent: theirs}
    both = pl.concat(
        calibration(label, scores).with_columns(model=pl.lit(name))
        for name, scores in named.items()
    )
    apart = holdout.select(*model.keys, model.target.label).with_columns(
        challenger=ours, opponent=theirs
    )
    distance = (pl.col("challenger") - pl.col("opponent")).abs()
    sliced = done.results.filter(pl.col("slice") != "")
    return pages.render(
        "comparison.html.jinja",
        done=done,
        unit=model.target.unit,
        overall=done.results.filter(slice="").rows(named=True),
        slices=pages.svg(pages.chart("intervals", sliced, model.target.metrics[0].name), "slices"),
        calibration=pages.svg(
            pages.chart("calibration", both, model.target.unit, several=True), "calibration of both"
        ),
        apart=apart.sort(distance, descending=True).head(_DISAGREEMENTS),
    )
