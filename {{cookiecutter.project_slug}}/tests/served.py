"""A server that the command line starts, on the loopback, and rows that it can be asked."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from {{cookiecutter.package_name}} import cli
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import KNOWN_AT
from {{cookiecutter.package_name}}.deployment.transitions import move
from {{cookiecutter.package_name}}.serving.access import grant
from {{cookiecutter.package_name}}.serving.online import tokens_of
from {{cookiecutter.package_name}}.store import tables

from tests.conftest import PATIENCE, ROOT, free_port, wait_for
from tests.parcels import PROBLEM


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    port: int
    token: str  # may predict and read
    process: subprocess.Popen[bytes]

    def connect(self) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def head(self, length: int, path: str = "/v1/predict", token: str | None = None) -> bytes:
        """How a request begins whose body is so long."""
        lines = (
            f"POST {path} HTTP/1.1",
            "Host: a",
            f"Authorization: Bearer {token or self.token}",
            f"Content-Length: {length}",
        )
        return "\r\n".join((*lines, "", "")).encode()

    def is_ready(self) -> bool:
        """Whether it says so."""
        address = f"http://127.0.0.1:{self.port}/ready"
        with suppress(OSError), urllib.request.urlopen(address) as answer:
            return bool(answer.status == 200)
        return False


@contextmanager
def served(context: Context, version: str, workers: int, **environment: str) -> Iterator[Served]:
    """Approve a version, and serve it.

    Args:
        context: The environment `test`; what differs stands in this process's variables.
        version: The champion to be.
        workers: How many processes answer.
        environment: More variables of the server.
    """
    move(context, "approve", version, "tests", "to be served")
    token = grant(tokens_of(context), "tests", ["predict", "read"])
    port = free_port()
    paths = os.pathsep.join((str(ROOT), str(ROOT / "src")))
    command = [sys.executable, "-m", cli.__package__ or "", "serve", "--env", "test"]
    with subprocess.Popen(
        [*command, "--port", str(port), "--workers", str(workers)],
        env={**os.environ, "PYTHONPATH": paths, **environment},
    ) as process:
        running = Served(port, token, process)
        try:
            assert wait_for(lambda: process.poll() is not None or running.is_ready())
            assert process.poll() is None
            yield running
        finally:
            process.terminate()


def recent_parcels(context: Context, as_of: datetime) -> pl.DataFrame:
    """Rows as a caller has them: parcels that were posted within the last hours."""
    parcels = context.lakehouse.read(tables.prepared(PROBLEM.scored))
    since = as_of - timedelta(hours=12)
    return parcels.filter(pl.col("posted_at").is_between(since, as_of)).drop(KNOWN_AT)
