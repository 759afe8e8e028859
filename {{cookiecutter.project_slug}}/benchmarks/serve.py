"""Measure the server beside others of its kind: `bootstrap.py bench-serve [SECONDS]`.

All serve the same version, one worker each, 16 requests at a time, in turns within one run, so that
whatever else the machine does falls on all of them. The project's server does what it does in
production: it checks a token, looks features up, and writes the request log. The others are given
the features, and neither look up nor log; and one answers without a model, which is what HTTP costs
here. What is counted is the CPU of a server's whole tree of processes while requests come.

Needs Linux, whose /proc tells, and interpreters with what does not suit the project: PEERS_PYTHON
with BentoML and MLServer, FEAST_PYTHON with Feast.

It is a measurement and not a test: it prints what it finds and changes no exit code.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from types import MappingProxyType
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl

from {{cookiecutter.package_name}}.context import Context, open_context
from {{cookiecutter.package_name}}.core.console import step, table
from {{cookiecutter.package_name}}.core.contract import (
    PREDICTION,
    PREDICTION_TIME,
    FeatureTable,
)
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.deployment.transitions import move
from {{cookiecutter.package_name}}.serving.access import grant
from {{cookiecutter.package_name}}.serving.online import tokens_of
from {{cookiecutter.package_name}}.store.online import OnlineFeatures
from {{cookiecutter.package_name}}.store.online.features import microseconds, moment_of
from {{cookiecutter.package_name}}.store.point_in_time import (
    available,
    prepared,
    with_features,
)
from {{cookiecutter.package_name}}.store.tables import MEASUREMENTS
from {{cookiecutter.package_name}}.training.pipeline import train

from benchmarks.bench import COMMAND, PROJECT, call, own_environment

ENV = "test"  # trains in seconds; what a request costs does not depend on it
OURS = "this server"
AT_ONCE = 16
SECONDS = 10.0  # of load for each server
TURNS = 5
WARM_UP = 2.0
ROWS = 200
SWAPS = 10
LOOK_UPS = 5_000
LOOK_UPS_OF_FEAST = 300
PATIENCE = 300.0
PORTS = (18_100, 18_101, 18_102, 18_103, 18_104, 18_105)
PEERS_PYTHON = os.environ["PEERS_PYTHON"]
FEAST_PYTHON = os.environ["FEAST_PYTHON"]
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Requests:
    """Rows as they are sent, and what is to come back."""

    sent: list[dict[str, Any]]
    entities: list[dict[str, Any]]
    features: pl.DataFrame
    expected: list[Any]


@dataclass
class Load:
    """What came of requests."""

    answered: int = 0
    failed: int = 0
    seconds: float = 0.0
    processor: float = 0.0  # seconds
    latencies: list[float] = field(default_factory=list)

    @property
    def each(self) -> float:
        """CPU microseconds a request."""
        return self.processor / max(self.answered, 1) * 1e6

    def add(self, other: Load) -> None:
        """Count what came of other requests, too."""
        self.answered += other.answered
        self.failed += other.failed
        self.seconds += other.seconds
        self.processor += other.processor
        self.latencies += other.latencies

    def cells(self, name: str, ours: float) -> tuple[str, ...]:
        """The row of the table."""
        slowest = np.quantile(self.latencies, 0.99) * 1e3 if self.latencies else float("nan")
        return (
            name,
            f"{self.each:,.0f}",
            f"{1e6 / self.each:,.0f}",
            f"{self.each / ours:.1f}",
            f"{self.answered / self.seconds:,.0f}",
            f"{slowest:.1f}",
            f"{self.failed}",
        )


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    port: int
    path: str
    headers: dict[str, str]
    bodies: Sequence[bytes]

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and content of one request."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = {"Content-Type": "application/json", **self.headers}
        connection.request("GET" if body is None else "POST", path, body, sent)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content


def main() -> None:
    """Train two versions, measure the servers one after the other, print what came."""
    os.chdir(PROJECT)
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    with own_environment():
        os.environ[f"{ENV_PREFIX}SERVING__RATE"] = "1000000"
        with step("train"):
            versions = two_versions()
        context = open_context(ENV)
        requests = newest(context, versions[0])
        token = grant(tokens_of(context), "bench", ["predict", "read"])
        folder = context.registry.download(versions[0])
        with ExitStack() as stack, step("servers"):
            server = stack.enter_context(ours(token, requests))
            others = {
                "nothing but HTTP": stack.enter_context(empty(server)),
                "LitServe": stack.enter_context(litserve(folder, requests)),
                "MLServer": stack.enter_context(mlserver(folder, requests)),
                "BentoML": stack.enter_context(bentoml(folder, requests)),
                "mlflow models serve": stack.enter_context(mlflow(folder, requests)),
            }
            loads = measured({OURS: server, **others}, seconds)
        with ours(token, requests) as server:
            with step("answers"):
                same = compared(server, requests)
            with step("swaps"):
                swapped, lags = swaps(context, server, versions)
                memory = proportional(worker_of(server))
        with step("look-ups"):
            look_up = look_ups(context, requests)
            of_feast = look_ups_of_feast(context, requests)
    each = loads[OURS].each
    table(
        f"{AT_ONCE} at a time, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        ("server", "CPU µs", "a CPU second", "times ours", "a second", "p99 ms", "failed"),
        [load.cells(name, each) for name, load in loads.items()],
    )
    table(
        "This server",
        ("what", "measured"),
        [
            ("answers as of a batch, to the bit", f"{same} of {len(requests.sent)}"),
            ("look-up of all feature tables", f"{look_up:.0f} µs CPU"),
            ("  by Feast, on its SQLite store", f"{of_feast:,.0f} µs CPU"),
            ("memory of a worker (PSS)", f"{memory / 1e6:.0f} MB"),
            (
                f"{SWAPS} swaps of the champion under load",
                f"{swapped.failed} of {swapped.answered:,} requests failed",
            ),
            ("  until it answers, median and longest", f"{np.median(lags):.2f}, {max(lags):.2f} s"),
        ],
    )


# What is served ---------------------------------------------------------------------------------


def two_versions() -> tuple[str, str]:
    """Versions of two seeds; the first becomes the champion."""
    for verb in ("ingest", "prepare", "features"):
        call(verb, "--env", ENV)
    numbers = []
    for seed in ("1", "2"):
        os.environ[f"{ENV_PREFIX}SEED"] = seed
        context, now = open_context(ENV), datetime.now(UTC)
        as_of = min(now, context.problem.ends or now)
        numbers.append(str(train(context, as_of).version))
    move(open_context(ENV), "approve", numbers[0], "bench", "to be measured")
    return numbers[0], numbers[1]


def newest(context: Context, number: str) -> Requests:
    """The newest rows whose features are known, and what a batch says of them."""
    problem, lakehouse = context.problem, context.lakehouse
    context.publish()
    published = OnlineFeatures(problem.feature_tables, context.online).published()
    until = moment_of(min(item.complete_until for item in published.values()))
    since = moment_of(max(item.since for item in published.values()))
    known = prepared(lakehouse, problem, until, {})
    time_of = nw.col(PREDICTION_TIME)
    spine = problem.model.spine(known).filter(time_of > since, time_of <= until)
    keys = list(problem.model.keys)
    chosen = lakehouse.collect(spine.sort(PREDICTION_TIME, *keys, descending=True).head(ROWS))
    estimator = context.registry.load(number)
    features = available(lakehouse, problem, until, {})
    joined = with_features(lakehouse, problem, lakehouse.frame(chosen), features)
    inputs = lakehouse.collect(joined.select(*dict.fromkeys((*keys, *estimator.features))))
    scores = estimator.predict(inputs).reshape(inputs.height, -1).tolist()
    rows = lakehouse.collect(known[problem.model.scored].select(*problem.scored.prepared))
    sent = inputs.select(keys).join(rows, on=keys, how="left", maintain_order="left")
    entities = inputs.select(keys).join(chosen, on=keys, how="left", maintain_order="left")
    return Requests(
        sent.rows(named=True),
        entities.rows(named=True),
        inputs.select(estimator.features),
        scores,
    )


# Servers ----------------------------------------------------------------------------------------


@contextmanager
def ours(token: str, requests: Requests) -> Iterator[Server]:
    """The project's server."""
    bodies = [
        json.dumps({"rows": [row]}, default=lambda value: value.isoformat()).encode()
        for row in requests.sent
    ]
    command = [*COMMAND, "serve", "--env", ENV, "--port", str(PORTS[0]), "--workers", "1"]
    headers = {"Authorization": f"Bearer {token}"}
    with started(command, PORTS[0], "/v1/predict", headers, bodies) as server:
        yield server


@contextmanager
def empty(like: Server) -> Iterator[Server]:
    """The same HTTP server and framework, without anything behind them."""
    command = [sys.executable, "-m", "granian", "--interface", "asgi", "--no-ws", "--workers", "1"]
    command += ["--port", str(PORTS[3]), "--log-level", "warning", "benchmarks.emptyserver:EMPTY"]
    with started(command, PORTS[3], like.path, like.headers, like.bodies) as server:
        yield server


@contextmanager
def litserve(folder: Path, requests: Requests) -> Iterator[Server]:
    """LitServe with the version's own function for single rows."""
    bodies = [json.dumps({"row": list(row)}).encode() for row in requests.features.rows()]
    estimator = folder / "artifacts" / "estimator"
    command = [sys.executable, "-m", "benchmarks.litserver", str(estimator), str(PORTS[1])]
    with started(command, PORTS[1], "/predict", {}, bodies) as server:
        yield server


@contextmanager
def mlserver(folder: Path, requests: Requests) -> Iterator[Server]:
    """MLServer with the version's own function for single rows, in its own process."""
    port, name = PORTS[4], "version"
    listeners = {"http_port": port, "grpc_port": port + 100, "metrics_port": port + 200}
    settings = {
        "settings.json": {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **listeners},
        "model-settings.json": {
            "name": name,
            "implementation": "benchmarks.mlserverpeer.Version",
            "parameters": {"uri": str(folder / "artifacts" / "estimator")},
        },
    }
    tensor = {"name": "row", "datatype": "BYTES", "shape": [requests.features.width]}
    bodies = [
        json.dumps({"inputs": [{**tensor, "data": list(row)}]}).encode()
        for row in requests.features.rows()
    ]
    with tempfile.TemporaryDirectory() as place:
        for file, content in settings.items():
            Path(place, file).write_text(json.dumps(content), encoding="utf-8")
        command = [PEERS_PYTHON, "-m", "mlserver.cli.main", "start", place]
        path = f"/v2/models/{name}/infer"
        with started(command, port, path, {}, bodies) as server:
            yield server


@contextmanager
def bentoml(folder: Path, requests: Requests) -> Iterator[Server]:
    """BentoML with the version's own function for single rows."""
    bodies = [json.dumps({"row": list(row)}).encode() for row in requests.features.rows()]
    command = [PEERS_PYTHON, "-m", "bentoml", "serve", "benchmarks.bentopeer:Version"]
    command += ["--host", "127.0.0.1", "--port", str(PORTS[5])]
    told = {
        "VERSION_FOLDER": str(folder / "artifacts" / "estimator"),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    with started(command, PORTS[5], "/predict", {}, bodies, told) as server:
        yield server


@contextmanager
def mlflow(folder: Path, requests: Requests) -> Iterator[Server]:
    """What MLflow serves its models with."""
    bodies = [
        json.dumps({"dataframe_split": {"columns": requests.features.columns, "data": [row]}})
        for row in requests.features.rows()
    ]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(folder)]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(PORTS[2])]
    command += ["--workers", "1"]
    encoded = [body.encode() for body in bodies]
    with started(command, PORTS[2], "/invocations", {}, encoded) as server:
        yield server


@contextmanager
def started(
    command: Sequence[str],
    port: int,
    path: str,
    headers: dict[str, str],
    bodies: Sequence[bytes],
    told: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Server]:
    """A server that answers; it is ended afterwards."""
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, **told}) as process,
    ):
        server = Server(process, port, path, headers, bodies)
        ends = time.monotonic() + PATIENCE
        try:
            while not answers(server):
                if process.poll() is not None or time.monotonic() > ends:
                    said.seek(0)
                    name = " ".join(command[1:4])
                    raise SystemExit(f"{name} does not answer:\n{said.read().decode()}")
                time.sleep(0.2)
            yield server
        finally:
            for child in reversed(family(process.pid)):
                try:
                    os.kill(child, 15)
                except ProcessLookupError:
                    continue


def answers(server: Server) -> bool:
    """Whether a request is answered."""
    try:
        return server.ask(server.path, server.bodies[0])[0] == 200
    except OSError:
        return False


# Load -------------------------------------------------------------------------------------------


def measured(servers: Mapping[str, Server], seconds: float) -> dict[str, Load]:
    """What requests cost each server, in turns, after some that do not count."""
    loads = {name: Load() for name in servers}
    for server in servers.values():
        asyncio.run(loaded(server, WARM_UP))
    for _ in range(TURNS):
        for name, server in servers.items():
            before = processor(server.process.pid)
            load = asyncio.run(loaded(server, seconds / TURNS))
            load.processor = processor(server.process.pid) - before
            loads[name].add(load)
    return loads


async def loaded(server: Server, seconds: float, ended: threading.Event | None = None) -> Load:
    """Requests, so many at a time, for so long or until something has ended."""
    load = Load()
    began = time.perf_counter()

    def goes_on() -> bool:
        if ended is not None:
            return not ended.is_set()
        return time.perf_counter() - began < seconds

    async def caller(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        while goes_on():
            body = server.bodies[(number + load.answered) % len(server.bodies)]
            asked = time.perf_counter()
            try:
                status = await exchange(reader, writer, server, body)
            except (OSError, asyncio.IncompleteReadError):
                status = 0
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            load.answered += 1
            load.failed += status != 200
            load.latencies.append(time.perf_counter() - asked)
        writer.close()

    await asyncio.gather(*(caller(number) for number in range(AT_ONCE)))
    load.seconds = time.perf_counter() - began
    return load


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: Server, body: bytes
) -> int:
    """Send a request on an open connection, read the answer, return its status."""
    headers = {"Host": "a", "Content-Type": "application/json", **server.headers}
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = [f"POST {server.path} HTTP/1.1", *lines, f"Content-Length: {len(body)}", "", ""]
    writer.write("\r\n".join(head).encode() + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).lower()
    _, _, rest = answer.partition(b"content-length:")
    await reader.readexactly(int(rest.partition(b"\r\n")[0]))
    return int(answer.split(b" ", 2)[1])


def compared(server: Server, requests: Requests) -> int:
    """How many predictions are those of a batch."""
    same = 0
    for body, expected in zip(server.bodies, requests.expected, strict=True):
        _, content = server.ask(server.path, body)
        (prediction,) = json.loads(content)["predictions"]
        said = list(prediction.get("probabilities", {}).values())
        found = said if len(expected) > 1 else [prediction[PREDICTION]]
        same += found == expected
    return same


def swaps(context: Context, server: Server, versions: tuple[str, str]) -> tuple[Load, list[float]]:
    """Champions that change while requests come: what fails, and seconds until each answers."""
    ended = threading.Event()
    loads: list[Load] = []

    def requesting() -> None:
        loads.append(asyncio.run(loaded(server, 0, ended)))

    thread = threading.Thread(target=requesting)
    thread.start()
    # as the gates leave it, the next champion is the challenger, which was tried meanwhile
    move(context, "stage", versions[1], "bench", "to be measured")
    while not taken(context, versions[1]):
        time.sleep(0.5)
    lags = []
    for number in range(SWAPS):
        chosen = versions[(number + 1) % 2]
        move(context, "approve", chosen, "bench", "to be measured")
        began = time.perf_counter()
        while json.loads(server.ask("/v1/model")[1])["champion"] != chosen:
            time.sleep(0.02)
        lags.append(time.perf_counter() - began)
    ended.set()
    thread.join()
    return loads[0], lags


def taken(context: Context, number: str) -> bool:
    """Whether the server has a version ready, as it writes down."""
    said = context.lakehouse.read(MEASUREMENTS).filter(metric="version_taken", value=1.0)
    return f"version {number}" in set(said["subject"])


def look_ups(context: Context, requests: Requests) -> float:
    """CPU microseconds of looking up an entity in all feature tables."""
    features = OnlineFeatures(context.problem.feature_tables, context.online)
    rows = requests.entities
    moments = [microseconds(row[PREDICTION_TIME]) for row in rows]
    began = time.process_time()
    for number in range(LOOK_UPS):
        at = number % len(rows)
        features.look_up(rows[at : at + 1], moments[at : at + 1])
    return (time.process_time() - began) / LOOK_UPS * 1e6


def look_ups_of_feast(context: Context, requests: Requests) -> float:
    """The same by Feast, with what the online store knows of these entities; keys as texts."""
    features = OnlineFeatures(context.problem.feature_tables, context.online)
    moments = [microseconds(row[PREDICTION_TIME]) for row in requests.entities]
    found = features.look_up(requests.entities, moments)
    content: dict[str, list[dict[str, Any]]] = {"tables": [], "entities": []}
    for number, feature in enumerate(context.problem.feature_tables):
        rows = []
        for row, of_row in zip(requests.entities, found, strict=True):
            if known := of_row[number]:
                values = map(as_json, known.values)
                rows.append(keys_of(feature, row) | dict(zip(feature.values, values, strict=True)))
        said = {"name": feature.name, "keys": [*feature.keys], "values": [*feature.values]}
        content["tables"].append({**said, "rows": rows})
    for row in requests.entities:
        keys = [keys_of(feature, row) for feature in context.problem.feature_tables]
        content["entities"].append(dict(ChainMap(*keys)))
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(content, file)
        file.flush()
        command = [FEAST_PYTHON, "-m", "benchmarks.feastpeer", file.name, str(LOOK_UPS_OF_FEAST)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return float(done.stdout.split()[-1])


def keys_of(feature: FeatureTable, row: Mapping[str, Any]) -> dict[str, Any]:
    """An entity's keys in a table, as texts."""
    return {key: str(row[key]) for key in feature.keys}


def as_json(value: Any) -> str | float | None:
    """A feature as Feast is given it: text, or a number."""
    return value if value is None or isinstance(value, str) else float(value)


# Processes --------------------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """A process and those that it started, and so on."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(after[1]), []).append(int(path.parent.name))
    found = [pid]
    for member in found:
        found += parents.get(member, [])
    return found


def processor(pid: int) -> float:
    """CPU seconds that a process and those that it started have used."""
    total = 0
    for member in family(pid):
        try:
            text = Path(f"/proc/{member}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        after = text.rpartition(")")[2].split()
        total += int(after[11]) + int(after[12])
    return total / TICKS


def worker_of(server: Server) -> int:
    """The process that answers."""
    return int(json.loads(server.ask("/v1/model")[1])["process"])


def proportional(pid: int) -> int:
    """Bytes of a process's memory, with its part of what it shares."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    (line,) = (line for line in text.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
