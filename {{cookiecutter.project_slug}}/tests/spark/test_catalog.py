"""Tables that the task `tables` makes known, asked by what watches production."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pyspark.sql import SparkSession

from {{cookiecutter.package_name}} import cli, job
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import polars_schema
from {{cookiecutter.package_name}}.core.settings import load_settings
from {{cookiecutter.package_name}}.store.measurements import (
    GAIN,
    MONITORING,
    PRODUCTION,
    record,
)
from {{cookiecutter.package_name}}.store.tables import TRANSITIONS

from tests.bundle.reading import ROOT, read
from tests.conftest import copy_project
from tests.parcels import PROBLEM

CATALOG, SCHEMA = "spark_catalog", "watched"
WEEK = timedelta(days=7)


@pytest.fixture
def known(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SparkSession:
    """A session that knows two weeks of measurements, and a version that waits."""
    context = Context(load_settings("test", copy_project(tmp_path / "my project")), PROBLEM)
    for number, status in ((0, "violated"), (1, "ok")):
        rows = pl.DataFrame(
            {"metric": [GAIN, "scored"], "value": [0.1, 1.0], "status": ["violated", status]}
        )
        start = PROBLEM.begins + number * WEEK
        record(context.lakehouse, rows, MONITORING, PRODUCTION, start, start + WEEK)
    moves = [
        {"sequence": number, "at": PROBLEM.begins + number * WEEK, "action": action}
        for number, action in enumerate(("check", "request", "rollback"), start=1)
    ]
    told = pl.DataFrame(moves, schema=polars_schema(TRANSITIONS.schema))
    context.lakehouse.append_if_unchanged(TRANSITIONS, told, None)
    monkeypatch.setattr(cli, "context_of", lambda _: context)
    spark.sql(f"CREATE SCHEMA {CATALOG}.{SCHEMA} LOCATION '{tmp_path / 'schema'}'")
    for _ in range(2):  # done again, nothing changes
        job.tables("test", f"{CATALOG}.{SCHEMA}")
    return spark


def test_alerts_and_dashboard_are_answered(known: SparkSession) -> None:
    names: dict[str, Any] = {"catalog": CATALOG, "schema": SCHEMA}
    bundle = read("prod", ROOT / "serving", champion="1", warehouse="w", **names)
    watching = bundle["resources"]
    # then alerts count the newest window's violations, and the one version that waits
    counted = {
        name: known.sql(alert["query_text"]).collect()[0].asDict()
        for name, alert in watching["alerts"].items()
    }
    assert counted == {"violated": {"violated": 1}, "waiting": {"waiting": 1}}
    # and every query of the dashboard has rows, with the fields that are shown
    known.sql(f"USE {CATALOG}.{SCHEMA}")
    file = ROOT / "serving" / watching["dashboards"]["production"]["file_path"]
    datasets = json.loads(file.read_text(encoding="utf-8"))["datasets"]
    rows = {item["name"]: known.sql("".join(item["queryLines"])).collect() for item in datasets}
    known.sql(f"USE {CATALOG}.default")
    assert [row.asDict() for row in rows["now"]] == [{"measured": 2, "violated": 1, "unknown": 0}]
    assert sorted(row.violated for row in rows["windows"]) == [1, 2]
    assert [row.gain for row in rows["gains"]] == [0.1, 0.1]
