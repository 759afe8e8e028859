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
        if body is None:
            return _refused(413, f"larger than {_MAX_BYTES} bytes")
        headers = {name: request.headers.get(theirs, "") for name, theirs in _HEADERS.items()}
        try:
            Webhook(secret.encode()).verify(body, headers)
        except (WebhookVerificationError, ValueError, RecursionError) as error:
            return _refused(401, str(error))
        try:
            created = _parsed(body)
        except (ValidationError, ValueError, RecursionError):
            return _refused(400, "not an event of a registry")
        mark = seen / hashlib.sha256(headers["webhook-id"].encode()).hexdigest()
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return _refused(409, "received before")
        if created is None or created.name != model:
            return JSONResponse({"started": None}, 200)
        try:
            start(created.version)
        except OSError as error:
            mark.unlink()  # the registry tries again
            return _refused(503, f"the deployment did not start: {error.strerror}")
        return JSONResponse({"started": created.version}, 202)

    return Starlette(routes=[Route("/", receive, methods=["POST"])])


async def _small_body(request: Request) -> bytes | None:
    """The body; None where it is too large, of which no more is read."""
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > _MAX_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)


def _parsed(body: bytes) -> _Version | None:
    """The version that was created; None where the event is another.

    Raises:
        ValueError: It is no event, or one of a version that cannot be.
    """
    event = _Event.model_validate(json.loads(body))
    if (event.entity, event.action) != ("model_version", "created"):
        return None
    return _Created.model_validate(json.loads(body)).data


def _refused(status: int, why: str) -> JSONResponse:
    return JSONResponse({"refused": why}, status)
