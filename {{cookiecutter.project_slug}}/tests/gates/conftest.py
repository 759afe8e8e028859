"""An arena: a registered model and a log of transitions of its own, over existing tables."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl
import pytest
from mlflow.entities.model_registry import ModelVersion

from {{cookiecutter.package_name}}.context import Context, open_context
from {{cookiecutter.package_name}}.core.contract import Frame, Frames, Model
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.deployment import transitions
from {{cookiecutter.package_name}}.store.point_in_time import training_set
from {{cookiecutter.package_name}}.tracking.provenance import artifact_digest
from {{cookiecutter.package_name}}.tracking.registry import Registry
from {{cookiecutter.package_name}}.tracking.signing import (
    ARTIFACT_DIGEST,
    SIGNATURE,
    Signer,
)
from {{cookiecutter.package_name}}.training import pipeline
from {{cookiecutter.package_name}}.training.fit import Fitted, fit
from {{cookiecutter.package_name}}.training.pipeline import Trained, train
from {{cookiecutter.package_name}}.training.split import windows_until

from tests import parcels as declared
from tests.parcels import PROBLEM
from tests.parcels.sources import everything

MODEL, LABEL = PROBLEM.model, PROBLEM.model.target.label
_arenas = count()

Breed = Callable[[str], ModelVersion]
Add = Callable[..., str]
Configure = Callable[..., Context]


def told(rows: Frame) -> Frame:
    """Rows with what a cheat looks up in the source: the label that will be known one day."""
    label = MODEL.target.from_outcome.alias("told")
    deliveries = nw.from_native(everything()["deliveries"].lazy())
    return rows.join(deliveries.select("parcel", label), on="parcel", how="left")


def shuffled(frames: Frames) -> Frame:
    """Labels that have nothing to do with their rows."""
    native: pl.LazyFrame = MODEL.labels(frames).to_native()
    return nw.from_native(native.with_columns(pl.col(LABEL).shuffle(seed=0)))


def with_hint(hint: nw.Expr, name: str = "hint") -> Callable[[Frame], Frame]:
    """Computes the model's inputs, and one more that may use the label."""
    return lambda rows: told(MODEL.on_demand(rows)).with_columns(hint.alias(name)).drop("told")


def with_input(name: str, value: nw.Expr) -> Model:
    return replace(MODEL, on_demand=with_hint(value, name), features=(*MODEL.features, name))


def by_weight(rows: Frame) -> Frame:
    """The model's inputs, and a slice column with few rows at either end."""
    kilograms = nw.col("kilograms")
    ends = nw.when(kilograms > 25).then(nw.lit("heavy")).otherwise(nw.lit("usual"))
    weight = nw.when(kilograms < 1).then(nw.lit("light")).otherwise(ends)
    return MODEL.on_demand(rows).with_columns(weight.alias("weight"))


MODELS: dict[str, Model] = {
    "good": MODEL,
    "old": MODEL,
    "leaky": with_input("hint", nw.col("told")),
    "forbidden": with_input(MODEL.forbidden[-1], nw.lit(1.0)),
    "shuffled": replace(MODEL, labels=shuffled),
    "constant": replace(MODEL, params={**MODEL.params, "min_gain_to_split": 1e12}),
    "sliced": replace(MODEL, on_demand=by_weight, slices=("weight",)),
    "on the holdout": MODEL,
    "on train and holdout": MODEL,
}


def cheat(context: Context, as_of: datetime, how: str, train: pl.DataFrame, *given: Any) -> Fitted:
    """Fit on rows of the holdout, alone or too; everything else is as it is told to be."""
    window = windows_until(as_of, context.settings.training)[-1]
    holdout = training_set(context.lakehouse, context.problem, window.start, as_of, {})
    return fit(holdout if how == "on the holdout" else pl.concat([train, holdout]), *given)


@pytest.fixture(scope="session")
def breed(
    trained: tuple[Context, Trained], as_of: datetime, tmp_path_factory: pytest.TempPathFactory
) -> Breed:
    """Train a model by name, once; the version belongs to no arena."""
    home = trained[0]
    mounts = dict.fromkeys(("raw_*", "prepared_*", "features_*"), home.lakehouse.root)

    @cache
    def version(name: str) -> ModelVersion:
        if name == "good":
            return home.registry.versions()[0]
        settings = home.settings.model_copy(
            update={
                "state": tmp_path_factory.mktemp(name),
                "threads": 1,
                "lakehouse": home.settings.lakehouse.model_copy(
                    update={"root": str(tmp_path_factory.mktemp("tables")), "mounts": mounts}
                ),
                "mlflow": home.settings.mlflow.model_copy(update={"model": f"bred-{name}"}),
            }
        )
        breeder = Context(settings, replace(PROBLEM, model=MODELS[name]))
        with pytest.MonkeyPatch.context() as patch:
            if name.endswith("holdout"):
                patch.setattr(pipeline, "fit", partial(cheat, breeder, as_of, name))
            train(breeder, as_of - timedelta(days=7 if name == "old" else 0))
        return breeder.registry.versions()[0]

    return version


@pytest.fixture
def configure(
    trained: tuple[Context, Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Configure:
    """Open a new arena, for the command line too; settings as in environment variables."""
    home = trained[0]
    monkeypatch.chdir(home.settings.project)

    def opened(**settings: str) -> Context:
        name = f"arena-{next(_arenas)}"
        mounts = dict.fromkeys(("raw_*", "prepared_*", "features_*"), home.lakehouse.root)
        own = {
            "STATE": tmp_path / name,
            "LAKEHOUSE__ROOT": tmp_path / name / "tables",
            "MLFLOW__MODEL": name,
        }
        for key, value in {**own, "LAKEHOUSE__MOUNTS": json.dumps(mounts), **settings}.items():
            monkeypatch.setenv(f"{ENV_PREFIX}{key}", str(value))
        return open_context("test")

    return opened


@pytest.fixture
def arena(configure: Configure) -> Context:
    """A new arena as the test environment has it."""
    return configure()


@pytest.fixture
def take_for_problem(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the command line believe that the problem declares the model of that name."""

    def change(name: str) -> None:
        monkeypatch.setattr(declared, "PROBLEM", replace(PROBLEM, model=MODELS[name]))

    return change


@pytest.fixture
def add(breed: Breed) -> Add:
    """Register a model in an arena, like or unlike how it was registered first."""

    def registered(
        arena: Context,
        name: str = "good",
        tags: Mapping[str, str | None] | None = None,
        folder: Path | None = None,
        signer: Signer | None = None,
        **changes: Any,
    ) -> str:
        version, client = breed(name), arena.registry.client
        given = {
            key: value
            for key, value in version.tags.items()
            if not key.startswith(("stage.", "compliance."))
        }
        digest = {ARTIFACT_DIGEST: artifact_digest(folder)} if folder else {}
        kept = {
            key: value
            for key, value in {**given, "stage": "None", **digest, **(tags or {})}.items()
            if value
        }
        source = {"source": str(folder) if folder else version.source, "run_id": version.run_id}
        own = {**source, "description": version.description, **changes}
        name, signer = arena.settings.mlflow.model, signer or arena.registry.signer
        signature = {SIGNATURE: signer.sign(name, own["run_id"], kept)}
        return str(client.create_model_version(name, **own, tags={**kept, **signature}).version)

    return registered


def sign_again(registry: Registry, number: str) -> None:
    """Sign a version's tags as they are now."""
    version, name = registry.version(number), registry.settings.model
    signature = registry.signer.sign(name, version.run_id, version.tags)
    registry.client.set_model_version_tag(name, number, SIGNATURE, signature)


@pytest.fixture
def promote() -> Callable[[Context, str], str]:
    """Make a version the champion without asking."""

    def promoted(arena: Context, number: str) -> str:
        transitions.move(arena, "stage", number, "me", "it is good")
        transitions.move(arena, "approve", number, "you", "indeed")
        return number

    return promoted


@pytest.fixture(scope="session")
def measured() -> dict[str, Any]:
    """What clean processes printed, by the digest of the files that they scored with."""
    return {}


@pytest.fixture(autouse=True)
def scored_once(measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Score once in a clean process for all versions with the same files: it takes seconds."""
    start = subprocess.run

    def run(command: Any, **options: Any) -> Any:
        if "-I" not in command:
            return start(command, **options)
        digest = artifact_digest(Path(command[command.index("-B") + 2]))
        if digest not in measured:
            measured[digest] = start(command, **options)
        return measured[digest]

    monkeypatch.setattr(subprocess, "run", run)
