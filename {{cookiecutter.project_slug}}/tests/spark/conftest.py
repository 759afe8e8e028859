"""One Spark session for all tests: one JVM, with the settings that the nox session gives."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.settings import load_settings
from {{cookiecutter.package_name}}.store.engines.spark import open_session

from tests.conftest import CONF
from tests.kafka.conftest import broker  # noqa: F401 a fixture
from tests.parcels import PROBLEM

TRAINED = PROBLEM.begins + timedelta(days=38)


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    session = open_session(load_settings("test", CONF.parent).spark)
    yield session
    session.stop()


def opened(folder: Path, engine: str) -> Context:
    """A project on an engine."""
    settings = load_settings("test", folder)
    return Context(settings.model_copy(update={"engine": engine}), PROBLEM)
