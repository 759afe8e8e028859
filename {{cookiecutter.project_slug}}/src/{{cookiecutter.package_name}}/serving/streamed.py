"""Requests of a stream, scored with the same look-ups, code and versions as those of `serve`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
from rich.markup import escape

from ..context import Context
from ..core.console import say
from ..core.contract import KNOWN_AT, UTC_TIME, polars_schema
from ..core.failures import explain
from ..store import tables
from ..store.online import OnlineError, OnlineFeatures, TooLongAgoError
from .follower import Follower
from .pointer import VERSIONS, folder_of
from .scoring import LeftOutError, Lookup, Version, load, now_in_utc

_LEFT_OUT = "The problem does not score such a row."
_NOT_COMPUTED = "A value of the row is beyond what can be computed."
_TIMES = "_times"
_TIME = polars_schema({KNOWN_AT: UTC_TIME})[KNOWN_AT]


class Scorer:
    """The champion, the online store, and what follows both."""

    def __init__(self, context: Context, folder: Path) -> None:
        """Fill the online store and fetch the champion.

        Args:
            context: Registry, tables, problem.
            folder: For the champion's files; no other process may use it.

        Raises:
            UserError: No champion, or one that fails its test; no feature tables.
        """
        self._context = context
        self._folder = folder
        problem = context.problem
        self._keys = problem.model.keys
        self._log = polars_schema(tables.inference_log(problem).schema)
        self._features = OnlineFeatures(problem.feature_tables, context.online)
        self._follower = Follower(context, folder)
        self._fault = ""
        (folder / VERSIONS).mkdir(parents=True, exist_ok=True)
        context.publish()
        self._synced = time.monotonic()
        self._lookup = Lookup(problem, self._features)
        self._pointed = self._follower.follow().champion
        self._version = self._load()
        self._followed = time.monotonic()

    def follow(self) -> None:
        """Take new feature rows and a new champion, where it is time to look for them.

        What cannot be had is said once: the scorer goes on with what it has.
        """
        settings = self._context.settings.stream
        try:
            now = time.monotonic()
            if now - self._synced > settings.sync_seconds:
                self._synced = now
                self._context.publish()
            if now - self._followed > settings.poll_seconds:
                self._followed = now
                self._take_champion()
        except Exception as error:  # noqa: BLE001 the next time it may work
            self._tell((explain(error) or repr(error)).partition("\n")[0])
        else:
            self._tell("")

    def score(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Score requests, each alone: what cannot be scored spoils no other.

        Args:
            rows: Columns of the table of requests; each has a `request_id` of its own.

        Returns:
            Rows of the inference log, and dead letters.

        Raises:
            OnlineError: The online store cannot answer; nothing is known of any row.
        """
        without_key = pl.any_horizontal(pl.col(name).is_null() for name in self._keys)
        reason = f"A null key: {', '.join(self._keys)}."
        refused = [rows.filter(without_key).with_columns(reason=pl.lit(reason))]
        scored = [pl.DataFrame(schema=self._log)]
        for part in _apart(rows.filter(~without_key), self._keys):
            self._score(part, scored, refused)
        return pl.concat(scored), pl.concat(refused)

    def _take_champion(self) -> None:
        pointed = self._follower.follow().champion
        if pointed != self._pointed:
            self._pointed = pointed
            self._version = self._load()
            say(f"Version {pointed.number} scores from here on.")

    def _load(self) -> Version:
        number = self._pointed.number
        return load(folder_of(self._folder, number), number, self._context.problem, self._lookup)

    def _tell(self, fault: str) -> None:
        """Say what fails, and when it works again, once."""
        if fault != self._fault:
            self._fault = fault
            say(f"[yellow]stream[/]: {escape(fault) or 'works again'}")

    def _score(
        self, rows: pl.DataFrame, scored: list[pl.DataFrame], refused: list[pl.DataFrame]
    ) -> None:
        """Score rows; where that fails, halves of them, down to those that are to blame."""
        if rows.is_empty():
            return
        try:
            scored.append(self._scored(rows))
        except LeftOutError as error:
            keys = list(self._keys)
            left_out = rows.join(error.keys, on=keys, how="semi")
            refused.append(left_out.with_columns(reason=pl.lit(_LEFT_OUT)))
            self._score(rows.join(error.keys, on=keys, how="anti"), scored, refused)
        except TooLongAgoError as error:
            refused.append(rows[error.places].with_columns(reason=pl.lit(error.what)))
            is_old = pl.Series(range(rows.height)).is_in(error.places)
            self._score(rows.filter(~is_old), scored, refused)
        except OnlineError:
            raise
        except Exception:  # noqa: BLE001 of whatever a row makes a library raise
            self._score_halves(rows, scored, refused)
        except pl.exceptions.PanicException:  # no Exception
            self._score_halves(rows, scored, refused)

    def _score_halves(
        self, rows: pl.DataFrame, scored: list[pl.DataFrame], refused: list[pl.DataFrame]
    ) -> None:
        if rows.height == 1:
            refused.append(rows.with_columns(reason=pl.lit(_NOT_COMPUTED)))
            return
        half = rows.height // 2
        self._score(rows[:half], scored, refused)
        self._score(rows[half:], scored, refused)

    def _scored(self, rows: pl.DataFrame) -> pl.DataFrame:
        started = time.perf_counter()
        now = now_in_utc()
        asked = self._lookup.of(rows.with_columns(pl.lit(now, dtype=_TIME).alias(KNOWN_AT)), now)
        found = self._version.table(asked)
        milliseconds = 1000 * (time.perf_counter() - started) / rows.height
        logged = found.with_columns(
            rows["request_id"],
            model_version=pl.lit(self._version.number),
            feature_versions=pl.lit(self._features.delta_versions),
            latency_ms=pl.lit(milliseconds),
        )
        return logged.select(pl.col(name).cast(kind) for name, kind in self._log.items())


def _apart(rows: pl.DataFrame, keys: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Rows in frames that hold each entity once, in their order."""
    numbered = rows.with_columns(pl.int_range(pl.len()).over(keys).alias(_TIMES))
    while not numbered.is_empty():
        first = pl.col(_TIMES) == numbered[_TIMES].min()
        yield numbered.filter(first).drop(_TIMES)
        numbered = numbered.filter(~first)
