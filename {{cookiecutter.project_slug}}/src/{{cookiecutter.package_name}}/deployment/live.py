"""Challenger against champion on the requests that both have scored: shadow or canary."""

from __future__ import annotations

from dataclasses import dataclass

import narwhals as nw
import numpy as np
import polars as pl

from ..context import Context
from ..core.contract import PREDICTION_TIME, Array, Target
from ..modeling.evaluation import clusters
from ..modeling.scores import scores_of
from ..modeling.sequential import FEWEST_CLUSTERS, bounds
from ..store import tables
from ..store.measurements import record

PRODUCER = "live comparison"
_OTHER = "_other"


@dataclass(frozen=True)
class Live:
    """What requests have shown so far.

    `status`: `ok`, the challenger surely is no worse than the margin allows; `worse`, it surely is;
    `unknown`, neither yet.
    """

    rows: int
    wanted: int
    days: int
    gain: float  # loss of the champion minus that of the challenger, a request
    lower: float
    upper: float
    threshold: float
    status: str

    @property
    def evidence(self) -> str:
        """The outcome in a sentence."""
        measured = (
            f"a gain of {self.gain:.4g} ({self.lower:.4g} to {self.upper:.4g}, at least "
            f"{self.threshold:.4g} is wanted) "
            if self.rows
            else ""
        )
        return (
            f"live: {measured}on {self.rows:,} of {self.wanted:,} labelled requests "
            f"of {self.days} days, at least {FEWEST_CLUSTERS}"
        )


def compare_live(context: Context, challenger: str, champion: str) -> Live:
    """Compare two versions on the labelled requests that both have scored.

    Which of them gave the answer makes no difference. The loss is the squared error, of classes
    that of their probabilities (Brier's score), because it is a mean over rows and can be tested
    while they arrive. An entity that was asked for several times at one moment counts once.

    Raises:
        UserError: A table cannot be read.
    """
    target = context.problem.model.target
    rows = _scored_by_both(context, challenger, champion)
    label = rows["label"].to_numpy()
    losses = _losses(label, scores_of(rows, target), target)
    renamed = rows.select(pl.col(f"{name}{_OTHER}").alias(name) for name in target.scores)
    others = _losses(label, scores_of(renamed, target), target)
    is_mine = (rows["model_version"] == challenger).to_numpy()
    gains = np.where(is_mine, others - losses, losses - others)
    of_champion = np.where(is_mine, others, losses)

    settings = context.settings.deployment
    cluster = clusters(rows[PREDICTION_TIME]) if rows.height else np.zeros(0, int)
    found = bounds(gains, cluster, settings.live_rows)
    margin = settings.margin * float(of_champion.mean()) if rows.height else 0.0
    live = Live(
        rows=rows.height,
        wanted=settings.live_rows,
        days=len(np.unique(cluster)),
        gain=found.value,
        lower=found.lower,
        upper=found.upper,
        threshold=-margin,
        status=_status(rows.height >= settings.live_rows, found.lower, found.upper, -margin),
    )
    _record(context, live, f"version {challenger} against version {champion}", rows)
    return live


def _scored_by_both(context: Context, challenger: str, champion: str) -> pl.DataFrame:
    """Labelled requests: what one version said, and what the other did (`_other`)."""
    problem, lakehouse = context.problem, context.lakehouse
    entity = [*problem.model.keys, PREDICTION_TIME]
    said = [*problem.model.target.scores, "model_version"]
    either = nw.col("model_version").is_in([challenger, champion])
    logs = (tables.inference_log(problem), tables.shadow_log(problem))
    given, beside = (
        lakehouse.read(log, either).select(*entity, "request_id", *said) for log in logs
    )
    both = given.join(beside, on=[*entity, "request_id"], suffix=_OTHER)
    both = both.filter(pl.col("model_version") != pl.col(f"model_version{_OTHER}"))
    once = both.sort(*entity, "request_id").unique(entity, keep="last", maintain_order=True)
    known = lakehouse.read(tables.outcomes(problem)).select(*entity, "label")
    return once.join(known.unique(entity), on=entity).sort(*entity)


def _losses(label: Array, scores: Array, target: Target) -> Array:
    """Squared errors, of several classes summed over them; shape (rows,)."""
    if scores.ndim == 1:
        return np.asarray((scores - label) ** 2)
    right = label[:, None] == np.arange(len(target.classes))
    return np.asarray(((scores - right) ** 2).sum(axis=1))


def _status(is_enough: bool, lower: float, upper: float, threshold: float) -> str:  # noqa: FBT001
    if upper < threshold:
        return "worse"
    return "ok" if is_enough and lower > threshold else "unknown"


def _record(context: Context, live: Live, subject: str, rows: pl.DataFrame) -> None:
    """Keep what was found among the measurements."""
    if rows.is_empty():
        return
    row = {
        "metric": "live_gain",
        "value": live.gain,
        "lower": live.lower if np.isfinite(live.lower) else None,
        "upper": live.upper if np.isfinite(live.upper) else None,
        "threshold": live.threshold,
        "status": live.status,
        "rows": live.rows,
    }
    times = rows[PREDICTION_TIME]
    record(context.lakehouse, pl.DataFrame([row]), PRODUCER, subject, min(times), max(times))
