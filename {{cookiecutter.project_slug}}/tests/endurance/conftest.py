"""Projects in which weeks of production were walked through, on the toy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from {{cookiecutter.package_name}} import cli
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX, load_settings
from {{cookiecutter.package_name}}.modeling.lightgbm import BOOSTER
from {{cookiecutter.package_name}}.modeling.pyfunc import ESTIMATOR
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.measurements import RUN
from {{cookiecutter.package_name}}.store.tables import MEASUREMENTS, TRANSITIONS
from {{cookiecutter.package_name}}.tracking.registry import CHAMPION
from {{cookiecutter.package_name}}.tracking.signing import ARTIFACT_DIGEST, SIGNATURE

from tests.conftest import copy_project
from tests.parcels import PROBLEM
from tests.parcels.sources import BEGINS

FIRST = BEGINS + timedelta(days=45)
MIDDLE = FIRST + timedelta(days=7)
LAST = MIDDLE + timedelta(days=7)
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
    lies: Mapping[str, str] = field(default_factory=dict)  # environment variables of the feed

    def start(self, *command: str, **settings: str) -> subprocess.Popen[str]:
        """Start Python with arguments."""
        paths = os.pathsep.join(sys.path)
        own = {f"{ENV_PREFIX}{name}": value for name, value in (SETTINGS | settings).items()}
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env={**os.environ, **own, **self.lies, "PYTHONPATH": paths, "COLUMNS": "400"},
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
        return Home(folder, self.lies)

    @property
    def context(self) -> Context:
        """Its tables and versions."""
        return Context(load_settings("test", self.folder), PROBLEM)

    def tables(self) -> Tables:
        """All tables, sorted, without what a clock or the record of runs put there."""
        found = {}
        for table in tables.every(PROBLEM):
            rows = self.context.lakehouse.read(table)
            if table == MEASUREMENTS:
                rows = rows.filter(
                    pl.col("producer") != RUN, pl.col("metric") != "batch_latency_ms"
                )
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
                if key not in ("stage.when", ARTIFACT_DIGEST, SIGNATURE)
            }
            files = registry.download(version.version) / "artifacts" / ESTIMATOR
            trees = (files / BOOSTER).read_text(encoding="utf-8")
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


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A project in which nothing has run."""
    return Home(copy_project(tmp_path_factory.mktemp("fresh") / "my project"))


@pytest.fixture(scope="session")
def walked(tmp_path_factory: pytest.TempPathFactory, fresh: Home) -> Home:
    """A project that was walked to the middle."""
    home = fresh.copy(tmp_path_factory.mktemp("walked") / "my project")
    home.run(*replay(MIDDLE))
    return home
