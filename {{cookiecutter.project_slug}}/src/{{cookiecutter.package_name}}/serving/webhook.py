"""A receiver for the registry's webhooks: a new version starts its deployment check."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from standardwebhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

_HEADERS = {
    "webhook-id": "x-mlflow-delivery-id",
    "webhook-timestamp": "x-mlflow-timestamp",
    "webhook-signature": "x-mlflow-signature",
}
_MAX_BYTES = 64 * 1024


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


def receiver(secret: str, model: str, seen: Path, start: Callable[[str], None]) -> Starlette:
    """A web application that starts `start(version)` when the registry says that one was created.

    A delivery must be small, signed with the secret (Standard Webhooks: HMAC-SHA256 over id,
    timestamp and body), no older than five minutes, and not have been received before.

    Args:
        secret: Shared with the registry.
        model: Registered model to listen for; events of others are acknowledged and left alone.
        seen: Folder that remembers deliveries.
        start: Called with the number of the version; must return at once.
    """
    seen.mkdir(parents=True, exist_ok=True)

    async def receive(request: Request) -> JSONResponse:
        body = await _small_body(request)
        _verify(body, request, secret)
        created = _parsed(body)
        mark = seen / hashlib.sha256(request.headers[_HEADERS["webhook-id"]].encode()).hexdigest()
        _remember(mark)
        if created is None or created.name != model:
            return JSONResponse({"started": None}, 200)
        try:
            start(created.version)
        except OSError as error:
            mark.unlink()  # the registry tries again
            raise _RefusedError(503, f"the deployment did not start: {error.strerror}") from None
        return JSONResponse({"started": created.version}, 202)

    routes = [Route("/", receive, methods=["POST"])]
    return Starlette(routes=routes, exception_handlers={_RefusedError: _refuse})


class _RefusedError(Exception):
    """A delivery that is not acted upon: a status of HTTP, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    status = error.status if isinstance(error, _RefusedError) else 500
    return JSONResponse({"refused": str(error)}, status)


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


def _verify(body: bytes, request: Request, secret: str) -> None:
    headers = {name: request.headers.get(theirs, "") for name, theirs in _HEADERS.items()}
    try:
        Webhook(secret.encode()).verify(body, headers)
    except (WebhookVerificationError, ValueError, RecursionError) as error:
        raise _RefusedError(401, str(error)) from None


def _remember(mark: Path) -> None:
    """Write down that a delivery was received."""
    try:
        mark.touch(exist_ok=False)
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
