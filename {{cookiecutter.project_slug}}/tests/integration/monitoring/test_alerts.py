from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import polars_schema
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.core.settings import AlertRule
from {{cookiecutter.package_name}}.inference.stream import Answers, Batch, Meter
from {{cookiecutter.package_name}}.monitoring.alerts import deliver, raise_alerts
from {{cookiecutter.package_name}}.store.measurements import MONITORING as PRODUCER
from {{cookiecutter.package_name}}.store.measurements import PRODUCTION, record
from {{cookiecutter.package_name}}.store.tables import ALERTS, LOG, OPENED

from tests.integration.monitoring.conftest import ENDS, Production

WEEK = timedelta(days=7)


def alert(context: Context, end: datetime, metric: str, status: str, slice_: str = "") -> list[str]:
    """Measure one metric in the window that ends then; returns the first words of the notices."""
    rows = pl.DataFrame(
        {
            "metric": [metric],
            "slice": [slice_],
            "value": [2.0],
            "threshold": [1.0],
            "status": [status],
        }
    )
    record(context.lakehouse, rows, PRODUCER, PRODUCTION, end - WEEK, end)
    return [text.partition(" is")[0] for text in raise_alerts(context, end)]


def configure(context: Context, **changes: object) -> None:
    own = context.settings.alerts.model_copy(update=changes)
    object.__setattr__(context, "settings", context.settings.model_copy(update={"alerts": own}))


def notices(context: Context) -> pl.DataFrame:
    return pl.DataFrame(
        context.lakehouse.scan(ALERTS).sort(*ALERTS.keys).collect("polars").to_native()
    )


def test_an_alert_opens_once_and_recovers_once(production: Production) -> None:
    statuses = ["ok", "violated", "violated", "unknown", "violated", "ok", "ok", "violated"]
    told = [
        alert(production.context, ENDS + number * WEEK, "drift", status, "feature=amount")
        for number, status in enumerate(statuses)
    ]
    opened, recovered = ["opened: drift feature=amount"], ["recovered: drift feature=amount"]
    assert told == [[], opened, [], [], [], recovered, [], opened]


def test_the_same_monitoring_tells_nothing_twice(production: Production) -> None:
    assert alert(production.context, ENDS, "drift", "violated") == ["opened: drift"]
    before = notices(production.context)
    assert alert(production.context, ENDS, "drift", "violated") == []
    assert_frame_equal(notices(production.context), before)


def test_each_slice_has_its_own_alert(production: Production) -> None:
    for part in ("feature=amount", "feature=shop"):
        assert alert(production.context, ENDS, "drift", "violated", part) == [
            f"opened: drift {part}"
        ]
    recovered = alert(production.context, ENDS + WEEK, "drift", "ok", "feature=shop")
    assert "recovered: drift feature=shop" in recovered


def test_an_alert_on_a_column_that_the_champion_does_not_take_now_closes(
    production: Production,
) -> None:
    for part in ("feature=amount", "feature=shop"):
        alert(production.context, ENDS, "drift", "violated", part)
    told = alert(production.context, ENDS + WEEK, "drift", "ok", "feature=amount")
    assert "recovered: drift feature=shop: the champion does not take it now" in told
    assert alert(production.context, ENDS + 2 * WEEK, "drift", "ok", "feature=amount") == []


def test_a_stream_that_lags_or_refuses_opens_alerts_and_recovers(production: Production) -> None:
    # Given
    context = production.context
    meter = Meter(context)

    def measure(lag: timedelta, refused: int) -> list[str]:
        """Measure a window of a hundred requests; returns the first words of the notices."""
        requests = pl.DataFrame({"requested_at": [datetime.now(UTC) - lag] * 100})
        batch = Batch(requests, requests.clear(), since={}, until={})
        meter.count(batch, Answers(requests[refused:], requests[:refused]))
        meter.record()
        return [text.partition(" is")[0] for text in raise_alerts(context, datetime.now(UTC))]

    at_once = timedelta(0)
    slow = timedelta(seconds=context.settings.stream.max_lag_seconds + 1)
    # Then
    assert measure(at_once, 0) == []
    assert measure(slow, 0) == ["opened: stream_lag_seconds"]
    assert measure(slow, 50) == ["opened: stream_refused"]
    assert measure(at_once, 50) == ["recovered: stream_lag_seconds"]
    assert measure(at_once, 0) == ["recovered: stream_refused"]
    assert measure(at_once, 0) == []


def test_rules_say_what_alerts(production: Production) -> None:
    some = AlertRule(metric="dri*", slice="feature=a*", status="violated")
    configure(production.context, rules=(some, AlertRule(metric="scored", status="unknown")))
    assert alert(production.context, ENDS, "drift", "violated", "feature=amount")
    assert not alert(production.context, ENDS, "drift", "violated", "feature=shop")
    assert not alert(production.context, ENDS, "missing", "violated", "feature=amount")
    assert not alert(production.context, ENDS, "drift", "unknown", "feature=angle")
    assert alert(production.context, ENDS, "scored", "unknown") == ["opened: scored"]
    assert alert(production.context, ENDS + WEEK, "scored", "violated") == ["recovered: scored"]


def test_a_notice_says_what_where_and_how_much(production: Production) -> None:
    alert(production.context, ENDS, "drift", "violated", "feature=amount")
    text = notices(production.context)["text"].item()
    for part in ("drift feature=amount", "violated", "2", "limit 1", "2020-02-23 to 2020-03-01"):
        assert part in text


def test_a_notice_without_receivers_has_arrived_in_the_log(production: Production) -> None:
    alert(production.context, ENDS, "drift", "violated")
    assert notices(production.context)["sent_at"].null_count() == 0
    deliver(production.context)


@pytest.mark.parametrize(
    ("address", "why"), [(None, "is not set"), ("no address", "no address that apprise knows")]
)
def test_a_notice_waits_for_a_receiver_that_cannot_be_reached(
    production: Production, monkeypatch: pytest.MonkeyPatch, address: str | None, why: str
) -> None:
    configure(production.context, receivers=("ALERT_URL",))
    if address:
        monkeypatch.setenv("ALERT_URL", address)
    alert(production.context, ENDS, "drift", "violated")
    with pytest.raises(UserError, match=f"1 for ALERT_URL .*{why}"):
        deliver(production.context)
    waiting = notices(production.context).filter(pl.col("sent_at").is_null())
    assert waiting["receiver"].to_list() == ["ALERT_URL"]


@pytest.mark.parametrize("slice_", ["source=closed", "table=features_closed"])
def test_an_alert_on_what_the_problem_does_not_declare_now_closes(
    production: Production, slice_: str
) -> None:
    # given an alert on a source or table of an earlier version of the problem
    kept = "source=orders"
    for part in (kept, slice_):
        configure(production.context, rules=(AlertRule(metric="*", status="violated"),))
        end = ENDS - WEEK
        rows = {"metric": ["age_hours"], "slice": [part], "value": [2.0], "threshold": [1.0]}
        measured = pl.DataFrame({**rows, "status": ["violated"]})
        record(production.context.lakehouse, measured, PRODUCER, PRODUCTION, end - WEEK, end)
    opened = {"at": [ENDS - WEEK], "metric": ["age_hours"], "slice": [slice_]}
    how = {"status": ["violated"], "receiver": [LOG], "kind": [OPENED], "text": ["opened"]}
    notice = pl.DataFrame({**opened, **how, "sent_at": [ENDS]})
    production.context.lakehouse.merge(ALERTS, notice.cast(polars_schema(ALERTS.schema)))
    # when alerts are raised
    told = raise_alerts(production.context, ENDS)
    # then that one closes, and the other opens
    assert f"recovered: age_hours {slice_}: the problem does not declare it now" in told
    assert any(text.startswith(f"opened: age_hours {kept}") for text in told)
    assert raise_alerts(production.context, ENDS + WEEK) == []
