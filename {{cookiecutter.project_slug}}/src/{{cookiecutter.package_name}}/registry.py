"""MLflow: runs, and model versions as the stages of the loop."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import mlflow
from mlflow import MlflowClient
from mlflow.entities import RunStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from .errors import UserError
from .settings import MlflowSettings

if TYPE_CHECKING:
    import pandas as pd

TRAINING_ID = "training_id"
MODEL_ARTIFACT = "model"
_SCORING_PACKAGES = ("lightgbm", "mlflow", "narwhals", "numpy", "pandas")


@dataclass(frozen=True)
class Registry:
    """The tracking server and the registered model of an environment."""

    settings: MlflowSettings

    @cached_property
    def client(self) -> MlflowClient:
        """A client whose experiment and registered model exist.

        Raises:
            UserError: The tracking server does not answer or the store cannot be written.
        """
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        logging.getLogger("alembic").setLevel(logging.ERROR)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        uri = self.settings.tracking_uri
        if uri.startswith("sqlite:///"):
            _make_folder(Path(uri.removeprefix("sqlite:///")).parent)
        try:
            mlflow.set_tracking_uri(uri)
            client = MlflowClient()
            self._ensure_experiment(client)
            try:
                client.get_registered_model(self.settings.model)
            except MlflowException:
                client.create_registered_model(self.settings.model)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"MLflow at {uri} does not answer: {reason}",
                "Check `mlflow.tracking_uri` in conf/, and that the server runs.",
            ) from error
        return client

    def find_training(self, training_id: str) -> ModelVersion | None:
        """The version that this training registered, if it got that far."""
        found = self.client.search_model_versions(
            f"name = '{self.settings.model}' AND tags.{TRAINING_ID} = '{training_id}'"
        )
        return found[0] if found else None

    def versions(self) -> list[ModelVersion]:
        """All versions, newest first."""
        found = self.client.search_model_versions(f"name = '{self.settings.model}'")
        return sorted(found, key=lambda version: -int(version.version))

    @contextmanager
    def run(self, training_id: str, tags: Mapping[str, str]) -> Iterator[str]:
        """An MLflow run; runs that a killed process left open for the same training are closed.

        Yields:
            The run's id.
        """
        experiment = self._ensure_experiment(self.client)
        for stale in self.client.search_runs(
            [experiment], f"tags.{TRAINING_ID} = '{training_id}' AND attributes.status = 'RUNNING'"
        ):
            self.client.set_terminated(stale.info.run_id, RunStatus.to_string(RunStatus.KILLED))
        with mlflow.start_run(
            experiment_id=experiment,
            run_name=f"train-{training_id}",
            tags={TRAINING_ID: training_id, **tags},
        ) as active:
            yield active.info.run_id

    def log_model(
        self, files: Mapping[str, Path], example: pd.DataFrame, signature: Any
    ) -> str:
        """Log the scoring code with its artifacts to the active run.

        Returns:
            Address of the logged model.
        """
        logged = mlflow.pyfunc.log_model(
            name=MODEL_ARTIFACT,
            python_model=str(Path(__file__).with_name("scoring.py")),
            artifacts={name: str(path) for name, path in files.items()},
            signature=signature,
            input_example=example,
            pip_requirements=[f"{name}=={installed_version(name)}" for name in _SCORING_PACKAGES],
        )
        return str(logged.model_uri)

    def register(
        self, model_uri: str, run_id: str, tags: Mapping[str, str], description: str
    ) -> ModelVersion:
        """Create a version with all its tags in one call: it is there whole or not at all."""
        return self.client.create_model_version(
            self.settings.model,
            model_uri,
            run_id=run_id,
            tags={**tags, "artifact_digest": artifact_digest(model_uri)},
            description=description,
        )

    def _ensure_experiment(self, client: MlflowClient) -> str:
        name, root = self.settings.experiment, self.settings.artifact_root
        if found := client.get_experiment_by_name(name):
            return str(found.experiment_id)
        if root is not None and not urlparse(root).scheme:
            _make_folder(Path(root))
            root = Path(root).as_uri()
        return str(client.create_experiment(name, artifact_location=root))


def artifact_digest(model_uri: str) -> str:
    """SHA-256 over the names and contents of a logged model's files."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(mlflow.artifacts.download_artifacts(model_uri, dst_path=folder))
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.name != "registered_model_meta":
                digest.update(path.relative_to(root).as_posix().encode() + b"\0")
                digest.update(path.read_bytes())
    return digest.hexdigest()


def provenance(project: Path) -> dict[str, str]:
    """What code this is: git commit, whether files differ from it, hash of the lock, of the source."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(project), *arguments], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    changes = git("status", "--porcelain")
    lock = project / "requirements" / "run.txt"
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    return {
        "git_commit": git("rev-parse", "HEAD") or "none",
        "git_dirty": "unknown" if changes is None else str(bool(changes)).lower(),
        "lock_sha256": _sha256(lock.read_bytes()) if lock.is_file() else "none",
        "source_sha256": _sha256(b"".join(path.read_bytes() for path in sources)),
    }


def fingerprint(parts: Mapping[str, Any]) -> str:
    """A short identity for a training: equal inputs, equal fingerprint."""
    return _sha256(json.dumps(parts, sort_keys=True, default=str).encode())[:12]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(f"no permission to write {path}")
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error}", "Check the roots in conf/.") from None
