"""Object storage on the loopback: moto answers as S3, Azurite as Azure; MLflow serves runs."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from azure.storage.blob import BlobServiceClient
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from tests.conftest import free_port, wait_for

HOST, BUCKET = "127.0.0.1", "lake"
REGION = "us-east-1"
# What Azurite ships for everybody.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
BRIEFLY = {"max_retries": "1"}


@dataclass(frozen=True)
class Storage:
    """A bucket on a server of this machine."""

    scheme: str
    options: Mapping[str, str]  # as Delta's Rust library has them
    variables: Mapping[str, str]  # by which MLflow's client finds it
    artifacts: str  # where the files of runs go
    client: Any

    def address(self, *parts: str) -> str:
        """An address in the bucket."""
        return "/".join((f"{self.scheme}://{BUCKET}", *parts))

    def names(self, prefix: str) -> list[str]:
        """What the bucket holds there."""
        if self.scheme == "az":
            found = self.client.get_container_client(BUCKET).list_blobs(name_starts_with=prefix)
            return [item.name for item in found]
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]


class Gone(Exception):  # noqa: N818
    """The bucket is not there."""


class Server:
    """moto, and whoever wants to see a request before it is answered."""

    def __init__(self) -> None:
        """Listen on a free port of the loopback."""
        self.seen: Callable[[str, str], None] | None = None  # is told method and path
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.http = make_server(HOST, 0, self, threaded=True)

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Tell of the request, then answer it."""
        try:
            if self.seen:
                self.seen(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        except Gone:
            start_response("404 Not Found", [("Content-Type", "application/xml")])
            return [b"<Error><Code>NoSuchBucket</Code><Message>It is gone.</Message></Error>"]
        return self._moto(environ, start_response)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server that answers as S3."""
    from threading import Thread

    answering = Server()
    thread = Thread(target=answering.http.serve_forever, daemon=True)
    thread.start()
    yield answering
    answering.http.shutdown()
    thread.join()


@pytest.fixture(scope="session")
def s3(server: Server) -> Storage:
    """A bucket of S3."""
    endpoint = f"http://{HOST}:{server.http.port}"
    secrets = {"aws_access_key_id": "anybody", "aws_secret_access_key": "anything"}
    client = boto3.client("s3", endpoint_url=endpoint, region_name=REGION, **secrets)
    client.create_bucket(Bucket=BUCKET)
    options = {
        **secrets,
        **BRIEFLY,
        "aws_region": REGION,
        "aws_endpoint_url": endpoint,
        "aws_allow_http": "true",
    }
    variables = {name.upper(): value for name, value in secrets.items()}
    variables |= {"AWS_DEFAULT_REGION": REGION, "MLFLOW_S3_ENDPOINT_URL": endpoint}
    return Storage("s3", options, variables, f"s3://{BUCKET}/artifacts", client)


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A container of Azure."""
    port = free_port()
    command = [
        os.environ["AZURITE"],
        "--inMemoryPersistence",
        "--disableTelemetry",
        "--skipApiVersionCheck",
        "--silent",
        *("--blobHost", HOST, "--blobPort", str(port)),
    ]
    endpoint = f"http://{HOST}:{port}/{ACCOUNT}"
    said = (
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
        f"BlobEndpoint={endpoint};"
    )
    with subprocess.Popen(command, cwd=tmp_path_factory.mktemp("azurite")) as process:
        client = BlobServiceClient.from_connection_string(said, retry_total=0)

        def made() -> bool:
            with suppress(Exception):
                client.create_container(BUCKET)
                return True
            return False

        assert wait_for(made), "Azurite does not answer."
        options = {
            **BRIEFLY,
            "azure_storage_account_name": ACCOUNT,
            "azure_storage_account_key": KEY,
            "azure_storage_endpoint": endpoint,
            "azure_allow_http": "true",
        }
        variables = {"AZURE_STORAGE_CONNECTION_STRING": said}
        artifacts = f"wasbs://{BUCKET}@{ACCOUNT}.blob.core.windows.net/artifacts"
        yield Storage("az", options, variables, artifacts, client)
        process.terminate()


@pytest.fixture(params=["s3", "azure"])
def storage(request: pytest.FixtureRequest) -> Storage:
    """Each of them."""
    found: Storage = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a tracking server with an empty store."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", HOST, "--port", str(port), "--workers", "1", "--no-serve-artifacts"),
        *("--backend-store-uri", f"sqlite:///{folder.as_posix()}/mlflow.db"),
        *("--default-artifact-root", (folder / "artifacts").as_posix()),
    ]
    address = f"http://{HOST}:{port}"

    def answers() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{address}/health") as answer:  # noqa: S310
            return bool(answer.status == 200)
        return False

    log = folder / "log"
    with (
        log.open("w") as said,
        subprocess.Popen(command, cwd=folder, stdout=said, stderr=said) as process,
    ):
        assert wait_for(answers), f"MLflow does not answer: {log.read_text()}"
        yield address
        process.terminate()


def write_conf(folder: Path, storage: Storage, tracking: str, name: str) -> None:
    """Point an environment of a project at a prefix of the bucket."""
    path = folder / "conf" / "test.yml"
    lines = [
        f"state_address: {storage.address(name, 'state')}",
        "lakehouse:",
        f"  root: {storage.address(name, 'lakehouse')}",
        "  storage_options:",
        *(f"    {key}: '{value}'" for key, value in storage.options.items()),
        "mlflow:",
        f"  tracking_uri: {tracking}",
        f"  artifact_root: {storage.artifacts}/{name}",
        f"  experiment: {name}",
        f"  model: {name}",
        "  signing_key: KEY_OF_TESTS",
        "deployment:",
        "  margin: 100 # whatever is trained may follow, so that there is something to roll back",
        "  slice_margin: 100",
    ]
    path.write_text(path.read_text(encoding="utf-8") + "\n".join(lines) + "\n", encoding="utf-8")
