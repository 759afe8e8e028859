from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from standardwebhooks import Webhook
from starlette.applications import Starlette

from {{cookiecutter.package_name}}.core.project import SECRET_VARIABLE
from {{cookiecutter.package_name}}.serving import api
from {{cookiecutter.package_name}}.serving import server as serving
from {{cookiecutter.package_name}}.serving.server import server
from {{cookiecutter.package_name}}.serving.webhook import receiver, work_off

from tests.conftest import PATIENCE, free_port, wait_for
from tests.workers import worker

SECRET, MODEL = "only for tests", "ours"
CREATED = {"entity": "model_version", "action": "created", "data": {"name": MODEL, "version": "7"}}


class Receiver(NamedTuple):
    address: str
    started: list[str]


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Receiver]:
    started: list[str] = []
    queue = tmp_path / "deliveries"
    application = receiver(SECRET, MODEL, queue, lambda: work_off(queue, started.append))
    with running(application) as address:
        yield Receiver(address, started)


@contextmanager
def running(application: Starlette) -> Iterator[str]:
    """A server on the loopback; gives its address."""
    port = free_port()
    one = server(application, "127.0.0.1", port)
    thread = threading.Thread(target=one.run)
    thread.start()
    assert wait_for(lambda: one.started)
    yield f"http://127.0.0.1:{port}/"
    one.should_exit = True
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
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 loopback
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


def connected(to: Receiver) -> socket.socket:
    port = int(to.address.rstrip("/").rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def test_a_giant_body_is_cut_off(listening: Receiver) -> None:
    # given a body of which half a gigabyte is announced
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500000000\r\n\r\n"
    sent, part = 0, b"x" * 100_000
    # when it is sent, whatever is answered
    with connected(listening) as connection:
        connection.sendall(head)
        try:
            while sent < 500_000_000:
                sent += connection.send(part)
        except OSError:
            pass
    # then little of it is taken, and the receiver goes on
    assert sent < 50_000_000
    assert deliver(listening) == 202


def test_slow_connections_are_closed(listening: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    # given more connections than may be open, each of which has more to say
    monkeypatch.setattr(serving, "LONGEST_SECONDS", 1.0)
    slow = [connected(listening) for _ in range(2 * serving.MOST_CONNECTIONS)]
    for number, connection in enumerate(slow):
        begun = b"POST / HTTP/1.1\r\nHost: x\r\n"
        if number % 2:
            begun += b"Content-Length: 10\r\n\r\n{"
        with suppress(OSError):
            connection.sendall(begun)
    # then all of them are closed by the other end
    for connection in slow:
        with suppress(ConnectionError):
            while connection.recv(10_000):
                pass
        connection.close()
    # and the receiver goes on
    monkeypatch.undo()
    assert wait_for(lambda: deliver(listening) in (202, 409))
    assert listening.started == ["7"]


@pytest.mark.parametrize(("known", "status"), [(SECRET, 202), ("another", 401), ("", 404)])
def test_only_the_registry_makes_the_server_look_for_the_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: str, status: int
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, known)
    with running(worker(tmp_path)) as address:
        assert deliver(Receiver(f"{address}v1/changed", [])) == status
    assert (tmp_path / api.WAKE).exists() is (status == 202)
