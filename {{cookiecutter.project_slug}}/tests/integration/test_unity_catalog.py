"""Versions in Unity Catalog, emulated: the loop's own steps on a registry that refuses much."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.core.settings import load_settings
from {{cookiecutter.package_name}}.deployment.compliance import CHECKS, check
from {{cookiecutter.package_name}}.deployment.transitions import request
from {{cookiecutter.package_name}}.tracking import registry as module
from {{cookiecutter.package_name}}.tracking.registry import CHALLENGER, CHAMPION
from {{cookiecutter.package_name}}.tracking.stages import require_untouched
from {{cookiecutter.package_name}}.training.pipeline import train

from tests.parcels import PROBLEM
from tests.unity_catalog import LOCATION, UnityCatalog

MODEL = "dev.parcels.model"


@pytest.fixture
def home(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """The tables of the integration tests with an empty registry, which is a catalog."""
    folder = tmp_path / "my project"
    shutil.copytree(context.settings.project, folder)
    settings = load_settings("test", folder)
    (settings.state / "mlflow.db").unlink()
    there = {"registry_uri": "databricks-uc", "model": MODEL, "experiment": "/Shared/parcels"}
    # Its address is this machine's; whoever asks for MLflow's client is given the catalog's.
    monkeypatch.setattr(module, "MlflowClient", UnityCatalog)
    monkeypatch.setattr(mlflow, "set_registry_uri", lambda _: None)
    before = mlflow.get_tracking_uri()
    yield Context(
        settings.model_copy(update={"mlflow": settings.mlflow.model_copy(update=there)}), PROBLEM
    )
    mlflow.set_tracking_uri(before)


def test_versions_are_trained_checked_and_promoted(home: Context, as_of: datetime) -> None:
    # given two trainings, the first of which is run again
    first = train(home, as_of).version
    again = train(home, as_of)
    second = train(home, as_of - timedelta(days=1)).version
    third = train(home, as_of - timedelta(days=2)).version
    # then each registered one version, over more than one page of a search
    assert again.version == first
    assert [str(item.version) for item in home.registry.versions()] == [third, second, first]
    # when one is checked and asked for
    assert check(home, first, "expert") == {}
    assert request(home, first, "expert", "no champion yet")
    # then aliases and tags say so, and the log of transitions agrees
    assert home.registry.aliased(CHAMPION) == first
    assert home.registry.aliased(CHALLENGER) is None
    assert require_untouched(home.lakehouse, home.registry).champion == first
    tags = home.registry.version(first).tags
    assert tags["stage"] == "Production"
    assert {f"compliance.{name}" for name in CHECKS} <= tags.keys()
    # and its files are read by its name, not where they lie
    assert str(home.registry.version(first).source).startswith(LOCATION)
    assert home.registry.load(first) is not None


def test_a_value_that_is_too_long_is_kept_beside_the_run(home: Context, as_of: datetime) -> None:
    number = train(home, as_of).version
    told = "€ because " * 200
    home.registry.annotate(number, {"stage.why": told})
    held = MlflowClient().get_model_version(MODEL, number)
    assert held.tags["stage__why"].startswith("sha256:")
    assert home.registry.version(number).tags["stage.why"] == told
    # when somebody writes something else there
    module._text.cache_clear()
    name = f"tags/{held.tags['stage__why'].removeprefix('sha256:')}.txt"
    home.registry.client.log_text(str(held.run_id), "because I say so", name)
    # then it is not believed
    with pytest.raises(UserError, match=r"says of stage__why is not what was written"):
        home.registry.version(number)


def test_a_registry_of_this_machine_keeps_its_tags_as_they_are(context: Context) -> None:
    newest = context.registry.versions()[0]
    client = MlflowClient(context.settings.mlflow.tracking_uri)
    held = client.get_model_version(context.settings.mlflow.model, newest.version).tags
    context.registry.annotate(newest.version, {"note.of": "x" * 1_001})
    noted = client.get_model_version(context.settings.mlflow.model, newest.version).tags
    client.delete_model_version_tag(context.settings.mlflow.model, newest.version, "note.of")
    assert newest.tags == held
    assert noted == {**held, "note.of": "x" * 1_001}


@pytest.mark.parametrize(
    ("tags", "refused"),
    [
        ({"stage.why": "x"}, "stage.why"),
        ({"why": "x" * 1_001}, "too long"),
        ({f"tag{n}": "x" for n in range(51)}, "more than 50"),
    ],
)
def test_the_emulation_refuses_tags(home: Context, tags: dict[str, str], refused: str) -> None:
    *taken, last = tags.items()
    for key, value in taken:
        home.registry.client.set_registered_model_tag(MODEL, key, value)
    with pytest.raises(MlflowException, match=refused):
        home.registry.client.set_registered_model_tag(MODEL, *last)


Asked = Callable[[MlflowClient], object]
REFUSED: dict[str, tuple[Asked, str]] = {
    "a name without catalog and schema": (
        lambda client: client.create_registered_model("parcels"),
        "does not have three levels",
    ),
    "a filter on models": (
        lambda client: client.search_registered_models(f"name = '{MODEL}'"),
        "'filter_string' is unsupported",
    ),
    "two conditions on versions": (
        lambda client: client.search_model_versions(f"name = '{MODEL}' AND run_id = 'x'"),
        "Unsupported filter",
    ),
    "a condition on tags": (
        lambda client: client.search_model_versions("tags.stage = 'Staging'"),
        "Unsupported filter",
    ),
    "an order of versions": (
        lambda client: client.search_model_versions(f"name = '{MODEL}'", order_by=["name ASC"]),
        "Unsupported filter",
    ),
    "stages": (
        lambda client: client.transition_model_version_stage(MODEL, "1", "Staging"),
        "is unsupported",
    ),
    "versions by stage": (
        lambda client: client.get_latest_versions(MODEL, ["Staging"]),
        "is unsupported",
    ),
    "an experiment without a path": (
        lambda client: client.create_experiment("parcels"),
        "invalid experiment name 'parcels'",
    ),
}


@pytest.mark.filterwarnings("ignore")  # of stages, which MLflow will drop
@pytest.mark.parametrize("what", REFUSED)
def test_the_emulation_refuses(home: Context, what: str) -> None:
    asked, refused = REFUSED[what]
    with pytest.raises(MlflowException, match=refused):
        asked(home.registry.client)


def test_the_emulation_refuses_a_version_without_a_signature(
    home: Context, as_of: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = ModelSignature(Schema([ColSpec("double", "x")]))
    unsigned = SimpleNamespace(signature=inputs)
    monkeypatch.setattr("mlflow.models.get_model_info", lambda _: unsigned)
    with pytest.raises(MlflowException, match="signature of both sides"):
        train(home, as_of)


def test_without_the_catalogs_ways_it_refuses_the_loop(home: Context, as_of: datetime) -> None:
    number = train(home, as_of).version
    as_elsewhere = home.settings.mlflow.model_copy(update={"registry_uri": None})
    registry = replace(home.registry, settings=as_elsewhere)
    with pytest.raises(MlflowException, match=r"Tag key 'compliance\.size' is not allowed"):
        registry.annotate(number, {"compliance.size": "pass"})
    with pytest.raises(TypeError, match=r"'method' object is not subscriptable"):
        registry.versions()[0].tags["stage"]
    with pytest.raises(UserError, match="lost its files"):
        registry.download(number)
