"""The champion follows the registry: its files are checked, tried and placed, then pointed to."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import narwhals as nw
import polars as pl

from ..context import Context
from ..core.contract import PREDICTION_TIME, Estimator
from ..core.errors import UserError
from ..modeling import stored
from ..store.measurements import SERVING, record
from ..store.online import OnlineFeatures
from ..store.online.features import moment_of
from ..store.point_in_time import available, prepared, spine_of, with_features
from ..tracking.registry import CHALLENGER, CHAMPION
from ..tracking.stages import EditedError, require_untouched
from .pointer import (
    VERSIONS,
    Pointed,
    Pointer,
    digest_of,
    folder_of,
    read_pointer,
    write_pointer,
)
from .requests import row_type
from .scoring import Lookup, Version, now_in_utc

_TRIED_ROWS = 50
_LEAD = 0.5  # seconds that workers have to load a version before it answers
_TAKEN = "version_taken"


class Follower:
    """Points the workers to the versions that the registry names."""

    def __init__(self, context: Context, folder: Path) -> None:
        """Nothing is asked for yet.

        Args:
            context: Registry, tables, problem.
            folder: Of the server.
        """
        self._context = context
        self._folder = folder
        self._refused: dict[str, str] = {}
        self._placed: dict[str, Pointed] = {}  # tried by this process
        self._named: tuple[str | None, str | None] | None = None  # borne out by the log

    def follow(self) -> Pointer:
        """Look at the registry, and point to what it names where that changed.

        A version that fails its test is not taken, nor one that the registry names and the log of
        transitions does not: the others go on, and a measurement says so, which alerts.

        Raises:
            UserError: The registry does not answer, or there is no version that can be taken.
        """
        share = self._context.settings.serving.challenger_share
        old = read_pointer(self._folder)
        try:
            promoted, examined = self._names()
        except EditedError as error:
            if old is None:
                raise
            self._refuse(error.version, error.what)
            return old
        champion = self._taken(promoted, old.champion if old else None)
        if champion is None:
            remedy = "Promote one: `deploy`, then `approve` where a person decides."
            raise UserError("There is no champion yet.", remedy)
        examined = None if examined == champion.number else examined
        challenger = self._taken(examined, None) if share else None
        if old and (old.champion, old.challenger) == (champion, challenger):
            self._taken(examined, None)  # ahead of its promotion, which then takes no time
            return old
        pointer = Pointer(champion, challenger, time.time() + (_LEAD if old else 0.0))
        write_pointer(self._folder, pointer)
        self._forget_all_but(pointer, old, examined)
        return pointer

    def _names(self) -> tuple[str | None, str | None]:
        """Champion and challenger as the registry names them, and the log of transitions, too.

        What was refused before is tried again once others are named.

        Raises:
            EditedError: The registry was changed by hand.
        """
        registry = self._context.registry
        aliases = registry.aliases()
        named = (aliases.get(CHAMPION), aliases.get(CHALLENGER))
        if named != self._named:
            require_untouched(self._context.lakehouse, registry)
            self._named = named
            self._refused.clear()
        return named

    def _refuse(self, number: str, why: str) -> None:
        """Tell once why a version is not taken."""
        if self._refused.get(number) != why:
            self._refused[number] = why
            self._tell(number, why)

    def _taken(self, number: str | None, instead: Pointed | None) -> Pointed | None:
        """A version with its files in place; where it fails, the one that answers now."""
        if number is None:
            return instead
        if instead and instead.number == number:
            return instead
        if number in self._placed:
            return self._placed[number]
        if number in self._refused:
            return self._or_refuse(number, instead)
        try:
            placed = self._place(number)
        except UserError as error:
            self._refuse(number, error.what)
            return self._or_refuse(number, instead)
        self._placed[number] = placed
        self._tell(number, "")
        return placed

    def _or_refuse(self, number: str, instead: Pointed | None) -> Pointed | None:
        if instead is None and self._named and number == self._named[0]:
            remedy = "Roll back, or promote another version."
            raise UserError(f"Version {number} cannot answer: {self._refused[number]}", remedy)
        return instead

    def _place(self, number: str) -> Pointed:
        """Fetch a version's estimator, whose digest the registry checks, and try it.

        Raises:
            UserError: Its files are lost or changed, or it fails the test.
        """
        folder = folder_of(self._folder, number)
        if not folder.exists():
            partial = folder.with_name(f".{number}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(
                self._context.registry.download(number) / "artifacts/estimator", partial
            )
            partial.replace(folder)
        try:
            estimator = stored.read(folder, f"tried_{number}")
            try_version(self._context, number, estimator)
        except UserError:
            shutil.rmtree(folder)
            raise
        except Exception as error:  # noqa: BLE001 of whatever the version's code raises
            shutil.rmtree(folder)
            message = f"Version {number} fails its test: {type(error).__name__}: {error}"
            raise UserError(message, "Roll back, or retrain.") from None
        return Pointed(number, digest_of(folder))

    def _tell(self, number: str, why: str) -> None:
        """Record whether a version was taken; monitoring alerts on it."""
        now = datetime.now(UTC)
        moment = min(now, self._context.problem.ends or now)
        status = "violated" if why else "ok"
        row = {"metric": _TAKEN, "value": 0.0 if why else 1.0, "threshold": 1.0, "status": status}
        subject, rows = f"version {number}", pl.DataFrame([row])
        record(self._context.lakehouse, rows, SERVING, subject, moment, moment)

    def _forget_all_but(self, pointer: Pointer, old: Pointer | None, next_one: str | None) -> None:
        """Remove versions that neither this pointer nor the last one names, nor come next."""
        kept = {
            pointed.number
            for known in (pointer, old)
            if known
            for pointed in (known.champion, known.challenger)
            if pointed
        }
        for path in (self._folder / VERSIONS).iterdir():
            if path.name not in kept | {next_one}:
                self._placed.pop(path.name, None)
                shutil.rmtree(path)


def try_version(context: Context, number: str, estimator: Estimator) -> None:
    """Score the newest rows online and in a batch: both must give the same, to the bit.

    Raises:
        UserError: They do not.
    """
    problem = context.problem
    features = OnlineFeatures(problem.feature_tables, context.online)
    lookup = Lookup(problem, features)
    version = Version(number, problem, lookup, estimator)
    published = features.published()
    if not published:
        return
    until = moment_of(min(item.complete_until for item in published.values()))
    since = moment_of(max(item.since for item in published.values()))
    known = prepared(context.lakehouse, problem, until, {})
    time_of = nw.col(PREDICTION_TIME)
    spine = spine_of(problem, known).filter(time_of > since, time_of <= until)
    newest = spine.sort(PREDICTION_TIME, *problem.model.keys, descending=True).head(_TRIED_ROWS)
    asked = context.lakehouse.collect(newest)
    if asked.is_empty():
        return
    versions = {f"features_{name}": item.delta_version for name, item in published.items()}
    frame = context.lakehouse.frame(asked)
    offline = available(context.lakehouse, problem, until, versions)
    joined = with_features(context.lakehouse, problem, frame, offline)
    kept = dict.fromkeys((*problem.model.keys, *estimator.features))
    inputs = context.lakehouse.collect(joined.select(*kept))
    expected = estimator.predict(inputs).reshape(inputs.height, -1).tolist()
    keys = list(problem.model.keys)
    wanted = context.lakehouse.frame(inputs.select(keys))
    of_source = known[problem.model.scored].join(wanted, on=keys, how="semi")
    sent = context.lakehouse.collect(of_source)
    row = row_type(problem)
    by_key = {
        tuple(values[name] for name in keys): row(
            *(values[name] for name in problem.scored.prepared)
        )
        for values in sent.iter_rows(named=True)
    }
    rows = [by_key[key] for key in inputs.select(keys).iter_rows()]
    scored = version.score(lookup(rows, now_in_utc()))
    if [list(item.scores) for item in scored] != expected:
        message = f"Version {number} does not score online as it does in batches."
        raise UserError(message, "See whether `sync` brings the online store in step.")
