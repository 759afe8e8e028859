"""Fixtures that several tests share; `toy` is a small problem on which the machinery is tested."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import hypothesis
import narwhals as nw
import numpy as np
import optuna
import pointblank as pb
import polars as pl
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

from {{cookiecutter.package_name}}.contract import (
    AVAILABLE_AT,
    KNOWN_AT,
    PREDICTION_TIME,
    Array,
    FeatureTable,
    Frames,
    Metric,
    Model,
    Problem,
    Source,
    Target,
)
from {{cookiecutter.package_name}}.lakehouse import Lakehouse
from {{cookiecutter.package_name}}.settings import ENV_PREFIX, Settings, load_settings

with warnings.catch_warnings():  # it warns of its own type hints
    warnings.simplefilter("ignore")
    import mlflow.pyfunc  # noqa: F401

ROOT = Path(__file__).parent.parent
START = datetime(2020, 1, 1, tzinfo=UTC)

hypothesis.settings.register_profile("project", deadline=None, max_examples=60, database=None, derandomize=True)
hypothesis.settings.load_profile("project")
set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")


@pytest.fixture(autouse=True)
def isolated(request: pytest.FixtureRequest) -> None:
    """Unit tests reach no network, no environment variable, and no folder outside their own."""
    if request.path.parent.name == "unit":
        request.getfixturevalue("socket_disabled")
        folder: Path = request.getfixturevalue("tmp_path")
        patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        scratch = folder / "scratch"
        scratch.mkdir()
        patch.chdir(folder)
        patch.setattr(tempfile, "tempdir", str(scratch))
        for name in [name for name in os.environ if name.upper().startswith(ENV_PREFIX)]:
            patch.delenv(name)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project's configuration, where the test stands; its path has a space."""
    folder = tmp_path / "my project"
    shutil.copytree(ROOT / "conf", folder / "conf")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def settings(project: Path) -> Settings:
    """The test environment."""
    return load_settings("test", project)


@pytest.fixture
def lakehouse(tmp_path: Path) -> Lakehouse:
    """An empty lakehouse; its path has a space."""
    return Lakehouse(str(tmp_path / "lake house"))


@pytest.fixture
def feed() -> pl.DataFrame:
    """600 orders over 60 days of 2020: what the toy's source publishes."""
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"order": range(600), "amount": rng.uniform(1, 100, 600), "noise": rng.normal(0, 20, 600)})
    return frame.with_columns(
        pl.Series("shop", rng.choice(["a", "b", "c"], 600)),
        pl.lit(START).cast(pl.Datetime("us", "UTC")).alias(KNOWN_AT) + pl.duration(minutes=144 * pl.col("order")),
    ).with_columns(paid=(pl.col("amount") + pl.col("noise") > 50).cast(pl.Float64))


@pytest.fixture
def toy(feed: pl.DataFrame) -> Problem:
    """Will an order be paid? An order is known at once, whether it was paid a day later."""
    columns = {"order": nw.Int64, "shop": nw.String, "amount": nw.Float64}

    def load(names: list[str], delay: timedelta) -> Callable[[datetime | None, datetime], pl.LazyFrame]:
        published = feed.select(*names, pl.col(KNOWN_AT) + delay).lazy()

        def rows(since: datetime | None, until: datetime) -> pl.LazyFrame:
            return published.filter(pl.col(KNOWN_AT) > (since or START - delay), pl.col(KNOWN_AT) <= until)

        return rows

    def check(rows: pb.Validate) -> pb.Validate:
        return rows.col_vals_between("amount", 0, 100, brief="A plausible amount")

    def score(label: Array, prediction: Array, weight: Array) -> float:
        return float(np.average((label - prediction) ** 2, weights=weight))

    def one_minus(label: Array, prediction: Array, weight: Array) -> float:
        return 1 - score(label, prediction, weight)

    def space(trial: optuna.Trial) -> dict[str, object]:
        return {"num_leaves": trial.suggest_int("num_leaves", 2, 31), "eta": trial.suggest_float("eta", 0.05, 0.3)}

    def spine(frames: Frames) -> nw.LazyFrame[pl.LazyFrame]:
        return frames["orders"].rename({KNOWN_AT: PREDICTION_TIME})

    orders = Source(
        name="orders",
        raw=columns,
        load=load(list(columns), timedelta(0)),
        prepared=columns,
        prepare=lambda rows, _: rows,
        keys=("order",),
        checks=check,
        max_rejected=0.1,
    )
    paid = {"order": nw.Int64, "paid": nw.Float64}
    payments = Source(
        name="payments",
        raw=paid,
        load=load(list(paid), timedelta(days=1)),
        prepared=paid,
        prepare=lambda rows, _: rows,
        keys=("order",),
        checks=lambda rows: rows,
    )
    last = FeatureTable(
        name="last",
        keys={"shop": nw.String},
        values={"last_amount": nw.Float64},
        build=lambda frames: frames["orders"].select(
            "shop", nw.col(KNOWN_AT).dt.offset_by("1h").alias(AVAILABLE_AT), nw.col("amount").alias("last_amount")
        ),
        lookback=timedelta(hours=1),
    )
    target = Target(
        label="paid",
        from_outcome=nw.col("paid"),
        classes=2,
        params={"objective": "binary"},
        metrics=(
            Metric("loss", score, higher_is_better=False, too_good=0.0),
            Metric("skill", one_minus, higher_is_better=True, too_good=1.0),
        ),
        unit="probability of payment",
    )
    model = Model(
        keys=("order",),
        requests="orders",
        spine=spine,
        labels=lambda frames: frames["payments"].select("order", target.label, KNOWN_AT),
        on_demand=lambda rows: rows,
        target=target,
        features=("shop", "amount", "last_amount"),
        categorical=("shop",),
        monotone={"amount": 1},
        baseline=("shop",),
        slices=("shop",),
        forbidden=("paid",),
        search_space=space,
        params={"min_data_in_leaf": 5},
        card="A toy.",
    )
    return Problem(sources=(orders, payments), feature_tables=(last,), model=model, begins=START, ends=None)
