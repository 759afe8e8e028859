"""A stream of requests, each scored exactly once: read, score, commit with the offset, go on.

Where the stream stands is recorded by the same commit that holds what was scored, and the commit is
refused where it stands elsewhere. A consumer that is killed, or overtaken by another, has lost
nothing but the batch that it was at.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, TypeAlias

import polars as pl

from ..context import Context
from ..core.errors import UserError
from ..store.measurements import SERVING, record

SUBJECT = "stream"
ID = "request_id"
_MEASURED = {"metric": pl.String, "value": pl.Float64, "threshold": pl.Float64}


Stop = threading.Event
"""Set: the stream ends after the batch that it is at."""
Offsets: TypeAlias = Mapping[str, int]
"""How far the partitions of a source are answered, by partition; 0: nothing yet."""


@dataclass(frozen=True)
class Batch:
    """Requests, each with an id of its own, between two offsets of each partition."""

    rows: pl.DataFrame  # columns of the table of requests
    unreadable: pl.DataFrame  # what is no request, as dead letters
    since: Offsets  # before them
    until: Offsets  # behind them


@dataclass(frozen=True)
class Answers:
    """What became of a batch: each of its requests is in one of both."""

    scored: pl.DataFrame  # rows of the inference log
    refused: pl.DataFrame  # dead letters


Reached: TypeAlias = Callable[[Collection[str]], Offsets]
"""Tells until where all is answered."""


class Source(Protocol):
    """Where requests come from, in an order that is the same each time they are read."""

    def start(self, reached: Reached) -> None:
        """Begin to read, behind what is answered."""

    def read(self, rows: int) -> Batch | None:
        """The next requests, at most so many; None where none is there yet."""

    def wait(self, stop: Stop) -> None:
        """Let time pass before another look, where reading did not."""

    def is_drained(self) -> bool:
        """Whether all is read that was there when it was read last."""

    def rewind(self) -> None:
        """Go on behind what is answered, wherever that is now."""

    def between(self, since: Offsets, until: Offsets) -> Batch:
        """All requests between two offsets of each partition that is named."""

    def tidy(self) -> None:
        """See to what many small commits leave behind, now and then."""


class Scorer(Protocol):
    """What answers requests."""

    def follow(self) -> None:
        """Take a new champion and new feature rows, between two batches."""

    def score(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Rows of the inference log, and dead letters: each request is in one of both."""


class Sink(Protocol):
    """Where answers go, and what remembers the offset with them."""

    def offsets(self, partitions: Collection[str]) -> Offsets:
        """Until where all is answered and nothing is wanting."""

    def write(self, batch: Batch, answers: Answers) -> bool:
        """Commit answers and offset; False where another consumer was first."""

    def tidy(self) -> None:
        """See to what many small commits leave behind, now and then."""


@dataclass
class Streamed:
    """What a consumer has done."""

    scored: int = 0
    refused: int = 0


def consume(
    context: Context,
    source: Source,
    scorer: Scorer,
    sink: Sink,
    stop: Stop,
    *,
    once: bool,
) -> Streamed:
    """Score requests as they come, until told to stop or, `once`, until none is left.

    Raises:
        UserError: Storage or online store fail. Nothing is lost: start it again.
    """
    settings = context.settings.stream
    total = Streamed()
    meter = Meter(context)
    source.start(sink.offsets)
    while not stop.is_set():
        scorer.follow()
        batch = source.read(settings.batch_rows)
        if batch is None:
            if once and source.is_drained():
                break
            source.wait(stop)
        else:
            scored, refused = scorer.score(batch.rows)
            answers = Answers(scored, together(batch.unreadable, refused))
            if sink.write(batch, answers):
                total.scored += answers.scored.height
                total.refused += answers.refused.height
                meter.count(batch, answers)
            else:
                source.rewind()
        if meter.is_due():
            meter.record()
            source.tidy()
            sink.tidy()
    meter.record()
    return total


def each_once(requests: pl.DataFrame) -> pl.DataFrame:
    """Requests without those whose id came before."""
    return requests.unique(ID, keep="first", maintain_order=True)


def together(*letters: pl.DataFrame) -> pl.DataFrame:
    """Dead letters of several origins; what one does not know is null."""
    return pl.concat(letters, how="diagonal")


class Meter:
    """Lag, throughput and refusals, as measurements that alerts watch."""

    def __init__(
        self,
        context: Context,
        clock: Callable[[], float] = time.monotonic,
        subject: str = SUBJECT,
    ) -> None:
        """Begin a window of a stream, which is the subject."""
        self._context = context
        self._subject = subject
        self._clock = clock
        self._violated = False
        self._rows = 0
        self._refused = 0
        self._lag = 0.0
        self._begin()

    def count(self, batch: Batch, answers: Answers) -> None:
        """Add a batch whose answers are committed."""
        refused = answers.refused.height
        self.add(answers.scored.height + refused, refused, batch.rows["requested_at"].min())

    def add(self, rows: int, refused: int, earliest: object) -> None:
        """Add rows that are where they are needed, the first of which came then."""
        self._rows += rows
        self._refused += refused
        if isinstance(earliest, datetime):
            lag = (datetime.now(UTC) - earliest).total_seconds()
            self._lag = max(self._lag, lag)

    def is_due(self) -> bool:
        """Whether the window is over."""
        return self._clock() - self._started > self._context.settings.stream.measure_seconds

    def record(self) -> None:
        """Write down what was measured, if anything was, and begin another window.

        A table of measurements that cannot be written does not stop the stream.
        """
        settings = self._context.settings.stream
        if not self._rows and not self._violated:
            self._begin()
            return
        seconds = max(self._clock() - self._started, 1e-9)
        measured = (
            ("lag_seconds", self._lag, settings.max_lag_seconds),
            ("refused", self._refused / max(self._rows, 1), settings.max_refused),
            ("rows_per_second", self._rows / seconds, None),
        )
        found = pl.DataFrame(measured, schema=_MEASURED, orient="row")
        status = pl.when(pl.col("value") > pl.col("threshold")).then(pl.lit("violated"))
        judged = pl.col("threshold").is_not_null()
        rows = found.with_columns(
            metric=pl.format("{}_{}", pl.lit(self._subject), "metric"),
            status=status.when(judged).then(pl.lit("ok")),
            rows=pl.lit(self._rows),
        )
        self._violated = "violated" in rows["status"]
        _record(self._context, rows, self._subject, self._began)
        self._begin()

    def _begin(self) -> None:
        self._started = self._clock()
        self._began = datetime.now(UTC)
        self._rows = 0
        self._refused = 0
        self._lag = 0.0


def _record(context: Context, rows: pl.DataFrame, subject: str, began: datetime) -> None:
    ends = context.problem.ends or datetime.max.replace(tzinfo=UTC)
    window = (min(began, ends), min(datetime.now(UTC), ends))
    with suppress(UserError):
        record(context.lakehouse, rows, SERVING, subject, *window)
