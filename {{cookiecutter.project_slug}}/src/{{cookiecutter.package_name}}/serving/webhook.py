"""A receiver for the registry's webhooks: a new version starts its deployment check."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from .signed import HEADERS, verify

_MAX_BYTES = 64 * 1024
_REMEMBERED_SECONDS = 24 * 3600


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Version(_Body):
    name: str
    version: str = Field(pattern=r"^[1-9]\d{0,9}$", coerce_numbers_to_str=True)


class _Event(_Body):
    entity: str
    action: str
    data: dict[str, object]


class _Created(_Body):
    entity: Literal["model_version"]
    action: Literal["created"]
    data: _Version


def receiver(secret: str, model: str, queue: Path, wake: Callable[[], None]) -> Starlette:
    """A web application that notes each version that the registry says was created.

    A delivery must be small, signed with the secret (Standard Webhooks: HMAC-SHA256 over id,
    timestamp and body), no older than five minutes, and not have been received before. It is
    answered when it is on the disk: no kill loses one.

    Args:
        secret: Shared with the registry.
        model: Registered model to listen for; events of others are acknowledged and left alone.
        queue: Folder that remembers deliveries; `work_off` reads what waits there.
        wake: Called when a version waits; must return at once.
    """
    verifier = Webhook(secret.encode())
    queue.mkdir(parents=True, exist_ok=True)

    async def receive(request: Request) -> JSONResponse:
        body = await _small_body(request)
        _verify(body, request, verifier)
        created = _parsed(body)
        delivery = request.headers[HEADERS["webhook-id"]]
        is_ours = created is not None and created.name == model
        version = created.version if created and is_ours else ""
        _remember(queue, delivery, version)
        if not is_ours:
            return JSONResponse({"started": None}, 200)
        wake()
        return JSONResponse({"started": version}, 202)

    routes = [Route("/", receive, methods=["POST"])]
    return Starlette(routes=routes, exception_handlers={_RefusedError: _refuse})


def work_off(queue: Path, start: Callable[[str], None]) -> None:
    """Start, one after the other, what waits in the queue; forget what was done days ago.

    Args:
        queue: As of `receiver`.
        start: Called with the number of a version. Where it raises an OSError the version waits on.
    """
    for path in sorted(queue.iterdir(), key=lambda path: path.stat().st_mtime):
        version = path.read_text(encoding="utf-8")
        if version:
            with suppress(OSError):
                start(version)
                os.truncate(path, 0)
        elif path.stat().st_mtime < time.time() - _REMEMBERED_SECONDS:
            path.unlink()


def worker(queue: Path, start: Callable[[str], None]) -> Callable[[], None]:
    """A thread that works off the queue, now and whenever what is returned is called."""
    waiting = threading.Event()
    waiting.set()

    def work() -> None:
        while waiting.wait():
            waiting.clear()
            work_off(queue, start)

    threading.Thread(target=work, daemon=True).start()
    return waiting.set


class _RefusedError(Exception):
    """A delivery that is not acted upon: a status of HTTP, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    status = error.status if isinstance(error, _RefusedError) else 500
    # Closed, because the other end may have more to send.
    return JSONResponse({"refused": str(error)}, status, {"Connection": "close"})


async def _small_body(request: Request) -> bytes:
    """The body; where it is too large no more of it is read."""
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > _MAX_BYTES:
            raise _RefusedError(413, f"larger than {_MAX_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def _verify(body: bytes, request: Request, verifier: Webhook) -> None:
    try:
        verify(body, request.headers, verifier)
    except ValueError as error:
        raise _RefusedError(401, str(error)) from None


def _remember(queue: Path, delivery: str, version: str) -> None:
    """Write down that a delivery was received, and the version that waits, if one does."""
    path = queue / hashlib.sha256(delivery.encode()).hexdigest()
    with tempfile.NamedTemporaryFile("w", dir=queue.parent, encoding="utf-8") as file:
        file.write(version)
        file.flush()
        os.fsync(file.fileno())
        try:
            os.link(file.name, path)  # there whole or not at all, and once
        except FileExistsError:
            raise _RefusedError(409, "received before") from None


def _parsed(body: bytes) -> _Version | None:
    """The version that was created; None where the event is another."""
    try:
        content = json.loads(body)
        event = _Event.model_validate(content)
        if (event.entity, event.action) != ("model_version", "created"):
            return None
        return _Created.model_validate(content).data
    except (ValidationError, ValueError, RecursionError):
        raise _RefusedError(400, "not an event of a registry") from None
