"""The dashboard: what monitoring knows on one page that needs no network; its data as files."""

from __future__ import annotations

from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import polars as pl
from markupsafe import Markup
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..context import Context
from ..core.contract import Metric
from ..reporting import pages
from ..store.measurements import (
    BACKTEST,
    DRIFT,
    MONITORING,
    NEVER,
    PRODUCTION,
    RUN,
    SCHEDULE,
    mean_gains,
)
from ..store.tables import ALERTS, LOG, MEASUREMENTS, OPENED, RETRAININGS
from ..tracking.registry import CHAMPION

_SHOWN_ALERTS = 40
_SHOWN_DECISIONS = 60
_STRONGEST = 20
_ESTIMATED = "estimated_"
_SHIFTS = ["drift", "missing", "unseen"]
_TYPES = {
    "index.html": "text/html",
    "metrics.csv": "text/csv",
    "metrics.prom": "text/plain; version=0.0.4",
}
_FILES = {"/": "index.html", "/metrics.csv": "metrics.csv", "/metrics": "metrics.prom"}
_DAY = "%Y-%m-%dT%H:%M:%SZ"


def files(context: Context) -> dict[str, str]:
    """By file name: the page, all measurements as CSV, the newest in Prometheus' text format."""
    order = ("window_end", "producer", "subject", "metric", "slice")
    metrics = context.lakehouse.read(MEASUREMENTS, order=order)
    return {
        "index.html": _page(context, metrics),
        "metrics.csv": metrics.write_csv(datetime_format=_DAY),
        "metrics.prom": _prometheus(metrics),
    }


def application(context: Context) -> Starlette:
    """The same files, made anew for every request: /, /metrics.csv and /metrics.

    Only requests that name the loopback as host are answered: no page of another site reads it.
    """

    def answer(request: Request) -> Response:
        name = _FILES[request.url.path]
        headers = {"X-Content-Type-Options": "nosniff"}
        return Response(files(context)[name], media_type=_TYPES[name], headers=headers)

    loopback = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    routes = [Route(path, answer) for path in _FILES]
    return Starlette(routes=routes, middleware=[loopback])


def _prometheus(metrics: pl.DataFrame) -> str:
    registry, labels = CollectorRegistry(), ("producer", "subject", "metric", "slice")
    newest = metrics.group_by(*labels, maintain_order=True).last()
    for column, meaning in {"value": "Newest value of a metric", "threshold": "Its limit"}.items():
        gauge = Gauge(f"mlops_metric_{column}", meaning, labels, registry=registry)
        for *values, number in newest.drop_nulls(column).select(*labels, column).iter_rows():
            gauge.labels(*values).set(number)
    violated = Gauge(
        "mlops_metric_violated", "1 where the newest status is violated", labels, registry=registry
    )
    for *values, status in newest.drop_nulls("status").select(*labels, "status").iter_rows():
        violated.labels(*values).set(status == "violated")
    return generate_latest(registry).decode()


def _page(context: Context, metrics: pl.DataFrame) -> str:
    settings = context.settings
    measured = metrics.filter(pl.col("producer") == MONITORING)
    if measured.is_empty():
        return pages.render("dashboard.html.jinja", name=settings.mlflow.model, windows=[])
    first = context.problem.model.target.metrics[0]
    metric = first.name
    policies = _policy_rows(metrics, first)
    windows = measured["window_end"].unique().sort().to_list()
    newest = measured.filter(window_end=windows[-1])
    alerts = context.lakehouse.read(ALERTS, order=("at", "metric", "slice"))
    notices = alerts.filter(pl.col("receiver") == LOG)
    last = notices.group_by("metric", "slice", "status", maintain_order=True).last()
    decisions = context.lakehouse.read(RETRAININGS, order=("at",))
    shifted = measured.filter(pl.col("metric").is_in(_SHIFTS))
    performance = pages.svg(
        _performance(measured, metric),
        f"{metric} by window with its 95 % interval, limit and champions",
    )
    volumes = pages.svg(_volumes(measured), "Rows due and rows scored, by window")
    return pages.render(
        "dashboard.html.jinja",
        name=settings.mlflow.model,
        env=settings.env,
        settings=settings,
        metric=metric,
        windows=windows,
        champion=context.registry.aliased(CHAMPION),
        champions=_champions(measured),
        states={
            "Performance": newest.filter(metric=metric),
            "Estimated": newest.filter(metric=f"{_ESTIMATED}{metric}"),
            "Inputs and scores": newest.filter(pl.col("metric").is_in(_SHIFTS)),
            "Data and pipelines": newest.filter(subject=PRODUCTION).drop_nulls("status"),
        },
        performance=performance,
        figures=measured.filter(pl.col("metric") == metric).rows(named=True),
        policies=_policies(policies, metric),
        gains=mean_gains(policies, settings.seed),
        heat=_heat(shifted),
        strongest=_STRONGEST,
        volumes=volumes,
        health=newest.filter(subject=PRODUCTION).sort("metric", "slice").rows(named=True),
        runs=_runs(metrics).rows(named=True),
        open=last.filter(kind=OPENED).rows(named=True),
        notices=notices.reverse().head(_SHOWN_ALERTS).rows(named=True),
        waiting=alerts.filter(pl.col("sent_at").is_null()).height,
        decisions=decisions.reverse().head(_SHOWN_DECISIONS).rows(named=True),
    )


def _runs(metrics: pl.DataFrame) -> pl.DataFrame:
    """How the runs of each step went: subject, seconds, peak_mb, failed, runs."""
    value = pl.col("value")
    by_step = metrics.filter(pl.col("producer") == RUN).group_by("subject", maintain_order=True)
    return by_step.agg(
        value.filter(metric="seconds").mean().alias("seconds"),
        value.filter(metric="peak_mb").max().alias("peak_mb"),
        value.filter(metric="failed").sum().alias("failed"),
        value.filter(metric="failed").len().alias("runs"),
    )


def _champions(measured: pl.DataFrame) -> list[tuple[str, datetime, datetime]]:
    """Version, first and last end of the windows of which it scored most rows, in order."""
    scored = measured.filter(
        pl.col("subject") != PRODUCTION, pl.col("metric").str.starts_with(_ESTIMATED)
    )
    by_window = scored.sort("window_end", "rows").group_by("window_end", maintain_order=True).last()
    champions = []
    for subject, group in groupby(by_window.rows(named=True), key=itemgetter("subject")):
        span = list(group)
        champions.append((subject, span[0]["window_end"], span[-1]["window_end"]))
    return champions


def _times(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("window_end").dt.strftime(_DAY))


def _performance(measured: pl.DataFrame, metric: str) -> dict[str, Any]:
    kinds = {metric: "measured", f"{_ESTIMATED}{metric}": "estimated"}
    rows = measured.filter(pl.col("metric").is_in(kinds)).with_columns(
        kind=pl.col("metric").replace(kinds)
    )
    starts = [(subject, first) for subject, first, _ in _champions(measured)]
    changes = pl.DataFrame(
        starts,
        schema={"subject": pl.String, "window_end": measured.schema["window_end"]},
        orient="row",
    )
    both = pl.concat([rows, changes.with_columns(kind=pl.lit("champion"))], how="diagonal")
    columns = ("window_end", "kind", "subject", "value", "lower", "upper", "threshold")
    return pages.chart("performance", _times(both.select(columns)), metric)


def _policy_rows(metrics: pl.DataFrame, metric: Metric) -> pl.DataFrame:
    """Windows of a backtest by policy: value, and gain over never retraining."""
    rows = metrics.filter(pl.col("producer") == BACKTEST)
    never = rows.filter(subject=NEVER).select("window_end", never="value")
    both = rows.join(never, on="window_end", how="inner", maintain_order="left")
    rise = pl.col("value") - pl.col("never")
    return both.with_columns(gain=rise if metric.higher_is_better else -rise)


def _policies(rows: pl.DataFrame, metric: str) -> Markup | None:
    if rows.is_empty():
        return None
    shown = _times(rows.select("window_end", "subject", "value"))
    spec = pages.chart("policies", shown, metric, policies=[NEVER, SCHEDULE, DRIFT])
    return pages.svg(spec, f"{metric} by window and policy")


def _heat(shifted: pl.DataFrame) -> pl.DataFrame:
    """Column of the model by window: how many times its limit the farthest of its statistics is."""
    ratio = pl.when(pl.col("threshold").is_not_null()).then(pl.col("value") / pl.col("threshold"))
    cells = shifted.group_by("slice", "window_end").agg(ratio.max().alias("ratio"))
    wide = cells.sort("window_end").pivot("window_end", index="slice", values="ratio")
    order = pl.max_horizontal(pl.all().exclude("slice"))
    return wide.sort(order, "slice", descending=[True, False], nulls_last=True).with_columns(
        pl.col("slice").str.strip_prefix("feature=")
    )


def _volumes(measured: pl.DataFrame) -> dict[str, Any]:
    scored = measured.filter(metric="scored")
    rows = scored.select("window_end", due="rows", scored=pl.col("rows") * pl.col("value"))
    return pages.chart("volumes", _times(rows), "rows")
