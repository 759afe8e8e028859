"""The application of a worker: requests in, predictions out, each written to the request log first.

Requests that wait at the same moment are scored together, which costs hardly more than one of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, multiprocess
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..core.contract import PREDICTION, PREDICTION_TIME, Problem
from ..core.errors import UserError
from ..core.project import SECRET_VARIABLE
from ..store.online import OnlineError, OnlineFeatures, TooLongAgoError, open_backend
from .access import Access
from .bodies import ReadToTheEnd, read_body
from .gathering import Gatherer
from .journal import Journal, JournalFullError
from .pointer import Pointer, digest_of, folder_of, read_pointer
from .records import Records, likeliest, probabilities
from .requests import RequestError, body_type, row_type
from .scoring import Asked, Lookup, Scored, Version, ages, load, now_in_utc
from .signed import verify

PAGE, DESCRIPTION = "docs.html", "openapi.json"
JOURNAL = "journal"
STATUS = "status.json"  # what fails beside the workers
WAKE = "wake"  # written when the registry says that something has changed
_TICK = 0.05  # seconds
_SLOW_TICK = 1.0
_FRIENDLY = {404: "not-found", 405: "method-not-allowed"}

REQUESTS = Counter("serving_requests", "Requests by status of HTTP", ["status"])
ROWS = Counter("serving_rows", "Rows answered, by version", ["version"])
STALE = Counter("serving_stale_features", "Feature rows older than max_age", ["table"])
UNKNOWN = Counter(
    "serving_unknown_features", "Rows of which a feature table knew nothing", ["table"]
)
SECONDS = Histogram(
    "serving_seconds",
    "From a request to its answer",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)


class Config(msgspec.Struct, frozen=True):
    """What a worker needs to know of its environment, which `serve` writes down for it."""

    problem: str  # module that declares PROBLEM
    folder: str  # of the server: pointer, versions, request log, pages
    online: str  # folder of the online store
    redis: str | None  # environment variable with the address of a server that holds it instead
    model: str  # tells the environment's online store from others there
    tokens: str  # file
    max_rows: int
    max_bytes: int
    body_seconds: float
    rate: float
    log_bytes: int
    ship_seconds: float
    share: float  # of entities that the challenger scores, too
    challenger_answers: bool


@dataclass
class Job:
    """A request that waits to be scored."""

    request_id: str
    rows: Sequence[msgspec.Struct]
    started: float
    answer: asyncio.Future[bytes]


@dataclass(frozen=True)
class Ready:
    """Versions that answer."""

    pointer: Pointer
    champion: Version
    challenger: Version | None


@dataclass
class Service:
    """What a worker holds."""

    config: Config
    problem: Problem
    features: OnlineFeatures
    journal: Journal
    access: Access
    ready: Ready | None = None
    fault: str = ""  # why nothing can be answered, where that was found

    def __post_init__(self) -> None:
        """Plan what is the same for every version."""
        self.lookup = Lookup(self.problem, self.features)
        self.records = Records(self.problem)
        self.waiting = Gatherer(self.score)
        self.limits = {
            table.name: table.max_age.total_seconds() if table.max_age else float("inf")
            for table in self.problem.feature_tables
        }

    # Scoring -----------------------------------------------------------------------------------

    def score(self, jobs: Sequence[Job]) -> None:
        """Answer requests together; one that cannot be scored does not spoil the others."""
        try:
            self._answer(jobs)
        except Exception as error:  # noqa: BLE001 of whatever a row makes a library raise
            self._one_by_one(jobs, error)
        except pl.exceptions.PanicException as error:  # no Exception
            self._one_by_one(jobs, error)

    def _one_by_one(self, jobs: Sequence[Job], error: BaseException) -> None:
        if len(jobs) == 1:
            if not jobs[0].answer.done():  # its caller has gone
                jobs[0].answer.set_exception(_refusal(error))
            return
        for job in jobs:
            self.score([job])

    def _answer(self, jobs: Sequence[Job]) -> None:
        ready = self.ready
        if ready is None:
            raise RequestError(503, "unavailable", "No version is ready yet.")
        rows = [row for job in jobs for row in job.rows]
        asked = self.lookup(rows, now_in_utc())
        of_champion = ready.champion.score(asked)
        of_challenger = self._of_challenger(ready, asked, of_champion)
        versions = self.features.delta_versions
        lines: list[bytes] = []
        answers = []
        start = 0
        now = time.perf_counter()
        for job in jobs:
            milliseconds = 1000 * (now - job.started)
            predictions = []
            for place in range(len(job.rows)):
                at = start + place
                name = f"{job.request_id}-{place}"
                given, other = self._split(ready, of_champion[at], of_challenger.get(at))
                line = partial(self.records.line, request_id=name, feature_versions=versions)
                lines.append(line(given[1], version=given[0], milliseconds=milliseconds))
                if other:
                    shadow = line(
                        other[1], version=other[0], milliseconds=milliseconds, shadow=True
                    )
                    lines.append(shadow)
                predictions.append(self._prediction(name, *given))
            start += len(job.rows)
            answers.append({"request_id": job.request_id, "predictions": predictions})
        self.journal.write(b"".join(lines))
        for job, answer in zip(jobs, answers, strict=True):
            if not job.answer.done():
                job.answer.set_result(msgspec.json.encode(answer))

    def _of_challenger(
        self, ready: Ready, asked: Asked, of_champion: Sequence[Scored]
    ) -> dict[int, Scored]:
        """What the challenger says of its share of the entities, by place."""
        if ready.challenger is None or not self.config.share:
            return {}
        places = [
            at for at, scored in enumerate(of_champion) if share_of(scored.keys) < self.config.share
        ]
        if not places:
            return {}
        theirs = ready.challenger.score(asked.of(places))
        return dict(zip(places, theirs, strict=True))

    def _split(
        self, ready: Ready, champion: Scored, challenger: Scored | None
    ) -> tuple[tuple[str, Scored], tuple[str, Scored] | None]:
        """Which version's prediction is given, and which is only written down."""
        first = (ready.champion.number, champion)
        if challenger is None or ready.challenger is None:
            return first, None
        second = (ready.challenger.number, challenger)
        return (second, first) if self.config.challenger_answers else (first, second)

    def _prediction(self, request_id: str, version: str, scored: Scored) -> dict[str, Any]:
        target = self.problem.model.target
        several = PREDICTION not in target.scores
        features = {}
        for table, age, stale in ages(scored, self.limits):
            features[table] = {"age_seconds": age, "stale": stale}
            if stale:
                STALE.labels(table).inc()
            if age is None:
                UNKNOWN.labels(table).inc()
        prediction: dict[str, Any] = {
            "request_id": request_id,
            PREDICTION: likeliest(target, scored.scores) if several else scored.scores[0],
            PREDICTION_TIME: scored.moment,
            "model_version": version,
            "features": features,
        }
        if target.classes:
            prediction["probabilities"] = probabilities(target, scored.scores)
        ROWS.labels(version).inc()
        return prediction

    # Upkeep ------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Take the versions that the pointer names, at its moment."""
        pointer = read_pointer(Path(self.config.folder))
        if pointer is None or (self.ready and self.ready.pointer == pointer):
            return
        ready = await asyncio.to_thread(self._load, pointer)
        await asyncio.sleep(max(0.0, pointer.from_time - time.time()))
        self.ready = ready

    def _load(self, pointer: Pointer) -> Ready:
        held = {}
        if self.ready:
            known = (self.ready.champion, self.ready.challenger)
            held = {version.number: version for version in known if version}
        numbers = [pointer.champion, *([pointer.challenger] if pointer.challenger else [])]
        versions = {}
        for pointed in numbers:
            folder = folder_of(Path(self.config.folder), pointed.number)
            if pointed.number in held:
                versions[pointed.number] = held[pointed.number]
                continue
            if digest_of(folder) != pointed.digest:
                message = f"The files in {folder} are not those that were placed there."
                raise UserError(message, "Restart the server: it fetches them again.")
            lookup = Lookup(self.problem, self.features)
            versions[pointed.number] = load(folder, pointed.number, self.problem, lookup)
        champion = versions[pointer.champion.number]
        challenger = versions[pointer.challenger.number] if pointer.challenger else None
        return Ready(pointer, champion, challenger)

    def look_after(self) -> None:
        """Rotate the log, read tokens again, and find out whether requests could be answered."""
        self.journal.tick()
        self.access.refresh()
        try:
            self.features.published()
            self.journal.require_room()
            self.fault = ""
        except UserError as error:
            self.fault = error.what


# Addresses ----------------------------------------------------------------------------------------


class Predict:
    """POST /v1/predict."""

    def __init__(self, service: Service) -> None:
        """Make the decoder of its bodies."""
        self._service = service
        self._limits = service.config.max_bytes, service.config.body_seconds
        body = body_type(row_type(service.problem), service.config.max_rows)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        started = time.perf_counter()
        request_id = new_id()
        service = self._service
        try:
            service.access.check(authorization(scope), "predict")
            content = await read_body(scope, receive, *self._limits)
            rows = self._decode(content)
            answer = asyncio.get_running_loop().create_future()
            service.waiting.add(Job(request_id, rows, started, answer))
            body, status = await answer, 200
        except RequestError as error:
            body, status = error.body(request_id), error.status
        REQUESTS.labels(status).inc()
        SECONDS.observe(time.perf_counter() - started)
        kind = b"application/json" if status == 200 else b"application/problem+json"
        headers = [(b"content-type", kind), (b"x-request-id", request_id.encode()), *SAFE]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if status in {429, 503}:
            headers.append((b"retry-after", b"1"))
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _decode(self, content: bytes) -> Sequence[msgspec.Struct]:
        try:
            rows: Sequence[msgspec.Struct] = self._decoder.decode(content).rows
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(400, "invalid-request", str(error)) from None
        return rows


SAFE = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


def application() -> ASGIApp:
    """The application of a worker, as its environment variable tells."""
    path = os.environ["SERVING_CONFIG"]
    config = msgspec.json.decode(Path(path).read_bytes(), type=Config)
    from importlib import import_module

    service = open_service(config, import_module(config.problem).PROBLEM)
    return ReadToTheEnd(routes(service), config.body_seconds)


def open_service(config: Config, problem: Problem) -> Service:
    """A worker's parts."""
    folder = Path(config.folder)
    backend = open_backend(Path(config.online), config.redis, config.model)
    return Service(
        config,
        problem,
        OnlineFeatures(problem.feature_tables, backend),
        Journal(folder / JOURNAL, config.log_bytes, config.ship_seconds),
        Access(Path(config.tokens), config.rate),
    )


def routes(service: Service) -> Starlette:
    """All addresses of a worker."""
    folder = Path(service.config.folder)

    async def health(_: Request) -> Response:
        return _json({"status": "alive"})

    async def readiness(_: Request) -> Response:
        service.look_after()
        why = service.fault or ("" if service.ready else "No version is ready yet.")
        if why:
            raise RequestError(503, "unavailable", why)
        beside = msgspec.json.decode((folder / STATUS).read_bytes())
        return _json({"status": "ready", "waiting_bytes": service.journal.waiting, **beside})

    async def model(request: Request) -> Response:
        service.access.check(authorization(request.scope), "read")
        if service.ready is None:
            raise RequestError(503, "unavailable", "No version is ready yet.")
        pointer = service.ready.pointer
        challenger = pointer.challenger.number if pointer.challenger else None
        return _json(
            {
                "champion": pointer.champion.number,
                "challenger": challenger,
                "from_time": pointer.from_time,
                "process": os.getpid(),
            }
        )

    async def metrics(request: Request) -> Response:
        service.access.check(authorization(request.scope), "read")
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    def file(name: str, media_type: str) -> Route:
        async def answer(_: Request) -> Response:
            return Response((folder / name).read_bytes(), media_type=media_type)

        return Route(f"/{name.removesuffix('.html')}", answer)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with suppress(UserError, OSError):  # said by the upkeep, which tries again
            await service.follow()
        upkeep = asyncio.create_task(_upkeep(service))
        try:
            yield
        finally:
            upkeep.cancel()
            with suppress(asyncio.CancelledError):
                await upkeep
            service.journal.close()

    return Starlette(
        routes=[
            Route("/v1/predict", Predict(service), methods=["POST"]),
            Route("/v1/model", model),
            Route("/v1/changed", partial(_changed, service), methods=["POST"]),
            Route("/metrics", metrics),
            Route("/health", health),
            Route("/ready", readiness),
            file(DESCRIPTION, "application/json"),
            file(PAGE, "text/html"),
        ],
        exception_handlers={RequestError: _refuse, HTTPException: _refuse, Exception: _refuse},
        lifespan=lifespan,
    )


async def _changed(service: Service, request: Request) -> Response:
    """The registry says that something has changed: who the champion is is read there."""
    secret = os.environ.get(SECRET_VARIABLE)
    if not secret:
        raise RequestError(404, "not-found", f"{SECRET_VARIABLE} is not set.")
    limits = service.config.max_bytes, service.config.body_seconds
    body = await read_body(request.scope, request.receive, *limits)
    try:
        verify(body, request.headers, Webhook(secret.encode()))
    except ValueError as error:
        raise RequestError(401, "unauthorized", str(error)) from None
    (Path(service.config.folder) / WAKE).touch()
    return Response(status_code=202)


async def _upkeep(service: Service) -> None:
    """Follow the pointer, and look after the rest every second."""
    looked = 0.0
    while True:
        try:
            await service.follow()
            if time.monotonic() - looked > _SLOW_TICK:
                looked = time.monotonic()
                service.look_after()
        except Exception as error:  # noqa: BLE001 the versions that answer go on
            service.fault = "" if service.ready else f"No version is ready: {error}"
        await asyncio.sleep(_TICK)


# ----------------------------------------------------------------------------------------------


def new_id() -> str:
    """A name for a request that no other has."""
    return os.urandom(16).hex()


def share_of(keys: Sequence[Any]) -> float:
    """Where an entity stands between 0 and 1: always the same, for any process."""
    digest = hashlib.sha256(msgspec.json.encode(keys)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def authorization(scope: Scope) -> str:
    """What the request says of its token."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            return str(value.decode("latin-1"))
    return ""


def _refusal(error: BaseException) -> RequestError:
    """What a caller is told."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, TooLongAgoError):
        return RequestError(422, "not-scored", error.what)
    if isinstance(error, OnlineError | JournalFullError):
        return RequestError(503, "unavailable", error.what)
    if isinstance(error, KeyError):
        detail = "The problem does not score such a row."
    else:
        detail = "A value of a row is beyond what can be computed."
    return RequestError(422, "not-scored", detail)


async def _refuse(_: Request, error: Exception) -> Response:
    request_id = new_id()
    if isinstance(error, HTTPException):
        kind = _FRIENDLY.get(error.status_code, "invalid-request")
        error = RequestError(error.status_code, kind, str(error.detail))
    elif not isinstance(error, RequestError):
        error = RequestError(500, "internal-error", "The fault is written to the server's log.")
    REQUESTS.labels(error.status).inc()
    return Response(error.body(request_id), error.status, media_type="application/problem+json")


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
