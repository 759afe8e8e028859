"""The dashboard: all that monitoring knows on one page, which needs no network; its data as files."""

from __future__ import annotations

from datetime import datetime
from itertools import groupby
from typing import Any

import polars as pl
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..context import Context
from ..core.contract import Table
from ..monitoring import backtest
from ..monitoring.alerts import LOG, OPENED
from ..monitoring.pipeline import ESTIMATED, PRODUCER, PRODUCTION
from ..reporting import pages
from ..store.measurements import RUN
from ..store.tables import ALERTS, MEASUREMENTS, RETRAININGS

_SHOWN_ALERTS, _SHOWN_DECISIONS, _STRONGEST = 40, 60, 20
_TYPES = {
    "index.html": "text/html",
    "metrics.csv": "text/csv",
    "metrics.prom": "text/plain; version=0.0.4",
}
_DAY = "%Y-%m-%dT%H:%M:%SZ"


def files(context: Context) -> dict[str, str]:
    """The page, all metrics as CSV, and the newest of each in Prometheus' text format, by file name."""
    metrics = _rows(context, MEASUREMENTS, "window_end", "producer", "subject", "metric", "slice")
    csv = metrics.write_csv(datetime_format=_DAY)
    return dict(zip(_TYPES, (_page(context, metrics), csv, _prometheus(metrics)), strict=True))


def application(context: Context) -> Starlette:
    """The same files, made anew for every request: /, /metrics.csv and /metrics."""

    def answer(request: Request) -> Response:
        name = {"/": "index.html", "/metrics": "metrics.prom"}.get(request.url.path, "metrics.csv")
        return Response(files(context)[name], media_type=_TYPES[name])

    return Starlette(routes=[Route(path, answer) for path in ("/", "/metrics.csv", "/metrics")])


def _rows(context: Context, table: Table, *order: str) -> pl.DataFrame:
    return context.lakehouse.read(table).sort(*order)


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
    measured = metrics.filter(pl.col("producer") == PRODUCER)
    if measured.is_empty():
        return pages.render("dashboard.html.jinja", name=context.settings.mlflow.model, windows=[])
    metric, champions = context.problem.model.target.metrics[0].name, _champions(measured)
    windows = measured["window_end"].unique().sort().to_list()
    newest = measured.filter(window_end=windows[-1])
    alerts = _rows(context, ALERTS, "at", "metric", "slice")
    notices = alerts.filter(pl.col("receiver") == LOG)
    last = notices.group_by("metric", "slice", "status", maintain_order=True).last()
    performance = _performance(measured, metric)
    shifted = measured.filter(pl.col("metric").is_in(["drift", "missing", "unseen"]))
    return pages.render(
        "dashboard.html.jinja",
        name=context.settings.mlflow.model,
        env=context.settings.env,
        settings=context.settings,
        metric=metric,
        windows=windows,
        champions=champions,
        states={
            "Performance": newest.filter(metric=metric),
            "Estimated": newest.filter(metric=f"{ESTIMATED}_{metric}"),
            "Inputs and scores": newest.filter(
                pl.col("metric").is_in(["drift", "missing", "unseen"])
            ),
            "Data and pipelines": newest.filter(subject=PRODUCTION),
        },
        performance=pages.svg(
            performance, f"{metric} by window with its 95 % interval, limit and champions"
        ),
        figures=measured.filter(pl.col("metric") == metric).rows(named=True),
        policies=_policies(metrics, metric),
        gains=backtest.mean_gains(_policy_rows(metrics), context.settings.seed),
        heat=_heat(shifted),
        strongest=_STRONGEST,
        volumes=pages.svg(_volumes(measured), "Rows due and rows scored, by window"),
        health=newest.filter(subject=PRODUCTION).sort("metric", "slice").rows(named=True),
        runs=metrics.filter(pl.col("producer") == RUN)
        .group_by("subject", maintain_order=True)
        .agg(
            pl.col("value").filter(metric="seconds").mean().alias("seconds"),
            pl.col("value").filter(metric="peak_mb").max().alias("peak_mb"),
            pl.col("value").filter(metric="failed").sum().alias("failed"),
            pl.col("value").filter(metric="failed").len().alias("runs"),
        )
        .rows(named=True),
        open=last.filter(kind=OPENED).rows(named=True),
        notices=notices.reverse().head(_SHOWN_ALERTS).rows(named=True),
        waiting=alerts.filter(pl.col("sent_at").is_null()).height,
        decisions=_rows(context, RETRAININGS, "at")
        .reverse()
        .head(_SHOWN_DECISIONS)
        .rows(named=True),
    )


def _champions(measured: pl.DataFrame) -> list[tuple[str, datetime, datetime]]:
    """Version, first and last end of the windows that it scored, in order."""
    by_window = (
        measured.filter(pl.col("subject") != PRODUCTION)
        .group_by("window_end")
        .agg(pl.col("subject").first())
    )
    spans = [
        list(rows)
        for _, rows in groupby(by_window.sort("window_end").rows(), key=lambda row: row[1])
    ]
    return [(span[0][1], span[0][0], span[-1][0]) for span in spans]


def _times(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("window_end").dt.strftime(_DAY))


def _performance(measured: pl.DataFrame, metric: str) -> dict[str, Any]:
    kinds = {metric: "measured", f"{ESTIMATED}_{metric}": "estimated"}
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


def _policy_rows(metrics: pl.DataFrame) -> pl.DataFrame:
    rows = metrics.filter(pl.col("producer") == backtest.PRODUCER)
    never = rows.filter(subject=backtest.NEVER).select("window_end", never="value")
    return rows.join(never, on="window_end", how="inner", maintain_order="left").with_columns(
        gain=pl.col("value") - pl.col("never")
    )


def _policies(metrics: pl.DataFrame, metric: str) -> Any:
    rows = _policy_rows(metrics)
    if rows.is_empty():
        return None
    shown = _times(rows.select("window_end", "subject", "value"))
    spec = pages.chart(
        "policies", shown, metric, policies=[backtest.NEVER, backtest.SCHEDULE, backtest.DRIFT]
    )
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
