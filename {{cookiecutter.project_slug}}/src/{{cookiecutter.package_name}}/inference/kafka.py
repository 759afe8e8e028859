"""What Kafka's clients have in common: how they reach it, and what its messages ask for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import msgspec
import polars as pl

from ..core.contract import UTC_TIME, Table, polars_schema
from ..core.errors import UserError
from ..core.settings import KafkaSettings
from ..core.structs import columns_of
from .stream import ID, each_once

_REQUESTED_AT = "requested_at"
_MOST_TEXT = 1_000  # of a message that cannot be read, in the reason
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def connection(settings: KafkaSettings) -> dict[str, str]:
    """What every client is made with: servers, options and secrets.

    Raises:
        UserError: No servers, or a secret that is not there.
    """
    if settings.servers is None:
        raise UserError("`kafka.servers` is not set.", "Name the brokers in conf/.")
    secrets = {}
    for name, variable in settings.secrets.items():
        if variable not in os.environ:
            message = (
                f"`kafka.secrets` names the environment variable {variable}, which is not set."
            )
            raise UserError(message, f"Set it to the value of {name}.")
        secrets[name] = os.environ[variable]
    return {"bootstrap.servers": settings.servers, **settings.options, **secrets}


class Message(Protocol):
    """A message as a client gives it."""

    def topic(self) -> str:
        """Where it is."""

    def partition(self) -> int:
        """Where it is in the topic."""

    def offset(self) -> int:
        """Where it is in the partition."""

    def value(self) -> bytes | None:
        """What was sent."""

    def timestamp(self) -> tuple[int, int]:
        """A kind, and the milliseconds since 1970."""


class Read(NamedTuple):
    """What messages ask for; each is a request or a dead letter."""

    rows: pl.DataFrame  # requests, each once
    unreadable: pl.DataFrame  # dead letters: what is no request
    sent: Mapping[str, Any]  # the message of each, by `request_id`


class Reader:
    """Reads messages as requests, and as dead letters where they are none."""

    def __init__(self, kind: type[msgspec.Struct], table: Table, letters: Table) -> None:
        """Know what is asked for.

        Args:
            kind: What a message holds, as JSON.
            table: Whose columns are those of `kind`.
            letters: Table of dead letters.
        """
        self._decoder = msgspec.json.Decoder(kind)
        columns = {**table.schema, _REQUESTED_AT: UTC_TIME}
        self._schema = polars_schema({name: columns[name] for name in columns_of(kind)})
        self._letters = polars_schema(letters.schema)

    def read(self, messages: Sequence[Message]) -> Read:
        """Messages in their order."""
        sent: dict[str, Message] = {}
        requests: list[msgspec.Struct] = []
        letters: list[dict[str, Any]] = []
        for message in messages:
            try:
                request = self._request(message)
            except _UNREADABLE as error:
                letters.append(_letter(message, str(error), sent))
            else:
                sent.setdefault(request.request_id, message)
                requests.append(request)
        rows = self._frame(requests, letters, sent)
        return Read(each_once(rows), pl.DataFrame(letters, schema=self._letters), sent)

    def _request(self, message: Message) -> Any:
        """What a message asks for, with an id and a time."""
        request: Any = self._decoder.decode(message.value() or b"")
        if request.request_id is None:
            request.request_id = place_of(message)
        if request.requested_at is None:
            request.requested_at = _time_of(message)
        return request

    def _frame(
        self, requests: Sequence[Any], letters: list[dict[str, Any]], sent: dict[str, Message]
    ) -> pl.DataFrame:
        """Requests as rows; one with a value that no column holds becomes a dead letter."""
        values = [msgspec.structs.astuple(request) for request in requests]
        try:
            return pl.DataFrame(values, schema=self._schema, orient="row")
        except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001 as polars likes
            if len(requests) == 1:
                reason = str(error).partition("\n")[0]
                letters.append(_letter(sent[requests[0].request_id], reason, sent))
                return pl.DataFrame(schema=self._schema)
        half = len(requests) // 2
        parts = (requests[:half], requests[half:])
        return pl.concat([self._frame(part, letters, sent) for part in parts])


def place_of(message: Message) -> str:
    """Where a message is; a request that has no id of its own is called so."""
    return f"{message.topic()}-{message.partition()}-{message.offset()}"


def _letter(message: Message, why: str, sent: dict[str, Message]) -> dict[str, Any]:
    """A message that is no request, as a dead letter of its own."""
    name = place_of(message)
    sent[name] = message
    text = (message.value() or b"").decode(errors="replace")
    reason = f"Not a request: {why}. Message: {text[:_MOST_TEXT]}"
    return {ID: name, _REQUESTED_AT: _time_of(message), "reason": reason}


def _time_of(message: Message) -> datetime:
    return datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC)
