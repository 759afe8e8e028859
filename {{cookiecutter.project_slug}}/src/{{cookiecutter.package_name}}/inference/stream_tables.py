"""The embedded stream: requests from a Delta table, answers to Delta tables, no broker.

An offset counts the commits of the table of requests and the rows of a commit. Requests are in
the order of commits, and in each by the time that they were made. The commit that adds a batch to
`inference_log` records the batch's offset and decides: what it holds is scored, the others of the
batch are refused. `predictions` and `dead_letters` follow from it, each with an offset of its own,
so that whoever finds one behind the log brings it in step before going on.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime

import polars as pl

from ..context import Context
from ..core.contract import ROW, Table
from ..core.errors import UserError
from ..store import tables
from ..store.engines import COMMIT
from ..store.tables import MEASUREMENTS
from .stream import Answers, Batch, Scorer

_ROWS_OF_COMMIT = 2**32
_MOST_COMMITS = 64  # that are read at a time
_OFFSET = "_offset"
_ID = "request_id"
_WITHOUT_REASON = "It was refused once; scored now, it would not be: send it again."


def send(context: Context, rows: Iterable[pl.DataFrame]) -> int:
    """Append requests to their table, made where it is not there; returns how many.

    Args:
        context: Tables and problem.
        rows: With the columns of the prepared table of the source that is scored.

    Raises:
        UserError: A table that cannot be written.
    """
    lakehouse = context.lakehouse
    table = tables.requests(context.problem)
    lakehouse.create_feed(table)
    sent = 0
    for given in rows:
        now = datetime.now(UTC)
        name = uuid.uuid4().hex
        asked = given.with_columns(
            pl.format("{}-{}", pl.lit(name), pl.int_range(pl.len())).alias(_ID),
            pl.lit(now, dtype=pl.Datetime("us", "UTC")).alias("requested_at"),
        )
        if ROW in table.schema and ROW not in asked.columns:
            first = int(now.timestamp() * 1_000_000)
            asked = asked.with_columns((first + pl.int_range(pl.len())).alias(ROW))
        asked = asked.select(*table.schema)
        while not lakehouse.append_if_unchanged(table, asked, lakehouse.version(table)):
            continue
        sent += asked.height
    return sent


class Requests:
    """Requests out of their table, by the feed of its changes."""

    def __init__(self, context: Context) -> None:
        """Make the table where it is not there.

        Raises:
            UserError: It cannot be made or read.
        """
        self._lakehouse = context.lakehouse
        self.table = tables.requests(context.problem)
        self._lakehouse.create_feed(self.table)
        self._identity = self._lakehouse.identity(self.table)
        self.name = f"stream:{self._identity}"
        self._held = self._none()
        self._at = -1  # offset that the held rows follow
        self._read_until = -1  # commit

    def read(self, since: int, rows: int) -> Batch | None:
        """The next requests after an offset, at most so many; None where none is there yet."""
        if since != self._at:  # at first, or where another consumer went on
            self._held = self._none()
            self._read_until = since // _ROWS_OF_COMMIT - 1
            self._at = since
        if self._held.is_empty():
            self._fetch(since, rows)
        if self._held.is_empty():
            return None
        taken, self._held = self._held[:rows], self._held[rows:]
        self._at = int(taken[_OFFSET][-1])
        return Batch(_each_once(taken), since, self._at)

    def between(self, since: int, until: int) -> pl.DataFrame:
        """All requests after one offset until another."""
        rows = self._appended(since // _ROWS_OF_COMMIT, until // _ROWS_OF_COMMIT)
        offset = pl.col(_OFFSET)
        return _each_once(rows.filter(offset > since, offset <= until))

    def _fetch(self, since: int, rows: int) -> None:
        """Read commits until there are so many rows, or no more."""
        if self._lakehouse.identity(self.table) != self._identity:
            message = f"The table {self.table.name} was made anew while it was read."
            raise UserError(message, "Start the stream again: it begins where the new one does.")
        newest = self._lakehouse.version(self.table) or 0
        commits = 1
        found: list[pl.DataFrame] = []
        while self._read_until < newest and sum(part.height for part in found) < rows:
            first = self._read_until + 1
            self._read_until = min(self._read_until + commits, newest)
            part = self._appended(first, self._read_until)
            found.append(part.filter(pl.col(_OFFSET) > since))
            commits = min(2 * commits, _MOST_COMMITS)
        self._held = pl.concat([self._none(), *found])

    def _appended(self, first: int, last: int) -> pl.DataFrame:
        """Requests of some commits in their order, with their offsets."""
        names = list(self.table.schema)
        rows = self._lakehouse.appended(self.table, first, last)
        ordered = rows.sort(COMMIT, self.table.time, *names)
        number = pl.int_range(1, pl.len() + 1).over(COMMIT)
        offset = pl.col(COMMIT) * _ROWS_OF_COMMIT + number
        own = pl.format("{}-{}-{}", pl.lit(self._identity), COMMIT, number)
        given = ordered.with_columns(offset.alias(_OFFSET), pl.col(_ID).fill_null(own))
        return given.select(*names, _OFFSET)

    def _none(self) -> pl.DataFrame:
        return self.table.empty().with_columns(pl.lit(0, dtype=pl.Int64).alias(_OFFSET))


class Answered:
    """Inference log, predictions and dead letters, with the offset that each is at."""

    def __init__(self, context: Context, source: Requests, scorer: Scorer) -> None:
        """Name the tables.

        Args:
            context: Tables and problem.
            source: Whose offsets are recorded.
            scorer: Tells why a request was refused, where nobody remembers it.
        """
        problem = context.problem
        self._lakehouse = context.lakehouse
        self._source = source
        self._scorer = scorer
        self._log = tables.inference_log(problem)
        self._predictions = tables.predictions(problem)
        self._dead_letters = tables.dead_letters(problem)

    def offset(self) -> int:
        """Until where all is answered: what lags behind the log is brought in step first."""
        done = self._done(self._log)
        predicted = self._done(self._predictions)
        refused = self._done(self._dead_letters)
        if predicted < done:
            rows = self._logged(self._source.between(predicted, done))
            self._predict(rows, predicted, done)
        if refused < done:
            asked = self._source.between(refused, done)
            logged = self._logged(asked)
            self._refuse(self._refused(asked, logged), refused, done)
        return done

    def write(self, batch: Batch, answers: Answers) -> bool:
        """Commit answers and offset; False where another consumer was first."""
        if not self._lakehouse.append_once(
            self._log, answers.scored, self._source.name, batch.until, after=batch.since
        ):
            return False
        # Where another consumer has brought these in step meanwhile, nothing is written.
        self._predict(answers.scored, batch.since, batch.until)
        self._refuse(answers.refused, batch.since, batch.until)
        return True

    def tidy(self) -> None:
        """Join the files that many small commits have left."""
        answers = (self._log, self._predictions, self._dead_letters, MEASUREMENTS)
        for table in (self._source.table, *answers):
            if self._lakehouse.owns(table.name):
                self._lakehouse.compact(table)

    def _done(self, table: Table) -> int:
        return self._lakehouse.last_batch(table, self._source.name)

    def _predict(self, logged: pl.DataFrame, since: int, until: int) -> None:
        """Give each entity and moment the prediction that was made last."""
        rows = logged.select(*self._predictions.schema)
        newest = rows.unique(self._predictions.keys, keep="last", maintain_order=True)
        writer = self._source.name
        self._lakehouse.merge_once(self._predictions, newest, writer, until, after=since)

    def _refuse(self, letters: pl.DataFrame, since: int, until: int) -> None:
        rows = letters.select(*self._dead_letters.schema)
        writer = self._source.name
        self._lakehouse.append_once(self._dead_letters, rows, writer, until, after=since)

    def _logged(self, asked: pl.DataFrame) -> pl.DataFrame:
        """What the log holds of requests, in their order."""
        ids = asked.select(_ID)
        held = self._lakehouse.scan(self._log)
        wanted = held.join(self._lakehouse.frame(ids), on=_ID, how="semi")
        found = self._lakehouse.collect(wanted)
        return ids.join(found, on=_ID, how="inner", maintain_order="left")

    def _refused(self, asked: pl.DataFrame, logged: pl.DataFrame) -> pl.DataFrame:
        """Requests that the log does not hold, with a reason."""
        missing = asked.join(logged.select(_ID), on=_ID, how="anti")
        _, letters = self._scorer.score(missing)
        why = letters.select(_ID, "reason")
        told = missing.join(why, on=_ID, how="left", maintain_order="left")
        return told.with_columns(pl.col("reason").fill_null(_WITHOUT_REASON))


def _each_once(rows: pl.DataFrame) -> pl.DataFrame:
    """Requests without those whose id came before, and without offsets."""
    return rows.drop(_OFFSET).unique(_ID, keep="first", maintain_order=True)
