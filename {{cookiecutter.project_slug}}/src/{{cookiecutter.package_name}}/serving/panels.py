"""Panels of the dashboard: pure functions of what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import polars as pl
from markupsafe import Markup

from ..core.contract import Metric
from ..reporting import pages
from ..store.measurements import (
    BACKTEST,
    DRIFT,
    GAIN,
    NEVER,
    PRODUCTION,
    RUN,
    SCHEDULE,
    SERVING,
)
from ..store.tables import CHAMPIONS_STAGE

ESTIMATED = "estimated_"
COLUMN = "feature="
_ON_A_PHONE = 10  # newest windows that a phone's charts show
_TICKS = 8
_TICKS_ON_A_PHONE = 4
_NEAR = 0.8  # of the limit: from there on a cell of the heat map has a colour
_FAR = 2.0
_STREAMS = {"stream": "Requests", "events": "Events"}  # by the subject of their measurements
_WINDOWS_OF_A_STREAM = 60  # newest ones
_TIME = "%Y-%m-%dT%H:%M:%SZ"

Levels: TypeAlias = Mapping[tuple[str, str, str], float]
"""By subject, slice and metric: the value in the training, above which a window shifted."""


@dataclass(frozen=True)
class Tile:
    """What is most to know of a subject: a number, and how its statuses are."""

    title: str
    figure: str
    beside: str
    ok: int
    violated: int
    unknown: int

    @property
    def total(self) -> int:
        """Statuses in all."""
        return self.ok + self.violated + self.unknown


@dataclass(frozen=True)
class Cell:
    """A column in a window: how far beyond the training, where its limit is 1."""

    shown: str
    kind: str
    title: str
    link: str | None


@dataclass(frozen=True)
class Stream:
    """What streams, in its newest windows: a chart, and by window, newest first, the figures."""

    title: str
    chart: Markup
    windows: list[dict[str, Any]]  # window_end, rows, and of each measure value, limit, status


@dataclass(frozen=True)
class Reign:
    """From when on a version was the champion, and the windows of which it scored most rows."""

    version: str
    since: datetime
    action: str
    who: str
    windows: int
    first: datetime | None
    last: datetime | None


# The newest window -------------------------------------------------------------------------------


def tiles(measured: pl.DataFrame, metric: str) -> list[Tile]:
    """Figures of the newest window; those of performance of the version that scored most rows."""
    newest = measured.filter(pl.col("window_end") == pl.col("window_end").max())
    leading = newest.filter(subject=leaders(newest).get_column("subject").first())
    shifts = shifted(newest, metric)
    health = newest.filter(subject=PRODUCTION).drop_nulls("status")
    return [
        _valued("Performance", leading.filter(metric=metric)),
        _valued("Estimated", leading.filter(metric=f"{ESTIMATED}{metric}")),
        _counted("Inputs and scores", shifts),
        _counted("Data and pipelines", health),
    ]


def _valued(title: str, rows: pl.DataFrame) -> Tile:
    value: float | None = None
    limit: float | None = None
    for row in rows.head(1).iter_rows(named=True):
        value, limit = row["value"], row["threshold"]
    return Tile(title, pages.number(value), f"limit {pages.number(limit)}", *_statuses(rows))


def _counted(title: str, rows: pl.DataFrame) -> Tile:
    ok, violated, unknown = _statuses(rows)
    return Tile(title, f"{ok} of {ok + violated + unknown}", "", ok, violated, unknown)


def _statuses(rows: pl.DataFrame) -> tuple[int, int, int]:
    found = rows["status"].fill_null("unknown").to_list()
    ok, violated = found.count("ok"), found.count("violated")
    return ok, violated, len(found) - ok - violated


# Champions ---------------------------------------------------------------------------------------


def leaders(measured: pl.DataFrame) -> pl.DataFrame:
    """The version that scored most rows of each window: window_end, subject, rows; oldest first."""
    is_estimate = pl.col("metric").str.starts_with(ESTIMATED)
    scored = measured.filter(pl.col("subject") != PRODUCTION, is_estimate)
    most = scored.sort("window_end", "rows", nulls_last=False)
    return (
        most.group_by("window_end", maintain_order=True)
        .last()
        .select("window_end", "subject", "rows")
    )


def reigns(transitions: pl.DataFrame, led: pl.DataFrame) -> list[Reign]:
    """Every champion that there was, by the log of transitions, the present one first."""
    found = []
    for move in transitions.filter(to_stage=CHAMPIONS_STAGE).iter_rows(named=True):
        mine = led.filter(subject=f"version {move['version']}")["window_end"]
        who = (move["version"], move["at"], move["action"], move["who"])
        found.append(Reign(*who, mine.len(), mine.min(), mine.max()))  # type: ignore[arg-type]
    return found[::-1]


def _changes(led: pl.DataFrame) -> pl.DataFrame:
    """First windows in which another version leads: window_end, subject."""
    return led.filter(pl.col("subject") != pl.col("subject").shift(1).fill_null("")).select(
        "window_end", "subject"
    )


# Charts ------------------------------------------------------------------------------------------


def performance(measured: pl.DataFrame, metric: str) -> Markup:
    """Measured and estimated performance of each window's leading version."""
    led = leaders(measured)
    kinds = {metric: "measured", f"{ESTIMATED}{metric}": "estimated"}
    ours = measured.join(led, on=["window_end", "subject"], how="semi")
    is_violated = pl.col("status") == "violated"
    kind = pl.col("metric").replace(kinds)
    rows = ours.filter(pl.col("metric").is_in(kinds)).with_columns(
        kind=kind, shown=pl.when(is_violated).then(pl.lit("violated")).otherwise(kind)
    )
    changes = _changes(led).with_columns(kind=pl.lit("champion"))
    both = pl.concat([rows, changes], how="diagonal").select(
        "window_end", "kind", "shown", "subject", "value", "lower", "upper", "threshold"
    )
    return _by_window(
        "performance", both, metric, f"{metric} by window with intervals, limit and champions"
    )


def volumes(measured: pl.DataFrame) -> Markup:
    """Rows due and rows scored."""
    scored = measured.filter(metric="scored")
    rows = scored.select("window_end", due="rows", scored=pl.col("rows") * pl.col("value"))
    return _by_window("volumes", rows, "rows", "Rows due and rows scored, by window")


def policies(rows: pl.DataFrame, metric: str) -> Markup | None:
    """The windows of a backtest by policy; None where there was none."""
    if rows.is_empty():
        return None
    shown = rows.select("window_end", "subject", "value")
    title, order = f"{metric} by window and policy", [NEVER, SCHEDULE, DRIFT]
    return _by_window("policies", shown, metric, title, policies=order)


def _by_window(
    name: str, rows: pl.DataFrame, title: str, description: str, **options: Any
) -> Markup:
    """A chart over windows; a phone's shows the newest of them."""
    ends = rows["window_end"].unique().sort()
    newest = ends.tail(_ON_A_PHONE)
    few = rows.filter(pl.col("window_end").is_in(newest.implode()))
    drawn = []
    for shown, times, count, width in (
        (rows, ends, _TICKS, pages.WIDE),
        (few, newest, _TICKS_ON_A_PHONE, pages.NARROW),
    ):
        as_text = shown.with_columns(pl.col("window_end").dt.strftime(_TIME))
        drawn.append(
            pages.chart(name, as_text, title, width, ticks=_ticks(times, count), **options)
        )
    return pages.figure(description, *drawn)


def _ticks(ends: pl.Series, count: int) -> list[int]:
    """Milliseconds since 1970 of so many windows' ends at most, the newest among them."""
    step = max(1, -(-ends.len() // count))
    return ends.reverse().gather_every(step).reverse().dt.epoch("ms").to_list()


def policy_rows(metrics: pl.DataFrame, metric: Metric) -> pl.DataFrame:
    """Windows of a backtest by policy: value, and gain over never retraining."""
    rows = metrics.filter(pl.col("producer") == BACKTEST)
    never = rows.filter(subject=NEVER).select("window_end", never="value")
    both = rows.join(never, on="window_end", how="inner", maintain_order="left")
    rise = pl.col("value") - pl.col("never")
    return both.with_columns(gain=rise if metric.higher_is_better else -rise)


# Drift -------------------------------------------------------------------------------------------


def shifted(measured: pl.DataFrame, metric: str) -> pl.DataFrame:
    """What was judged of versions and is not their performance: shifts, whatever measured them."""
    is_performance = pl.col("metric").is_in([metric, f"{ESTIMATED}{metric}", GAIN])
    return measured.filter(pl.col("subject") != PRODUCTION, ~is_performance).drop_nulls("status")


def heat(
    shifts: pl.DataFrame, levels: Levels, links: Mapping[tuple[str, str], str]
) -> tuple[list[datetime], list[tuple[str, list[Cell]]]]:
    """Columns of the model by window, newest window first, the farthest column on top.

    A cell holds the statistic that is farthest beyond the training: its excess over the training's
    level as a share of the excess that the limit allows.

    Args:
        shifts: As `shifted`.
        levels: Of the trainings; where there is none, it is 0.
        links: By window's end (as a stamp) and subject: the page that shows the distributions.

    Returns:
        The windows' ends, and for each column a cell per window.
    """
    ends = shifts["window_end"].unique().sort(descending=True).to_list()
    worst: dict[tuple[str, datetime], tuple[float, dict[str, Any]]] = {}
    for row in shifts.iter_rows(named=True):
        place = (_place(row), row["window_end"])
        excess = _excess(row, levels)
        if place not in worst or excess > worst[place][0]:
            worst[place] = (excess, row)
    highest: dict[str, float] = {}
    for (name, _), (excess, _) in worst.items():
        highest[name] = max(excess, highest.get(name, excess))
    rows = []
    for name in sorted(highest, key=lambda name: (-highest[name], name)):
        cells = [_cell(worst.get((name, end)), links) for end in ends]
        rows.append((name, cells))
    return ends, rows


def _place(row: Mapping[str, Any]) -> str:
    """The column that a statistic is of; of one over all columns, its own name."""
    return str(row["slice"]).removeprefix(COLUMN) or str(row["metric"])


def _excess(row: Mapping[str, Any], levels: Levels) -> float:
    """Beyond the training's level, where the limit is 1; below 0: unknown."""
    value, limit = row["value"], row["threshold"]
    if value is None or limit is None or row["status"] == "unknown":
        return -1.0
    level = levels.get((row["subject"], row["slice"], row["metric"]), 0.0)
    room = limit - level if limit > level else limit
    ratio = max(value - level, 0.0) / room if room else float(value > limit)
    # As judged, not as rounded.
    return max(ratio, 1.0) if row["status"] == "violated" else min(ratio, 0.94)


def _cell(found: tuple[float, Mapping[str, Any]] | None, links: Mapping[Any, str]) -> Cell:
    if found is None:
        return Cell("", "x", "not an input then", None)
    excess, row = found
    page = links.get((pages.stamp(row["window_end"]), row["subject"]))
    link = f"{page}#{_place(row)}" if page else None
    said = f"{row['metric']} {pages.number(row['value'])}, limit {pages.number(row['threshold'])}"
    if excess < 0:
        return Cell("·", "x", f"{row['metric']} unknown", link)
    return Cell(f"{excess:.1f}", _kind(round(excess, 1)), said, link)


def _kind(excess: float) -> str:
    if excess < _NEAR:
        return "0"
    if excess < 1:
        return "1"
    return "2" if excess < _FAR else "3"


# Health ------------------------------------------------------------------------------------------


def health(measured: pl.DataFrame) -> Iterator[tuple[str, str, str, str | None]]:
    """Of the newest window: what, its value, its limit, its status."""
    newest = measured.filter(pl.col("window_end") == pl.col("window_end").max())
    rows = newest.filter(subject=PRODUCTION).sort("metric", "slice")
    for row in rows.iter_rows(named=True):
        name, form = _named(row["metric"], row["slice"])
        yield name, form(row["value"]), form(row["threshold"]), row["status"]


def _named(metric: str, part: str) -> tuple[str, Any]:
    """What a metric of production is called, and how its value is written."""
    of = part.partition("=")[2]
    known = {
        "scored": ("Rows scored, of those due", pages.percent),
        "batch_latency_ms": ("Time per row, scored in batches", _milliseconds),
        "failed_runs": ("Failed runs of pipelines", _count),
        "quarantined": (f"Rows of {of} in quarantine", pages.percent),
        "age_hours": (f"Age of the newest row of {of}", _hours),
    }
    if metric == "age_hours" and part.startswith("table="):
        return f"Age of the last run that completed {of}", _hours
    return known.get(metric, (f"{metric} {part}".strip(), pages.number))


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _hours(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f} hours"


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g} ms"


# Streams -----------------------------------------------------------------------------------------


def streams(metrics: pl.DataFrame) -> list[Stream]:
    """What streams here; nothing where nothing does."""
    found = []
    for subject, title in _STREAMS.items():
        rows = metrics.filter(producer=SERVING, subject=subject)
        windows = _stream_windows(rows, subject)
        if windows.is_empty():
            continue
        described = f"{title}: longest wait in seconds by window, with the limit"
        drawn = _by_window("stream", windows, "longest wait, seconds", described)
        shown = windows.sort("window_end", descending=True).rows(named=True)
        found.append(Stream(title, drawn, shown))
    return found


def _stream_windows(rows: pl.DataFrame, subject: str) -> pl.DataFrame:
    """The newest windows of a stream, a row each, oldest first."""

    def measured(column: str, name: str) -> pl.Expr:
        return pl.col(column).filter(metric=f"{subject}_{name}").first()

    by_window = rows.group_by("window_end").agg(
        pl.col("rows").max(),
        measured("value", "lag_seconds").alias("lag"),
        measured("threshold", "lag_seconds").alias("lag_limit"),
        measured("status", "lag_seconds").alias("lag_status"),
        measured("value", "refused").alias("refused"),
        measured("threshold", "refused").alias("refused_limit"),
        measured("status", "refused").alias("refused_status"),
        measured("value", "rows_per_second").alias("per_second"),
    )
    return by_window.sort("window_end").tail(_WINDOWS_OF_A_STREAM)


# Runs --------------------------------------------------------------------------------------------


def runs(metrics: pl.DataFrame) -> pl.DataFrame:
    """How the runs of each step went: subject, runs, failed, seconds, peak_mb of the process."""
    value = pl.col("value")
    by_step = metrics.filter(pl.col("producer") == RUN).group_by("subject", maintain_order=True)
    return by_step.agg(
        value.filter(metric="seconds").mean().alias("seconds"),
        value.filter(metric="peak_mb").max().alias("peak_mb"),
        value.filter(metric="failed").sum().alias("failed"),
        value.filter(metric="failed").len().alias("runs"),
    )
