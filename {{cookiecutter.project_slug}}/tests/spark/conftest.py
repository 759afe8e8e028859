"""One Spark session for all tests: one JVM, with the settings that the nox session gives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

from {{cookiecutter.package_name}}.core.settings import load_settings
from {{cookiecutter.package_name}}.store.engines.spark import open_session

from tests.conftest import CONF


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    session = open_session(load_settings("test", CONF.parent).spark)
    yield session
    session.stop()
