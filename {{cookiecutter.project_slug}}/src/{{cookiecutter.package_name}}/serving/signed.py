"""Deliveries of the registry's webhooks, which it signs (Standard Webhooks)."""

from __future__ import annotations

from collections.abc import Mapping

from standardwebhooks import Webhook, WebhookVerificationError

HEADERS = {
    "webhook-id": "x-mlflow-delivery-id",
    "webhook-timestamp": "x-mlflow-timestamp",
    "webhook-signature": "x-mlflow-signature",
}


def verify(body: bytes, headers: Mapping[str, str], verifier: Webhook) -> None:
    """Require the signature over id, timestamp and body, no older than five minutes.

    Raises:
        ValueError: It is missing, wrong or too old.
    """
    named = {name: headers.get(theirs, "") for name, theirs in HEADERS.items()}
    try:
        verifier.verify(body, named, json_parse=False)
    except WebhookVerificationError as error:
        raise ValueError(str(error)) from None
