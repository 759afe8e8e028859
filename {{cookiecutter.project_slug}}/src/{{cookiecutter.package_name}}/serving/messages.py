"""What messages of Kafka hold: types made from the problem, as for requests over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ..core.contract import Problem
from ..core.structs import struct
from ..store import tables
from .requests import json_fields, row_type

_OWN: tuple[tuple[str, Any, Any], ...] = (
    ("request_id", Annotated[str, Meta(min_length=1, max_length=200)] | None, None),
    ("requested_at", Annotated[datetime, Meta(tz=True)] | None, None),
)


def request_type(problem: Problem) -> type[msgspec.Struct]:
    """A request: the row that `serve` takes; of its own it may have an id and a time.

    Raises:
        UserError: A column whose type or name has no place in JSON.
    """
    row = msgspec.structs.fields(row_type(problem))
    sent: list[tuple[str, Any]] = [(field.encode_name, field.type) for field in row]
    return struct("Request", [*_OWN, *sent], kw_only=True, forbid_unknown_fields=True)


def answer_type(problem: Problem) -> type[msgspec.Struct]:
    """An answer: a row of the inference log, and when it was asked for."""
    table = tables.inference_log(problem)
    fields = json_fields(table.schema, table.keys)
    return struct("Answer", [*fields, _OWN[1]], kw_only=True)
