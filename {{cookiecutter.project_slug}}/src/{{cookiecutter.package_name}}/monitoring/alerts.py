"""Alerts: opened and closed by the statuses of measurements, written down first, then delivered."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import apprise
import narwhals as nw
import polars as pl

from ..context import Context
from ..core.contract import polars_schema
from ..core.errors import UserError
from ..core.settings import AlertRule
from ..store.measurements import MONITORING, SERVING
from ..store.tables import ALERTS, LOG, MEASUREMENTS, OPENED, RECOVERED, every

Measured: TypeAlias = dict[str, Any]
"""A row of the measurements."""


@dataclass(frozen=True)
class Alert:
    """What one alert is about: a metric, a slice, and the status that opens it."""

    metric: str
    slice: str
    status: str


@dataclass(frozen=True)
class Notice:
    """That an alert opened or closed, in words."""

    alert: Alert
    kind: str
    text: str


def raise_alerts(context: Context, as_of: datetime) -> list[str]:
    """Open an alert where a rule holds in the newest window that knows, close it where it does not.

    One that is open stays open, without another notice, while its metric is violated or unknown. It
    closes as well when nothing measures its metric any more: the champion that took the column is
    gone, or the source or table is. Each notice is a row per receiver, written in one commit before
    any is delivered.

    Args:
        context: Measurements, rules, receivers.
        as_of: Moment of the notices.

    Returns:
        Texts of the new notices.
    """
    rows = context.lakehouse.read(
        MEASUREMENTS,
        nw.col("producer").is_in([MONITORING, SERVING]),
        nw.col("window_end") <= as_of,
    )
    gone = {**_columns_gone(rows), **_undeclared(context, rows)}
    held = rows.filter(~pl.col("slice").is_in(list(gone)))
    deciding = _deciding(held, context.settings.alerts.rules)
    kinds = _newest_kinds(context)
    notices = []
    for alert, row in deciding.items():
        kind = OPENED if row["status"] == alert.status else RECOVERED
        if kind != kinds.get(alert, RECOVERED):
            notices.append(Notice(alert, kind, _text(row, kind)))
    for alert, kind in kinds.items():
        if kind == OPENED and alert.slice in gone:
            text = f"{RECOVERED}: {alert.metric} {alert.slice}: {gone[alert.slice]}"
            notices.append(Notice(alert, RECOVERED, text))
    _write(context, notices, as_of)
    return [notice.text for notice in notices]


def deliver(context: Context) -> None:
    """Send what has not arrived yet, a message per receiver; what fails is tried again next time.

    A process killed between sending and writing that down sends again: notices arrive at least
    once.

    Raises:
        UserError: A receiver did not accept its message, is not set, or is no address; the others
            have theirs.
    """
    settings = context.settings
    waiting = context.lakehouse.read(ALERTS, nw.col("sent_at").is_null())
    failed = []
    for (receiver,), notices in waiting.group_by("receiver", maintain_order=True):
        body = "\n".join(notices.sort("at", "metric", "slice")["text"])
        title = f"{settings.mlflow.model} ({settings.env}): {notices.height} notices"
        if reason := _send(str(receiver), title, body, settings.alerts.attempts):
            failed.append(f"{notices.height} for {receiver} ({reason})")
        else:
            sent_at = pl.lit(datetime.now(UTC)).cast(polars_schema(ALERTS.schema)["sent_at"])
            context.lakehouse.merge(ALERTS, notices.with_columns(sent_at=sent_at))
    if failed:
        message = f"Notices could not be delivered: {', '.join(failed)}."
        remedy = "They are kept and tried again by the next `monitor`; check the receiver."
        raise UserError(message, remedy)


def _columns_gone(rows: pl.DataFrame) -> dict[str, str]:
    """Slices of columns that were measured once and are not in the newest window, and why."""
    columns = rows.filter(pl.col("slice").str.starts_with("feature="))
    newest = columns.filter(pl.col("window_end") == pl.col("window_end").max())
    gone = sorted(set(columns["slice"]) - set(newest["slice"]))
    return dict.fromkeys(gone, "the champion does not take it now")


def _undeclared(context: Context, rows: pl.DataFrame) -> dict[str, str]:
    """Slices of sources and tables that the problem does not declare any more, and why."""
    problem = context.problem
    declared = {
        *(f"source={source.name}" for source in problem.sources),
        *(f"table={table.name}" for table in every(problem)),
    }
    measured = rows.filter(pl.col("slice").str.contains("^(source|table)="))["slice"]
    gone = sorted(set(measured) - declared)
    return dict.fromkeys(gone, "the problem does not declare it now")


def _deciding(rows: pl.DataFrame, rules: Sequence[AlertRule]) -> dict[Alert, Measured]:
    """The measurement that decides on each alert that a rule watches.

    That is the newest whose status is known, or for rules on the unknown the newest of any status.
    """
    order = ("window_end", "subject")
    newest = rows.sort(order).group_by("metric", "slice", "status").last()
    deciding = {}
    for row in newest.drop_nulls("status").sort(order).iter_rows(named=True):
        for rule in rules:
            counts = rule.status == "unknown" or row["status"] != "unknown"
            if counts and _matches(rule, row):
                deciding[Alert(row["metric"], row["slice"], rule.status)] = row
    return deciding


def _matches(rule: AlertRule, row: Measured) -> bool:
    return fnmatchcase(row["metric"], rule.metric) and fnmatchcase(row["slice"], rule.slice)


def _newest_kinds(context: Context) -> dict[Alert, str]:
    """Whether the last notice of each alert opened or closed it."""
    log = context.lakehouse.read(ALERTS, nw.col("receiver") == LOG, order=("at",))
    return {
        Alert(row["metric"], row["slice"], row["status"]): row["kind"]
        for row in log.iter_rows(named=True)
    }


def _write(context: Context, notices: Sequence[Notice], as_of: datetime) -> None:
    """Write a row per notice and receiver; what is for the log has arrived."""
    rows = [
        {
            "at": as_of,
            "metric": notice.alert.metric,
            "slice": notice.alert.slice,
            "status": notice.alert.status,
            "receiver": receiver,
            "kind": notice.kind,
            "text": notice.text,
            "sent_at": datetime.now(UTC) if receiver == LOG else None,
        }
        for notice in notices
        for receiver in (LOG, *context.settings.alerts.receivers)
    ]
    context.lakehouse.merge(ALERTS, pl.DataFrame(rows, schema=polars_schema(ALERTS.schema)))


def _text(row: Measured, kind: str) -> str:
    what = f"{row['metric']} {row['slice']}".strip()
    value = _figure(row["value"])
    limit = _figure(row["threshold"])
    window = f"{row['window_start']:%Y-%m-%d} to {row['window_end']:%Y-%m-%d}"
    said = f"{what} is {row['status']}: {value}, limit {limit}"
    return f"{kind}: {said}, {window} ({row['subject']})"


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _send(receiver: str, title: str, body: str, attempts: int) -> str:
    """Why a message did not arrive; empty where it did. Addresses hold secrets: never shown."""
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    address = os.environ.get(receiver)
    if not address:
        return "this environment variable is not set"
    sender = apprise.Apprise()
    if not sender.add(address):
        return "this environment variable holds no address that apprise knows"
    for attempt in range(attempts):
        time.sleep(2 ** (attempt - 1) if attempt else 0)
        if sender.notify(body=body, title=title):
            return ""
    return f"no success in {attempts} attempts"
