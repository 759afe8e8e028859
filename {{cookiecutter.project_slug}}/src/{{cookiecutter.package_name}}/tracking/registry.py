"""MLflow: runs, and model versions as the stages of the loop."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from ..core.contract import Estimator
from ..core.errors import UserError
from ..core.settings import MlflowSettings
from ..modeling import pyfunc, stored
from ..store.identity import refuse_other
from . import catalog
from .clients import require_client
from .provenance import artifact_digest
from .signing import ARTIFACT_DIGEST, SIGNATURE, TRAINING_ID, Signer

CHAMPION = "champion"
CHALLENGER = "challenger"
IDENTITY = "environment"
PROFILE = "profile.parquet"
HOLDOUT = "holdout.parquet"
_SQLITE = "sqlite:///"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a drive of Windows has one letter
_DESCRIPTION = (
    "Versions that were trained, checked and compared: @champion is in production, @challenger is "
    "measured against it. Each version's description says what it predicts and how well."
)
# What the file that MLflow loads needs beside the estimator's own packages.
_PYFUNC_PACKAGES = ("mlflow-skinny", "pandas")


@dataclass(frozen=True)
class Registry:
    """The tracking server and the registered model of an environment."""

    settings: MlflowSettings
    signer: Signer
    storage_name: str | None = None  # what the registered model must carry; None: any will do

    @cached_property
    def client(self) -> MlflowClient:
        """A client whose registered model exists.

        Raises:
            UserError: The tracking server does not answer, its store cannot be written, or it is
                another environment's.
        """
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        for noisy in ("alembic", "mlflow"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)  # errors are raised as well
        uri = self.settings.tracking_uri
        name = self.settings.model
        store = Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None
        if store and self.storage_name and not store.exists():
            refuse_other(f"Models in {uri}", None, self.storage_name)
        try:
            if store:
                _create_store(store)
            mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(self.settings.registry_uri or "")
            client = MlflowClient()
            found = _registered(client, name)
            if found is None and self.storage_name is None:
                client.create_registered_model(name, description=_DESCRIPTION)
        except Exception as error:  # noqa: BLE001 a file, a server, a cloud: each has its own
            reason = str(error).strip().partition("\n")[0]
            message = f"MLflow at {uri} does not answer: {reason}"
            raise UserError(message, "Check `mlflow` in conf/.") from None
        if self.storage_name:
            carried = found.tags.get(IDENTITY) if found else None
            refuse_other(f"Models in {uri}", carried, self.storage_name)
        return client

    def give(self, name: str) -> None:
        """Name the registered model; doing so again changes nothing.

        Raises:
            UserError: It carries another name.
        """
        model = self.client.get_registered_model(self.settings.model)
        if carried := model.tags.get(IDENTITY):
            refuse_other(f"Models in {self.settings.tracking_uri}", carried, name)
        self.client.set_registered_model_tag(self.settings.model, IDENTITY, name)

    @cached_property
    def experiment(self) -> str:
        """Id of the experiment, created on first use."""
        name = self.settings.experiment
        if found := self.client.get_experiment_by_name(name):
            return str(found.experiment_id)
        place = self.settings.artifact_root
        location = None if place is None else as_address(place)
        return str(self.client.create_experiment(name, artifact_location=location))

    def require_files(self) -> None:
        """Refuse to begin work whose files MLflow could not keep.

        Raises:
            UserError: The client of where they lie is not installed.
        """
        found = self.client.get_experiment_by_name(self.settings.experiment)
        place = found.artifact_location if found else self.settings.artifact_root
        if place is not None:
            require_client(place)

    def version(self, number: str) -> ModelVersion:
        """A version by number.

        Raises:
            UserError: There is none.
        """
        try:
            found = self.client.get_model_version(self.settings.model, number)
        except MlflowException:
            known = ", ".join(str(item.version) for item in reversed(self.versions()))
            message = f"{self.settings.model} has no version {number}."
            raise UserError(message, f"There are: {known or 'none yet'}.") from None
        return self._read(found) if self.settings.in_catalog else found

    def versions(self) -> list[ModelVersion]:
        """All versions, newest first."""
        found = self._search(f"name = '{self.settings.model}'")
        if self.settings.in_catalog:
            # What is found there has no tags; asked for by number it has.
            found = [self.version(str(version.version)) for version in found]
        return sorted(found, key=lambda version: int(version.version), reverse=True)

    def find_training(self, training_id: str) -> ModelVersion | None:
        """The version that this training registered, if it got that far."""
        for version in self.versions():
            if version.tags.get(TRAINING_ID) == training_id:
                return version
        return None

    def _search(self, condition: str) -> list[ModelVersion]:
        """Versions on all pages of a search."""
        found: list[ModelVersion] = []
        token = None
        while True:
            page = self.client.search_model_versions(condition, page_token=token)
            found.extend(page)
            token = page.token
            if not token:
                return found

    def _read(self, found: ModelVersion) -> ModelVersion:
        """A version of Unity Catalog with the tags that were meant."""
        return catalog.read(found, lambda name: _text(f"runs:/{found.run_id}/{name}"))

    def _written(self, tags: Mapping[str, str], run_id: str) -> dict[str, str]:
        """Tags as the registry holds them."""
        if not self.settings.in_catalog:
            return dict(tags)
        return catalog.written(tags, lambda name, text: self.client.log_text(run_id, text, name))

    def aliased(self, alias: str) -> str | None:
        """Number of the version that an alias points to."""
        return self.aliases().get(alias)

    def aliases(self) -> Mapping[str, str]:
        """Numbers of versions by alias, as they are at one moment."""
        found = self.client.get_registered_model(self.settings.model).aliases
        return {alias: str(number) for alias, number in found.items()}

    def point(self, alias: str, number: str | None) -> None:
        """Move an alias to a version in one call; None: take it away."""
        if number is None:
            self.client.delete_registered_model_alias(self.settings.model, alias)
        else:
            self.client.set_registered_model_alias(self.settings.model, alias, number)

    def annotate(
        self, number: str, tags: Mapping[str, str], description: str | None = None
    ) -> None:
        """Set those tags of a version that differ, and its description if one is given."""
        version = self.version(number)
        changed = {key: value for key, value in tags.items() if version.tags.get(key) != value}
        for key, value in self._written(changed, str(version.run_id)).items():
            self.client.set_model_version_tag(self.settings.model, number, key, value)
        if description is not None:
            self.client.update_model_version(self.settings.model, number, description)

    def download(self, number: str) -> Path:
        """A version's files on this machine, all of them checked against its signed registration.

        A copy of files that lie elsewhere is made once.

        Raises:
            UserError: The registration was changed, or the files are gone or not those that were
                registered.
        """
        version = self.version(number)
        if wrong := self.signer.objection(self.settings.model, version.run_id, version.tags):
            remedy = "Train another; in production roll back. What signs: `mlflow.signing_key`."
            raise UserError(f"Version {number} {wrong}.", remedy)
        signed = version.tags.get(ARTIFACT_DIGEST)
        folder = self._folders.get(number)
        if folder is None or artifact_digest(folder) != signed:
            folder = self._folders[number] = self._found(version)
            if artifact_digest(folder) != signed:
                message = f"The files of version {number} are not those that were registered."
                remedy = f"Look into {folder} (cached bytecode counts); or roll back."
                raise UserError(message, remedy)
        return folder

    @cached_property
    def _folders(self) -> dict[str, Path]:
        """Where a version's files were found on this machine, by its number."""
        return {}

    def _found(self, version: ModelVersion) -> Path:
        """Where a version's files lie; if that is no folder here, a copy that MLflow makes."""
        # Unity Catalog lets nobody read where a version lies, and lends access to who names it.
        by_name = f"models:/{self.settings.model}/{version.version}"
        place = by_name if self.settings.in_catalog else str(version.source)
        try:
            return Path(mlflow.artifacts.download_artifacts(place))
        except (MlflowException, OSError) as error:
            reason = str(error).partition("\n")[0]
            message = f"Version {version.version} has lost its files: {reason}"
            raise UserError(message, "Restore them, roll back or retrain.") from None

    def load(self, number: str) -> Estimator:
        """The estimator of a version: its own code and files, once `download` has checked them."""
        folder = self.download(number) / "artifacts" / pyfunc.ESTIMATOR
        return stored.read(folder, f"{self.settings.model}_{number}")

    @contextmanager
    def run(
        self, training_id: str, name: str, started: datetime, tags: Mapping[str, str]
    ) -> Iterator[str]:
        """An MLflow run, by id; those that a killed process left open for it are closed.

        Args:
            training_id: Identity of the training.
            name: What people call the run.
            started: When the training began: the run is opened once there is something to log.
            tags: Of the run.
        """
        open_runs = f"tags.{TRAINING_ID} = '{training_id}' AND attributes.status = 'RUNNING'"
        for stale in self.client.search_runs([self.experiment], open_runs):
            self.client.set_terminated(stale.info.run_id, "KILLED")
        created = self.client.create_run(
            self.experiment,
            start_time=round(1000 * started.timestamp()),
            tags={TRAINING_ID: training_id, **tags},
            run_name=name,
        )
        with mlflow.start_run(run_id=created.info.run_id) as active:
            yield active.info.run_id

    def log_model(
        self, files: Mapping[str, str], *, packages: Sequence[str], example: Any, signature: Any
    ) -> str:
        """Log a version's files to the active run.

        Args:
            files: Paths by name: the estimator's folder and what monitoring compares with.
            packages: Distributions that the estimator's code imports.
            example: A few rows of its inputs.
            signature: Types of its inputs and outputs.

        Returns:
            Address of the model.
        """
        needed = sorted({*packages, *_PYFUNC_PACKAGES})
        with _no_bytecode():
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(pyfunc.__file__),
                artifacts=dict(files),
                signature=signature,
                input_example=example,
                pip_requirements=[f"{name}=={installed_version(name)}" for name in needed],
            )
        self._keep_bytecode_out(str(logged.model_id))
        return str(logged.model_uri)

    def _keep_bytecode_out(self, model_id: str) -> None:
        """Put a file where Python would cache bytecode beside the code that MLflow loads.

        Whoever loads a version where it lies would otherwise change its files, and its digest.
        """
        with tempfile.TemporaryDirectory() as folder:
            in_the_way = Path(folder) / "__pycache__"
            in_the_way.write_text("", encoding="utf-8")
            self.client.log_model_artifact(model_id, str(in_the_way))

    def register(
        self, model_uri: str, run_id: str, tags: Mapping[str, str], description: str
    ) -> ModelVersion:
        """Create a version with all its tags in one call: it is there whole or not at all."""
        folder = Path(mlflow.artifacts.download_artifacts(model_uri))
        claims = {**tags, ARTIFACT_DIGEST: artifact_digest(folder)}
        signature = self.signer.sign(self.settings.model, run_id, claims)
        return self.client.create_model_version(
            self.settings.model,
            model_uri,
            run_id,
            self._written({**claims, "stage": "None", SIGNATURE: signature}, run_id),
            description=description,
            model_id=model_uri.removeprefix("models:/"),
        )


def _registered(client: MlflowClient, name: str) -> RegisteredModel | None:
    """The registered model, if there is one."""
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


@cache
def _text(address: str) -> str:
    """Text of an artifact that never changes."""
    return str(mlflow.artifacts.load_text(address))


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Have Python cache no bytecode: MLflow runs a model's code where it lies, to try it."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def as_address(place: str) -> str:
    """A folder as an address; an address such as `s3://bucket/runs` or `dbfs:/runs` as it is."""
    return place if _ADDRESS.match(place) else Path(place).absolute().as_uri()


def _create_store(path: Path) -> None:
    """Make a new SQLite store, where there is none, under another name first.

    MLflow cannot resume a migration of the schema that was killed.
    """
    if path.exists():
        _require_sqlite(path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.touch()  # of a place that cannot be written MLflow despairs after minutes only
    uri = f"{_SQLITE}{partial}"
    MlflowClient(uri, uri).search_registered_models()
    partial.replace(path)


def _require_sqlite(path: Path) -> None:
    """Refuse at once what is no database: MLflow would try again for minutes.

    Raises:
        sqlite3.Error: What SQLite says.
    """
    address = f"{path.absolute().as_uri()}?mode=rw"  # rw: it rolls back what a kill left
    with closing(sqlite3.connect(address, uri=True)) as database:
        database.execute("PRAGMA schema_version")
