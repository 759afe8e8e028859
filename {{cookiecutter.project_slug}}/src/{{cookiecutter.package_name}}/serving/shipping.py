"""From the request log on the disk to the tables: each line exactly once.

What goes together is written down first (`batch.json`): a number and the segments. Then the rows go
to the inference log in one Delta commit that records the number. Killed before the commit, the same
batch is shipped again; killed after it, the number says that it is there.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from ..context import Context
from ..store import tables
from .journal import SUFFIX, is_complete
from .records import Records

BAD = "bad"
_BATCH = "batch.json"
_WRITER = "writer"
_MAX_BYTES = 64 * 2**20


class _Batch(msgspec.Struct):
    number: int
    segments: list[str]


def ship(context: Context, folder: Path) -> int:
    """Ship all complete segments; returns the rows that are new in the inference log.

    Lines that are no rows go to a file in `bad/`, and are not tried again.

    Raises:
        UserError: A table cannot be written; the segments stay.
    """
    shipped = 0
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        writer = f"requests:{_writer(folder)}"
        while batch := _next_batch(context, folder, writer):
            shipped += _ship_batch(context, folder, writer, batch)
    return shipped


def _ship_batch(context: Context, folder: Path, writer: str, batch: _Batch) -> int:
    lakehouse, problem = context.lakehouse, context.problem
    log = tables.inference_log(problem)
    count = 0
    if lakehouse.last_batch(log, writer) < batch.number:
        records = Records(problem)
        rows, bad = records.rows(_lines(folder, batch))
        if bad:
            (folder / BAD).mkdir(exist_ok=True)
            _replace(folder / BAD / f"{batch.number}{SUFFIX}", b"\n".join(bad) + b"\n")
        if not rows.is_empty():
            # The inference log comes last: its number says that all of the batch is there.
            lakehouse.merge(tables.predictions(problem), records.predictions(rows))
            shadow = records.log(rows, shadow=True)
            if not shadow.is_empty():
                lakehouse.append_once(tables.shadow_log(problem), shadow, writer, batch.number)
            lakehouse.append_once(log, records.log(rows), writer, batch.number)
            count = rows.height
    for name in batch.segments:
        (folder / name).unlink(missing_ok=True)
    (folder / _BATCH).unlink()
    return count


def _next_batch(context: Context, folder: Path, writer: str) -> _Batch | None:
    """The batch that was begun, or the next one; None where nothing waits."""
    with suppress(FileNotFoundError):
        return msgspec.json.decode((folder / _BATCH).read_bytes(), type=_Batch)
    segments = []
    size = 0
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if size < _MAX_BYTES and is_complete(path):
            segments.append(path.name)
            size += path.stat().st_size
    if not segments:
        return None
    number = context.lakehouse.last_batch(tables.inference_log(context.problem), writer) + 1
    batch = _Batch(number, segments)
    _replace(folder / _BATCH, msgspec.json.encode(batch))
    return batch


def _lines(folder: Path, batch: _Batch) -> Iterator[bytes]:
    """Lines of a batch without their ends; one that has no end was not answered for."""
    for name in batch.segments:
        *lines, _ = (folder / name).read_bytes().split(b"\n")
        yield from lines


def _writer(folder: Path) -> str:
    """The name under which this folder's batches are numbered, for good."""
    path = folder / _WRITER
    if not path.exists():
        _replace(path, uuid.uuid4().hex.encode())
    return path.read_text(encoding="ascii")


def _replace(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, after a loss of power, too."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One shipper at a time; another waits."""
    with (folder / "shipper.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
