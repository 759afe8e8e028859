"""A stream whose consumers are killed at random moments answers each request exactly once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from {{cookiecutter.package_name}}.core.contract import KNOWN_AT
from {{cookiecutter.package_name}}.inference.stream_tables import send
from {{cookiecutter.package_name}}.store import tables

from tests.conftest import ROOT
from tests.endurance.conftest import MIDDLE, Home
from tests.killing import KILLS
from tests.parcels import PROBLEM

COMMITS = 4 * KILLS  # so that none of the consumers to be killed runs out of requests
ROWS = 500  # of a commit
POISON = 3  # of them


@pytest.fixture
def asking(walked: Home, tmp_path: Path) -> Home:
    """A project with a champion and requests, some of which cannot be scored."""
    home = walked.copy(tmp_path / "my project")
    context = home.context
    parcels = context.lakehouse.read(tables.prepared(PROBLEM.scored)).drop(KNOWN_AT)
    posted = pl.col("posted_at")
    recent = parcels.filter(posted > MIDDLE - timedelta(hours=12), posted <= MIDDLE)
    several = pl.concat([recent] * (1 + ROWS // recent.height)).head(ROWS)
    for commit in range(COMMITS):
        number = pl.int_range(pl.len())
        parcel = pl.when(number >= POISON).then(number + commit * ROWS + 10**6)
        send(context, [several.with_columns(parcel.alias("parcel"))])
    return home


def test_every_request_is_answered_once_though_consumers_are_killed(asking: Home) -> None:
    # When
    script = ROOT / "tests" / "endurance" / "streamer.py"
    process = asking.start(str(script), str(KILLS), "7", STREAM__BATCH_ROWS="300")
    said, _ = process.communicate()
    # Then
    assert process.returncode == 0, said
    assert int(said.split()[-1]) > KILLS / 2
    lakehouse = asking.context.lakehouse
    requests = lakehouse.read(tables.requests(PROBLEM))
    logged = lakehouse.read(tables.inference_log(PROBLEM), order=("parcel",))
    logged = logged.filter(pl.col("request_id") != tables.BATCH)
    letters = lakehouse.read(tables.dead_letters(PROBLEM))
    answered = [*logged["request_id"], *letters["request_id"]]
    assert sorted(answered) == sorted(requests["request_id"])
    assert letters.height == COMMITS * POISON
    predictions = lakehouse.read(tables.predictions(PROBLEM), order=("parcel",))
    streamed = predictions.filter(pl.col("parcel") >= 10**6)
    assert streamed.equals(logged.select(streamed.columns))
