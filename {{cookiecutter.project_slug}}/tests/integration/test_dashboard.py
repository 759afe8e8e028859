"""What the dashboard answers to whom."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import Problem
from {{cookiecutter.package_name}}.serving.dashboard import application
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse
from {{cookiecutter.package_name}}.store.measurements import MONITORING, record
from {{cookiecutter.package_name}}.store.tables import MEASUREMENTS

from tests.conftest import within

EVIL = 'shop=a"} 1\n<script>alert(1)</script>\nevil_metric{x="y\\'


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str


@pytest.fixture
def measured(lakehouse: Lakehouse, toy: Problem) -> Context:
    """A project whose measurements have a slice with an evil name."""
    rows = pl.DataFrame({"slice": [EVIL], "metric": ["drift"], "value": [1.0]})
    end = toy.begins + timedelta(days=7)
    record(lakehouse, rows, MONITORING, "version 1", toy.begins, end)
    return within(lakehouse, toy)


def get(context: Context, path: str, host: str = "127.0.0.1") -> Answer:
    """Ask the dashboard, which needs no server for it."""
    said: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", host.encode())],
    }
    asyncio.run(application(context)(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in said[0]["headers"]}
    body = b"".join(message["body"] for message in said[1:])
    return Answer(said[0]["status"], headers, body.decode())


@pytest.mark.parametrize("path", ["/", "/metrics", "/metrics.csv"])
def test_only_the_loopback_is_answered(measured: Context, path: str) -> None:
    for host in ("127.0.0.1", "127.0.0.1:8080", "localhost:1"):
        assert get(measured, path, host).status == 200
    for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "169.254.1.1"):
        assert get(measured, path, host).status == 400


def test_names_of_slices_stay_names(measured: Context) -> None:
    answer = get(measured, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["x-content-type-options"] == "nosniff"
    lines = answer.body.splitlines()
    assert any("evil_metric" in line for line in lines)
    assert all(line.startswith(("# ", "mlops_metric_")) for line in lines)
    assert "<script>alert" not in get(measured, "/").body


def test_a_table_that_cannot_be_read_is_one_line(measured: Context) -> None:
    log = Path(measured.lakehouse.place(MEASUREMENTS.name)) / "_delta_log"
    next(log.glob("*.json")).write_text("{", encoding="utf-8")
    answer = get(measured, "/")
    assert answer.status == 503
    assert answer.body.startswith("Cannot read ")
    assert "Traceback" not in answer.body
