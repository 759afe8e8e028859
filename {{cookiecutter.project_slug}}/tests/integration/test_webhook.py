from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
import uvicorn
from standardwebhooks import Webhook

from {{cookiecutter.package_name}}.serving.webhook import receiver

from tests.conftest import free_port, wait_for

SECRET, MODEL = "only for tests", "ours"
CREATED = {"entity": "model_version", "action": "created", "data": {"name": MODEL, "version": "7"}}


class Receiver(NamedTuple):
    address: str
    started: list[str]


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Receiver]:
    started: list[str] = []
    application = receiver(SECRET, MODEL, tmp_path / "deliveries", started.append)
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(application, host="127.0.0.1", port=port, log_level="warning")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    assert wait_for(lambda: server.started)
    yield Receiver(f"http://127.0.0.1:{port}/", started)
    server.should_exit = True
    thread.join()


def deliver(
    to: Receiver,
    event: object = CREATED,
    *,
    key: str = SECRET,
    name: str = "one",
    age: timedelta = timedelta(0),
) -> int:
    """Send what a registry would send; returns the HTTP status."""
    body, moment = json.dumps(event), datetime.now(UTC) - age
    headers = {
        "X-MLflow-Delivery-Id": name,
        "X-MLflow-Timestamp": str(int(moment.timestamp())),
        "X-MLflow-Signature": Webhook(key.encode()).sign(name, moment, body),
    }
    return send(to, body, headers)


def send(to: Receiver, body: str, headers: dict[str, str]) -> int:
    content = body.encode()
    request = urllib.request.Request(to.address, content, headers, method="POST")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 loopback
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_created_version_starts_its_deployment(listening: Receiver) -> None:
    assert deliver(listening) == 202
    assert listening.started == ["7"]


def test_a_forged_delivery_is_refused(listening: Receiver) -> None:
    assert deliver(listening, key="a guess") == 401
    assert listening.started == []


def test_an_unsigned_delivery_is_refused(listening: Receiver) -> None:
    assert send(listening, json.dumps(CREATED), {}) == 401
    assert listening.started == []


@pytest.mark.parametrize("age", [timedelta(minutes=10), timedelta(minutes=-10)])
def test_a_delivery_out_of_its_time_is_refused(listening: Receiver, age: timedelta) -> None:
    assert deliver(listening, age=age) == 401
    assert listening.started == []


def test_a_replayed_delivery_is_refused(listening: Receiver) -> None:
    assert deliver(listening, name="same") == 202
    assert deliver(listening, name="same") == 409
    assert listening.started == ["7"]


@pytest.mark.parametrize(
    "event",
    [
        {**CREATED, "action": "deleted"},
        {**CREATED, "data": {"name": "another", "version": "7"}},
    ],
)
def test_other_events_are_left_alone(listening: Receiver, event: object) -> None:
    assert deliver(listening, event) == 200
    assert listening.started == []
