"""Whether to train again, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import narwhals as nw
import polars as pl

from ..context import Context
from ..core.contract import polars_schema
from ..core.words import counted
from ..store.measurements import GAIN, MONITORING
from ..store.tables import MEASUREMENTS, RETRAININGS
from ..tracking.registry import CHAMPION

_NAMED_REASONS = 3


@dataclass(frozen=True)
class Decision:
    """Whether to train as of a moment; `outcome` is None until it has been carried out."""

    at: datetime
    retrain: bool
    why: str
    outcome: str | None


@dataclass(frozen=True)
class Judged:
    """A window that the champion scored: its end, and what is violated, worst first."""

    end: datetime
    reasons: list[str]


def decide(context: Context, as_of: datetime) -> Decision:
    """Decide on the windows that the champion scored; written down before it is carried out.

    A window is violated if its performance or the drift of any of its columns is; an unknown one
    is not. A decision that was not carried out, by a process that was killed, is returned as it
    stands, unless a champion is in place that was trained later.
    """
    rows = context.lakehouse.read(RETRAININGS, nw.col("at") <= as_of, order=("at",))
    past = [Decision(**row) for row in rows.iter_rows(named=True)]
    if past and past[-1].outcome is None:
        if not _is_overtaken(context, past[-1]):
            return past[-1]
        past[-1] = conclude(context, past[-1], "overtaken: the champion was trained later")
    if past and past[-1].at == as_of:
        return past[-1]
    trained = [decision.at for decision in past if decision.retrain]
    retrain, why = _judge(context, trained, as_of)
    decision = Decision(as_of, retrain, why, outcome=None if retrain else "")
    _write(context, decision)
    return decision


def write_down(context: Context, at: datetime, why: str) -> Decision:
    """Write down that nothing is to be trained again, for a reason that no window gives."""
    decision = Decision(at, retrain=False, why=why, outcome="")
    _write(context, decision)
    return decision


def decided_until(context: Context) -> datetime | None:
    """Moment of the newest decision that was carried out."""
    done = context.lakehouse.read(RETRAININGS, ~nw.col("outcome").is_null())
    newest = done["at"].max()
    return newest if isinstance(newest, datetime) else None


def conclude(context: Context, decision: Decision, outcome: str) -> Decision:
    """Write down what became of a decision."""
    concluded = replace(decision, outcome=outcome)
    _write(context, concluded)
    return concluded


def _write(context: Context, decision: Decision) -> None:
    row = pl.DataFrame([vars(decision)], schema=polars_schema(RETRAININGS.schema))
    context.lakehouse.merge(RETRAININGS, row)


def _is_overtaken(context: Context, decision: Decision) -> bool:
    """Whether the champion was trained after a decision to replace the one before."""
    champion = context.registry.aliased(CHAMPION)
    return champion is not None and _learned(context, champion) > decision.at


def _learned(context: Context, version: str) -> datetime:
    """Moment until which a version has learned."""
    return datetime.fromisoformat(context.registry.version(version).tags["as_of"])


def _judge(context: Context, trained: list[datetime], as_of: datetime) -> tuple[bool, str]:
    """Whether to train, and why; `trained` are the moments of earlier retrainings."""
    settings = context.settings.retraining
    champion = context.registry.aliased(CHAMPION)
    if champion is None:
        return False, "there is no champion to replace: `train` and `deploy` the first"
    last = max([*trained, _learned(context, champion)])
    windows = _windows(context, champion, as_of)
    cause = _schedule(context, last, as_of) or _violations(context, windows)
    if not cause:
        violated = [window for window in windows if window.reasons]
        return False, _counted(len(violated), len(windows))
    if as_of - last < timedelta(days=settings.cooldown_days):
        ago = counted((as_of - last).days, "day")
        return False, f"{cause}; but the last training was {ago} ago"
    recent = [at for at in trained if at > as_of - timedelta(days=settings.per_days)]
    if len(recent) >= settings.at_most:
        lately = counted(settings.per_days, "day")
        return False, f"{cause}; but there were {len(recent)} in {lately}"
    return True, cause


def _schedule(context: Context, last: datetime, as_of: datetime) -> str:
    """Why the schedule asks for a training; empty where it does not."""
    every = context.settings.retraining.every_days
    if every is None or as_of - last < timedelta(days=every):
        return ""
    return f"{counted((as_of - last).days, 'day')} since the last training, {every} are scheduled"


def _violations(context: Context, windows: list[Judged]) -> str:
    """Why the windows ask for a training; empty where they do not."""
    violated = [window for window in windows if window.reasons]
    if not windows or not windows[-1].reasons:
        return ""
    if len(violated) < context.settings.retraining.violated:
        return ""
    worst = ", ".join(windows[-1].reasons[:_NAMED_REASONS])
    return f"{_counted(len(violated), len(windows))}, the newest by {worst}"


def _counted(violated: int, windows: int) -> str:
    """How many of the last windows are violated, as a person says it."""
    if not windows:
        return "no window of this champion has been measured yet"
    if windows == 1:
        return f"the only window so far is {'violated' if violated else 'not violated'}"
    if not violated:
        return f"none of the last {windows} windows is violated"
    return f"{violated} of the last {windows} windows {'is' if violated == 1 else 'are'} violated"


def _windows(context: Context, champion: str, as_of: datetime) -> list[Judged]:
    """Those of production's newest windows that the champion scored, oldest first.

    None where it did not score the newest: what another one did there, or what it did itself before
    it was rolled back to, says nothing of it now.
    """
    first = context.problem.model.target.metrics[0].name
    rows = context.lakehouse.read(
        MEASUREMENTS,
        nw.col("producer") == MONITORING,
        nw.col("window_end") <= as_of,
        nw.col("metric").is_in([first, GAIN, "drift", "missing", "unseen"]),
    )
    newest = rows["window_end"].unique().sort().tail(context.settings.retraining.of_last)
    rows = rows.filter(pl.col("window_end").is_in(newest.implode()), subject=f"version {champion}")
    excess = (pl.col("value") / pl.col("threshold") - 1).abs()
    ordered = rows.sort(excess, descending=True, nulls_last=True, maintain_order=True)
    name = pl.concat_str("metric", "slice", separator=" ").str.strip_chars()
    reasons = name.filter(pl.col("status") == "violated").alias("reasons")
    windows = ordered.group_by("window_end", maintain_order=True).agg(reasons).sort("window_end")
    judged = [Judged(end, found) for end, found in windows.iter_rows()]
    is_current = judged and judged[-1].end == newest[-1]
    return judged if is_current else []
