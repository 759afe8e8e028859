"""The dashboard: what monitoring knows on one page that needs no network; its data as files."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import polars as pl
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ..context import Context
from ..core.errors import UserError
from ..core.failures import explain
from ..modeling import profile
from ..reporting import pages
from ..store.measurements import MONITORING, mean_gains
from ..store.tables import ALERTS, LOG, MEASUREMENTS, OPENED, RETRAININGS, TRANSITIONS
from ..tracking.registry import PROFILE
from . import panels

_SHOWN_ALERTS = 40
_SHOWN_DECISIONS = 60
_STRONGEST = 20
_TYPES = {
    "index.html": "text/html",
    "metrics.csv": "text/csv",
    "metrics.prom": "text/plain; version=0.0.4",
}
_FOLDER = "/dashboard"
_FILES = {
    "/": "index.html",
    f"{_FOLDER}/index.html": "index.html",
    "/metrics.csv": "metrics.csv",
    f"{_FOLDER}/metrics.csv": "metrics.csv",
    "/metrics": "metrics.prom",
}
_DAY = "%Y-%m-%dT%H:%M:%SZ"


def folder_of(context: Context) -> Path:
    """Where the dashboard is written unless somebody says otherwise."""
    return context.settings.reports / "dashboard"


def files(context: Context, folder: Path | None = None) -> dict[str, str]:
    """By file name: the page, all measurements as CSV, the newest in Prometheus' text format.

    Args:
        context: The environment.
        folder: Where they will lie; the page's links to reports start there.
    """
    order = ("window_end", "producer", "subject", "metric", "slice")
    metrics = context.lakehouse.read(MEASUREMENTS, order=order)
    reports = os.path.relpath(context.settings.reports, folder or folder_of(context))
    return {
        "index.html": _page(context, metrics, Path(reports).as_posix()),
        "metrics.csv": metrics.write_csv(datetime_format=_DAY),
        "metrics.prom": _prometheus(metrics),
    }


def application(context: Context) -> Starlette:
    """The same files, made anew for every request, and the other pages as they were written.

    At / and /dashboard/ is the dashboard, with /metrics.csv and /metrics; /index.html joins the
    pages. Only requests that name the loopback as host are answered: no page of another site reads
    it.
    """

    def answer(request: Request) -> Response:
        name = _FILES[request.url.path]
        headers = {"X-Content-Type-Options": "nosniff"}
        try:
            content = files(context)[name]
        except Exception as error:
            message = explain(error)
            if message is None:
                raise
            return Response(message, 503, headers, "text/plain")
        return Response(content, media_type=_TYPES[name], headers=headers)

    loopback = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    written = Mount("/", StaticFiles(directory=context.settings.reports, check_dir=False))
    routes = [*(Route(path, answer) for path in _FILES), written]
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


def _page(context: Context, metrics: pl.DataFrame, reports: str) -> str:
    settings = context.settings
    measured = metrics.filter(pl.col("producer") == MONITORING)
    known = {
        "name": settings.mlflow.model,
        "env": settings.env,
        "home": f"{reports}/{pages.INDEX}",
        "windows": measured["window_end"].unique().sort().to_list(),
        "streams": panels.streams(metrics),
        "settings": settings,
    }
    if measured.is_empty():
        return pages.render("dashboard.html.jinja", **known)
    first = context.problem.model.target.metrics[0]
    metric = first.name
    policies = panels.policy_rows(metrics, first)
    alerts = context.lakehouse.read(ALERTS, order=("at", "metric", "slice"))
    notices = alerts.filter(pl.col("receiver") == LOG)
    last = notices.group_by("metric", "slice", "status", maintain_order=True).last()
    decisions = context.lakehouse.read(RETRAININGS, order=("at",))
    transitions = context.lakehouse.read(TRANSITIONS, order=("sequence",))
    shifts = panels.shifted(measured, metric)
    ends, heat = panels.heat(shifts, _levels(context, shifts), _links(context, reports))
    return pages.render(
        "dashboard.html.jinja",
        **known,
        metric=metric,
        reigns=panels.reigns(transitions, panels.leaders(measured)),
        tiles=panels.tiles(measured, metric),
        performance=panels.performance(measured, metric),
        figures=measured.filter(pl.col("metric") == metric).rows(named=True),
        policies=panels.policies(policies, metric),
        gains=mean_gains(policies),
        ends=ends,
        heat=heat,
        strongest=_STRONGEST,
        volumes=panels.volumes(measured),
        health=list(panels.health(measured)),
        runs=panels.runs(metrics).rows(named=True),
        open=last.filter(kind=OPENED).rows(named=True),
        notices=notices.reverse().head(_SHOWN_ALERTS).rows(named=True),
        waiting=alerts.filter(pl.col("sent_at").is_null()).height,
        decisions=decisions.reverse().head(_SHOWN_DECISIONS).rows(named=True),
    )


def _links(context: Context, reports: str) -> dict[tuple[str, str], str]:
    """Pages on what shifted: by the window's end, and the version that scored it."""
    links = {}
    for path in context.settings.reports.glob("shift_*.html"):
        _, end, version = path.stem.split("_")
        links[end, f"version {version}"] = f"{reports}/{path.name}"
    return links


def _levels(context: Context, shifts: pl.DataFrame) -> dict[tuple[str, str, str], float]:
    """Shares of missing values in the trainings of the versions that were measured."""
    levels = {}
    for subject in shifts["subject"].unique().sort():
        try:
            trained = _profile(context.registry.download(subject.removeprefix("version ")))
        except UserError:  # its files are lost: that is for others to say
            continue
        for name, histogram in trained.items():
            levels[subject, f"{panels.COLUMN}{name}", "missing"] = histogram.missing
    return levels


@cache
def _profile(folder: Path) -> profile.Profile:
    """Of a version, by its folder: it never changes."""
    return profile.load(folder / "artifacts" / PROFILE)
