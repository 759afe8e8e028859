"""Whether to train again, and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import narwhals as nw
import polars as pl

from ..context import Context
from ..core.contract import polars_schema
from ..store.tables import MEASUREMENTS, RETRAININGS
from ..tracking.registry import CHAMPION
from .pipeline import PRODUCER


@dataclass(frozen=True)
class Decision:
    """Whether to train as of a moment; `outcome` is None until it has been carried out."""

    at: datetime
    retrain: bool
    why: str
    outcome: str | None


def decide(context: Context, as_of: datetime) -> Decision:
    """Decide on the windows that the champion scored; the decision is written down before it is carried out.

    A window is violated if its performance or the drift of any of its columns is; an unknown one is not.
    A decision that was not carried out, by a process that was killed, is returned as it stands.
    """
    lakehouse = context.lakehouse
    rows = lakehouse.read(RETRAININGS, nw.col("at") <= as_of).sort("at")
    past = [Decision(**row) for row in rows.iter_rows(named=True)]
    if past and (past[-1].outcome is None or past[-1].at == as_of):
        return past[-1]
    retrain, why = _judge(context, [it.at for it in past if it.retrain], as_of)
    decision = Decision(as_of, retrain, why, None if retrain else "")
    _write(context, decision)
    return decision


def decided_until(context: Context) -> datetime | None:
    """Moment of the newest decision that was carried out."""
    done = (
        context.lakehouse.scan(RETRAININGS)
        .filter(~nw.col("outcome").is_null())
        .select(nw.col("at").max())
    )
    found = done.collect().item()
    return found if isinstance(found, datetime) else None


def conclude(context: Context, decision: Decision, outcome: str) -> None:
    """Write down what became of a decision."""
    _write(context, Decision(decision.at, decision.retrain, decision.why, outcome))


def _write(context: Context, decision: Decision) -> None:
    row = pl.DataFrame([vars(decision)], schema=polars_schema(RETRAININGS.schema))
    context.lakehouse.merge(RETRAININGS, row)


def _judge(context: Context, trained: list[datetime], as_of: datetime) -> tuple[bool, str]:
    settings, registry = context.settings.retraining, context.registry
    champion = registry.aliased(CHAMPION)
    if champion is None:
        return False, "there is no champion to replace: `train` and `deploy` the first"
    last = max([*trained, datetime.fromisoformat(registry.version(champion).tags["as_of"])])
    windows = _windows(context, champion, as_of)[-settings.of_last :]
    violated = [reasons for _, reasons in windows if reasons]
    cause = ""
    if settings.every_days and as_of - last >= timedelta(days=settings.every_days):
        cause = f"{(as_of - last).days} days since the last training, {settings.every_days} are scheduled"
    elif windows and windows[-1][1] and len(violated) >= settings.violated:
        worst = ", ".join(windows[-1][1][:3])
        cause = f"{len(violated)} of the last {len(windows)} windows are violated, in the newest {worst}"
    if not cause:
        return False, f"{len(violated)} of the last {len(windows)} windows are violated"
    if as_of - last < timedelta(days=settings.cooldown_days):
        return False, f"{cause}; but the last training is {(as_of - last).days} days ago"
    recent = [moment for moment in trained if moment > as_of - timedelta(days=settings.per_days)]
    if len(recent) >= settings.at_most:
        return (
            False,
            f"{cause}; but there were {len(recent)} retrainings in {settings.per_days} days",
        )
    return True, cause


def _windows(context: Context, champion: str, as_of: datetime) -> list[tuple[datetime, list[str]]]:
    """Ends of the windows that the champion scored, oldest first, with what is violated, worst first."""
    first = context.problem.model.target.metrics[0].name
    mine = (
        nw.col("producer") == PRODUCER,
        nw.col("subject") == f"version {champion}",
        nw.col("window_end") <= as_of,
    )
    judged = nw.col("metric").is_in([first, "drift", "missing", "unseen"])
    rows = context.lakehouse.read(MEASUREMENTS, *mine, judged)
    excess = (pl.col("value") / pl.col("threshold") - 1).abs()
    name = pl.concat_str("metric", "slice", separator=" ").str.strip_chars()
    reasons = name.sort_by(excess, descending=True).filter(
        pl.col("status").sort_by(excess, descending=True) == "violated"
    )
    windows = rows.group_by("window_end").agg(reasons.alias("reasons")).sort("window_end")
    return [(end, found) for end, found in windows.iter_rows()]
