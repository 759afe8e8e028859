"""A stream scores as batches do, to the bit; what cannot be scored is put aside with a reason."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event

import polars as pl
import pytest

from {{cookiecutter.package_name}} import cli, flows
from {{cookiecutter.package_name}}.context import Context, open_context
from {{cookiecutter.package_name}}.core.contract import KNOWN_AT, PREDICTION_TIME
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.deployment.transitions import move
from {{cookiecutter.package_name}}.inference import batch
from {{cookiecutter.package_name}}.inference.score import score
from {{cookiecutter.package_name}}.inference.stream import Streamed
from {{cookiecutter.package_name}}.inference.stream_tables import send
from {{cookiecutter.package_name}}.serving.streamed import Scorer
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.point_in_time import available
from {{cookiecutter.package_name}}.tracking.registry import CHAMPION
from {{cookiecutter.package_name}}.tracking.signing import ARTIFACT_DIGEST
from {{cookiecutter.package_name}}.tracking.stages import NONE
from {{cookiecutter.package_name}}.training.pipeline import Trained

from tests.conftest import ROOT, copy_version, wait_for
from tests.parcels import PROBLEM

KEYS = [*PROBLEM.model.keys, PREDICTION_TIME]
LOG, PREDICTIONS = tables.inference_log(PROBLEM), tables.predictions(PROBLEM)
LETTERS, REQUESTS = tables.dead_letters(PROBLEM), tables.requests(PROBLEM)


@dataclass(frozen=True)
class Home:
    """An environment that reads the trained project's tables and writes its own."""

    context: Context
    champion: str
    rows: pl.DataFrame  # parcels that were posted within the last hours

    def stream(self) -> Streamed:
        """Score what waits."""
        return flows.stream(self.context, Event(), once=True)

    def sent(self) -> int:
        """Send all rows."""
        return send(self.context, [self.rows])

    def copied(self, **tags: str) -> str:
        """Register the champion's files again, as another version."""
        return copy_version(self.context.registry, self.champion, **tags)


@pytest.fixture
def home(
    trained: tuple[Context, Trained],
    as_of: datetime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Home]:
    origin, done = trained
    mounted = [table.name for table in tables.inputs(PROBLEM)]
    values = {
        "LAKEHOUSE__ROOT": str(tmp_path / "lake house"),
        "LAKEHOUSE__MOUNTS": json.dumps(dict.fromkeys(mounted, origin.lakehouse.root)),
        "STATE": str(tmp_path / "state"),
        "STREAM__BATCH_ROWS": "50",
        "STREAM__POLL_SECONDS": "0.001",
    }
    monkeypatch.chdir(origin.settings.project)
    for key, value in values.items():
        monkeypatch.setenv(f"{ENV_PREFIX}{key}", value)
    context = open_context("test")
    context.settings.state.mkdir()
    shutil.copy(origin.settings.state / "signing.key", context.settings.state)
    champion = str(done.version)
    move(context, "approve", champion, "tests", "to score")
    parcels = origin.lakehouse.read(tables.prepared(PROBLEM.scored))
    posted = pl.col("posted_at")
    rows = parcels.filter(posted > as_of - timedelta(hours=12), posted <= as_of).drop(KNOWN_AT)
    yield Home(context, champion, rows)
    origin.registry.point(CHAMPION, None)
    for version in origin.registry.versions():
        origin.registry.annotate(str(version.version), {"stage": NONE})


def test_a_stream_scores_as_a_batch_does_to_the_bit(home: Home, as_of: datetime) -> None:
    # Given
    context = home.context
    spine = next(batch.spines(context, [home.rows], as_of))
    estimator = context.registry.load(home.champion)
    features = available(context.lakehouse, PROBLEM, as_of, {})
    expected = context.lakehouse.collect(score(context, estimator, spine, features)).sort(KEYS)
    # When
    sent = home.sent()
    done = home.stream()
    # Then
    assert done == Streamed(scored=sent, refused=0)
    logged = context.lakehouse.read(LOG).sort(KEYS)
    for name in (*KEYS, "prediction", *PROBLEM.model.features):
        kind = logged.schema[name]
        assert logged[name].equals(expected[name].cast(kind)), name
    predictions = context.lakehouse.read(PREDICTIONS).sort(KEYS)
    assert predictions["prediction"].equals(logged["prediction"])
    assert set(predictions["feature_versions"]) == set(logged["feature_versions"])
    assert set(logged["model_version"]) == {home.champion}


def test_what_cannot_be_scored_goes_to_the_dead_letters_and_spoils_nothing(home: Home) -> None:
    # Given
    posted = pl.col("posted_at")
    row = home.rows.head(1)
    poison = [
        row.with_columns(pl.lit(None, dtype=pl.Int64).alias("parcel")),
        row.with_columns(posted - timedelta(days=400)),
        row.with_columns(pl.lit(None).cast(row.schema["posted_at"]).alias("posted_at")),
    ]
    # When
    send(home.context, [pl.concat([*poison, home.rows])])
    done = home.stream()
    # Then
    assert done == Streamed(scored=home.rows.height, refused=3)
    letters = home.context.lakehouse.read(LETTERS)
    reasons = " ".join(letters["reason"])
    assert "A null key: parcel." in reasons
    assert "The online store goes back to" in reasons
    assert "beyond what can be computed" in reasons
    measured = home.context.lakehouse.read(tables.MEASUREMENTS).filter(metric="stream_refused")
    assert measured["status"].to_list() == ["violated"]


def test_a_request_for_one_entity_again_and_again_is_scored_each_time(home: Home) -> None:
    send(home.context, [pl.concat([home.rows.head(2)] * 20)])
    assert home.stream() == Streamed(scored=40, refused=0)
    assert home.context.lakehouse.count(PREDICTIONS) == 2


def test_champions_change_between_two_batches(home: Home, tmp_path: Path) -> None:
    # Given
    other = home.copied()
    changed = home.copied(**{ARTIFACT_DIGEST: "0" * 64})
    scorer = Scorer(home.context, tmp_path / "versions")
    home.sent()
    requests = home.context.lakehouse.read(REQUESTS)
    found = [scorer.score(requests)]
    # When
    for number in (other, changed):
        move(home.context, "approve", number, "tests", "to score")
        scorer.follow()
        found.append(scorer.score(requests))
    # Then the one whose files were changed is not taken
    versions = [set(scored["model_version"]) for scored, _ in found]
    assert versions == [{home.champion}, {other}, {other}]
    assert all(refused.is_empty() for _, refused in found)
    taken = home.context.lakehouse.read(tables.MEASUREMENTS).filter(metric="version_taken")
    assert dict(taken.select("subject", "status").iter_rows())[f"version {changed}"] == "violated"


def test_the_command_scores_what_comes_until_it_is_told_to_stop(home: Home) -> None:
    # Given
    path = str(home.context.settings.state / "rows.parquet")
    home.rows.write_parquet(path)
    command = [sys.executable, "-m", str(cli.__package__)]
    python_path = os.pathsep.join((str(ROOT), str(ROOT / "src")))
    environment = {**os.environ, "PYTHONPATH": python_path}
    # When
    with subprocess.Popen([*command, "stream", "--env", "test"], env=environment) as process:
        for number in (1, 2):
            send_it = [*command, "send", "--input", path, "--env", "test"]
            subprocess.run(send_it, env=environment, check=True)
            assert wait_for(partial(_has_logged, home, number * home.rows.height))
        process.send_signal(signal.SIGTERM)
        code = process.wait()
    # Then
    assert code == 0
    ids = home.context.lakehouse.read(LOG)["request_id"]
    assert sorted(ids) == sorted(home.context.lakehouse.read(REQUESTS)["request_id"])


def _has_logged(home: Home, rows: int) -> bool:
    return home.context.lakehouse.count(LOG) == rows


def test_without_a_champion_the_stream_does_not_begin(home: Home) -> None:
    home.context.registry.point(CHAMPION, None)
    with pytest.raises(UserError):
        home.stream()
