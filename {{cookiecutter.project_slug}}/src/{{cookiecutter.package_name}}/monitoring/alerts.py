"""Alerts: opened and closed by the statuses of metrics, written down first, then delivered until they arrive."""

from __future__ import annotations

import logging
import os
import time
from datetime import UTC, datetime
from fnmatch import fnmatchcase

import apprise
import narwhals as nw
import polars as pl

from ..context import Context
from ..core.contract import polars_schema
from ..core.errors import UserError
from ..core.settings import AlertRule
from ..store.tables import ALERTS, MEASUREMENTS
from .pipeline import PRODUCER

LOG, OPENED, RECOVERED = "log", "opened", "recovered"


def raise_alerts(context: Context, as_of: datetime) -> list[str]:
    """Open an alert where a rule holds in the newest window that knows, close it where it no longer does.

    One that is open stays open, without another notice, while its metric is violated or unknown. Each
    notice is a row per receiver, written in one commit before any is delivered.

    Args:
        context: Metrics, rules, receivers.
        as_of: Moment of the notices.

    Returns:
        Texts of the new notices.
    """
    settings, lakehouse = context.settings.alerts, context.lakehouse
    rows = lakehouse.read(
        MEASUREMENTS, nw.col("producer") == PRODUCER, nw.col("window_end") <= as_of
    )
    newest, order = {}, ("window_end", "subject")
    last = (
        rows.sort(order)
        .group_by("metric", "slice", "status")
        .last()
        .drop_nulls("status")
        .sort(order)
    )
    for row in last.iter_rows(named=True):
        for rule in settings.rules:
            if _matches(rule, row) and (rule.status == "unknown" or row["status"] != "unknown"):
                newest[row["metric"], row["slice"], rule.status] = row
    notices = []
    kinds = _kinds(context)
    for key, row in newest.items():
        kind = OPENED if row["status"] == key[2] else RECOVERED
        if kind != kinds.get(key, RECOVERED):
            notices.append((*key, kind, _text(row, kind)))
    told = [
        (as_of, *notice[:3], receiver, *notice[3:])
        for notice in notices
        for receiver in (LOG, *settings.receivers)
    ]
    columns = ("at", "metric", "slice", "status", "receiver", "kind", "text")
    new = pl.DataFrame(
        told, schema={name: polars_schema(ALERTS.schema)[name] for name in columns}, orient="row"
    )
    sent = pl.when(pl.col("receiver") == LOG).then(pl.lit(datetime.now(UTC)))
    lakehouse.merge(
        ALERTS,
        new.with_columns(sent_at=sent).cast(polars_schema(ALERTS.schema)),
    )
    return [notice[-1] for notice in notices]


def deliver(context: Context) -> None:
    """Send what has not arrived yet, a message per receiver; what fails is kept and tried again next time.

    A process killed between sending and writing that down sends again: notices arrive at least once.

    Raises:
        UserError: A receiver did not accept its message, is not set, or is no address; the others have theirs.
    """
    lakehouse, failed = context.lakehouse, []
    waiting = lakehouse.read(ALERTS, nw.col("sent_at").is_null())
    for (receiver,), notices in waiting.group_by("receiver", maintain_order=True):
        body = "\n".join(notices.sort("at", "metric", "slice")["text"])
        title = (
            f"{context.settings.mlflow.model} ({context.settings.env}): {notices.height} notices"
        )
        if why := _send(str(receiver), title, body, context.settings.alerts.attempts):
            failed.append(f"{notices.height} for {receiver} ({why})")
        else:
            sent = notices.with_columns(
                sent_at=pl.lit(datetime.now(UTC)).cast(pl.Datetime("us", "UTC"))
            )
            lakehouse.merge(ALERTS, sent)
    if failed:
        message = f"Notices could not be delivered: {', '.join(failed)}."
        raise UserError(
            message, "They are kept and tried again by the next `monitor`; check the receiver."
        )


def _matches(rule: AlertRule, row: dict[str, str]) -> bool:
    return fnmatchcase(row["metric"], rule.metric) and fnmatchcase(row["slice"], rule.slice)


def _kinds(context: Context) -> dict[tuple[str, str, str], str]:
    """Whether the last notice of each alert opened or closed it."""
    log = context.lakehouse.read(ALERTS, nw.col("receiver") == LOG).sort("at")
    columns = ("metric", "slice", "status", "kind")
    return {
        (metric, part, status): kind
        for metric, part, status, kind in log.select(columns).iter_rows()
    }


def _text(row: dict[str, object], kind: str) -> str:
    what = f"{row['metric']} {row['slice']}".strip()
    value, limit = (
        "unknown" if it is None else f"{it:.3g}" for it in (row["value"], row["threshold"])
    )
    window = f"{row['window_start']:%Y-%m-%d} to {row['window_end']:%Y-%m-%d}"
    return f"{kind}: {what} is {row['status']}: {value}, limit {limit}, {window} ({row['subject']})"


def _send(receiver: str, title: str, body: str, attempts: int) -> str:
    """Why a message did not arrive; empty where it did. Addresses hold secrets: they are never shown."""
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    if not (address := os.environ.get(receiver)):
        return "this environment variable is not set"
    sender = apprise.Apprise()
    if not sender.add(address):
        return "this environment variable holds no address that apprise knows"
    for attempt in range(attempts):
        time.sleep(2 ** (attempt - 1) if attempt else 0)
        if sender.notify(body=body, title=title):
            return ""
    return f"no success in {attempts} attempts"
