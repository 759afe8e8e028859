"""Rows of feature tables by entity, and the newest of them that was known at a moment.

A value holds the rows of one entity in one table: those of the last hours, and one before them. So
a moment that has just passed finds what was known then, as the point-in-time join does, and never
what came later. When each row became available stands before the rows: one of them is found by
bisection, however many there are.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from typing import Any, Final

import msgspec
import narwhals as nw

from ...core.contract import FeatureTable, Schema
from .base import Backend, OnlineError, TooLongAgoError

STATE = b"\0state"
_LAYOUT = f"moments, ends, rows; {sys.byteorder}-endian"
_NUMBER: Final = "q"  # 64 bits with a sign, in the machine's byte order
_BYTES = 8
_LONGEST_KEY = 400  # bytes; LMDB takes 511
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ENCODER = msgspec.msgpack.Encoder()
_TYPES: tuple[tuple[Callable[[Any], bool], type], ...] = (
    (lambda kind: kind.is_integer(), int),
    (lambda kind: kind.is_float(), float),
    (lambda kind: kind.is_decimal(), Decimal),
    (lambda kind: kind == nw.String, str),
    (lambda kind: kind == nw.Boolean, bool),
    (lambda kind: kind == nw.Date, date),
    (lambda kind: isinstance(kind, nw.Datetime) and kind.time_unit != "ns", datetime),
    (lambda kind: isinstance(kind, nw.Duration) and kind.time_unit != "ns", timedelta),
)

Entry = tuple[int, bytes]
"""When a row became available, and the row."""


class Published(msgspec.Struct, frozen=True):
    """What the store holds of a feature table; moments in microseconds since 1970, UTC."""

    delta_version: int
    complete_until: int
    since: int  # how far back it answers
    schema: str  # digest of keys, values and how both are written


@dataclass(frozen=True, slots=True)
class Found:
    """What was known of an entity: a feature row, and when it became available."""

    available_at: int
    values: tuple[Any, ...]


NOT_PUBLISHED = Published(-1, 0, 0, "")


class Codec:
    """How keys and rows of a feature table are written."""

    def __init__(self, table: FeatureTable) -> None:
        """Find the types of its columns.

        Raises:
            OnlineError: A column of a type that cannot be looked up bit for bit.
        """
        self.table = table
        self.keys = tuple(table.keys)
        self.values = tuple(table.values)
        self.schema = _digest(table)
        self.prefix = table.name.encode() + b"\0"
        _types(table, table.keys)
        row = tuple(kind | None for kind in _types(table, table.values))
        self._decoder = msgspec.msgpack.Decoder(tuple[row])  # type: ignore[valid-type]

    def key(self, values: Sequence[Any]) -> bytes:
        """Where an entity's rows are."""
        written = _ENCODER.encode(values)
        if len(written) > _LONGEST_KEY:
            written = b"\xc1" + hashlib.sha256(written).digest()
        return self.prefix + written

    def row(self, values: Sequence[Any]) -> bytes:
        """A row as it is kept."""
        return _ENCODER.encode(values)

    def find(self, held: bytes, moment: int) -> Found | None:
        """The newest of an entity's rows that was available at a moment."""
        moments, ends, rows = _parts(held)
        place = bisect_right(moments, moment) - 1
        if place < 0:
            return None
        row = rows[ends[place - 1] if place else 0 : ends[place]]
        return Found(moments[place], self._decoder.decode(row))


class OnlineFeatures:
    """Feature rows of entities, out of the online store."""

    def __init__(self, tables: Sequence[FeatureTable], backend: Backend) -> None:
        """Name the tables; their order is that of the answers."""
        self.codecs = tuple(map(Codec, tables))
        self._backend = backend
        self._state = b""
        self._published: Mapping[str, Published] = {}
        self.delta_versions = "{}"  # of the tables behind the newest look-up, as JSON

    def published(self) -> Mapping[str, Published]:
        """What the store holds now, by table.

        Raises:
            OnlineError: Nothing yet, or rows of another declaration than this one.
        """
        return self._checked(self._backend.read([STATE])[0])

    def look_up(
        self, rows: Sequence[Mapping[str, Any]], moments: Sequence[int]
    ) -> list[list[Found | None]]:
        """What was known of rows at their moments: all of it read at one point of an update.

        Args:
            rows: Entity columns; one with a null key finds nothing, as in the join.
            moments: By row, microseconds since 1970, UTC.

        Returns:
            By row, then by table: None where nothing was known.

        Raises:
            OnlineError: As `published`; also a moment longer ago than the store goes back.
        """
        places: list[bytes] = [STATE]
        numbers: list[list[int]] = []
        for row in rows:
            of_row = []
            for codec in self.codecs:
                key = [row[name] for name in codec.keys]
                known = None not in key
                of_row.append(len(places) if known else -1)
                if known:
                    places.append(codec.key(key))
            numbers.append(of_row)
        held = self._backend.read(places)
        published = self._checked(held[0])
        self._require_recent(published, moments)
        answers = []
        for of_row, moment in zip(numbers, moments, strict=True):
            answer: list[Found | None] = []
            for codec, number in zip(self.codecs, of_row, strict=True):
                value = held[number] if number > 0 else None
                answer.append(None if value is None else codec.find(value, moment))
            answers.append(answer)
        return answers

    def _checked(self, state: bytes | None) -> Mapping[str, Published]:
        if state is not None and state == self._state:
            return self._published
        published = read_state(state)
        for codec in self.codecs:
            found = published.get(codec.table.name, NOT_PUBLISHED)
            if found.schema != codec.schema:
                what = "is not there yet" if found is NOT_PUBLISHED else "has other columns"
                message = f"Table {codec.table.name} {what} in the online store."
                raise OnlineError(message, "Run `features`, or `sync` where they are built.")
        self._state, self._published = state or b"", published
        versions = {f"features_{name}": item.delta_version for name, item in published.items()}
        self.delta_versions = msgspec.json.encode(versions, order="sorted").decode()
        return published

    def _require_recent(self, published: Mapping[str, Published], moments: Sequence[int]) -> None:
        if not self.codecs or not moments:
            return
        since = max(published[codec.table.name].since for codec in self.codecs)
        places = [place for place, moment in enumerate(moments) if moment < since]
        if places:
            message = f"The online store goes back to {moment_of(since):%Y-%m-%d %H:%M} (UTC)."
            remedy = "Score older rows with `predict`, or raise `online.history_hours`."
            raise TooLongAgoError(message, remedy, places)


def pack(entries: Sequence[Entry]) -> bytes:
    """Rows of an entity, oldest first, as one value."""
    moments = array(_NUMBER, (available for available, _ in entries))
    ends = array(_NUMBER, accumulate(len(row) for _, row in entries))
    count = array(_NUMBER, [len(entries)])
    return b"".join((count, moments, ends, *(row for _, row in entries)))


def unpack(value: bytes) -> Iterator[Entry]:
    """What was packed."""
    moments, ends, rows = _parts(value)
    start = 0
    for available, end in zip(moments, ends, strict=True):
        yield available, bytes(rows[start:end])
        start = end


def _parts(value: bytes) -> tuple[memoryview[int], memoryview[int], memoryview]:
    """When each row became available, where it ends among the rows, and the rows."""
    view = memoryview(value)
    numbers = 1 + 2 * view[:_BYTES].cast(_NUMBER)[0]
    head = view[: numbers * _BYTES].cast(_NUMBER)
    return head[1 : 1 + numbers // 2], head[1 + numbers // 2 :], view[numbers * _BYTES :]


def read_state(state: bytes | None) -> dict[str, Published]:
    """What the store says that it holds, by table."""
    return {} if state is None else msgspec.json.decode(state, type=dict[str, Published])


def microseconds(moment: datetime) -> int:
    """Since 1970, UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def moment_of(since_1970: int) -> datetime:
    """The moment so many microseconds after 1970 began, UTC."""
    return _EPOCH + since_1970 * _MICROSECOND


def _types(table: FeatureTable, schema: Schema) -> list[type]:
    found = []
    for name, declared in schema.items():
        kind = declared() if isinstance(declared, type) else declared
        python = next((python for holds, python in _TYPES if holds(kind)), None)
        if python is None:
            message = f"Feature table {table.name}: {name} is {kind}, which is not served online."
            raise OnlineError(message, "Declare it as a number, text, Boolean, date or time (us).")
        found.append(python)
    return found


def _digest(table: FeatureTable) -> str:
    columns = [(name, str(kind)) for name, kind in (*table.keys.items(), *table.values.items())]
    return hashlib.sha256(repr((list(table.keys), columns, _LAYOUT)).encode()).hexdigest()
