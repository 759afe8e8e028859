"""What a task of a Databricks job is told, and what it says where that is wrong."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import polars as pl
import pytest

from {{cookiecutter.package_name}} import cli, flows, job
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import polars_schema
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX, load_settings
from {{cookiecutter.package_name}}.store import tables

from tests.conftest import copy_project
from tests.parcels import PROBLEM


def test_names_become_variables(tmp_path: Path) -> None:
    told = job.variables(f"project={tmp_path}\ncommit=abc\nlakehouse.root=s3://a/b=c\n")
    assert told["PROJECT_FOLDER"] == str(tmp_path)
    assert told["DEPLOYED_COMMIT"] == "abc"
    assert told[f"{ENV_PREFIX}LAKEHOUSE__ROOT"] == "s3://a/b=c"
    assert Path(told["DATA_FOLDER"]).is_absolute()


def test_data_may_lie_elsewhere() -> None:
    assert job.variables("data=/elsewhere")["DATA_FOLDER"] == "/elsewhere"


def test_a_secret_becomes_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "secrets", lambda scope: {"KEY": f"of {scope}"})
    assert job.variables("secrets=mine")["KEY"] == "of mine"


def test_a_line_that_says_nothing_is_named() -> None:
    with pytest.raises(UserError, match="'commit', in a task's first parameter, is not NAME=VALUE"):
        job.variables("project=/here\ncommit")


@pytest.mark.parametrize("arguments", [["nothing"], ["mlflow.model", "train"]])
def test_a_task_that_is_told_nonsense_ends_in_one_message(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["job", *arguments])
    with pytest.raises(SystemExit) as ended:
        job.main()
    assert ended.value.code == 1
    assert "is not NAME=VALUE" in capsys.readouterr().err


def test_a_verb_is_run_with_what_the_task_was_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "argv", ["job", f"data={tmp_path}", "train", "--env", "test"])
    monkeypatch.setattr(cli, "main", lambda: seen.append((sys.argv[1:], os.environ["DATA_FOLDER"])))
    job.main()
    assert seen == [(["train", "--env", "test"], str(tmp_path))]


class Session:
    """Stands in for Spark's: notes what it is asked."""

    asked: list[str]

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self.asked = []
        self.builder = self

    def getOrCreate(self) -> Session:  # noqa: N802
        """Itself."""
        return self

    def sql(self, text: str) -> None:
        """Note it."""
        self.asked.append(text)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """An environment with one table."""
    context = Context(load_settings("test", copy_project(tmp_path / "project")), PROBLEM)
    row = {"source": "x", "digest": "y", "at": PROBLEM.begins + timedelta(days=1)}
    rows = pl.DataFrame([row], schema=polars_schema(tables.DECLARATIONS.schema))
    context.lakehouse.merge(tables.DECLARATIONS, rows)
    monkeypatch.setattr(cli, "context_of", lambda _: context)
    return context


def test_tables_that_are_there_are_made_known(
    home: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session()
    monkeypatch.setitem(sys.modules, "pyspark", ModuleType("pyspark"))
    monkeypatch.setitem(sys.modules, "pyspark.sql", SimpleNamespace(SparkSession=session))
    job.tables("test", "dev.mine")
    place = home.lakehouse.place("declarations")
    wanted = f"CREATE TABLE IF NOT EXISTS dev.mine.declarations USING DELTA LOCATION '{place}'"
    assert session.asked == [wanted]


def test_tables_need_a_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(job.SCHEMA_VARIABLE, raising=False)
    with pytest.raises(UserError, match="No schema is named"):
        job.tables("test")


class Catalog:
    """Stands in for a client of Unity Catalog: knows one model, and what it is told of it."""

    def __init__(self) -> None:
        """No job was named yet."""
        self.model = SimpleNamespace(description="What it is", deployment_job_id=None)
        self.told: list[tuple[str, str]] = []

    def get_registered_model(self, _: str) -> SimpleNamespace:
        """The model."""
        return self.model

    def update_registered_model(self, name: str, text: str, deployment_job_id: str) -> None:
        """Note it."""
        self.told.append((name, deployment_job_id))
        self.model = SimpleNamespace(description=text, deployment_job_id=deployment_job_id)


def test_the_catalog_is_told_once_which_job_takes_versions_up(
    home: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog()
    monkeypatch.setattr(type(home.registry), "client", catalog)
    for number in ("7", "7", "8"):
        job.trigger(number, "test")
    assert catalog.told == [(home.settings.mlflow.model, "7"), (home.settings.mlflow.model, "8")]
    assert catalog.model.description == "What it is"


@pytest.mark.parametrize(
    ("champion", "tag", "who", "decided"),
    [
        ("3", "", "", None),
        ("2", "Approved", "", ("Unity Catalog", "the tag approval of version 3 says Approved")),
        ("2", "", "ada", ("ada", "It's better")),
        ("2", "rejected", "", UserError),
        ("2", "", "", UserError),
    ],
)
def test_a_version_is_approved_by_the_tag_or_by_name(
    champion: str,
    tag: str,
    who: str,
    decided: tuple[str, str] | type[UserError] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = SimpleNamespace(tags={"approval": tag} if tag else {})
    registry = SimpleNamespace(aliased=lambda _: champion, version=lambda _: version)
    context = SimpleNamespace(registry=registry)
    monkeypatch.setattr(cli, "context_of", lambda _: context)
    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(flows, "decide", lambda _, who, why, **__: seen.append((who, why)))
    if decided is UserError:
        with pytest.raises(UserError, match="Version 3 waits for a person"):
            job.approval("3", "test")
    else:
        job.approval("3", "test", who, "It's better")
    assert seen == ([decided] if isinstance(decided, tuple) else [])
