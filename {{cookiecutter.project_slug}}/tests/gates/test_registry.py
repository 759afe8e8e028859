"""A real MLflow server over loopback, whose webhook has a new version deployed."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import mlflow
import pytest
from cryptography.fernet import Fernet
from mlflow import MlflowClient
from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent

from {{cookiecutter.package_name}} import cli
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.tracking.registry import Registry
from {{cookiecutter.package_name}}.tracking.signing import Signer
from {{cookiecutter.package_name}}.training.pipeline import Trained

from tests.conftest import free_port, wait_for
from tests.integration.test_webhook import CREATED, SECRET, Receiver, deliver


@contextmanager
def running(log: Path, *arguments: str, **settings: str) -> Iterator[None]:
    """Run a module in the background; what it says goes to a file."""
    with log.open("w", encoding="utf-8") as said:
        command = [sys.executable, "-m", *arguments]
        with subprocess.Popen(
            command, env={**os.environ, **settings}, stdout=said, stderr=said
        ) as process:
            try:
                yield
            finally:
                process.terminate()


def test_a_real_registry_has_a_new_version_deployed(
    trained: tuple[Context, Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given an MLflow server over a copy of the trained store, and the receiver of the command line
    home, done = trained
    store, here = tmp_path / "server.db", home.settings.project
    given = sqlite3.connect(home.settings.mlflow.tracking_uri.removeprefix("sqlite:///"))
    with closing(given), closing(sqlite3.connect(store)) as copy:
        given.backup(copy)
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    registry, listener = free_port(), free_port()
    address, receiving = (
        f"http://127.0.0.1:{registry}",
        Receiver(f"http://127.0.0.1:{listener}/", []),
    )
    serve = ("mlflow", "server", "--host", "127.0.0.1", "--port", str(registry), "--workers", "1")
    allowed = {
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    }
    mounts = dict.fromkeys(("raw_*", "prepared_*", "features_*"), home.lakehouse.root)
    environment = {
        "WEBHOOK_SECRET": SECRET,
        f"{ENV_PREFIX}STATE": str(tmp_path),
        f"{ENV_PREFIX}LAKEHOUSE__ROOT": str(tmp_path / "lakehouse"),
        f"{ENV_PREFIX}LAKEHOUSE__MOUNTS": json.dumps(mounts),
        f"{ENV_PREFIX}MLFLOW__TRACKING_URI": address,
    }
    listen = (cli.__package__, "webhook", "--env", "test", "--port", str(listener))
    logs = [tmp_path / "server.log", tmp_path / "receiver.log"]
    with (
        running(logs[0], *serve, "--backend-store-uri", f"sqlite:///{store}", **allowed),
        running(logs[1], *listen, **environment),
    ):

        def until(condition: Callable[[], bool]) -> None:
            assert wait_for(condition), "\n".join(log.read_text(encoding="utf-8") for log in logs)

        until(lambda: answers(f"{address}/health"))
        until(lambda: answers(receiving.address))
        client, name = MlflowClient(address, address), home.settings.mlflow.model
        event = WebhookEvent(WebhookEntity.MODEL_VERSION, WebhookAction.CREATED)
        client.create_webhook("deploy", receiving.address, [event], secret=SECRET)
        # when deliveries come that the registry has not sent, or has sent long ago
        made_up = {**CREATED, "data": {"name": name, "version": str(done.version)}}
        assert deliver(receiving, made_up, key="a guess") == 401
        assert deliver(receiving, made_up, age=timedelta(minutes=10)) == 401
        # and a version is registered from what the training logged
        first = client.get_model_version(name, str(done.version))
        tags = {
            key: value
            for key, value in first.tags.items()
            if not key.startswith(("stage", "compliance"))
        }
        remote = Registry(
            home.settings.mlflow.model_copy(update={"tracking_uri": address}),
            Signer(None, tmp_path / "signing.key"),
        )
        try:
            number = remote.register(
                str(first.source), str(first.run_id), tags, str(first.description)
            ).version
        finally:
            mlflow.set_tracking_uri(home.settings.mlflow.tracking_uri)
        # then this one is deployed, and only this one
        until(
            lambda: (
                client.get_model_version(name, str(number)).tags["stage"]
                in {"Production", "Archived"}
            )
        )
        until(lambda: client.get_registered_model(name).aliases.get("champion") is not None)
        assert client.get_registered_model(name).aliases["champion"] == number
        assert client.get_model_version(name, str(done.version)).tags == first.tags


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310 loopback
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
