"""What holds of every engine holds of Spark's."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from {{cookiecutter.package_name}}.store.engines.spark import SparkEngine

from tests.unit.test_engines import *  # noqa: F403


@pytest.fixture(name="engine")
def on_spark(spark: SparkSession) -> SparkEngine:
    return SparkEngine(spark)
