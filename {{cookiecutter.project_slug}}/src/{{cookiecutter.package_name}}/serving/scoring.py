"""Rows that ask for a prediction, scored: the problem's spine, look-ups, `on_demand`, a version."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from ..core.contract import (
    KNOWN_AT,
    PREDICTION_TIME,
    UTC_TIME,
    Estimator,
    Problem,
    SingleRow,
    polars_schema,
)
from ..core.errors import UserError
from ..modeling import stored
from ..modeling.scores import with_scores
from ..store.online import Found, OnlineFeatures
from ..store.online.features import microseconds
from ..store.online.planned import Planned


@dataclass(frozen=True, slots=True)
class Scored:
    """A row that was scored."""

    keys: tuple[Any, ...]
    moment: datetime  # the prediction time
    inputs: tuple[Any, ...]  # the problem's features, in order
    scores: Sequence[float]  # as `target.scores`; of two classes the probability of the second
    found: Sequence[Found | None]  # by feature table
    at: int  # the moment that features were looked up for, microseconds since 1970


@dataclass(frozen=True)
class Asked:
    """Rows with what is known of their entities."""

    joined: pl.DataFrame
    found: Sequence[Sequence[Found | None]]
    moments: Sequence[int]

    def of(self, places: Sequence[int]) -> Asked:
        """Some of the rows."""
        found = [self.found[at] for at in places]
        return Asked(self.joined[places], found, [self.moments[at] for at in places])


class LeftOutError(KeyError):
    """Rows that the problem's spine leaves out; `keys` says which."""

    def __init__(self, keys: pl.DataFrame) -> None:
        """Keep their keys."""
        super().__init__()
        self.keys = keys


class Lookup:
    """From rows as they are sent to rows with features: the same for every version."""

    def __init__(self, problem: Problem, features: OnlineFeatures) -> None:
        """Plan the problem's spine."""
        self._features = features
        model = problem.model
        self._keys = model.keys
        self._asked = polars_schema({**problem.scored.prepared, KNOWN_AT: UTC_TIME})
        self._spine = Planned(
            "`spine` of the problem", lambda rows: model.spine({model.scored: rows}), self._asked
        )
        kinds = {
            name: kind for table in problem.feature_tables for name, kind in table.values.items()
        }
        self._values = polars_schema(kinds)
        self._names = tuple(tuple(table.values) for table in problem.feature_tables)
        self.schema = pl.Schema({**self._spine.schema, **self._values})

    def __call__(self, rows: Sequence[msgspec.Struct], now: datetime) -> Asked:
        """Join what was known at each row's prediction time, or now where that is to come.

        Raises:
            OnlineError: The online store cannot answer.
            LeftOutError: A row that the spine leaves out.
        """
        sent = [(*msgspec.structs.astuple(row), now) for row in rows]
        asked = [dict(zip(self._asked, values, strict=True)) for values in sent]
        return self.of(pl.DataFrame(asked, schema=self._asked), now)

    def of(self, rows: pl.DataFrame, now: datetime) -> Asked:
        """The same of a frame with the prepared columns and `known_at`."""
        spine = self._in_order(rows[self._asked.names()])
        entities = spine.rows(named=True)
        latest = microseconds(now)
        moments = [min(microseconds(row[PREDICTION_TIME]), latest) for row in entities]
        found = self._features.look_up(entities, moments)
        if not self._values:
            return Asked(spine, found, moments)
        known = pl.DataFrame([self._known(of_row) for of_row in found], schema=self._values)
        return Asked(pl.concat([spine, known], how="horizontal"), found, moments)

    def _in_order(self, asked: pl.DataFrame) -> pl.DataFrame:
        """The spine, a row for each row that was sent, in their order."""
        keys = list(self._keys)
        spine = self._spine(asked)
        wanted = asked[keys]  # `select` would plan a query
        if spine.height == asked.height and spine[keys].equals(wanted):
            return spine
        if wanted.is_duplicated().any():
            one_by_one = [self._in_order(asked[number]) for number in range(asked.height)]
            return pl.concat(one_by_one)
        ordered = wanted.join(spine, on=keys, how="inner", maintain_order="left")
        if ordered.height != asked.height:
            raise LeftOutError(wanted.join(spine, on=keys, how="anti"))
        return ordered.select(spine.columns)

    def _known(self, found: Sequence[Found | None]) -> dict[str, Any]:
        """Values of the features that are known; the frame has null for others."""
        values: dict[str, Any] = {}
        for row, names in zip(found, self._names, strict=True):
            if row is not None:
                values.update(zip(names, row.values, strict=True))
        return values


class Version:
    """A version that is ready to score."""

    def __init__(self, number: str, problem: Problem, lookup: Lookup, estimator: Estimator) -> None:
        """Plan what computes its inputs.

        Raises:
            UserError: It needs a column that the problem does not give as in its training.
        """
        self.number = number
        model = problem.model
        wanted = dict.fromkeys((*model.keys, PREDICTION_TIME, *estimator.features, *model.features))
        self._inputs = Planned(
            f"What version {number} takes",
            lambda rows: model.on_demand(rows).select(*wanted),
            lookup.schema,
        )
        self._require_texts(estimator)
        place = {name: at for at, name in enumerate(wanted)}
        self._keys = [place[name] for name in model.keys]
        self._moment = place[PREDICTION_TIME]
        self._taken = [place[name] for name in estimator.features]
        self._logged = [place[name] for name in model.features]
        self._predict = _row_by_row(estimator)
        self._estimator = estimator
        self._target = model.target

    def score(self, asked: Asked) -> list[Scored]:
        """Predictions of rows, in their order."""
        inputs = self._inputs(asked.joined)
        rows = inputs.rows()
        scores = self._predict(inputs, [[row[at] for at in self._taken] for row in rows])
        return [
            Scored(
                keys=tuple(row[at] for at in self._keys),
                moment=row[self._moment],
                inputs=tuple(row[at] for at in self._logged),
                scores=of_row,
                found=found,
                at=at_moment,
            )
            for row, of_row, found, at_moment in zip(
                rows, scores, asked.found, asked.moments, strict=True
            )
        ]

    def table(self, asked: Asked) -> pl.DataFrame:
        """Predictions of many rows: keys, prediction time, inputs and `target.said`, in order."""
        inputs = self._inputs(asked.joined)
        return with_scores(inputs, self._estimator.predict(inputs), self._target)

    def _require_texts(self, estimator: Estimator) -> None:
        schema = self._inputs.schema
        wrong = [
            name
            for name in estimator.features
            if (schema[name] == pl.String) != (name in estimator.categories)
        ]
        if wrong:
            message = f"Version {self.number} needs {', '.join(wrong)} of the type of its training."
            raise UserError(message, "Roll back, or retrain.")


def load(folder: Path, number: str, problem: Problem, lookup: Lookup) -> Version:
    """A version with its own code, which must have been checked before."""
    return Version(number, problem, lookup, stored.read(folder, f"served_{number}"))


Predict = Callable[[pl.DataFrame, Sequence[Sequence[Any]]], Sequence[Sequence[float]]]


def _row_by_row(estimator: Estimator) -> Predict:
    """Predict single rows where the estimator can, else all of them as batches are predicted."""
    if isinstance(estimator, SingleRow):
        one = estimator.predictor()
        return lambda _, rows: [one(row) for row in rows]

    def together(inputs: pl.DataFrame, rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[float]]:
        predicted: Sequence[Sequence[float]] = (
            estimator.predict(inputs).reshape(len(rows), -1).tolist()
        )
        return predicted

    return together


def now_in_utc() -> datetime:
    """The moment of the clock."""
    return datetime.now(UTC)


def ages(scored: Scored, limits: Mapping[str, float]) -> Iterator[tuple[str, float | None, bool]]:
    """By feature table: its name, seconds since its row was available, whether it is stale."""
    for (name, limit), found in zip(limits.items(), scored.found, strict=True):
        age = None if found is None else (scored.at - found.available_at) / 1e6
        yield name, age, age is not None and age > limit
