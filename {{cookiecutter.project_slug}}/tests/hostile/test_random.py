"""Hundreds of arguments, configurations and requests, drawn at random: no traceback, ever.

Each ends with exit code 0, or in one message. The draws are the same in every run.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import uvicorn
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook
from starlette.applications import Starlette

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.project import SECRET_VARIABLE
from {{cookiecutter.package_name}}.core.settings import (
    ENV_PREFIX,
    described,
    load_settings,
)
from {{cookiecutter.package_name}}.serving.dashboard import application
from {{cookiecutter.package_name}}.serving.webhook import receiver, work_off

from tests.conftest import copy_project
from tests.parcels import PROBLEM

Run = Callable[..., tuple[int, str, str]]
SECRET = "only for tests"  # noqa: S105
LONGEST_MESSAGE = 20  # lines
# Nothing is trained and nothing listens; a server's turn ends as soon as it begins.
QUICK = {f"{ENV_PREFIX}TRAINING__MIN_ROWS": "1000000000", SECRET_VARIABLE: SECRET}


def many(examples: int) -> settings:
    """So many draws."""
    fixtures = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)
    return settings(max_examples=examples, suppress_health_check=fixtures)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which nothing has run."""
    return copy_project(tmp_path_factory.mktemp("hostile") / "my project")


@pytest.fixture
def standing(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in the project; servers do not listen."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(uvicorn.Server, "run", lambda _: None)
    original = (home / "conf" / "dev.yml").read_bytes()
    yield home
    (home / "conf" / "dev.yml").write_bytes(original)


def is_answered(end: tuple[int, str, str]) -> bool:
    """Whether a command ended as it should."""
    code, out, err = end
    said = err.splitlines()
    return "Traceback" not in out + err and len(said) < LONGEST_MESSAGE and bool(code) == bool(said)


# Arguments

ABSURD = st.sampled_from(
    [
        "",
        " ",
        "-1",
        "0",
        "1e400",
        "nan",
        "99999",
        "9" * 400,
        "--help",
        "--",
        "null",
        "[]",
        "{}",
        "%00",
        "..",
        "'; --",
        "[red]x[/]",
        "{project}",
        "\udcff",
        "9999-12-31T23:59:59-12:00",
        "0001-01-01",
        "0001-01-01T00:00+14:00",
        "2024-02-30",
        "2024-02-01",
        "2024-02-01T06:00",
        "2097-01-01",
        "7d",
        "9999d",
        "test",
        "dev",
        "1",
        "conf/base.yml",
        "sqlite:///conf/base.yml",
        "none.parquet",
    ]
)


def is_harmless(text: str) -> bool:
    """Whether it names nothing outside the project, and could be an argument."""
    return "://" not in text and "\0" not in text and not text.startswith("/") and ".." not in text


TEXTS = st.text(max_size=30).filter(is_harmless)
VALUES = ABSURD | TEXTS | st.integers().map(str) | st.floats().map(str) | st.datetimes().map(str)
VERBS = st.sampled_from(
    """run status dashboard ingest prepare features train deploy check compare request approve
    reject rollback history predict monitor retrain replay webhook""".split()
)
OPTIONS = st.sampled_from(
    """--as-of --since --version --who --why --input --query --output --port --from --to --every
    --schedule --host --start --env --nonsense""".split()
)


@many(220)
@given(verb=VERBS | TEXTS, options=st.lists(st.tuples(OPTIONS, VALUES), max_size=3))
def test_arguments(standing: Path, run: Run, verb: str, options: list[tuple[str, str]]) -> None:
    arguments = [part for option in options for part in option]
    with patch.dict(os.environ, QUICK):
        assert is_answered(run(verb, *arguments, "--env", "test"))


# Configurations

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.dates()
    | ABSURD.filter(is_harmless)
)
CONTENT = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
KEYS = [key for key, _, _ in described()]
SECTIONS = sorted({key.partition(".")[0] for key in KEYS})


@many(90)
@given(key=st.sampled_from(KEYS + SECTIONS) | TEXTS, value=CONTENT)
def test_settings(standing: Path, run: Run, key: str, value: object) -> None:
    content = value
    for part in reversed(key.split(".")):
        content = {part: content}
    written = yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogateescape")
    (standing / "conf" / "dev.yml").write_bytes(written)
    assert is_answered(run("history", "--env", "dev"))


@many(40)
@given(content=st.binary(max_size=60) | st.text("[]{}&*!:-?|>%@`'\"# \n\tab1", max_size=30))
def test_files(standing: Path, run: Run, content: bytes | str) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    (standing / "conf" / "dev.yml").write_bytes(raw)
    assert is_answered(run("history", "--env", "dev"))


@many(50)
@given(key=st.sampled_from(KEYS), value=VALUES.filter(is_harmless) | CONTENT.map(repr))
def test_variables(standing: Path, run: Run, key: str, value: str) -> None:
    name = ENV_PREFIX + key.upper().replace(".", "__")
    with patch.dict(os.environ, {name: value.replace("\0", "")}):
        assert is_answered(run("history", "--env", "test"))


# Requests

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["entity", "action", "data", "name", "version"]) | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
EVENTS = st.builds(
    lambda name, version: {
        "entity": "model_version",
        "action": "created",
        "data": {"name": name, "version": version},
    },
    st.just("ours") | st.text(max_size=5),
    JSON | ABSURD.filter(is_harmless),
)
HEADERS = st.text(max_size=10) | st.sampled_from(["\xff", "v1,", "v1,AAAA", "9" * 30, "-1", "nan"])


def ask(app: Starlette, scope: dict[str, Any], body: bytes = b"") -> int:
    """Hand a request to an application, which needs no server for it; returns the HTTP status."""
    said: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)

    asyncio.run(app({"type": "http", "query_string": b"", **scope}, receive, send))
    return int(said[0]["status"])


@many(80)
@given(
    body=(JSON | EVENTS).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50),
    name=st.text(min_size=1, max_size=10),
    changed=st.none() | st.tuples(st.integers(0, 2), HEADERS),
)
def test_deliveries(
    tmp_path: Path, body: bytes, name: str, changed: tuple[int, str] | None
) -> None:
    moment = datetime.now(UTC)
    signed = body.decode("utf-8", "replace")
    values = [
        name,
        str(int(moment.timestamp())),
        Webhook(SECRET.encode()).sign(name, moment, signed),
    ]
    if changed is not None:
        values[changed[0]] = changed[1]
    names = ("x-mlflow-delivery-id", "x-mlflow-timestamp", "x-mlflow-signature")
    headers = [
        (key.encode(), value.encode("utf-8", "surrogatepass"))
        for key, value in zip(names, values, strict=True)
    ]
    started: list[str] = []
    queue = tmp_path / "deliveries"
    app = receiver(SECRET, "ours", queue, lambda: work_off(queue, started.append))
    status = ask(app, {"method": "POST", "path": "/", "headers": headers}, body)
    assert status in {200, 202, 400, 401, 409, 413}
    assert all(version.isascii() and version.isdecimal() for version in started)


@many(40)
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "NONSENSE"]),
    path=st.sampled_from(["/", "/metrics", "/metrics.csv", "//", "/../conf/base.yml", "/%2e%2e/x"])
    | st.text(max_size=20).map(lambda text: f"/{text}"),
    host=st.sampled_from(["127.0.0.1", "localhost", "evil.example", ""]) | st.text(max_size=10),
)
def test_the_dashboard(standing: Path, method: str, path: str, host: str) -> None:
    context = Context(load_settings("test", standing), PROBLEM)
    named = [(b"host", host.encode("utf-8", "surrogatepass"))]
    scope = {"method": method, "path": path, "root_path": "", "headers": named}
    assert ask(application(context), scope) in {200, 307, 400, 404, 405}
