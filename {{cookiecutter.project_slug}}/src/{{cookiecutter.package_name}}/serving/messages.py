"""What messages of Kafka hold: types made from the problem, as for requests over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ..core.contract import Problem
from ..store import tables
from .requests import json_type, row_type

_OWN: tuple[tuple[str, Any, Any], ...] = (
    ("request_id", Annotated[str, Meta(min_length=1, max_length=200)] | None, None),
    ("requested_at", Annotated[datetime, Meta(tz=True)] | None, None),
)


def request_type(problem: Problem) -> type[msgspec.Struct]:
    """A request: the row that `serve` takes; of its own it may have an id and a time.

    Raises:
        UserError: A column of a type that has no place in JSON.
    """
    row = msgspec.structs.fields(row_type(problem))
    sent: list[tuple[str, Any]] = [(field.name, field.type) for field in row]
    return msgspec.defstruct("Request", [*_OWN, *sent], kw_only=True, forbid_unknown_fields=True)


def answer_type(problem: Problem) -> type[msgspec.Struct]:
    """An answer: a row of the inference log, and when it was asked for."""
    table = tables.inference_log(problem)
    fields: list[tuple[str, Any]] = []
    for name, declared in table.schema.items():
        kind = json_type(name, declared() if isinstance(declared, type) else declared)
        fields.append((name, kind if name in table.keys else kind | None))
    return msgspec.defstruct("Answer", [*fields, _OWN[1]], kw_only=True)
