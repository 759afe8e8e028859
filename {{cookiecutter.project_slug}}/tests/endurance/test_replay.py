"""Production walked through: killed, lied to about the future, watched by two, told no."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from {{cookiecutter.package_name}}.core.contract import (
    AVAILABLE_AT,
    KNOWN_AT,
    PREDICTION_TIME,
)
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.measurements import MONITORING as PRODUCER
from {{cookiecutter.package_name}}.store.tables import ALERTS, MEASUREMENTS, RETRAININGS
from {{cookiecutter.package_name}}.tracking.registry import CHALLENGER, CHAMPION
from {{cookiecutter.package_name}}.tracking.stages import history

from tests.conftest import ROOT
from tests.endurance.conftest import LAST, MIDDLE, Home, Tables, assert_same, replay
from tests.parcels import PROBLEM
from tests.parcels.sources import LIES_AFTER

# After these writes the process is killed: in every step, on the way to two champions.
PLACES = """
raw_parcels:2 quarantine_parcels:1 prepared_parcels:3 features_depot:2 inference_log:2
predictions:4 metrics.training:1 version:1 transitions.stage:1 transitions.request:1
transitions.approve:1 metrics.monitoring:2 outcomes:1 alerts:1 metrics.training:2 version:2
retrainings:3 transitions.stage:2 transitions.approve:2 metrics.replay:2
"""


def test_killed_at_every_step_it_ends_where_an_undisturbed_one_does(
    walked: Home, fresh: Home, tmp_path: Path
) -> None:
    # given one that was walked to the end
    whole = walked.copy(tmp_path / "whole")
    whole.run(*replay(LAST))
    # when another one is killed after each of these writes, and run again
    killed = fresh.copy(tmp_path / "killed")
    script = str(ROOT / "tests" / "endurance" / "mortal.py")
    process = killed.start(script, json.dumps(PLACES.split()), *replay(LAST), "--env", "test")
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert sorted(json.loads(said.splitlines()[-1])) == sorted(PLACES.split())
    # then both ended in the same state: a second champion, retrained once
    assert_same(killed.tables(), whole.tables())
    assert killed.versions() == whole.versions()
    assert whole.context.registry.aliased(CHAMPION) == "2"
    assert whole.tables()[RETRAININGS.name]["retrain"].to_list() == [False, False, True]
    assert whole.tables()[ALERTS.name].height == 1


def until(moment: datetime, held: Tables) -> Tables:
    """What was there and was said of windows that had ended, without the age of the newest rows."""
    times = (PREDICTION_TIME, AVAILABLE_AT, KNOWN_AT, "at", "window_end")
    found = {}
    for name, rows in held.items():
        time = next((column for column in times if column in rows.columns), None)
        past = rows.filter(pl.col(time) <= moment) if time else rows
        if name == tables.outcomes(PROBLEM).name:
            past = past.filter(pl.col(KNOWN_AT) <= moment)
        if name == MEASUREMENTS.name:
            past = past.filter(pl.col("metric") != "age_hours", pl.col("producer") != "replay")
        found[name] = past
    return found


def test_another_future_has_the_same_past(walked: Home, fresh: Home, tmp_path: Path) -> None:
    # given all that becomes known after a moment in the midst of the second week, made nonsense
    moment = MIDDLE - timedelta(hours=36)
    fresh_copy = fresh.copy(tmp_path / "other")
    other = Home(fresh_copy.folder, {LIES_AFTER: moment.isoformat()})
    # when that is walked through, beyond the moment
    other.run(*replay(MIDDLE))
    # then all before it is the same to the bit, and what came later is not
    truth, told = walked.tables(), other.tables()
    assert_same(until(moment, told), until(moment, truth))
    assert other.versions() == walked.versions()
    past = until(moment, truth)
    for name in (tables.predictions(PROBLEM).name, tables.outcomes(PROBLEM).name):
        assert past[name].height > 1000
        assert not told[name].equals(truth[name])
    assert past[MEASUREMENTS.name].height > 60


def test_two_monitors_at_once_measure_once(walked: Home, tmp_path: Path) -> None:
    # given a project in which nothing was measured yet
    home = walked.copy(tmp_path / "watched")
    lakehouse = home.context.lakehouse
    DeltaTable(lakehouse.place(MEASUREMENTS.name)).delete(f"producer = '{PRODUCER}'")
    for table in (ALERTS, tables.outcomes(PROBLEM)):
        shutil.rmtree(lakehouse.place(table.name))
    # when two measure it at once
    both = [home.verb("monitor", "--as-of", MIDDLE.isoformat()) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    # then neither fails, and all is there once
    assert [process.returncode for process in both] == [0, 0], said
    assert not any("Traceback" in text for text in said)
    measured = home.context.lakehouse.read(MEASUREMENTS)
    assert measured.select(MEASUREMENTS.keys).is_unique().all()
    expected = walked.tables()
    found = home.tables()
    for name in (tables.outcomes(PROBLEM).name, MEASUREMENTS.name, RETRAININGS.name):
        last = [until(MIDDLE, tables)[name] for tables in (found, expected)]
        assert last[0].equals(last[1]), name
    assert "no retraining" in home.run(
        "retrain", "--as-of", (MIDDLE + timedelta(days=1)).isoformat()
    )


@pytest.fixture(scope="module")
def with_more_data(walked: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The project, with the data of one more day."""
    home = walked.copy(tmp_path_factory.mktemp("later") / "my project")
    for verb in ("ingest", "prepare", "features"):
        home.run(verb, "--as-of", (MIDDLE + timedelta(days=1)).isoformat())
    return home


@pytest.fixture
def a_day_later(with_more_data: Home, tmp_path: Path) -> Home:
    """A copy of that."""
    return with_more_data.copy(tmp_path / "later")


def test_a_challenger_that_is_no_better_is_left_and_not_tried_again_at_once(
    a_day_later: Home,
) -> None:
    # given a retraining that must disappoint
    poor = {"TRAINING__ROUNDS": "1", "RETRAINING__EVERY_DAYS": "8"}
    # when it is due, and asked for again
    first = a_day_later.run("retrain", "--as-of", (MIDDLE + timedelta(days=1)).isoformat(), **poor)
    again = a_day_later.run("retrain", "--as-of", (MIDDLE + timedelta(days=2)).isoformat(), **poor)
    # then the champion stays, and there is no third version
    assert "8 days since the last training" in first
    assert "no retraining" in again
    registry = a_day_later.context.registry
    assert (registry.aliased(CHAMPION), len(registry.versions())) == ("1", 2)
    outcome = a_day_later.tables()[RETRAININGS.name].sort("at")["outcome"]
    assert outcome[-2].startswith("Version 2 is ")
    assert outcome[-1] == ""


@pytest.mark.long
def test_where_a_person_approves_a_retraining_waits(a_day_later: Home) -> None:
    # given production's approval
    careful = {
        "DEPLOYMENT__APPROVAL": "person",
        "DEPLOYMENT__FOUR_EYES": "true",
        "RETRAINING__EVERY_DAYS": "8",
    }
    # when a retraining is due, and asked for again
    said = a_day_later.run(
        "retrain", "--as-of", (MIDDLE + timedelta(days=1)).isoformat(), **careful
    )
    again = a_day_later.run(
        "retrain", "--as-of", (MIDDLE + timedelta(days=2)).isoformat(), **careful
    )
    # then its version waits
    assert "Version 2 waits for `approve` or `reject`" in said
    assert "no retraining" in again
    registry = a_day_later.context.registry
    assert (registry.aliased(CHAMPION), registry.aliased(CHALLENGER)) == ("1", "2")
    # and whoever did not ask for it can approve it
    a_day_later.run("approve", "--who", "ann", "--why", "looks right", **careful)
    assert registry.aliased(CHAMPION) == "2"
    assert history(a_day_later.context.lakehouse)["who"].to_list()[-2:] == ["retraining", "ann"]
