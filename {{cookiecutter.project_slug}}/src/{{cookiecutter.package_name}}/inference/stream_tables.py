"""The embedded stream: requests from a Delta table, answers to Delta tables, no broker.

An offset counts the commits of the table of requests and the rows of a commit. Requests are in
the order of commits, and in each by the time that they were made. The commit that adds a batch to
`inference_log` records the batch's offset and decides: what it holds is scored, the others of the
batch are refused. `predictions` and `dead_letters` follow from it, each with an offset of its own,
so that whoever finds one behind the log brings it in step before going on.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from datetime import UTC, datetime

import polars as pl

from ..context import Context
from ..core.contract import ROW, Table
from ..core.errors import UserError
from ..store import tables
from ..store.feed import OFFSET, append_each, commit_of, with_offsets
from ..store.tables import MEASUREMENTS
from .stream import ID, Answers, Batch, Offsets, Reached, Scorer, Source, Stop, each_once, together

_MOST_COMMITS = 64  # that are read at a time
_WITHOUT_REASON = "It was refused once; scored now, it would not be: send it again."


def send(context: Context, rows: Iterable[pl.DataFrame]) -> int:
    """Append requests to their table, made where it is not there; returns how many.

    Args:
        context: Tables and problem.
        rows: With the columns of the prepared table of the source that is scored.

    Raises:
        UserError: A table that cannot be written.
    """
    table = tables.requests(context.problem)
    requests = (requests_of(given, table) for given in rows)
    return append_each(context.lakehouse, table, requests)


def requests_of(rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Rows as requests that are made now, each with an id of its own."""
    now = datetime.now(UTC)
    name = uuid.uuid4().hex
    asked = rows.with_columns(
        pl.format("{}-{}", pl.lit(name), pl.int_range(pl.len())).alias(ID),
        pl.lit(now, dtype=pl.Datetime("us", "UTC")).alias("requested_at"),
    )
    if ROW in table.schema and ROW not in asked.columns:
        first = int(now.timestamp() * 1_000_000)
        asked = asked.with_columns((first + pl.int_range(pl.len())).alias(ROW))
    return asked.select(*table.schema)


class Requests:
    """Requests out of their table, by the feed of its changes."""

    def __init__(self, context: Context) -> None:
        """Make the table where it is not there.

        Raises:
            UserError: It cannot be made or read.
        """
        self._lakehouse = context.lakehouse
        self._poll_seconds = context.settings.stream.poll_seconds
        self._unreadable = tables.dead_letters(context.problem).empty()
        self._table = tables.requests(context.problem)
        self._lakehouse.create_feed(self._table)
        self._identity = self._lakehouse.identity(self._table)
        self._name = f"stream:{self._identity}"  # the one partition
        self._held = self._none()
        self._at = 0  # offset that the held rows follow
        self._read_until = -1  # commit
        self._reached: Reached = lambda partitions: dict.fromkeys(partitions, 0)

    def start(self, reached: Reached) -> None:
        """Begin to read, behind what is answered."""
        self._reached = reached
        self.rewind()

    def rewind(self) -> None:
        """Go on behind what is answered, wherever that is now."""
        self._at = self._reached([self._name])[self._name]
        self._held = self._none()
        self._read_until = commit_of(self._at) - 1

    def read(self, rows: int) -> Batch | None:
        """The next requests, at most so many; None where none is there yet."""
        since = self._at
        if self._held.is_empty():
            self._fetch(since, rows)
        if self._held.is_empty():
            return None
        taken, self._held = self._held[:rows], self._held[rows:]
        self._at = int(taken[OFFSET][-1])
        return self._batch(taken, since, self._at)

    def wait(self, stop: Stop) -> None:
        """Let time pass before another look."""
        stop.wait(self._poll_seconds)

    def is_drained(self) -> bool:
        """All is read that was there when it was read last."""
        return True

    def between(self, since: Offsets, until: Offsets) -> Batch:
        """All requests between two offsets."""
        first, last = since[self._name], until[self._name]
        rows = self._appended(commit_of(first), commit_of(last))
        offset = pl.col(OFFSET)
        return self._batch(rows.filter(offset > first, offset <= last), first, last)

    def tidy(self) -> None:
        """Join the files that many small commits have left."""
        if self._lakehouse.owns(self._table.name):
            self._lakehouse.compact(self._table)

    def _batch(self, rows: pl.DataFrame, since: int, until: int) -> Batch:
        requests = each_once(rows.drop(OFFSET))
        return Batch(requests, self._unreadable, {self._name: since}, {self._name: until})

    def _fetch(self, since: int, rows: int) -> None:
        """Read commits until there are so many rows, or no more."""
        if self._lakehouse.identity(self._table) != self._identity:
            message = f"The table {self._table.name} was made anew while it was read."
            raise UserError(message, "Start the stream again: it begins where the new one does.")
        newest = self._lakehouse.version(self._table) or 0
        commits = 1
        found: list[pl.DataFrame] = []
        while self._read_until < newest and sum(part.height for part in found) < rows:
            first = self._read_until + 1
            self._read_until = min(self._read_until + commits, newest)
            part = self._appended(first, self._read_until)
            found.append(part.filter(pl.col(OFFSET) > since))
            commits = min(2 * commits, _MOST_COMMITS)
        self._held = pl.concat([self._none(), *found])

    def _appended(self, first: int, last: int) -> pl.DataFrame:
        """Requests of some commits in their order, with their offsets."""
        names = list(self._table.schema)
        appended = self._lakehouse.appended(self._table, first, last)
        rows = with_offsets(appended, [self._table.time, *names])
        own = pl.format("{}-{}", pl.lit(self._identity), OFFSET)
        return rows.with_columns(pl.col(ID).fill_null(own)).select(*names, OFFSET)

    def _none(self) -> pl.DataFrame:
        return self._table.empty().with_columns(pl.lit(0, dtype=pl.Int64).alias(OFFSET))


class Answered:
    """Inference log, predictions and dead letters, with the offset that each is at."""

    def __init__(self, context: Context, source: Source, scorer: Scorer) -> None:
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

    def offsets(self, partitions: Collection[str]) -> Offsets:
        """Until where all is answered: what lags behind the log is brought in step first."""
        done = self._lakehouse.last_batches(self._log, partitions)
        predicted, lagging = self._lag(self._predictions, done)
        if lagging:
            asked = self._source.between(predicted, lagging)
            self._predict(self._logged(asked.rows), predicted, lagging)
        refused, lagging = self._lag(self._dead_letters, done)
        if lagging:
            asked = self._source.between(refused, lagging)
            letters = self._refused(asked.rows, self._logged(asked.rows))
            self._refuse(together(asked.unreadable, letters), refused, lagging)
        return done

    def write(self, batch: Batch, answers: Answers) -> bool:
        """Commit answers and offsets; False where another consumer was first."""
        if not self._lakehouse.append_batches(self._log, answers.scored, batch.until, batch.since):
            return False
        # Where another consumer has brought these in step meanwhile, nothing is written.
        self._predict(answers.scored, batch.since, batch.until)
        self._refuse(answers.refused, batch.since, batch.until)
        return True

    def tidy(self) -> None:
        """Join the files that many small commits have left."""
        for table in (self._log, self._predictions, self._dead_letters, MEASUREMENTS):
            if self._lakehouse.owns(table.name):
                self._lakehouse.compact(table)

    def _lag(self, table: Table, done: Offsets) -> tuple[Offsets, Offsets]:
        """Offsets of the partitions of which a table is behind the log, and where that is."""
        reached = self._lakehouse.last_batches(table, done)
        behind = [name for name, offset in done.items() if reached[name] < offset]
        return {name: reached[name] for name in behind}, {name: done[name] for name in behind}

    def _predict(self, logged: pl.DataFrame, since: Offsets, until: Offsets) -> None:
        """Give each entity and moment the prediction that was made last."""
        rows = logged.select(*self._predictions.schema)
        newest = rows.unique(self._predictions.keys, keep="last", maintain_order=True)
        self._lakehouse.merge_batches(self._predictions, newest, until, since)

    def _refuse(self, letters: pl.DataFrame, since: Offsets, until: Offsets) -> None:
        rows = together(self._dead_letters.empty(), letters)
        declared = rows.select(*self._dead_letters.schema)
        self._lakehouse.append_batches(self._dead_letters, declared, until, since)

    def _logged(self, asked: pl.DataFrame) -> pl.DataFrame:
        """What the log holds of requests, in their order."""
        ids = asked.select(ID)
        held = self._lakehouse.scan(self._log)
        wanted = held.join(self._lakehouse.frame(ids), on=ID, how="semi")
        found = self._lakehouse.collect(wanted)
        return ids.join(found, on=ID, how="inner", maintain_order="left")

    def _refused(self, asked: pl.DataFrame, logged: pl.DataFrame) -> pl.DataFrame:
        """Requests that the log does not hold, with a reason."""
        missing = asked.join(logged.select(ID), on=ID, how="anti")
        _, letters = self._scorer.score(missing)
        why = letters.select(ID, "reason")
        told = missing.join(why, on=ID, how="left", maintain_order="left")
        return told.with_columns(pl.col("reason").fill_null(_WITHOUT_REASON))
