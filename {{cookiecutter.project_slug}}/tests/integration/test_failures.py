"""What a user can cause ends in one message, exit code 1, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import narwhals as nw
import pytest

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import Frame, Frames
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.tracking import clients

from tests import parcels
from tests.parcels import PROBLEM

Run = Callable[..., tuple[int, str, str]]
MODEL, TARGET = PROBLEM.model, PROBLEM.model.target
RAW = [tables.raw(source) for source in PROBLEM.sources]


@pytest.fixture
def unharmed(context: Context, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """Stand in the project; afterwards its tables and versions are as before."""

    def state() -> list[object]:
        held = [*RAW, *tables.inputs(PROBLEM)]
        return [
            *map(context.lakehouse.version, held),
            *(item.version for item in context.registry.versions()),
        ]

    monkeypatch.chdir(context.settings.project)
    before = state()
    yield context
    assert state() == before


def one_message(end: tuple[int, str, str]) -> str:
    code, _, err = end
    assert code == 1
    assert err.count("✗") == err.count("→") == 1
    assert "Traceback" not in err
    return err


def test_an_unwritable_root(
    unharmed: Context, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv(f"{ENV_PREFIX}LAKEHOUSE__ROOT", str(tmp_path / "file"))
    message = one_message(
        run("ingest", "--env", "test", "--as-of", (PROBLEM.begins + timedelta(days=1)).isoformat())
    )
    assert f"Cannot write {tmp_path / 'file'}/raw_" in message


@pytest.mark.usefixtures("unharmed")
def test_an_unwritable_registry(run: Run, as_of: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}MLFLOW__TRACKING_URI", "sqlite:////dev/null/mlflow.db")
    message = one_message(run("train", "--env", "test", "--as-of", as_of.isoformat()))
    assert "MLflow at sqlite:////dev/null/mlflow.db does not answer" in message


@pytest.mark.usefixtures("unharmed")
def test_files_that_could_not_be_kept(
    run: Run, as_of: datetime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "find_spec", lambda module: None)
    monkeypatch.setenv(f"{ENV_PREFIX}MLFLOW__TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv(f"{ENV_PREFIX}MLFLOW__ARTIFACT_ROOT", "s3://bucket/runs")
    ended = run("train", "--env", "test", "--as-of", as_of.isoformat())
    assert "MLflow needs boto3 for files at s3://bucket/runs" in one_message(ended)
    assert "training set" not in ended[1]


def test_too_early_an_as_of_leaves_too_little_to_split(unharmed: Context, run: Run) -> None:
    early = PROBLEM.begins + timedelta(days=unharmed.settings.training.holdout_days + 2)
    message = one_message(run("train", "--env", "test", "--as-of", early.isoformat()))
    assert "The train window" in message
    assert f"asks for {unharmed.settings.training.min_rows}" in message


def test_steps_out_of_order(unharmed: Context, run: Run, as_of: datetime) -> None:
    later = (as_of + timedelta(days=1)).isoformat()
    assert "Run the steps before this one" in one_message(
        run("prepare", "--env", "test", "--as-of", later)
    )
    assert "Run the steps before this one" in one_message(
        run("train", "--env", "test", "--as-of", later)
    )


@pytest.mark.skipif(not TARGET.classes, reason="a quantity has no classes")
def test_one_class_only(
    unharmed: Context, run: Run, as_of: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def labels(frames: Frames) -> Frame:
        return MODEL.labels(frames).with_columns(nw.lit(1.0).alias(TARGET.label))

    monkeypatch.setattr(parcels, "PROBLEM", replace(PROBLEM, model=replace(MODEL, labels=labels)))
    earlier = (as_of - timedelta(hours=1)).isoformat()
    assert "shows 1 of the 2 classes" in one_message(
        run("train", "--env", "test", "--as-of", earlier)
    )
