"""Load for long, while what stands behind the server is killed: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from {{cookiecutter.package_name}}.context import Context, open_context
from {{cookiecutter.package_name}}.core.console import say
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.training.pipeline import Trained

from tests.conftest import free_port, wait_for
from tests.parcels import PROBLEM
from tests.served import Served, recent_parcels, served

REDIS = "REDIS_ADDRESS"
CALLERS = 8
OUTAGE = 5.0  # seconds, and as many between two of them
WARM_UP = 3_000  # requests until a worker's memory is what it stays
GROWTH = 8 * 2**20  # bytes; a request that left 1 kB behind would be seen after 8,000


@dataclass
class Load:
    """What came of requests."""

    answered: list[str] = field(default_factory=list)  # request ids of rows
    statuses: Counter[int] = field(default_factory=Counter)


@dataclass
class Server:
    """A server that runs, and all that stands behind it."""

    context: Context
    running: Served
    bodies: Sequence[bytes]
    outages: dict[str, Callable[[], Callable[[], None]]]  # begins one; what it returns ends it
    load: Load = field(default_factory=Load)

    def look(self, path: str) -> dict[str, Any]:
        """What is answered at an address."""
        address = f"http://127.0.0.1:{self.running.port}{path}"
        request = urllib.request.Request(address)
        request.add_header("Authorization", f"Bearer {self.running.token}")
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            found: dict[str, Any] = json.loads(answer.read())
        return found

    def is_ready(self) -> bool:
        """Whether it answers, and nothing fails beside its workers."""
        with suppress(OSError):
            return self.look("/ready").keys() == {"status", "waiting_bytes"}
        return False

    def memory(self) -> int:
        """Bytes of the worker that are in memory."""
        pid = self.look("/v1/model")["process"]
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def logged(self) -> list[str]:
        """Request ids of the log."""
        log = self.context.lakehouse.read(tables.inference_log(PROBLEM))
        return log["request_id"].to_list()


# What stands behind the server --------------------------------------------------------------------


class Mortal:
    """A process that can be killed and started again."""

    def __init__(self, command: Sequence[str], answers: Callable[[], bool]) -> None:
        self._command = command
        self._answers = answers
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert wait_for(self._answers)

    def kill(self) -> Callable[[], None]:
        """Kill it with all that it started; what is returned starts it again."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        return self.start


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortal]:
    """A Redis server that keeps nothing: killed, it comes back empty."""
    port, folder = free_port(), tmp_path_factory.mktemp("redis")
    command = [os.environ["REDIS_SERVER"], "--bind", "127.0.0.1", "--port", str(port)]
    command += ["--save", "", "--dir", str(folder)]

    def answers() -> bool:
        with suppress(RedisError):
            return bool(Redis(port=port).ping())
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(REDIS, f"redis://127.0.0.1:{port}")
        server = Mortal(command, answers)
        yield server
        server.kill()


@pytest.fixture(scope="module")
def mlflow(trained: tuple[Context, Trained]) -> Iterator[tuple[Mortal, str]]:
    """A tracking server before the store in which the model was registered; and its address."""
    settings = trained[0].settings
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--no-serve-artifacts"]
    command += ["--backend-store-uri", settings.mlflow.tracking_uri]
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{address}/health") as answer:  # noqa: S310
            return bool(answer.status == 200)
        return False

    server = Mortal(command, answers)
    yield server, address
    server.kill()


def without_tables(root: Path) -> Callable[[], None]:
    """Put the tables out of reach: what was their folder is a file; what is returned undoes it."""
    aside = root.with_name("aside")
    root.rename(aside)
    root.touch()

    def undo() -> None:
        root.unlink()
        aside.rename(root)

    return undo


@pytest.fixture(scope="module")
def server(
    trained: tuple[Context, Trained], as_of: datetime, redis: Mortal, mlflow: tuple[Mortal, str]
) -> Iterator[Server]:
    """A server of one worker, whose champion, features and log are elsewhere."""
    home, done = trained
    values = {
        "MLFLOW__TRACKING_URI": mlflow[1],
        "ONLINE__REDIS": REDIS,
        "SERVING__SHIP_SECONDS": "1",
        "SERVING__SYNC_SECONDS": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home.settings.project)
        for key, value in values.items():
            patch.setenv(f"{ENV_PREFIX}{key}", value)
        context = open_context("test")
        to_mlflow = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
        with served(context, str(done.version), workers=1, **to_mlflow) as found:
            outages: dict[str, Callable[[], Callable[[], None]]] = {
                "follow": mlflow[0].kill,
                "sync": redis.kill,
                "ship": lambda: without_tables(Path(context.lakehouse.root)),
            }
            running = Server(context, found, bodies_of(home, as_of), outages)
            assert wait_for(running.is_ready)
            yield running


def bodies_of(context: Context, as_of: datetime) -> list[bytes]:
    """Requests of one row, of parcels that were posted within the last hours."""
    return [
        json.dumps({"rows": [row]}, default=datetime.isoformat).encode()
        for row in recent_parcels(context, as_of).iter_rows(named=True)
    ]


# Load ---------------------------------------------------------------------------------------------


@contextmanager
def asking(server: Server) -> Iterator[Load]:
    """Callers that ask, each one request after the other; at the end none waits for an answer."""
    load, ended = Load(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_callers(server, load, ended)))
    thread.start()
    try:
        yield load
    finally:
        ended.set()
        thread.join()


async def _callers(server: Server, load: Load, ended: threading.Event) -> None:
    await asyncio.gather(*(_caller(number, server, load, ended) for number in range(CALLERS)))


async def _caller(number: int, server: Server, load: Load, ended: threading.Event) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.running.port)
    while not ended.is_set():
        number += CALLERS
        body = server.bodies[number % len(server.bodies)]
        writer.write(server.running.head(len(body)) + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        content = json.loads(await reader.readexactly(int(length)))
        status = int(answer.split(b" ", 2)[1])
        load.statuses[status] += 1
        if status == 200:
            load.answered += [item["request_id"] for item in content["predictions"]]
        else:
            await asyncio.sleep(0.05)  # as a caller that was told to come again
    writer.close()


# What must hold -----------------------------------------------------------------------------------


def test_memory_stays_what_it_is(server: Server, request: pytest.FixtureRequest) -> None:
    # Given
    wanted: int = request.config.getoption("--requests")
    with asking(server) as load:
        assert _wait_until(lambda: len(load.answered) >= WARM_UP)
        before = server.memory()
        # When
        assert _wait_until(lambda: len(load.answered) >= WARM_UP + wanted)
        after = server.memory()
    # Then
    say(f"{wanted:,} requests: {before / 2**20:.1f} MB before, {after / 2**20:.1f} MB after")
    server.load.answered += load.answered
    assert set(load.statuses) == {200}
    assert after - before < GROWTH


def test_no_answer_is_lost_or_logged_twice_while_delta_redis_and_mlflow_are_killed(
    server: Server, request: pytest.FixtureRequest
) -> None:
    # Given
    ends = time.monotonic() + request.config.getoption("--seconds")
    outages: Counter[str] = Counter()
    # When
    with asking(server) as load:
        while time.monotonic() < ends or len(outages) < len(server.outages):
            name = list(server.outages)[outages.total() % len(server.outages)]
            undo = server.outages[name]()
            before = len(load.answered)
            try:
                assert wait_for(lambda: not server.is_ready()), name
                time.sleep(OUTAGE)
            finally:
                undo()
            # Without the features of Redis nothing can be answered; without the others, all.
            assert name == "sync" or len(load.answered) > before, name
            assert wait_for(server.is_ready), name
            outages[name] += 1
            time.sleep(OUTAGE)
    answered = [*server.load.answered, *load.answered]
    # Then
    assert wait_for(lambda: len(server.logged()) >= len(answered))
    logged = server.logged()
    say(f"{len(load.answered):,} answered; outages: {dict(outages)}; {dict(load.statuses)}")
    assert len(logged) == len(set(logged))
    assert set(logged) == set(answered)
    assert set(load.statuses) <= {200, 503}


def _wait_until(condition: Callable[[], bool]) -> bool:
    """Wait as long as it takes: the load goes on."""
    while not condition():
        time.sleep(0.1)
    return True
