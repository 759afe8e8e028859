"""Jobs of the bundle, run: from the wheel alone, in an empty folder, as a job would run them.

What a workspace would give is given here: secrets over HTTP, a folder as the volume, another as the
storage, MLflow in a file. Needs TASKS_PYTHON, an interpreter with the wheel and its pins, which the
session `databricks` makes; the session `cluster` gives it Spark, and has the tasks compute there.
"""

from __future__ import annotations

import json
import os
import shutil
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import polars as pl
import pytest
from mlflow import MlflowClient

from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.problem import PROBLEM

from tests.bundle.jobs import Ended, Machine
from tests.bundle.reading import COMMIT, ROOT, read
from tests.conftest import when_filled

# Libraries warn of each other.
pytestmark = pytest.mark.filterwarnings("ignore")

SECRETS = {"SIGNING_KEY": "a key of the tests, which is long enough"}
TOKEN = "anything"  # noqa: S105
ENGINE = os.environ.get("TASKS_ENGINE", "polars")
SCHEMA = "spark_catalog.default"
TRIGGERED = f"{when_filled(PROBLEM):%Y-%m-%dT%H:%M:%S}.000Z"


class Workspace(BaseHTTPRequestHandler):
    """Answers for the one scope of secrets."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        asked = {key: value[0] for key, value in parse_qs(address.query).items()}
        known = asked.get("scope", "").endswith("-test")
        allowed = self.headers["Authorization"] == f"Bearer {TOKEN}"
        if not (known and allowed):
            self._answer(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "No scope."})
        elif address.path == "/api/2.0/secrets/list":
            self._answer(200, {"secrets": [{"key": key} for key in SECRETS]})
        elif address.path == "/api/2.0/secrets/get":
            value = b64encode(SECRETS[asked["key"]].encode()).decode()
            self._answer(200, {"key": asked["key"], "value": value})
        else:
            self._answer(404, {"error_code": "ENDPOINT_NOT_FOUND", "message": address.path})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def workspace() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Workspace)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a machine sees: what was synchronized, a volume, a storage, an empty home."""
    folder = tmp_path_factory.mktemp("machine")
    for path in read("prod")["sync"]["paths"]:
        shutil.copytree(ROOT / path, folder / "files" / path)
    for name in ("home", "volume", "storage"):
        (folder / name).mkdir()
    return folder


@pytest.fixture(scope="module")
def machine(folder: Path, workspace: str) -> Machine:
    of_spark = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(ENV_PREFIX) or name == "JAVA_HOME"
    }
    variables = {
        **of_spark,
        "LC_ALL": "C.UTF-8",
        "DATABRICKS_HOST": workspace,
        "DATABRICKS_TOKEN": TOKEN,
        "TMPDIR": str(folder / "home"),
        "GIT_CEILING_DIRECTORIES": str(folder),  # there is no repository around it there
    }
    return Machine(Path(os.environ["TASKS_PYTHON"]), folder / "home", variables)


def deployed(folder: Path, **given: str) -> str:
    """What tasks are told, with places of this machine: the environment is the small one."""
    defaults = {item["name"]: item["default"] for item in jobs()["init"]["parameters"]}
    told = dict(line.split("=", 1) for line in defaults["deployed"].splitlines())
    del told["mlflow.registry_uri"]
    here = {
        "engine": ENGINE,
        "schema": SCHEMA,
        "project": str(folder / "files"),
        "secrets": "a-scope-test",
        "state_address": (folder / "volume").as_uri(),
        "lakehouse.root": str(folder / "storage"),
        "mlflow.tracking_uri": f"sqlite:///{(folder / 'mlflow.db').as_posix()}",
        "storage_name": "the tests'",
        "deployment.approval": "person",
    }
    return "\n".join(f"{name}={value}" for name, value in (told | here | given).items())


def jobs() -> dict[str, Any]:
    """Production's jobs on the environment `test`; without a Spark, none of its tasks asks one."""
    found: dict[str, Any] = read("prod")["resources"]["jobs"]
    for job in found.values():
        if ENGINE == "polars":
            job["tasks"] = [task for task in job["tasks"] if task["task_key"] != "tables"]
        for task in job["tasks"]:
            said = task["python_wheel_task"]["parameters"]
            said[:] = ["test" if text == "prod" else text for text in said]
    return found


def run(machine: Machine, folder: Path, name: str, **given: str) -> list[Ended]:
    return list(machine.run(jobs()[name], TRIGGERED, {"deployed": deployed(folder), **given}))


def all_well(*verbs: str) -> dict[str, int]:
    """How tasks end where nothing is wrong; on Spark the tables are made known besides."""
    return dict.fromkeys((*verbs, *(["tables"] if ENGINE == "spark" else [])), 0)


def codes(ended: list[Ended]) -> dict[str, int]:
    return {item.key: item.code for item in ended}


def test_from_an_empty_storage_to_a_day_of_production(machine: Machine, folder: Path) -> None:
    # given a storage that nobody has named
    refused = run(machine, folder, "training")
    assert codes(refused) == {"trigger": 1, "ingest": 1}
    assert all("they carry no name" in ended.said for ended in refused)
    # when it is named and a version is trained
    assert codes(run(machine, folder, "init")) == {"init": 0}
    trained = run(machine, folder, "training")
    steps = ("trigger", "ingest", "prepare", "features", "train")
    assert codes(trained) == all_well(*steps), trained
    # then the run tells which commit was deployed
    client = MlflowClient(f"sqlite:///{(folder / 'mlflow.db').as_posix()}")
    (model,) = client.search_registered_models()
    (version,) = client.search_model_versions(f"name = '{model.name}'")
    assert version.tags["git_commit"] == COMMIT
    assert version.tags["git_dirty"] == "false"
    # when it is deployed, it waits for a person
    deployment = {"model_name": model.name, "model_version": str(version.version)}
    waiting = run(machine, folder, "deployment", **deployment)
    assert codes(waiting) == {"gates": 0, "approval": 1}, waiting
    assert "waits for a person" in waiting[1].said
    # when a person approves it and the job is repaired, then it is the champion
    client.set_model_version_tag(model.name, version.version, "approval", "Approved")
    approved = run(machine, folder, "deployment", **deployment)
    assert codes(approved) == {"gates": 0, "approval": 0}, approved
    assert client.get_registered_model(model.name).aliases == {"champion": version.version}
    # when somebody refuses it too late, or wants the champion before
    for decided, said in (("reject", "No request waits"), ("rollback", "no earlier champion")):
        (ended,) = run(machine, folder, decided, who="ada", why="It's bad")
        assert ended.code == 1
        assert said in ended.said
    # when a day of production passes
    day = run(machine, folder, "loop")
    verbs = ("ingest", "prepare", "features", "predict", "monitor", "retrain", "dashboard")
    assert codes(day) == all_well(*verbs), day
    # then tables and reports are where the next machine finds them
    assert pl.read_delta(str(folder / "storage" / "predictions")).height > 0
    assert (folder / "volume" / "reports" / "dashboard" / "index.html").is_file()


def test_integration_walks_the_loop_on_tables_of_its_own(machine: Machine, folder: Path) -> None:
    # given an environment in which no person decides
    own = folder / "staging"
    for name in ("volume", "storage"):
        (own / name).mkdir(parents=True)
    told = deployed(own, project=str(folder / "files"), **{"deployment.approval": "policy"})
    unnamed = "\n".join(line for line in told.splitlines() if not line.startswith("storage_name="))
    # when
    ended = list(machine.run(jobs()["integration"], TRIGGERED, {"deployed": unnamed}))
    # then
    verbs = ("ingest", "prepare", "features", "train", "deploy", "predict", "monitor")
    assert codes(ended) == all_well(*verbs), ended
    client = MlflowClient(f"sqlite:///{(own / 'mlflow.db').as_posix()}")
    (model,) = client.search_registered_models()
    assert set(model.aliases) == {"champion"}
    assert pl.read_delta(str(own / "storage" / "predictions")).height > 0


def test_without_its_secrets_nothing_is_begun(machine: Machine, folder: Path) -> None:
    told = deployed(folder).replace("a-scope-test", "another")
    (ended,) = machine.run(jobs()["init"], TRIGGERED, {"deployed": told})
    assert ended.code == 1
    assert "The secret scope another cannot be read" in ended.said
    assert "Traceback" not in ended.said
