from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from {{cookiecutter.package_name}}.serving.webhook import receiver, work_off, worker

SECRET, MODEL = "only for tests", "ours"
BODY = json.dumps(
    {"entity": "model_version", "action": "created", "data": {"name": MODEL, "version": "7"}}
)
Deliver = Callable[..., int]


def headers(body: str, name: str = "one", age: timedelta = timedelta(0)) -> dict[str, str]:
    """What a registry that knows the secret sends with a body."""
    moment = datetime.now(UTC) - age
    return {
        "x-mlflow-delivery-id": name,
        "x-mlflow-timestamp": str(int(moment.timestamp())),
        "x-mlflow-signature": Webhook(SECRET.encode()).sign(name, moment, body),
    }


@pytest.fixture
def started() -> list[str]:
    """The versions whose deployment was started."""
    return []


@pytest.fixture
def deliver(tmp_path: Path, started: list[str]) -> Deliver:
    """Hand a request to the receiver, which needs no server for it; returns the HTTP status."""

    def delivered(
        body: str, sent: dict[str, str], start: Callable[[str], None] = started.append
    ) -> int:
        queue = tmp_path / "deliveries"
        application = receiver(SECRET, MODEL, queue, lambda: work_off(queue, start))
        answers: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": body.encode()}

        async def send(message: MutableMapping[str, Any]) -> None:
            answers.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        }
        with pytest.raises(StopIteration):
            application(scope, receive, send).send(None)
        return int(answers[0]["status"])

    return delivered


def test_a_created_version_is_started_once(deliver: Deliver, started: list[str]) -> None:
    sent = headers(BODY)
    assert [deliver(BODY, sent), deliver(BODY, sent), deliver(BODY, headers(BODY, "one"))] == [
        202,
        409,
        409,
    ]
    assert deliver(BODY, headers(BODY, "two")) == 202
    assert started == ["7", "7"]


def test_a_changed_body_is_refused(deliver: Deliver, started: list[str]) -> None:
    assert deliver(BODY.replace("7", "8"), headers(BODY)) == 401
    assert started == []


@pytest.mark.parametrize(
    "change",
    [
        {"x-mlflow-delivery-id": "another"},
        {"x-mlflow-timestamp": str(int(datetime.now(UTC).timestamp()) - 60)},
        {"x-mlflow-timestamp": "now"},
        {"x-mlflow-signature": "v1,"},
        {"x-mlflow-signature": "v1,AAAA"},
        {"x-mlflow-signature": "v1,é"},
        {"x-mlflow-signature": "nonsense"},
    ],
)
def test_changed_headers_are_refused(
    deliver: Deliver, started: list[str], change: dict[str, str]
) -> None:
    assert deliver(BODY, headers(BODY) | change) == 401
    assert started == []


@pytest.mark.parametrize(
    "missing", ["x-mlflow-delivery-id", "x-mlflow-timestamp", "x-mlflow-signature"]
)
def test_no_header_may_be_missing(deliver: Deliver, started: list[str], missing: str) -> None:
    assert (
        deliver(BODY, {name: value for name, value in headers(BODY).items() if name != missing})
        == 401
    )
    assert started == []


@pytest.mark.parametrize(("minutes", "status"), [(4, 202), (-4, 202), (6, 401), (-6, 401)])
def test_a_delivery_is_good_for_five_minutes(deliver: Deliver, minutes: int, status: int) -> None:
    assert deliver(BODY, headers(BODY, age=timedelta(minutes=minutes))) == status


def test_a_refused_delivery_is_not_remembered(deliver: Deliver, started: list[str]) -> None:
    forged = headers(BODY) | {"x-mlflow-signature": "v1,AAAA"}
    assert [deliver(BODY, forged), deliver(BODY, headers(BODY))] == [401, 202]
    assert started == ["7"]


@pytest.mark.parametrize(
    ("change", "into"),
    [('"created"', '"deleted"'), ('"model_version"', '"registered_model"'), (MODEL, "theirs")],
)
def test_other_events_are_acknowledged_and_left_alone(
    deliver: Deliver, started: list[str], change: str, into: str
) -> None:
    body = BODY.replace(change, into)
    assert (deliver(body, headers(body)), started) == (200, [])


def test_a_deployment_that_does_not_start_waits_for_the_next_time(
    deliver: Deliver, started: list[str], tmp_path: Path
) -> None:
    def failing(version: str) -> None:
        raise OSError("no more processes")

    assert deliver(BODY, headers(BODY), failing) == 202
    assert deliver(BODY, headers(BODY), failing) == 409
    assert started == []
    work_off(tmp_path / "deliveries", started.append)
    work_off(tmp_path / "deliveries", started.append)
    assert started == ["7"]


def test_what_waited_when_the_receiver_was_killed_is_started_when_it_is_back(
    deliver: Deliver, tmp_path: Path
) -> None:
    class Killed(BaseException):
        """As if the process ended there."""

    def killed(version: str) -> None:
        raise Killed

    with pytest.raises(Killed):
        deliver(BODY, headers(BODY), killed)
    done = threading.Event()
    started: list[str] = []

    def start(version: str) -> None:
        started.append(version)
        done.set()

    worker(tmp_path / "deliveries", start)
    assert done.wait(60)
    assert started == ["7"]


def test_deliveries_of_other_days_are_forgotten(deliver: Deliver, tmp_path: Path) -> None:
    assert deliver(BODY, headers(BODY)) == 202
    (mark,) = (tmp_path / "deliveries").iterdir()
    os.utime(mark, (0, 0))
    work_off(tmp_path / "deliveries", pytest.fail)
    assert not mark.exists()


CREATED = '{"entity": "model_version", "action": "created", "data": %s}'
VERSION = CREATED % '{"name": "ours", "version": %s}'
NOT_EVENTS = [
    "",
    "null",
    "[]",
    "3",
    '"text"',
    "true",
    "{}",
    "NaN",
    "{",
    "\ufeff{}",
    "[" * 10_000,
    '{"a":' * 10_000,
    '{"entity": "model_version", "action": "created"}',
    *(CREATED % data for data in ("null", "[]", "7", '"7"', '{"version": "7"}', "{}")),
    '{"entity": ["model_version"], "action": "created", "data": {}}',
    *(
        VERSION % version
        for version in (
            '"--help"',
            '"-1"',
            '"7; true"',
            '"7\\n"',
            '" 7"',
            '"0"',
            '"07"',
            '"٧"',
            '""',
            "-7",
            "7.5",
            "true",
            "null",
            "[7]",
            '{"a": 1}',
            '"' + "9" * 5_000 + '"',
            "9" * 5_000,
        )
    ),
]


@pytest.mark.parametrize("body", NOT_EVENTS)
def test_what_is_no_event_is_refused_though_it_is_signed(
    deliver: Deliver, started: list[str], body: str
) -> None:
    assert deliver(body, headers(body)) == 400
    assert started == []


def test_a_body_that_is_too_large_is_refused_before_its_signature(
    deliver: Deliver, started: list[str]
) -> None:
    body = BODY + " " * 70_000
    assert deliver(body, headers(body)) == 413
    assert started == []
