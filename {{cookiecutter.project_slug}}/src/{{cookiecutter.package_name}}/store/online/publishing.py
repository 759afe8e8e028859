"""Feature tables to the online store: what their newest Delta commits added, or all of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import msgspec
import narwhals as nw

from ...core.contract import AVAILABLE_AT, FeatureTable, Frame
from ...core.errors import UserError
from .. import tables
from ..point_in_time import newest_in_parts
from .base import Backend, OvertakenError, Writing
from .features import (
    NOT_PUBLISHED,
    STATE,
    Codec,
    Entry,
    Published,
    microseconds,
    moment_of,
    pack,
    read_state,
    unpack,
)

if TYPE_CHECKING:
    from ..lakehouse import Lakehouse

_ROWS = 50_000
_ATTEMPTS = 5  # where several servers share a store, each brings it in step


def publish(
    lakehouse: Lakehouse,
    declared: Sequence[FeatureTable],
    backend: Backend,
    history: timedelta,
    at_most: int,
) -> dict[str, int]:
    """Bring the online store in step with the feature tables, in one update.

    Where a table only grew, the new rows are added; where rows were rewritten, declared anew or
    lost, the table is filled again.

    Args:
        lakehouse: Holds the feature tables.
        declared: Which; one that was never built is left out.
        backend: Holds the online store.
        history: How far back before the newest build the store is to answer.
        at_most: Rows of the past among which the newest of each entity is looked for at a time.

    Returns:
        Rows written, by table; without those that were in step.

    Raises:
        UserError: A table that is gone or cannot be read, or a store that cannot be written.
    """
    for _ in range(1, _ATTEMPTS):
        with suppress(OvertakenError):
            return _publish(lakehouse, declared, backend, history, at_most)
    return _publish(lakehouse, declared, backend, history, at_most)


def _publish(
    lakehouse: Lakehouse,
    declared: Sequence[FeatureTable],
    backend: Backend,
    history: timedelta,
    at_most: int,
) -> dict[str, int]:
    written = {}
    with backend.writing() as writing:
        before = read_state(writing.get(STATE))
        after = {}
        for table in declared:
            held = before.get(table.name, NOT_PUBLISHED)
            found = _now(lakehouse, table, held, history)
            if found is None:
                _require_unpublished(table, before)
                continue
            after[table.name] = found
            if found.delta_version != held.delta_version or found.schema != held.schema:
                written[table.name] = _update(lakehouse, table, held, found, writing, at_most)
        for name in set(before) - set(after):
            writing.clear(name.encode() + b"\0")
        if before != after:
            writing.put(STATE, msgspec.json.encode(after))
    return written


def _require_unpublished(table: FeatureTable, before: Mapping[str, Published]) -> None:
    """Refuse to forget a table that was there: storage may be out of reach, and look empty."""
    if table.name in before:
        message = f"The feature table {table.name} is gone, from which the online store was filled."
        raise UserError(message, "Make it reachable, restore it, or build it again: `features`.")


def _now(
    lakehouse: Lakehouse, table: FeatureTable, held: Published, history: timedelta
) -> Published | None:
    """What the store should say that it holds of a table; None where it was never built."""
    target = tables.features(table)
    # Asked for first: of a commit in between the rows are there and not yet promised.
    until = lakehouse.complete_until(target)
    version = lakehouse.version(target)
    if until is None or version is None:
        return None
    since = microseconds(until - history)
    if version == held.delta_version:
        since = held.since
    return Published(version, microseconds(until), since, Codec(table).schema)


def _update(
    lakehouse: Lakehouse,
    table: FeatureTable,
    held: Published,
    found: Published,
    writing: Writing,
    at_most: int,
) -> int:
    """Write what changed of a table; returns the rows."""
    target = tables.features(table)
    codec = Codec(table)
    rows = lakehouse.scan(target, found.delta_version)
    available = nw.col(AVAILABLE_AT)
    done = moment_of(held.complete_until)
    grew = (
        held.schema == found.schema
        and held.since <= found.since
        and lakehouse.only_grew(target, held.delta_version, done)
    )
    if grew:
        rows = rows.filter(available > done)
    else:
        writing.clear(codec.prefix)
    floor = moment_of(found.since)
    recent = rows.filter(available > floor)
    old = rows.filter(available <= floor)
    count = 0
    with newest_in_parts(lakehouse, old, codec.keys, at_most) as newest:
        changed = nw.concat([recent, newest], how="vertical")
        for key, entries in _by_entity(lakehouse, changed, codec):
            kept = writing.get(key) if grew else None
            earlier = unpack(kept) if kept else iter(())
            writing.put(key, pack(_recent([*earlier, *entries], found.since)))
            count += len(entries)
    return count


def _recent(in_order: Sequence[Entry], since: int) -> Sequence[Entry]:
    """Entries since a moment, and the one before it."""
    later = bisect_right(in_order, since, key=itemgetter(0))
    return in_order[max(later - 1, 0) :]


def _by_entity(
    lakehouse: Lakehouse, rows: Frame, codec: Codec
) -> Iterator[tuple[bytes, list[Entry]]]:
    """Rows of each entity in the order of time."""
    number = len(codec.keys)
    ordered = rows.select(*codec.keys, AVAILABLE_AT, *codec.values)
    ordered = ordered.sort(*codec.keys, AVAILABLE_AT)
    every = (row for batch in lakehouse.batches(ordered, _ROWS) for row in batch.iter_rows())
    for key, group in groupby(every, lambda row: row[:number]):
        entries: list[Entry] = [
            (microseconds(row[number]), codec.row(row[number + 1 :])) for row in group
        ]
        yield codec.key(key), entries
