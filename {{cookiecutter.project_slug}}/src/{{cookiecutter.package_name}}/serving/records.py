"""A scored row as a line of the request log, and such lines as rows of the tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import narwhals as nw
import numpy as np
import polars as pl

from ..core.contract import PREDICTION, PREDICTION_TIME, Problem, Schema, Target, polars_schema
from ..core.structs import columns_of, struct
from ..store import tables
from .requests import json_fields
from .scoring import Scored

_ODD = "odd_values"  # NaN and infinities, which JSON does not have, by column
_VERSIONS = "feature_versions"
_SHADOW = "shadow"  # scored, and not given as the answer
_OPTIONAL = [
    (_ODD, dict[str, str], msgspec.field(default={})),
    (_SHADOW, bool, msgspec.field(default=False)),
]


class Records:
    """How a problem's scored rows are written down and read again."""

    def __init__(self, problem: Problem) -> None:
        """Find the columns of its log."""
        self._target = problem.model.target
        self._log = tables.inference_log(problem)
        self._predictions = tables.predictions(problem)
        self._columns: Schema = {**self._log.schema, _VERSIONS: nw.String}
        self._rows: Schema = {**self._columns, _SHADOW: nw.Boolean}
        self._names = (
            *problem.model.keys,
            PREDICTION_TIME,
            *self._target.scores,
            *([] if PREDICTION in self._target.scores else [PREDICTION]),
            *problem.model.features,
        )
        line = struct("Line", [*json_fields(self._columns, self._log.keys), *_OPTIONAL])
        self._written = columns_of(line)
        self._decoder = msgspec.json.Decoder(line)
        self._encoder = msgspec.json.Encoder()

    def line(
        self,
        scored: Scored,
        *,
        request_id: str,
        version: str,
        feature_versions: str,
        milliseconds: float,
        shadow: bool = False,
    ) -> bytes:
        """A line of the request log, with its end; of a prediction that was not given: shadow."""
        said: list[Any] = list(scored.scores)
        if PREDICTION not in self._target.scores:
            said.append(likeliest(self._target, scored.scores))
        inputs = [
            value if value is None or isinstance(value, str) else float(value)
            for value in scored.inputs
        ]
        values = (*scored.keys, scored.moment, *said, *inputs)
        record: dict[str, Any] = dict(zip(self._names, values, strict=True))
        odd = {
            name: repr(value)
            for name, value in record.items()
            if isinstance(value, float) and not math.isfinite(value)
        }
        if odd:
            record[_ODD] = odd
        if shadow:
            record[_SHADOW] = True
        record["request_id"] = request_id
        record["model_version"] = version
        record["latency_ms"] = milliseconds
        record[_VERSIONS] = feature_versions
        return self._encoder.encode(record) + b"\n"

    def rows(self, lines: Iterable[bytes]) -> tuple[pl.DataFrame, list[bytes]]:
        """Lines as rows with all columns of log and predictions; and the lines that are none."""
        rows, bad = [], []
        for line in lines:
            try:
                record = self._decoder.decode(line)
            except (msgspec.MsgspecError, RecursionError):
                bad.append(line)
                continue
            values = dict(zip(self._written, msgspec.structs.astuple(record), strict=True))
            odd = values.pop(_ODD)
            values.update({name: float(value) for name, value in odd.items()})
            rows.append(tuple(values[name] for name in self._rows))
        return pl.DataFrame(rows, schema=polars_schema(self._rows), orient="row"), bad

    def log(self, rows: pl.DataFrame, *, shadow: bool = False) -> pl.DataFrame:
        """Rows of the inference log, or of the shadow log."""
        return rows.filter(pl.col(_SHADOW) == shadow).select(self._log.schema.keys())

    def predictions(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of the predictions: of an entity and a moment the one that was given last."""
        given = rows.filter(~pl.col(_SHADOW))
        newest = given.unique(self._predictions.keys, keep="last", maintain_order=True)
        return newest.select(self._predictions.schema.keys())


def likeliest(target: Target, scores: Sequence[float]) -> str:
    """The most probable of several classes."""
    return target.classes[int(np.argmax(scores))]


def probabilities(target: Target, scores: Sequence[float]) -> Mapping[str, float]:
    """By class."""
    if len(scores) == 1:
        return dict(zip(target.classes, (1 - scores[0], scores[0]), strict=True))
    return dict(zip(target.classes, scores, strict=True))
