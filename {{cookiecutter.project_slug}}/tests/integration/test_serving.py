"""The server on the loopback: what it answers, whom it follows, and that its log loses nothing."""

from __future__ import annotations

import http.client
import json
import os
import select
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import polars as pl
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from {{cookiecutter.package_name}}.context import Context, open_context
from {{cookiecutter.package_name}}.core.contract import KNOWN_AT, PREDICTION_TIME
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.deployment.transitions import move
from {{cookiecutter.package_name}}.inference import batch
from {{cookiecutter.package_name}}.inference.score import score
from {{cookiecutter.package_name}}.monitoring.alerts import raise_alerts
from {{cookiecutter.package_name}}.serving.online import folder_of_server, tokens_of
from {{cookiecutter.package_name}}.serving.pointer import VERSIONS
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.point_in_time import available
from {{cookiecutter.package_name}}.tracking.registry import CHAMPION
from {{cookiecutter.package_name}}.tracking.signing import ARTIFACT_DIGEST
from {{cookiecutter.package_name}}.tracking.stages import NONE
from {{cookiecutter.package_name}}.training.pipeline import Trained

from tests.conftest import PATIENCE, copy_version, wait_for
from tests.parcels import PROBLEM
from tests.served import Served, recent_parcels, served

KEYS = [*PROBLEM.model.keys, PREDICTION_TIME]
WORKERS = 2


@dataclass
class Server:
    """A server that runs, and what stands behind it."""

    context: Context
    home: Context
    champion: str
    running: Served
    answered: list[str] = field(default_factory=list)

    def ask(
        self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Status and content of one request."""
        method = "GET" if body is None else "POST"
        sent = {"Authorization": f"Bearer {self.running.token}", **(headers or {})}
        asked = http.client.HTTPConnection("127.0.0.1", self.running.port, timeout=PATIENCE)
        with closing(asked) as connection:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            content = answer.read()
        if answer.headers.get_content_type() == "text/plain":
            return answer.status, {"text": content.decode()}
        return answer.status, json.loads(content)

    def predict(self, rows: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        """Ask for predictions; what is answered is remembered."""
        body = json.dumps({"rows": rows}, default=datetime.isoformat).encode()
        status, content = self.ask("/v1/predict", body)
        if status == 200:
            self.answered += [item["request_id"] for item in content["predictions"]]
        return status, content

    def workers(self) -> set[int]:
        """Processes that answer, as far as some requests tell."""
        return {self.ask("/v1/model")[1].get("process", 0) for _ in range(40)}

    def served(self) -> set[str]:
        """Champions of the workers, as far as some requests tell."""
        return {self.ask("/v1/model")[1].get("champion", "none") for _ in range(40)}


@pytest.fixture(scope="module")
def rows(trained: tuple[Context, Trained], as_of: datetime) -> list[dict[str, Any]]:
    """Parcels that were posted within the last hours."""
    return recent_parcels(trained[0], as_of).rows(named=True)


@pytest.fixture(scope="module")
def server(
    trained: tuple[Context, Trained], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of two workers that reads the trained project's tables and writes its own."""
    home, done = trained
    folder = tmp_path_factory.mktemp("served")
    mounted = [table.name for table in tables.inputs(PROBLEM)]
    values = {
        "LAKEHOUSE__ROOT": str(folder / "lake house"),
        "LAKEHOUSE__MOUNTS": json.dumps(dict.fromkeys(mounted, home.lakehouse.root)),
        "STATE": str(folder / "state"),
        "SERVING__SHIP_SECONDS": "0.5",
        "SERVING__POLL_SECONDS": "0.2",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home.settings.project)
        for key, value in values.items():
            patch.setenv(f"{ENV_PREFIX}{key}", value)
        context = open_context("test")
        context.settings.state.mkdir()
        shutil.copy(home.settings.state / "signing.key", context.settings.state)
        try:
            with served(context, str(done.version), WORKERS) as found:
                yield Server(context, home, str(done.version), found)
        finally:
            home.registry.point(CHAMPION, None)
            for version in home.registry.versions():
                home.registry.annotate(str(version.version), {"stage": NONE})


# What it answers


def test_an_answer_is_that_of_a_batch_to_the_bit(
    server: Server, rows: list[dict[str, Any]], as_of: datetime
) -> None:
    # Given
    schema = tables.prepared(PROBLEM.scored).empty().drop(KNOWN_AT).schema
    frame = pl.DataFrame(rows, schema=schema)
    spine = next(batch.spines(server.context, [frame], as_of))
    estimator = server.context.registry.load(server.champion)
    context = server.context
    features = available(context.lakehouse, context.problem, as_of, {})
    scored = context.lakehouse.collect(score(context, estimator, spine, features))
    expected = scored.sort(KEYS)["prediction"].to_list()
    # When
    status, content = server.predict(rows)
    # Then
    assert status == 200
    in_order = sorted(zip((row["parcel"] for row in rows), content["predictions"], strict=True))
    assert [item["prediction"] for _, item in in_order] == expected
    assert {item["model_version"] for item in content["predictions"]} == {server.champion}


ROW = (
    '{"parcel": 1, "depot": "north", "kilograms": 1.5, "express": true,'
    ' "posted_at": "2030-01-01T00:00:00Z", "region": "cold"}'
)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"rows": [' + ROW + "]}", 200),
        ("", 400),
        ("{", 400),
        ('{"rows": []}', 400),
        ("[" * 100_000, 400),
        ('{"rows": ' + "[" * 100_000, 400),
        ('{"rows": [{}]}', 400),
        ('{"rows": [' + ROW + '], "more": 1}', 400),
        ('{"rows": [' + ROW.replace("1.5", "NaN") + "]}", 400),
        ('{"rows": [' + ROW.replace("1.5", "1e999") + "]}", 400),
        ('{"rows": [' + ROW.replace('"north"', '"\\ud800"') + "]}", 400),
        ('{"rows": [' + ROW.replace("1,", f"{2**80},", 1) + "]}", 422),
        ('{"rows": [' + ROW.replace("2030", "0001") + "]}", 422),
        ('{"rows": [' + ROW.replace("2030", "9999") + "]}", 200),
        ('{"rows": [' + ", ".join([ROW] * 1_001) + "]}", 400),
        (" " * (2 * 2**20), 413),
    ],
)
def test_a_hostile_body_is_a_typed_error(server: Server, body: str, status: int) -> None:
    found, content = server.ask("/v1/predict", body.encode())
    assert found == status, content
    if status != 200:
        assert content["status"] == status
        assert content["type"].startswith("/problems/")
        assert "Traceback" not in json.dumps(content)


@pytest.mark.parametrize(
    ("path", "token", "size", "status"),
    [
        ("/v1/predict", None, 2 * 2**20, 413),
        ("/v1/predict", "wrong", 2**19, 401),
        ("/v1/model", None, 2**19, 405),
        ("/nowhere", None, 2**19, 404),
    ],
)
def test_a_refusal_reaches_who_still_sends(
    server: Server, path: str, token: str | None, size: int, status: int
) -> None:
    with server.running.connect() as connection:
        connection.sendall(server.running.head(size, path, token) + b" " * 1_000)
        is_answered, _, _ = select.select([connection], [], [], 0.5)
        connection.sendall(b" " * (size - 1_000))
        answer = connection.recv(4096)
    assert not is_answered
    assert answer.startswith(f"HTTP/1.1 {status}".encode())


def test_who_asks_before_sending_is_answered_at_once(server: Server) -> None:
    head = "POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    with server.running.connect() as connection:
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 404")


def test_a_body_that_does_not_come_is_given_up(server: Server) -> None:
    with server.running.connect() as connection:
        connection.sendall(server.running.head(100) + b" ")
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        ("/v1/model", "wrong", 401),
        ("/metrics", "wrong", 401),
        ("/v1/predict", None, 405),
        ("/nowhere", None, 404),
        ("/health", "wrong", 200),
        ("/openapi.json", "wrong", 200),
    ],
)
def test_who_may_see_what(server: Server, path: str, token: str | None, status: int) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else None
    assert server.ask(path, headers=headers)[0] == status


def test_no_request_of_the_description_makes_it_fail(server: Server) -> None:
    """Requests by the schema and against it: each answer is one that the description knows."""
    _, described = server.ask("/openapi.json")
    schema = schemathesis.openapi.from_dict(described)

    @settings(max_examples=100, suppress_health_check=list(HealthCheck))
    @given(case=schema["/v1/predict"]["POST"].as_strategy())
    def answers(case: schemathesis.Case[Any]) -> None:
        headers = {"Authorization": f"Bearer {server.running.token}"}
        base = f"http://127.0.0.1:{server.running.port}"
        response = case.call(base_url=base, headers=headers)
        assert response.status_code < 500, response.content
        case.validate_response(response, checks=[schemathesis.checks.not_a_server_error])

    answers()


# Whom it follows


@contextmanager
def asking(server: Server, rows: list[dict[str, Any]]) -> Iterator[list[int]]:
    """Requests one after the other, from two callers; the statuses of their answers."""
    ended, statuses = threading.Event(), []

    def caller() -> None:
        while not ended.is_set():
            try:
                statuses.append(server.predict(rows[:2])[0])
            except OSError:  # the worker was killed: no answer
                statuses.append(0)

    callers = [threading.Thread(target=caller) for _ in range(2)]
    for thread in callers:
        thread.start()
    try:
        yield statuses
    finally:
        ended.set()
        for thread in callers:
            thread.join()


@pytest.fixture
def copied(server: Server) -> Callable[..., str]:
    """Register the champion's files again, as another version."""
    return partial(copy_version, server.home.registry, server.champion)


def test_champions_change_under_load_without_a_failed_request(
    server: Server, rows: list[dict[str, Any]], copied: Callable[..., str]
) -> None:
    # Given
    other = copied()
    # When
    with asking(server, rows) as statuses:
        for number in (other, server.champion, other, server.champion):
            move(server.context, "approve", number, "tests", "to be served")
            assert wait_for(partial(_all_serve, server, number))
    # Then
    assert set(statuses) == {200}


def test_a_challenger_is_placed_and_tried_before_its_promotion(
    server: Server, copied: Callable[..., str]
) -> None:
    # Given
    other = copied()
    # When
    move(server.context, "stage", other, "tests", "to be examined")
    placed = wait_for(lambda: _taken(server).get(f"version {other}") == "ok")
    served = server.served()
    move(server.context, "reject", other, "tests", "it was only to be examined")
    # Then
    assert placed
    assert (folder_of_server(server.context) / VERSIONS / other).is_dir()
    assert served == {server.champion}


def test_a_version_whose_files_were_changed_is_not_taken_and_alerts(
    server: Server, copied: Callable[..., str], as_of: datetime
) -> None:
    # Given
    changed = copied(**{ARTIFACT_DIGEST: "0" * 64})
    # When
    move(server.context, "approve", changed, "tests", "to be refused")
    refused = wait_for(lambda: _taken(server).get(f"version {changed}") == "violated")
    served = server.served()
    notices = raise_alerts(server.context, as_of + timedelta(days=3650))
    move(server.context, "approve", server.champion, "tests", "to be served")
    # Then
    assert refused
    assert served == {server.champion}
    assert any("version_taken" in notice for notice in notices)


def test_a_champion_that_somebody_set_by_hand_is_not_taken(
    server: Server, copied: Callable[..., str]
) -> None:
    # Given a version that is sound, and was never promoted
    other = copied()
    # When
    server.home.registry.point(CHAMPION, other)
    refused = wait_for(lambda: _taken(server).get(f"version {other}") == "violated")
    served = server.served()
    server.home.registry.point(CHAMPION, server.champion)
    # Then
    assert refused
    assert served == {server.champion}
    # And promoted as it should be, it is
    move(server.context, "approve", other, "tests", "to be served")
    assert wait_for(partial(_all_serve, server, other))
    move(server.context, "approve", server.champion, "tests", "to be served")
    assert wait_for(partial(_all_serve, server, server.champion))


def _all_serve(server: Server, number: str) -> bool:
    return server.served() == {number}


def _taken(server: Server) -> dict[str, str]:
    found = server.context.lakehouse.read(tables.MEASUREMENTS).filter(metric="version_taken")
    return dict(found.select("subject", "status").iter_rows())


# Its log


def logged(server: Server) -> list[str]:
    return server.context.lakehouse.read(tables.inference_log(PROBLEM))["request_id"].to_list()


def test_every_answer_is_logged_once_though_workers_are_killed(
    server: Server, rows: list[dict[str, Any]]
) -> None:
    # When
    with asking(server, rows):
        for _ in range(2):
            victim = min(server.workers())
            os.kill(victim, signal.SIGKILL)
            assert wait_for(partial(_others, server, victim))
    assert wait_for(lambda: set(server.answered) <= set(logged(server)))
    # Then
    found = logged(server)
    assert len(found) == len(set(found))


def _others(server: Server, victim: int) -> bool:
    try:
        workers = server.workers()
    except OSError:
        return False
    return not {victim, 0} & workers and len(workers) == WORKERS


def test_metrics_of_all_workers_are_told(server: Server) -> None:
    _, content = server.ask("/metrics")
    assert 'serving_requests_total{status="200"}' in content["text"]


def test_it_stops_when_told_and_ships_what_it_answered(
    server: Server, rows: list[dict[str, Any]]
) -> None:
    # Given
    server.predict(rows)
    # When
    server.running.process.terminate()
    code = server.running.process.wait()
    # Then
    assert code == 0
    assert set(server.answered) <= set(logged(server))
    assert not list((server.context.settings.state / "serving" / "journal").glob("*.jsonl"))
    predictions = server.context.lakehouse.read(tables.predictions(PROBLEM))
    assert set(predictions["model_version"]) <= set(_versions(server))


def _versions(server: Server) -> Iterator[str]:
    return (str(version.version) for version in server.home.registry.versions())


def test_a_server_that_others_reach_needs_tokens(server: Server) -> None:
    from {{cookiecutter.package_name}}.core.errors import UserError
    from {{cookiecutter.package_name}}.serving.online import serve

    tokens_of(server.context).unlink()
    with pytest.raises(UserError, match="token"):
        serve(server.context, "192.0.2.1", 1, 1)
