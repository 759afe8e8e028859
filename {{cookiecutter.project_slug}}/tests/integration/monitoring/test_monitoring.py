from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import narwhals as nw
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import (
    KNOWN_AT,
    PREDICTION_TIME,
    Table,
    polars_schema,
)
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.monitoring.pipeline import monitor
from {{cookiecutter.package_name}}.monitoring.retraining import decide
from {{cookiecutter.package_name}}.monitoring.windows import Window, drawn, scored_rows
from {{cookiecutter.package_name}}.serving.dashboard import files
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.measurements import (
    GAIN,
    PRODUCTION,
    record,
    recorded,
)
from {{cookiecutter.package_name}}.store.tables import MEASUREMENTS

from tests.integration.monitoring.conftest import ENDS, TRAINED, Production

WEEK, DAY = timedelta(days=7), timedelta(days=1)
WINDOWS = [Window(TRAINED + number * WEEK, TRAINED + (number + 1) * WEEK) for number in range(4)]


def rows(context: Context, table: Table) -> pl.DataFrame:
    return pl.DataFrame(
        context.lakehouse.scan(table).sort(*table.keys).collect("polars").to_native()
    )


def new_rows(production: Production) -> pl.DataFrame:
    """Rows after the training."""
    return production.rows.filter(pl.col(PREDICTION_TIME) >= TRAINED)


def found(production: Production, metric: str, slice_: str = "") -> list[dict[str, Any]]:
    """A metric by window, oldest first."""
    measured = rows(production.context, MEASUREMENTS).filter(pl.col("producer") == "monitoring")
    return measured.filter(metric=metric, slice=slice_).sort("window_end").rows(named=True)


def correct(production: Production, order: int, paid: float, at: datetime) -> None:
    """The label of an order becomes another, as known then."""
    table = tables.prepared(production.context.problem.sources[1])
    row = pl.LazyFrame(
        [{"order": order, "paid": paid, KNOWN_AT: at}], schema=polars_schema(table.schema)
    )
    production.context.lakehouse.merge(table, nw.from_native(row), ENDS)


def test_windows_are_measured_once_they_have_ended(production: Production) -> None:
    production.score(new_rows(production))
    assert monitor(production.context, TRAINED + 2 * WEEK + DAY) == WINDOWS[:2]
    assert monitor(production.context, TRAINED + 3 * WEEK) == WINDOWS[2:3]
    loss = found(production, "loss")
    assert [row["status"] for row in loss] == ["ok"] * 3
    assert all(row["lower"] <= row["value"] <= row["upper"] < row["threshold"] + 1 for row in loss)
    assert [row["threshold"] for row in loss] == pytest.approx([0.15 * 1.05] * 3)
    assert {row["subject"] for row in loss} == {"version 7"}
    assert [row["rows"] for row in found(production, "scored")] == [70] * 3


def test_measuring_again_changes_nothing(production: Production) -> None:
    production.score(new_rows(production))
    monitor(production.context, ENDS)
    written = (MEASUREMENTS, tables.outcomes(production.context.problem))
    before = [rows(production.context, table) for table in written]
    assert monitor(production.context, ENDS) == []
    for table, same in zip(written, before, strict=True):
        assert_frame_equal(rows(production.context, table), same)


def test_a_window_is_measured_again_when_labels_come_late(production: Production) -> None:
    # given a window whose last labels, a day late, are not known when it ends
    production.score(new_rows(production))
    monitor(production.context, TRAINED + WEEK)
    known = found(production, "loss")[0]["rows"]
    # when they are
    assert monitor(production.context, TRAINED + WEEK + 2 * DAY) == WINDOWS[:1]
    # then they count, and the estimate, which does without, stays
    assert (known, found(production, "loss")[0]["rows"]) == (61, 70)
    assert found(production, "estimated_loss")[0]["rows"] == 70


def test_a_corrected_label_updates_its_row(production: Production) -> None:
    production.score(new_rows(production))
    monitor(production.context, TRAINED + 2 * WEEK)
    before, outcomes = found(production, "loss"), tables.outcomes(production.context.problem)
    changed = rows(production.context, outcomes).row(5, named=True)
    correct(production, changed["order"], 1 - changed["label"], TRAINED + 2 * WEEK + DAY)
    assert WINDOWS[0] in monitor(production.context, TRAINED + 2 * WEEK + 2 * DAY)
    after = rows(production.context, outcomes).filter(order=changed["order"])
    assert after["label"].to_list() == [1 - changed["label"]]
    assert found(production, "loss")[0]["value"] != before[0]["value"]


def test_labels_of_the_future_are_not_used(production: Production) -> None:
    production.score(new_rows(production))
    monitor(production.context, TRAINED + WEEK)
    outcomes = rows(production.context, tables.outcomes(production.context.problem))
    assert outcomes[KNOWN_AT].max() <= TRAINED + WEEK  # type: ignore[operator]


def test_worse_predictions_are_a_violation(production: Production) -> None:
    production.score(new_rows(production).with_columns(prediction=1 - pl.col("prediction")))
    monitor(production.context, TRAINED + WEEK)
    assert [row["status"] for row in found(production, "loss")] == ["violated"]


def test_a_poor_champion_is_held_against_a_guess(production: Production) -> None:
    # given a champion that was poor on its holdout, so that it cannot drop
    poor = pl.DataFrame({"metric": ["loss"], "value": [9.0]})
    record(production.context.lakehouse, poor, "training", "first", TRAINED - WEEK, TRAINED)
    production.score(new_rows(production).with_columns(prediction=1 - pl.col("prediction")))
    # when its windows are measured
    monitor(production.context, TRAINED + 2 * WEEK)
    # then a mean of what was known before would surely have been better, and it is trained again
    assert [row["status"] for row in found(production, "loss")] == ["ok"] * 2
    gains = found(production, GAIN)
    assert [row["status"] for row in gains] == ["violated"] * 2
    assert all(row["upper"] < row["threshold"] == 0 for row in gains)
    decision = decide(production.context, TRAINED + 3 * WEEK)
    assert decision.retrain
    assert GAIN in decision.why


def test_a_guess_knows_no_label_that_came_later(production: Production) -> None:
    # given a window whose last labels came when the next had begun
    production.score(new_rows(production))
    monitor(production.context, ENDS)
    first, second = WINDOWS[:2]
    assert second.before == first
    # then who guesses at the beginning of the next does without them
    scored = scored_rows(production.context, first, known_by=second.start)
    known = production.context.lakehouse.collect(scored)["label"]
    assert (known.count(), known.len()) == (61, 70)


def test_of_many_rows_some_are_drawn_and_always_the_same(production: Production) -> None:
    # given a window of 70 rows, and performance that is measured on about 30
    production.score(new_rows(production))
    few = production.context.settings.monitoring.model_copy(update={"sample_rows": 30})
    settings = production.context.settings.model_copy(update={"monitoring": few})
    context = Context(settings, production.context.problem)
    context.__dict__.update(lakehouse=production.context.lakehouse, registry=production.registry)
    # when it is measured
    monitor(context, TRAINED + WEEK + 2 * DAY)
    # then its metrics are those of the sample, and drift and volume those of all rows
    [loss], [scored] = found(production, "loss"), found(production, "scored")
    [drift] = found(production, "drift", "feature=amount")
    assert 20 <= loss["rows"] <= 40
    assert (scored["rows"], scored["value"], drift["rows"]) == (70, 1, 70)
    window = scored_rows(context, WINDOWS[0])
    once = drawn(context, window, ["prediction"])
    assert once.height == loss["rows"]
    assert_frame_equal(drawn(context, window.sort("prediction"), ["prediction"]), once)


def test_the_estimate_needs_no_label(production: Production) -> None:
    # given a week in which every row is as hard to tell as can be, and no label at all
    week = new_rows(production).with_columns(prediction=pl.lit(0.5) + pl.col("prediction") / 100)
    production.score(week)
    monitor(production.context, TRAINED + timedelta(hours=6) + WEEK)
    [estimated], [known] = found(production, "estimated_loss"), found(production, "loss")
    assert estimated["value"] > 0.2
    assert known["value"] == pytest.approx(estimated["value"], abs=0.05)


def test_drift_is_judged_by_the_version_that_scored(production: Production) -> None:
    week = new_rows(production).filter(pl.col(PREDICTION_TIME) < TRAINED + WEEK)
    production.score(week.with_columns(shop=pl.lit("elsewhere")))
    monitor(production.context, TRAINED + WEEK)
    statuses = {
        name: found(production, name, "feature=shop")[0]["status"]
        for name in ("drift", "missing", "unseen")
    }
    assert statuses == {"drift": "violated", "missing": "ok", "unseen": "violated"}


def test_rows_that_were_not_scored_are_missed(production: Production) -> None:
    production.score(new_rows(production)[::2])
    monitor(production.context, TRAINED + WEEK)
    [scored] = found(production, "scored")
    assert (scored["value"], scored["status"]) == (pytest.approx(0.5, abs=0.02), "violated")


def test_no_predictions_at_all_are_not_fine(production: Production) -> None:
    monitor(production.context, TRAINED + WEEK)
    assert [row["status"] for row in found(production, "scored")] == ["violated"]
    assert found(production, "loss") == []
    assert found(production, "batch_latency_ms") == []


def test_a_window_without_predictions_is_not_fine(production: Production) -> None:
    production.score(
        new_rows(production).filter(
            ~pl.col(PREDICTION_TIME).is_between(WINDOWS[1].start, WINDOWS[1].end)
        )
    )
    monitor(production.context, TRAINED + 3 * WEEK)
    assert [row["status"] for row in found(production, "scored")] == ["ok", "violated", "ok"]
    assert [row["window_end"] for row in found(production, "loss")] == [
        WINDOWS[0].end,
        WINDOWS[2].end,
    ]


@pytest.mark.parametrize("count", [1, 5])
def test_few_rows_tell_nothing(production: Production, count: int) -> None:
    production.score(new_rows(production).head(count))
    monitor(production.context, TRAINED + 2 * WEEK)
    for metric, part in (("loss", ""), ("estimated_loss", ""), ("drift", "feature=amount")):
        assert [row["status"] for row in found(production, metric, part)] == ["unknown"]


def test_no_labels_tell_nothing(production: Production) -> None:
    production.score(new_rows(production).with_columns(order=pl.col("order") + 10_000))
    monitor(production.context, TRAINED + WEEK)
    [loss], [estimated] = found(production, "loss"), found(production, "estimated_loss")
    assert (loss["status"], loss["rows"], estimated["status"]) == ("unknown", 0, "ok")


def test_all_null_is_a_violation(production: Production) -> None:
    production.score(new_rows(production).with_columns(amount=None, last_amount=None))
    monitor(production.context, TRAINED + WEEK)
    assert [row["status"] for row in found(production, "missing", "feature=amount")] == ["violated"]


def test_a_clock_that_goes_ahead_or_back_changes_nothing(production: Production) -> None:
    # given rows whose prediction time lies in the future
    ahead = new_rows(production).with_columns(pl.col(PREDICTION_TIME) + timedelta(days=365))
    production.score(new_rows(production))
    production.score(ahead)
    assert monitor(production.context, TRAINED + WEEK) == WINDOWS[:1]
    before = rows(production.context, MEASUREMENTS)
    # when monitoring runs as of a moment before the last
    assert monitor(production.context, TRAINED + DAY) == []
    assert_frame_equal(rows(production.context, MEASUREMENTS), before)


def test_stale_pipelines_and_silent_feeds_are_seen(production: Production) -> None:
    production.score(new_rows(production))
    monitor(production.context, TRAINED + WEEK)
    measured = rows(production.context, MEASUREMENTS)
    ages = measured.filter(metric="age_hours").select("slice", "status").rows()
    assert ages == [("table=features_last", "unknown"), ("table=predictions", "unknown")]


def test_quarantined_rows_are_counted(production: Production) -> None:
    production.score(new_rows(production))
    monitor(production.context, TRAINED + WEEK)
    [orders] = found(production, "quarantined", "source=orders")
    assert (orders["value"], orders["threshold"], orders["rows"]) == (0, 0.1, 70)


def test_runs_are_recorded_and_failures_counted(production: Production) -> None:
    production.score(new_rows(production))
    lakehouse = production.context.lakehouse
    with pytest.raises(UserError), recorded(lakehouse, "predict", TRAINED + DAY):
        raise UserError("It went wrong.", "Mend it.")
    with recorded(lakehouse, "features", TRAINED + DAY):
        pass
    monitor(production.context, TRAINED + WEEK)
    [failed] = found(production, "failed_runs")
    assert (failed["value"], failed["rows"], failed["status"]) == (1, 2, "violated")
    taken = (
        rows(production.context, MEASUREMENTS)
        .filter(producer="run", subject="features")
        .sort("metric")
    )
    assert taken["metric"].to_list() == ["failed", "peak_mb", "seconds"]
    assert taken["value"].to_list()[0] == 0


def test_the_dashboard_shows_what_was_measured(production: Production) -> None:
    assert "No window has been measured yet" in files(production.context)["index.html"]
    production.score(new_rows(production))
    monitor(production.context, ENDS)
    made = files(production.context)
    page = made["index.html"]
    for part in ("version 7", "loss", "amount", "What retraining", "Nothing has been decided"):
        assert (part in page) is (part != "What retraining")
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/", "")
    assert "<script" not in page
    assert made["metrics.csv"].splitlines()[0] == ",".join(MEASUREMENTS.schema)
    assert made["metrics.csv"].count("\n") == 1 + rows(production.context, MEASUREMENTS).height
    [line] = [
        it
        for it in made["metrics.prom"].splitlines()
        if it.startswith('mlops_metric_value{metric="scored"')
    ]
    assert line.endswith("} 1.0")
    assert f'subject="{PRODUCTION}"' in line


@pytest.mark.parametrize("first", [True, False])
def test_a_single_row_of_another_version_is_measured_too(
    production: Production, *, first: bool
) -> None:
    # given a window in which another version scored one row, weeks back or as the first of all
    rows = production.rows
    moment = rows[PREDICTION_TIME].min() if first else rows[PREDICTION_TIME][-300]
    production.score(rows.filter(pl.col(PREDICTION_TIME) != moment))
    production.score(rows.filter(pl.col(PREDICTION_TIME) == moment), version="8")
    # when it is measured
    monitor(production.context, ENDS)
    # then both have their rows, and what cannot be told of one row is unknown
    measured = production.context.lakehouse.read(MEASUREMENTS)
    alone = measured.filter(subject="version 8")
    assert alone.filter(metric="drift")["threshold"].null_count() > 0
    assert set(alone["status"].drop_nulls()) == {"unknown"}
    assert measured.filter(subject="version 7").height > alone.height
