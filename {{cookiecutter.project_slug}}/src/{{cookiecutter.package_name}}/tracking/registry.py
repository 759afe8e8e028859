"""MLflow: runs, and model versions as the stages of the loop."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from ..core.errors import UserError
from ..core.settings import MlflowSettings
from ..modeling.scoring import Predictor
from .provenance import artifact_digest

CHAMPION, CHALLENGER = "champion", "challenger"
TRAINING_ID, ARTIFACT_DIGEST = "training_id", "artifact_digest"
PROFILE, HOLDOUT = "profile.parquet", "holdout.parquet"
_SCORING_PACKAGES = ("lightgbm", "mlflow-skinny", "narwhals", "numpy", "pandas")


@dataclass(frozen=True)
class Registry:
    """The tracking server and the registered model of an environment."""

    settings: MlflowSettings

    @cached_property
    def client(self) -> MlflowClient:
        """A client whose experiment and registered model exist.

        Raises:
            UserError: The tracking server does not answer, or its store cannot be written.
        """
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        for noisy in ("alembic", "mlflow"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        uri, model = self.settings.tracking_uri, self.settings.model
        try:
            if uri.startswith("sqlite:///"):
                _create_store(Path(uri.removeprefix("sqlite:///")))
            mlflow.set_tracking_uri(uri)
            client = MlflowClient()
            if not client.search_registered_models(f"name = '{model}'"):
                client.create_registered_model(model)
        except Exception as error:  # noqa: BLE001 the store may be anything: a file, a server, a cloud
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"MLflow at {uri} does not answer: {reason}", "Check `mlflow` in conf/."
            ) from None
        return client

    @cached_property
    def experiment(self) -> str:
        """Id of the experiment, created on first use."""
        name, root = self.settings.experiment, self.settings.artifact_root
        if found := self.client.get_experiment_by_name(name):
            return str(found.experiment_id)
        place = root if root is None or "://" in root else Path(root).absolute().as_uri()
        return str(self.client.create_experiment(name, artifact_location=place))

    def version(self, number: str) -> ModelVersion:
        """A version by number.

        Raises:
            UserError: There is none.
        """
        try:
            return self.client.get_model_version(self.settings.model, number)
        except MlflowException:
            known = ", ".join(item.version for item in reversed(self.versions())) or "none yet"
            raise UserError(
                f"{self.settings.model} has no version {number}.", f"There are: {known}."
            ) from None

    def aliased(self, alias: str) -> str | None:
        """Number of the version that an alias points to."""
        found = self.client.get_registered_model(self.settings.model).aliases.get(alias)
        return None if found is None else str(found)

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
        held = self.version(number).tags
        for key, value in tags.items():
            if held.get(key) != value:
                self.client.set_model_version_tag(self.settings.model, number, key, value)
        if description is not None:
            self.client.update_model_version(self.settings.model, number, description)

    def download(self, number: str) -> Path:
        """Local copy of a version's files, checked against the digest of its registration.

        Raises:
            UserError: The files are gone, or are not those that were registered.
        """
        version = self.version(number)
        try:
            folder = Path(mlflow.artifacts.download_artifacts(version.source))
        except (MlflowException, OSError) as error:
            raise UserError(
                f"Version {number} has lost its files: {error}", "Restore or retrain it."
            ) from None
        if artifact_digest(folder) != version.tags.get(ARTIFACT_DIGEST):
            message = f"The files of version {number} are not those that were registered (digest differs)."
            raise UserError(message, f"Look into {folder}; roll back or retrain.")
        return folder

    def load(self, number: str) -> Predictor:
        """The model of a version, from files that `download` has checked."""
        return Predictor.load(self.download(number) / "artifacts")

    def versions(self, condition: str = "") -> list[ModelVersion]:
        """Versions that meet a condition of MLflow's search syntax, newest first."""
        where = f"name = '{self.settings.model}'" + (f" AND {condition}" if condition else "")
        return sorted(
            self.client.search_model_versions(where), key=lambda version: -int(version.version)
        )

    def find_training(self, training_id: str) -> ModelVersion | None:
        """The version that this training registered, if it got that far."""
        return next(iter(self.versions(f"tags.{TRAINING_ID} = '{training_id}'")), None)

    @contextmanager
    def run(self, training_id: str, tags: Mapping[str, str]) -> Iterator[str]:
        """An MLflow run, by id; those that a killed process left open for the same training are closed."""
        open_runs = f"tags.{TRAINING_ID} = '{training_id}' AND attributes.status = 'RUNNING'"
        for stale in self.client.search_runs([self.experiment], open_runs):
            self.client.set_terminated(stale.info.run_id, "KILLED")
        tags = {TRAINING_ID: training_id, **tags}
        with mlflow.start_run(
            experiment_id=self.experiment, run_name=f"train-{training_id}", tags=tags
        ) as active:
            yield active.info.run_id

    def log_model(self, files: Mapping[str, str], example: Any, signature: Any) -> str:
        """Log the scoring code with its artifacts to the active run; returns the model's address."""
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).parents[1] / "modeling" / "scoring.py"),
            artifacts=dict(files),
            signature=signature,
            input_example=example,
            pip_requirements=[f"{name}=={installed_version(name)}" for name in _SCORING_PACKAGES],
        )
        return str(logged.model_uri)

    def register(
        self, model_uri: str, run_id: str, tags: Mapping[str, str], description: str
    ) -> ModelVersion:
        """Create a version with all its tags in one call: it is there whole or not at all."""
        folder = Path(mlflow.artifacts.download_artifacts(model_uri))
        digested = {**tags, "stage": "None", ARTIFACT_DIGEST: artifact_digest(folder)}
        create, model_id = self.client.create_model_version, model_uri.removeprefix("models:/")
        return create(
            self.settings.model,
            model_uri,
            run_id,
            digested,
            description=description,
            model_id=model_id,
        )


def _create_store(path: Path) -> None:
    """Make a new SQLite store under another name first: MLflow cannot continue a migration that was killed."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.unlink(missing_ok=True)
        uri = f"sqlite:///{partial}"
        MlflowClient(uri, uri).search_registered_models()
        partial.replace(path)
