"""Challenger against champion, on rows that neither has learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from ..context import Context
from ..core.contract import Array, Model
from ..core.errors import UserError
from ..core.settings import DeploymentSettings
from ..core.words import counted
from ..modeling.evaluation import calibration, compare, group_means
from ..modeling.reliability import guards, surely_worse
from ..reporting import pages
from ..store.measurements import record
from ..store.point_in_time import Versions
from ..tracking.lifetime import Lifetime, lifetime, parts_of
from ..tracking.stages import require_untouched
from .live import Live, compare_live

PRODUCER = "comparison"
_DISAGREEMENTS = 10


@dataclass(frozen=True)
class Comparison:
    """A challenger measured against the champion (None: the baseline), and the objections."""

    challenger: str
    champion: str | None
    results: pl.DataFrame  # as `evaluation.compare`
    objections: list[str]
    versions: Versions  # Delta version of each table that was read
    report: Path
    live: Live | None = None  # of requests, where they are asked (`deployment.live_rows`)

    @property
    def opponent(self) -> str:
        """Whom it was measured against."""
        return f"version {self.champion}" if self.champion else "the baseline"

    @property
    def evidence(self) -> str:
        """The outcome in a sentence."""
        first = self.results.row(0, named=True)
        return (
            f"{first['metric']} {first['value']:.4f} against {first['reference']:.4f} of "
            f"{self.opponent} on {counted(first['rows'], 'row')} (gain {first['gain']:.4f}, "
            f"{first['gain_lower']:.4f} to {first['gain_upper']:.4f})"
        )


def compare_versions(context: Context, challenger: str) -> Comparison:
    """Measure a challenger against the champion; against the baseline where there is none.

    Both score the rows of the challenger's holdout, read from the table versions that it recorded.
    The holdout must begin after everything that either has learned from; of rows without times,
    those that the champion has learned from are left out. The challenger may be
    worse by a margin overall, and by another on no slice for sure.

    Raises:
        UserError: The holdout overlaps with what either has learned from, the champion takes inputs
            that there are no longer, or the registry was changed by hand.
    """
    registry = context.registry
    settings = context.settings
    model = context.problem.model
    champion = require_untouched(context.lakehouse, registry).champion
    mine = lifetime(registry, challenger)
    others = [lifetime(registry, champion)] if champion else []
    for version in (mine, *others):
        _require_same_target(version, model)
        if context.problem.holdout == "latest":
            _require_unseen(version, mine.windows[-1].start)

    ours = registry.load(challenger)
    theirs = registry.load(champion) if champion else None
    inputs = [*ours.features, *(theirs.features if theirs else ())]
    parts = parts_of(mine, context.lakehouse, context.problem, extra=inputs)
    holdout = parts.holdout
    if context.problem.holdout == "drawn":
        holdout = _unseen(context, holdout, others)
    predicted = ours.predict(holdout.select(ours.features))
    if theirs:
        reference = theirs.predict(holdout.select(theirs.features))
    else:
        reference = group_means(parts.train, holdout, model)

    results = compare(holdout, predicted, reference, model)
    judged = judge(results, settings.deployment, guards(model.target))
    page = settings.reports / f"comparison_{challenger}_{champion or 'baseline'}.html"
    is_live = champion and settings.deployment.live_rows
    live = compare_live(context, challenger, str(champion)) if is_live else None
    done = Comparison(challenger, champion, results, objections(judged), mine.versions, page, live)
    subject = f"version {challenger} against {done.opponent}"
    window = mine.windows[-1]
    record(context.lakehouse, judged, PRODUCER, subject, window.start, window.end)
    pages.write(page, _page(done, judged, holdout, predicted, reference, model))
    return done


def judge(
    results: pl.DataFrame, settings: DeploymentSettings, guards: Sequence[str] = ()
) -> pl.DataFrame:
    """Gains against their margins, as rows of the measurements.

    Overall the gain in the first metric must surely be above minus the margin (non-inferiority). A
    guard, and the first metric on a slice, where intervals are wide, object if their gain is below
    minus their margin and surely below 0. Margins are shares of the opponent's metric. What could
    not be measured objects, too.

    Args:
        results: As `evaluation.compare`.
        settings: The margins.
        guards: Further metrics by which a challenger may not surely be worse.
    """
    is_first = pl.col("metric") == results["metric"][0]
    judged = results.filter(is_first | pl.col("metric").is_in(list(guards)))
    measured = judged.with_columns(pl.col("gain", "gain_lower", "gain_upper").fill_nan(None))
    is_overall = pl.col("slice") == ""
    share = pl.when(is_overall).then(settings.margin).otherwise(settings.slice_margin)
    margin = share * pl.col("reference").abs()
    not_surely_as_good = pl.col("gain_lower") <= -margin
    worse = (
        pl.when(is_first & is_overall)
        .then(not_surely_as_good)
        .otherwise(surely_worse(margin))
        .fill_null(value=True)
    )
    return measured.select(
        "slice",
        pl.format("{}_gain", "metric").alias("metric"),
        pl.col("gain").alias("value"),
        pl.col("gain_lower").alias("lower"),
        pl.col("gain_upper").alias("upper"),
        (-margin).alias("threshold"),
        pl.when(worse).then(pl.lit("worse")).otherwise(pl.lit("ok")).alias("status"),
        "rows",
    )


def objections(judged: pl.DataFrame) -> list[str]:
    """Metrics and slices that are worse than their margins allow."""
    worse = judged.filter(status="worse")
    return (
        worse.select(pl.format("{} {}", "metric", "slice").str.strip_chars()).to_series().to_list()
    )


def _require_same_target(version: Lifetime, model: Model) -> None:
    """Refuse a version that predicts something else: that of another problem."""
    if version.target == model.target.label:
        return
    raise UserError(
        f"Version {version.number} predicts {version.target}, this problem {model.target.label}.",
        "Start anew: `run --on-change anew`, or name another model in `mlflow.model` of conf/.",
    )


def _require_unseen(version: Lifetime, holdout_start: datetime) -> None:
    """Refuse a version that has learned from rows of the holdout."""
    learned_until = version.windows[1].end
    if learned_until <= holdout_start:
        return
    raise UserError(
        f"The holdout begins on {holdout_start:%Y-%m-%d %H:%M}, but version {version.number} has "
        f"learned from rows until {learned_until:%Y-%m-%d %H:%M}.",
        "Train the challenger on a later --as-of, so that its holdout is new to both; "
        "of another data set start anew: `run --on-change anew`.",
    )


def _unseen(context: Context, holdout: pl.DataFrame, others: Sequence[Lifetime]) -> pl.DataFrame:
    """Rows without times that no other version has learned from, whatever its draw."""
    for version in others:
        learned = parts_of(version, context.lakehouse, context.problem).learned
        holdout = holdout.join(learned, on=list(context.problem.model.keys), how="anti")
        if holdout.is_empty():
            message = f"Version {version.number} has learned from all rows of the holdout."
            raise UserError(message, "Bring rows that it has not seen, and train again.")
    return holdout


def _page(
    done: Comparison,
    judged: pl.DataFrame,
    holdout: pl.DataFrame,
    predicted: Array,
    reference: Array,
    model: Model,
) -> str:
    first = model.target.metrics[0].name
    sliced = done.results.filter(pl.col("slice") != "")
    calibrated = _calibration_of_both(done, holdout, predicted, reference, model)
    return pages.render(
        "comparison.html.jinja",
        done=done,
        unit=model.target.unit,
        judged=judged.rows(named=True),
        overall=done.results.filter(slice="").rows(named=True),
        slices=pages.both("intervals", sliced, first, "slices"),
        calibration=pages.both(
            "calibration", calibrated, model.target.unit, "calibration of both", several=True
        ),
        apart=_disagreements(holdout, predicted, reference, model),
    )


def _calibration_of_both(
    done: Comparison, holdout: pl.DataFrame, predicted: Array, reference: Array, model: Model
) -> pl.DataFrame:
    label = holdout[model.target.label].to_numpy()
    parts = []
    for name, scores in {f"version {done.challenger}": predicted, done.opponent: reference}.items():
        part = calibration(label, scores, model.target)
        several = len(model.target.scores) > 1
        title = pl.format("{} of {}", "score", pl.lit(name)) if several else pl.lit(name)
        parts.append(part.with_columns(title.alias("score")))
    return pl.concat(parts)


def _disagreements(
    holdout: pl.DataFrame, predicted: Array, reference: Array, model: Model
) -> pl.DataFrame:
    """Rows that both score most differently; of several classes, by the last one's probability."""
    ours = predicted if predicted.ndim == 1 else predicted[:, -1]
    theirs = reference if reference.ndim == 1 else reference[:, -1]
    rows = holdout.select(*model.keys, model.target.label)
    label = rows[model.target.label]
    if label.dtype.is_float() and (label == label.round()).all():
        rows = rows.with_columns(label.cast(pl.Int64))
    both = rows.with_columns(challenger=ours, opponent=theirs)
    distance = (pl.col("challenger") - pl.col("opponent")).abs()
    return both.sort(distance, descending=True).head(_DISAGREEMENTS)
