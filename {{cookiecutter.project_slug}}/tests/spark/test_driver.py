"""What a step reads stays on the cluster: of ten rows an hour one at most, a count, comes here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import polars as pl
import pytest
from pyspark.sql import SparkSession

from {{cookiecutter.package_name}} import flows
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import Frame
from {{cookiecutter.package_name}}.data.prepare import prepare
from {{cookiecutter.package_name}}.features.build import build_features
from {{cookiecutter.package_name}}.inference import batch
from {{cookiecutter.package_name}}.inference.score import score
from {{cookiecutter.package_name}}.store.engines.spark import SparkEngine

from tests.conftest import copy_project
from tests.parcels import PROBLEM
from tests.parcels.sources import ANNOUNCED
from tests.spark.conftest import TRAINED, opened
from tests.spark.test_loop import step

TODAY = TRAINED + timedelta(days=10)
HOURS = (TODAY - PROBLEM.begins + ANNOUNCED) // timedelta(hours=1) + 1  # with that of TODAY


@pytest.fixture(scope="module")
def trained(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A champion that has scored nothing, and ten days of raw rows; Spark goes on from there."""
    folder = copy_project(tmp_path_factory.mktemp("driver") / "my project")
    before = opened(folder, "polars")
    step(before, TRAINED)
    flows.deploy(before, flows.train(before, TRAINED).version, "tester")
    flows.ingest(before, TODAY)
    context = opened(folder, "spark")
    all_of_it = context.settings.inference.model_copy(update={"first_days": 365})
    return Context(context.settings.model_copy(update={"inference": all_of_it}), PROBLEM)


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each frame, or part of one, that reaches the driver."""
    found: list[int] = []
    collect = SparkEngine.collect
    batches = SparkEngine.batches

    def collected(engine: SparkEngine, frame: Frame) -> pl.DataFrame:
        rows = collect(engine, frame)
        found.append(rows.height)
        return rows

    def in_batches(engine: SparkEngine, frame: Frame, rows: int) -> Iterator[pl.DataFrame]:
        for part in batches(engine, frame, rows):
            found.append(part.height)
            yield part

    monkeypatch.setattr(SparkEngine, "collect", collected)
    monkeypatch.setattr(SparkEngine, "batches", in_batches)
    return found


def predict(context: Context, as_of: datetime) -> int:
    """Score all that there ever was."""
    return batch.predict(context, as_of, batch.due(context, as_of)).rows


def test_rows_stay_on_the_cluster(trained: Context, reached: list[int]) -> None:
    steps: dict[str, Callable[[], object]] = {
        "prepare": partial(prepare, trained, TODAY),
        "features": partial(build_features, trained, TODAY, PROBLEM.begins),
        "predict": partial(predict, trained, TODAY),
    }
    for name, run in steps.items():
        reached.clear()
        run()
        assert reached, name
        assert max(reached) <= HOURS, name


def test_a_step_that_collects_its_rows_is_seen(
    trained: Context, reached: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a step that takes what it scores through the driver

    def through_the_driver(context: Context, *arguments: Any) -> Frame:
        rows = score(context, *arguments)
        return context.lakehouse.frame(context.lakehouse.collect(rows))

    monkeypatch.setattr(batch, "score", through_the_driver)
    # when
    rows = predict(trained, TRAINED)
    # then it is seen
    assert max(reached) == rows > HOURS
