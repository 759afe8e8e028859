"""A receiver for the registry's webhooks: a new version starts its deployment check."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

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


def receiver(secret: str, model: str, seen: Path, start: Callable[[str], None]) -> Starlette:
    """A web application that starts `start(version)` when the registry says that a version was created.

    A delivery must be signed with the secret (Standard Webhooks: HMAC-SHA256 over id, timestamp and
    body), be no older than five minutes, and not have been received before.

    Args:
        secret: Shared with the registry.
        model: Registered model to listen for; events of others are acknowledged and left alone.
        seen: Folder that remembers deliveries.
        start: Called with the number of the version; must return at once.
    """
    seen.mkdir(parents=True, exist_ok=True)

    async def receive(request: Request) -> JSONResponse:
        headers = {name: request.headers.get(theirs, "") for name, theirs in _HEADERS.items()}
        try:
            event = Webhook(secret.encode()).verify(await request.body(), headers)
        except (WebhookVerificationError, ValueError) as error:
            return JSONResponse({"refused": str(error)}, 401)
        mark = seen / hashlib.sha256(headers["webhook-id"].encode()).hexdigest()
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return JSONResponse({"refused": "received before"}, 409)
        created = event.get("entity") == "model_version" and event.get("action") == "created"
        if not created or event["data"]["name"] != model:
            return JSONResponse({"started": None}, 200)
        try:
            start(str(event["data"]["version"]))
        except OSError:
            mark.unlink()  # the registry tries again
            raise
        return JSONResponse({"started": event["data"]["version"]}, 202)

    return Starlette(routes=[Route("/", receive, methods=["POST"])])
