"""Production of the toy problem: 60 days of orders that version 7 has scored, and no MLflow."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import narwhals as nw
import polars as pl
import pytest

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import (
    KNOWN_AT,
    PREDICTION_TIME,
    Problem,
    polars_schema,
)
from {{cookiecutter.package_name}}.core.settings import Settings
from {{cookiecutter.package_name}}.data.ingest import ingest
from {{cookiecutter.package_name}}.data.prepare import prepare
from {{cookiecutter.package_name}}.modeling.profile import profile, save
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse
from {{cookiecutter.package_name}}.store.measurements import record
from {{cookiecutter.package_name}}.tracking.registry import HOLDOUT, PROFILE
from {{cookiecutter.package_name}}.tracking.signing import TRAINING_ID

from tests.conftest import within

ENDS = datetime.fromisoformat("2020-03-01T00:00+00:00")
TRAINED = datetime.fromisoformat("2020-01-29T00:00+00:00")
VERSION = "7"


@dataclass
class KnownVersions:
    """A registry of one version, whose files lie in a folder."""

    folder: Path
    champion: str | None = VERSION
    tags: dict[str, str] = field(
        default_factory=lambda: {TRAINING_ID: "first", "as_of": TRAINED.isoformat()}
    )

    def aliased(self, alias: str) -> str | None:
        return self.champion

    def version(self, number: str) -> SimpleNamespace:
        return SimpleNamespace(tags=self.tags)

    def download(self, number: str) -> Path:
        return self.folder


@dataclass(frozen=True)
class Production:
    """A context, its rows with their predictions, and what stands for the registry."""

    context: Context
    rows: pl.DataFrame
    registry: KnownVersions

    def score(self, rows: pl.DataFrame, version: str = VERSION) -> None:
        """Write predictions and log as `predict` does."""
        problem, lakehouse = self.context.problem, self.context.lakehouse
        constants = {"model_version": version, "feature_versions": "{}", "latency_ms": 0.5}
        constants["request_id"] = tables.BATCH
        filled = rows.with_columns(pl.lit(value).alias(name) for name, value in constants.items())
        for table in (tables.inference_log(problem), tables.predictions(problem)):
            kinds = polars_schema(table.schema)
            shaped = filled.lazy().select(pl.col(name).cast(kind) for name, kind in kinds.items())
            lakehouse.merge(table, nw.from_native(shaped))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for what is prepared, once: made by the first test, copied by all others."""
    return {"tables": tmp_path_factory.mktemp("prepared") / "tables"}


@pytest.fixture
def production(
    toy: Problem, feed: pl.DataFrame, settings: Settings, prepared: dict[str, Path], tmp_path: Path
) -> Production:
    """Everything is prepared until the end, training ended weeks before, nothing is scored yet."""
    monitoring = settings.monitoring.model_copy(update={"min_rows": 20})
    settings = settings.model_copy(update={"state": tmp_path / "state", "monitoring": monitoring})
    context = Context(settings, toy)
    registry = KnownVersions(tmp_path / "version")
    lakehouse = Lakehouse(str(tmp_path / "lake house"))
    context.__dict__.update(lakehouse=lakehouse, registry=registry)
    folder = prepared["tables"]
    if not folder.exists():
        first = within(Lakehouse(str(folder)), toy)
        ingest(first, ENDS)
        prepare(first, ENDS)
    shutil.copytree(folder, lakehouse.root)
    rows = feed.with_columns(
        (pl.col(KNOWN_AT) + timedelta(hours=1)).alias(PREDICTION_TIME),
        last_amount=pl.col("amount").shift(1),
        prediction=pl.col("amount") / 100,
    )
    known = rows.filter(pl.col(PREDICTION_TIME) < TRAINED)
    files = registry.folder / "artifacts"
    files.mkdir(parents=True)
    save(profile(known, (*toy.model.features, "prediction")), files / PROFILE)
    known.select(PREDICTION_TIME, "prediction", "paid").write_parquet(files / HOLDOUT)
    loss = pl.DataFrame({"metric": ["loss"], "value": [0.15]})
    record(lakehouse, loss, "training", "first", TRAINED - timedelta(days=7), TRAINED)
    return Production(context, rows, registry)
