"""What a caller sends and gets: types made from the problem, and problems as RFC 9457 has them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import msgspec
import narwhals as nw
from msgspec import Meta

from ..core.contract import PREDICTION, PREDICTION_TIME, Problem, Schema
from ..core.errors import UserError
from ..core.structs import struct

_MAX_TEXT = 1_000
_JSON: tuple[tuple[Callable[[Any], bool], Any], ...] = (
    (lambda kind: kind.is_float(), float),
    (lambda kind: kind.is_decimal(), Decimal),
    (lambda kind: kind == nw.String, Annotated[str, Meta(max_length=_MAX_TEXT)]),
    (lambda kind: kind == nw.Boolean, bool),
    (lambda kind: kind == nw.Date, date),
    (lambda kind: isinstance(kind, nw.Duration), timedelta),
)
PROBLEM_TYPES = {
    "invalid-request": "The body is not what the schema says",
    "not-scored": "A row that the problem does not score, or that cannot be computed",
    "unauthorized": "No token, or none that is known",
    "forbidden": "A token without this scope",
    "not-found": "There is no such address",
    "method-not-allowed": "The address does not take this method",
    "too-large": "The body or the number of rows is over the limit",
    "too-slow": "The body did not arrive in time",
    "too-many-requests": "More requests than the token's rate allows",
    "unavailable": "Not able to answer now; try again",
    "internal-error": "A fault of the server",
}


class RequestError(Exception):
    """A request that is not answered, and why, in words that may be shown to anybody."""

    def __init__(self, status: int, kind: str, detail: str) -> None:
        """Say which status of HTTP, which of `PROBLEM_TYPES`, and what in particular."""
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail

    def body(self, request_id: str) -> bytes:
        """The problem as JSON (RFC 9457)."""
        return msgspec.json.encode(
            {
                "type": f"/problems/{self.kind}",
                "title": PROBLEM_TYPES[self.kind],
                "status": self.status,
                "detail": self.detail,
                "request_id": request_id,
            }
        )


class FeatureAge(msgspec.Struct):
    """How old a feature row is that a prediction was made with; null: nothing was known."""

    age_seconds: float | None
    stale: bool


def row_type(problem: Problem) -> type[msgspec.Struct]:
    """A row that asks for a prediction: the prepared columns of the source that is scored.

    Raises:
        UserError: A column whose type or name has no place in JSON.
    """
    fields = json_fields(problem.scored.prepared, problem.model.keys)
    return struct("Row", fields, forbid_unknown_fields=True, frozen=True)


def body_type(row: type[msgspec.Struct], max_rows: int) -> type[msgspec.Struct]:
    """A request: one row or several."""
    rows = Annotated[list[row], Meta(min_length=1, max_length=max_rows)]  # type: ignore[valid-type]
    return msgspec.defstruct("Request", [("rows", rows)], forbid_unknown_fields=True)


def answer_type(problem: Problem) -> type[msgspec.Struct]:
    """An answer: a prediction for each row, in their order."""
    classes = problem.model.target.classes
    fields: list[tuple[str, Any]] = [
        ("request_id", str),
        (PREDICTION, str if len(classes) > 2 else float),
        (PREDICTION_TIME, datetime),
        ("model_version", str),
        ("features", dict[str, FeatureAge]),
    ]
    if classes:
        fields.append(("probabilities", dict[str, float]))
    prediction = msgspec.defstruct("Prediction", fields)
    return msgspec.defstruct("Answer", [("request_id", str), ("predictions", list[prediction])])  # type: ignore[valid-type]


def json_fields(schema: Schema, needed: Collection[str]) -> list[tuple[str, Any]]:
    """Columns as JSON has them: name and type; null is allowed unless a column is needed.

    Raises:
        UserError: A column whose type has no place in JSON.
    """
    fields: list[tuple[str, Any]] = []
    for name, declared in schema.items():
        kind = _json_type(name, declared() if isinstance(declared, type) else declared)
        fields.append((name, kind if name in needed else kind | None))
    return fields


def _json_type(name: str, kind: Any) -> Any:
    if kind.is_integer():
        return _integer(str(kind))
    for holds, python in _JSON:
        if holds(kind):
            return python
    if isinstance(kind, nw.Datetime):
        return Annotated[datetime, Meta(tz=kind.time_zone is not None)]
    message = f"Column {name} of the rows to score is {kind}, which cannot be asked for in JSON."
    raise UserError(message, "Give it a simpler type in `prepare`, or score in batches only.")


def _integer(kind: str) -> Any:
    """An integer of as many bits, with a sign or without."""
    bits = int(kind.lower().removeprefix("u").removeprefix("int"))
    if kind.startswith("U"):
        # The type itself holds no more than 64 bits; a limit may not be as large.
        return Annotated[int, Meta(ge=0)] if bits >= 64 else Annotated[int, Meta(ge=0, lt=2**bits)]
    half = 2 ** (bits - 1)
    return int if bits >= 64 else Annotated[int, Meta(ge=-half, lt=half)]


# OpenAPI ----------------------------------------------------------------------------------------


def openapi(problem: Problem, title: str, max_rows: int) -> Mapping[str, Any]:
    """The description of the interface (OpenAPI 3.1), generated from the problem."""
    body = body_type(row_type(problem), max_rows)
    answer = answer_type(problem)
    roots, schemas = msgspec.json.schema_components(
        [body, answer], ref_template="#/components/schemas/{name}"
    )
    schemas["Problem"] = {
        "type": "object",
        "description": "RFC 9457",
        "required": ["type", "title", "status", "detail", "request_id"],
        "properties": {
            "type": {"enum": [f"/problems/{kind}" for kind in PROBLEM_TYPES]},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "request_id": {"type": "string"},
        },
    }
    failures = {str(status): _problem(text) for status, text in _FAILURES.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1", "description": problem.model.card},
        "security": [{"token": []}],
        "paths": {
            "/v1/predict": {
                "post": {
                    "operationId": "predict",
                    "summary": f"Predict {problem.model.target.unit}",
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": roots[0]}},
                    },
                    "responses": {"200": _json("Predictions", roots[1]), **failures},
                }
            },
            "/v1/model": {
                "get": {
                    "operationId": "model",
                    "summary": "Which versions answer, and since when",
                    "responses": {
                        "200": _json("Versions", {"type": "object"}),
                        **{status: failures[status] for status in ("401", "403", "503")},
                    },
                }
            },
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


_FAILURES = {
    400: "Not what the schema says",
    401: "No known token",
    403: "Not allowed with this token",
    408: "The body came too slowly",
    413: "Too large",
    422: "A row that cannot be scored",
    429: "Too many requests",
    503: "Not able to answer now",
}


def _json(description: str, schema: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}
