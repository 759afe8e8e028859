"""A process killed in a write on Spark leaves the table as it was; the next one completes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from {{cookiecutter.package_name}}.store.engines.spark import SparkEngine
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse

from tests.conftest import START
from tests.spark import mortal
from tests.spark.mortal import THINGS, UNTIL, WRITES, things

HELD = {
    "append": {1: 1.0, 2: 2.0},
    "merge": {1: 1.5, 2: 2.0},
    "overwrite": {2: 2.0, 3: 3.0},
}


def held(lakehouse: Lakehouse) -> dict[int, float]:
    return dict(lakehouse.read(THINGS, order=["id"]).select("id", "value").iter_rows())


@pytest.mark.parametrize(
    "verb",
    [pytest.param(verb, marks=() if verb == "merge" else pytest.mark.long) for verb in WRITES],
)
def test_killed_between_stage_and_commit(spark: SparkSession, tmp_path: Path, verb: str) -> None:
    # given a table
    lakehouse = Lakehouse(str(tmp_path / "see häuser"), engine=SparkEngine(spark))
    lakehouse.append(THINGS, things({1: 1.0}, 0), START)
    # when a process of its own is killed (-9) where it would commit a write
    script = str(mortal.__file__)
    search = {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(
        [sys.executable, script, lakehouse.root, verb], env=os.environ | search, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    # then nothing of it is seen
    assert held(lakehouse) == {1: 1.0}
    assert (lakehouse.version(THINGS), lakehouse.complete_until(THINGS)) == (0, START)
    # and the write, made again, is there once
    for _ in range(2):
        WRITES[verb](lakehouse)
        assert held(lakehouse) == HELD[verb]
        assert lakehouse.complete_until(THINGS) == UNTIL
