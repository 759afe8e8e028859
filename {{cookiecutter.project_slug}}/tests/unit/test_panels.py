from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from {{cookiecutter.package_name}}.core import console
from {{cookiecutter.package_name}}.core.contract import polars_schema
from {{cookiecutter.package_name}}.core.settings import Settings
from {{cookiecutter.package_name}}.modeling.profile import profile
from {{cookiecutter.package_name}}.monitoring.seen import Seen
from {{cookiecutter.package_name}}.monitoring.shifts import bins, write_page
from {{cookiecutter.package_name}}.monitoring.windows import Window
from {{cookiecutter.package_name}}.serving import panels
from {{cookiecutter.package_name}}.store.measurements import (
    DRIFT,
    MONITORING,
    NEVER,
    PRODUCTION,
    SCHEDULE,
    SERVING,
    mean_gains,
)
from {{cookiecutter.package_name}}.store.tables import MEASUREMENTS, TRANSITIONS

ENDS = datetime(2024, 5, 14, tzinfo=UTC)
WEEK = timedelta(days=7)


def measured(*rows: dict[str, object]) -> pl.DataFrame:
    """Measurements of one window, each with what it says."""
    given = {"producer": MONITORING, "slice": "", "window_start": ENDS - WEEK, "window_end": ENDS}
    return pl.DataFrame(
        [{**given, **row} for row in rows], schema=polars_schema(MEASUREMENTS.schema)
    )


def shift(
    status: str, value: float | None, limit: float | None, **more: object
) -> dict[str, object]:
    given = {"subject": "version 2", "metric": "drift", "slice": "feature=depot"}
    return {**given, "status": status, "value": value, "threshold": limit, "rows": 900, **more}


def estimate(subject: str, rows: int, end: datetime = ENDS) -> dict[str, object]:
    return {"subject": subject, "metric": "estimated_auc", "rows": rows, "window_end": end}


def moves(*champions: str) -> pl.DataFrame:
    rows = [
        {
            "sequence": number,
            "at": ENDS,
            "action": "approve",
            "version": version,
            "to_stage": "Production",
            "who": "ann",
        }
        for number, version in enumerate(champions)
    ]
    return pl.DataFrame(rows, schema=polars_schema(TRANSITIONS.schema))


def test_a_window_belongs_to_the_version_that_scored_most_of_its_rows() -> None:
    # given one of two versions with few rows, and as strings 10 comes before 9
    rows = measured(estimate("version 10", 6), estimate("version 9", 6_459))
    # then
    assert panels.leaders(rows)["subject"].to_list() == ["version 9"]


def test_the_champion_is_who_was_promoted_last_even_before_it_scored_a_window() -> None:
    led = panels.leaders(measured(estimate("version 1", 10)))
    reigns = panels.reigns(moves("1", "2"), led)
    assert [(reign.version, reign.windows, reign.last) for reign in reigns] == [
        ("2", 0, None),
        ("1", 1, ENDS),
    ]


def test_after_a_rollback_the_earlier_champion_is_the_champion() -> None:
    reigns = panels.reigns(moves("1", "2", "1"), panels.leaders(measured()))
    assert [reign.version for reign in reigns] == ["1", "2", "1"]


def test_one_ok_among_unknown_ones_is_not_ok() -> None:
    rows = measured(
        estimate("version 2", 900),
        shift("ok", 0.1, 0.5),
        *(shift("unknown", None, None, slice=f"feature={name}") for name in "abc"),
    )
    [tile] = [tile for tile in panels.tiles(rows, "auc") if tile.title == "Inputs and scores"]
    assert (tile.figure, tile.ok, tile.unknown, tile.violated) == ("1 of 4", 1, 3, 0)


def test_a_metric_that_the_page_does_not_know_is_shown_all_the_same() -> None:
    rows = measured(
        estimate("version 2", 900),
        shift("violated", 0.9, 0.5, metric="joint", slice=""),
        shift("ok", 0.1, 0.5, metric="range"),
        {"subject": PRODUCTION, "metric": "new_thing", "value": 2.5, "status": "ok"},
    )
    _, heat = panels.heat(panels.shifted(rows, "auc"), {}, {})
    assert [(name, cells[0].shown) for name, cells in heat] == [("joint", "1.8"), ("depot", "0.2")]
    assert list(panels.health(rows)) == [("new_thing", "2.500", "–", "ok")]


def test_a_column_that_is_as_often_missing_as_in_the_training_has_not_shifted() -> None:
    rows = measured(shift("ok", 0.17, 0.2, metric="missing"))
    levels = {("version 2", "feature=depot", "missing"): 0.17}
    [cell] = panels.heat(rows, levels, {})[1][0][1]
    assert (cell.shown, cell.kind) == ("0.0", "0")
    [cell] = panels.heat(rows, {}, {})[1][0][1]
    assert (cell.shown, cell.kind) == ("0.8", "1")


@pytest.mark.parametrize(
    ("status", "value", "shown", "kind"),
    [
        ("ok", 0.374, "0.7", "0"),
        ("ok", 0.376, "0.8", "1"),
        ("ok", 0.4999, "0.9", "1"),
        ("violated", 0.5001, "1.0", "2"),
        ("violated", 1.0, "2.0", "3"),
        ("unknown", None, "·", "x"),
    ],
)
def test_a_cell_is_coloured_as_it_is_rounded_and_judged(
    status: str, value: float | None, shown: str, kind: str
) -> None:
    [cell] = panels.heat(measured(shift(status, value, value and 0.5)), {}, {})[1][0][1]
    assert (cell.shown, cell.kind) == (shown, kind)


def test_windows_come_newest_first_and_lead_to_what_shifted() -> None:
    rows = measured(shift("ok", 0.1, 0.5), shift("ok", 0.2, 0.5, window_end=ENDS + WEEK))
    links = {("20240521T0000", "version 2"): "shift.html"}
    ends, [(name, cells)] = panels.heat(rows, {}, links)
    assert (name, ends) == ("depot", [ENDS + WEEK, ENDS])
    assert [cell.link for cell in cells] == ["shift.html#depot", None]


def test_a_stream_has_a_panel_of_its_newest_windows_and_none_where_nothing_streams() -> None:
    # Given one of many windows that is violated
    minutes = [ENDS + timedelta(minutes=number) for number in range(100)]
    measures = (
        ("lag_seconds", 2.5, 60.0),
        ("refused", 0.5, 0.01),
        ("rows_per_second", 0.5, None),
    )
    found: list[dict[str, object]] = [
        {
            "producer": SERVING,
            "subject": "stream",
            "window_end": minute,
            "metric": f"stream_{name}",
            "value": value,
            "threshold": limit,
            "status": "violated" if minute == minutes[-2] else "ok",
            "rows": 30,
        }
        for minute in minutes
        for name, value, limit in measures
    ]
    rows = measured(*found)
    # When
    [stream] = panels.streams(rows)
    # Then
    assert [window["window_end"] for window in stream.windows] == minutes[:-61:-1]
    assert [window["lag_status"] for window in stream.windows[:3]] == ["ok", "violated", "ok"]
    newest = stream.windows[0]
    assert (newest["rows"], newest["lag"], newest["refused"]) == (30, 2.5, 0.5)
    assert "<svg" in stream.chart
    assert panels.streams(measured(estimate("version 2", 900))) == []


def test_gains_do_not_hang_on_the_order_of_rows() -> None:
    rows = pl.DataFrame(
        {
            "subject": [NEVER, SCHEDULE, DRIFT] * 5,
            "window_end": [ENDS + number * WEEK for number in range(5) for _ in range(3)],
            "value": [0.7 + 0.01 * (number % 7) for number in range(15)],
            "gain": [0.01 * (number % 4) for number in range(15)],
        }
    )
    gains = mean_gains(rows)
    assert [name for name, *_ in gains] == [NEVER, SCHEDULE, DRIFT]
    assert mean_gains(rows.sort("subject", "value")) == gains
    assert mean_gains(rows.head(0)) == []


def test_both_distributions_of_a_column_hold_all_rows() -> None:
    # given a column with 20 categories, and a window in which one is new and one is missing
    day = pl.Series("prediction_time", [ENDS] * 100)
    trained = pl.DataFrame([day, pl.Series("depot", [f"d{number % 20}" for number in range(100)])])
    histogram = profile(trained, ["depot"])["depot"]
    now = histogram.count(pl.DataFrame({"depot": ["d1", "d1", "new", None]}), "depot")
    # when
    found = list(bins(histogram, now))
    # then
    assert sum(item.before for item in found) == pytest.approx(1)
    assert sum(item.now for item in found) == pytest.approx(1)
    assert (found[0].name, found[0].before, found[0].now) == ("d1", 0.05, 0.5)
    assert [item.name for item in found[-3:]] == [
        "5 further values",
        "not seen in the training",
        "missing",
    ]


def test_quiet_steps_are_overheard_and_the_console_stays_open(
    capsys: pytest.CaptureFixture[str],
) -> None:
    heard: list[str] = []
    with console.quiet(heard.append):
        with console.step("predict") as notes:
            notes.append("3 rows")
        assert list(console.bar([1, 2], "trials", 2)) == [1, 2]
        console.say("A decision.")
    assert heard == ["predict"]
    assert capsys.readouterr().out == "A decision.\n"
    with console.step("predict"):
        pass
    assert "✓ predict" in capsys.readouterr().out


def test_what_is_unknown_is_not_told_as_within_its_limit(settings: Settings) -> None:
    # given a statistic within its limit, and one that could not be measured
    found = measured(shift("ok", 0.1, 0.2), shift("unknown", None, None, metric="missing"))
    # when
    write_page(settings, "2", Window(ENDS - WEEK, ENDS), {}, Seen(0, frozenset(), {}), found)
    # then
    [page] = settings.reports.glob("shift_*.html")
    [verdict] = re.findall('<meta name="description" content="(.*)">', page.read_text("utf-8"))
    assert verdict == "1 of 2 statistics within their limits, 1 unknown"
