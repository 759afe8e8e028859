"""Challenger against champion, on rows that neither has learned from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from .. import report
from ..contract import Array, Problem
from ..errors import UserError
from ..evaluation import calibration, compare, group_means
from ..feature_store import training_set
from ..lakehouse import Lakehouse
from ..metrics import record
from ..registry import CHAMPION, Registry
from ..settings import Settings

_DISAGREEMENTS = 10


@dataclass(frozen=True)
class Comparison:
    """A challenger measured against `opponent` (a version, or the baseline), and what speaks against it."""

    challenger: str
    opponent: str
    results: pl.DataFrame
    objections: list[str]
    report: Path

    @property
    def evidence(self) -> str:
        """The outcome in a sentence."""
        first = self.results.row(0, named=True)
        return (
            f"{first['metric']} {first['value']:.4f} against {first['reference']:.4f} of {self.opponent} on "
            f"{first['rows']:,} rows (gain {first['gain']:.4f}, {first['gain_lower']:.4f} to {first['gain_upper']:.4f})"
        )


def compare_versions(
    lakehouse: Lakehouse, registry: Registry, settings: Settings, problem: Problem, challenger: str
) -> Comparison:
    """Measure a challenger against the champion; against the baseline where there is none.

    Both score the rows of the challenger's holdout, which must begin after everything that either has
    learned from. The challenger may be worse by a margin overall, and by another on no slice for sure.

    Raises:
        UserError: The holdout overlaps with what either has learned from, or the champion does not fit
            the features that there are now.
    """
    tags = registry.version(challenger).tags
    start, end = datetime.fromisoformat(tags["holdout_start"]), datetime.fromisoformat(tags["holdout_end"])
    champion = registry.aliased(CHAMPION)
    for number in filter(None, (challenger, champion)):
        learned_until = datetime.fromisoformat(registry.version(number).tags["validation_end"])
        if learned_until > start:
            raise UserError(
                f"The holdout begins on {start:%Y-%m-%d %H:%M}, but version {number} has learned from rows "
                f"until {learned_until:%Y-%m-%d %H:%M}.",
                "Train the challenger on a later --as-of, so that its holdout is new to both.",
            )
    since = start if champion else datetime.fromisoformat(tags["train_start"])
    rows = training_set(lakehouse, problem, since, end, {})
    holdout = rows.filter(pl.col("prediction_time") >= start)
    ours = registry.load(challenger).predict(holdout)
    if champion:
        theirs = _predict_as(registry, champion, holdout)
    else:
        learned = rows.filter(pl.col("prediction_time") < datetime.fromisoformat(tags["train_end"]))
        theirs = group_means(learned, holdout, problem.model.baseline, problem.model.target.label)
    resamples = settings.training.bootstrap_resamples
    results = compare(holdout, ours, theirs, problem.model, resamples, settings.seed)
    opponent = f"version {champion}" if champion else "the baseline"
    judged = _judge(results, settings)
    record(lakehouse, judged, "comparison", f"version {challenger} against {opponent}", start, end)
    objections = judged.filter(status="worse").select(pl.format("{} {}", "metric", "slice").str.strip_chars())
    page = settings.state / "reports" / f"comparison_{challenger}_{champion or 'baseline'}.html"
    done = Comparison(challenger, opponent, results, objections.to_series().to_list(), page)
    report.write(page, _page(done, holdout, ours, theirs, problem))
    return done


def _predict_as(registry: Registry, champion: str, holdout: pl.DataFrame) -> Array:
    predictor = registry.load(champion)
    if missing := [name for name in predictor.features if name not in holdout.columns]:
        raise UserError(
            f"The champion, version {champion}, needs {', '.join(missing)}, which the features no longer have.",
            "Keep its features until it is replaced, or roll back the change of features.",
        )
    return predictor.predict(holdout)


def _judge(results: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """Gains of the first metric against their margins, as rows of the metrics table.

    Overall the gain must surely be above minus the margin (non-inferiority); a slice, where intervals
    are wide, objects if its gain is below minus its margin and surely below 0.
    """
    gains = results.filter(pl.col("metric") == results["metric"][0])
    overall, size = pl.col("slice") == "", pl.col("reference").abs()
    margin = pl.when(overall).then(settings.deployment.margin).otherwise(settings.deployment.slice_margin) * size
    sliced_worse = (pl.col("gain") < -margin) & (pl.col("gain_upper") < 0)
    worse = pl.when(overall).then(pl.col("gain_lower") <= -margin).otherwise(sliced_worse)
    return gains.select(
        "slice",
        pl.format("{}_gain", "metric").alias("metric"),
        pl.col("gain").alias("value"),
        pl.col("gain_lower").alias("lower"),
        pl.col("gain_upper").alias("upper"),
        (-margin).alias("threshold"),
        pl.when(worse.fill_null(value=True)).then(pl.lit("worse")).otherwise(pl.lit("ok")).alias("status"),
        "rows",
    )


def _page(done: Comparison, holdout: pl.DataFrame, ours: Array, theirs: Array, problem: Problem) -> str:
    target, keys = problem.model.target, problem.model.keys
    label = holdout[target.label].to_numpy()
    both = pl.concat(
        calibration(label, predicted).with_columns(model=pl.lit(name))
        for name, predicted in ((f"version {done.challenger}", ours), (done.opponent, theirs))
    )
    apart = holdout.select(*keys, target.label).with_columns(challenger=pl.Series(ours), opponent=pl.Series(theirs))
    distance = (pl.col("challenger") - pl.col("opponent")).abs()
    return report.render(
        "comparison.html.jinja",
        done=done,
        unit=target.unit,
        overall=done.results.filter(slice="").rows(named=True),
        slices=report.svg(
            report.interval_chart(done.results.filter(pl.col("slice") != ""), "slice", target.metrics[0].name), "slices"
        ),
        calibration=report.svg(report.calibration_chart(both, target.unit, "model"), "calibration of both"),
        apart=apart.sort(distance, descending=True).head(_DISAGREEMENTS),
    )
