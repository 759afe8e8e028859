from __future__ import annotations

import shutil
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest

from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.core.settings import Settings
from {{cookiecutter.package_name}}.tracking import clients
from {{cookiecutter.package_name}}.tracking.clients import require_client
from {{cookiecutter.package_name}}.tracking.provenance import artifact_digest
from {{cookiecutter.package_name}}.tracking.registry import Registry, as_address
from {{cookiecutter.package_name}}.tracking.signing import ARTIFACT_DIGEST, Signer


@pytest.mark.parametrize("place", ["s3://bucket/runs", "dbfs:/runs", "mlflow-artifacts:/runs"])
def test_an_address_stays_as_it_is(place: str) -> None:
    assert as_address(place) == place


def test_a_folder_becomes_an_address(tmp_path: Path) -> None:
    assert as_address(str(tmp_path / "my runs")) == f"{tmp_path.as_uri()}/my%20runs"


def nowhere(module: str) -> ModuleSpec | None:
    """As where nothing is installed, neither a module nor the package that holds it."""
    if "." in module:
        raise ModuleNotFoundError(name=module.partition(".")[0])
    return None


@pytest.mark.parametrize(
    ("place", "file"),
    [
        ("s3://bucket/runs", "aws.in"),
        ("wasbs://runs@account.blob.core.windows.net/", "azure.in"),
        ("abfss://runs@account.dfs.core.windows.net/", "azure.in"),
        ("gs://bucket/runs", "gcp.in"),
    ],
)
def test_a_client_that_is_not_installed_is_named_with_what_brings_it(
    place: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "find_spec", nowhere)
    with pytest.raises(UserError, match="is not installed") as refused:
        require_client(place)
    assert refused.value.remedy.startswith(f"Add `{file}` to PROJECT")


@pytest.mark.parametrize("place", ["runs", "mlflow-artifacts:/runs", "dbfs:/runs"])
def test_other_addresses_need_no_client(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "find_spec", nowhere)
    require_client(place)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A version's files, where they lie."""
    folder = tmp_path / "stored"
    folder.mkdir()
    (folder / "model.txt").write_text("trees", encoding="utf-8")
    return folder


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """Where copies of them are made."""
    folder = tmp_path / "copies"
    folder.mkdir()
    return folder


@pytest.fixture
def registry(
    settings: Settings, stored: Path, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """One whose only version has its files elsewhere."""

    def copied(place: str) -> str:
        made = tempfile.mkdtemp()  # as MLflow does
        return str(shutil.copytree(place, made, dirs_exist_ok=True))

    monkeypatch.setattr(tempfile, "tempdir", str(copies))
    tags = {ARTIFACT_DIGEST: artifact_digest(stored)}
    version = SimpleNamespace(version="1", source=str(stored), run_id="run", tags=tags)
    monkeypatch.setattr(Registry, "version", lambda *_: version)
    monkeypatch.setattr(Signer, "objection", lambda *_: "")
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", copied)
    return Registry(settings.mlflow, Signer(None, stored / "key"))


def test_files_that_lie_elsewhere_are_copied_once(registry: Registry, copies: Path) -> None:
    assert registry.download("1") == registry.download("1")
    assert len(list(copies.iterdir())) == 1


def test_a_copy_that_somebody_cleared_away_is_made_again(registry: Registry) -> None:
    (registry.download("1") / "model.txt").unlink()
    assert (registry.download("1") / "model.txt").exists()
    shutil.rmtree(registry.download("1"))
    assert (registry.download("1") / "model.txt").exists()


def test_files_that_were_wrong_are_looked_at_again(registry: Registry, stored: Path) -> None:
    # given a version with other files than were registered
    path = stored / "model.txt"
    path.write_text("others", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(UserError, match="not those that were registered"):
            registry.download("1")
    # when they are restored
    path.write_text("trees", encoding="utf-8")
    # then it is taken
    assert (registry.download("1") / "model.txt").read_text(encoding="utf-8") == "trees"


def test_a_copy_that_somebody_changed_is_not_taken(registry: Registry) -> None:
    (registry.download("1") / "more.py").write_text("", encoding="utf-8")
    assert not (registry.download("1") / "more.py").exists()
