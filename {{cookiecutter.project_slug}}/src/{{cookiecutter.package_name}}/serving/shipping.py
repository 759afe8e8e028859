"""From the request log on the disk to the tables: each line exactly once.

What goes together is written down first (`batch.json`): a number and the segments. Then the rows go
to the inference log in one Delta commit that records the number. Killed before the commit, the same
batch is shipped again; killed after it, the number says that it is there. Numbers are counted here:
a table that is out of reach may look like one that was never made.
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
from ..core.errors import UserError
from ..store import tables
from .journal import SUFFIX, is_complete
from .records import Records

BAD = "bad"
_BATCH = "batch.json"
_MAX_BYTES = 64 * 2**20


class _Batch(msgspec.Struct):
    """What this folder has shipped, and the segments of the batch that comes next."""

    writer: str  # under which its batches are numbered
    shipped: int  # number of the newest batch that is in the tables; 0: none
    segments: list[str]

    @property
    def number(self) -> int:
        return self.shipped + 1


def ship(context: Context, folder: Path) -> int:
    """Ship all complete segments; returns the rows that are new in the inference log.

    Lines that are no rows go to a file in `bad/`, and are not tried again.

    Raises:
        UserError: A table cannot be written, or is not the one that was; the segments stay.
    """
    count = 0
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        while batch := _next_batch(folder):
            count += _ship_batch(context, folder, batch)
    return count


def _ship_batch(context: Context, folder: Path, batch: _Batch) -> int:
    lakehouse, problem = context.lakehouse, context.problem
    log = tables.inference_log(problem)
    shipped = lakehouse.last_batch(log, batch.writer)
    if shipped < batch.shipped:
        message = f"{lakehouse.place(log.name)} lacks batches of the request log in {folder}."
        remedy = "Make the table reachable, or restore it; "
        remedy += f"if it was made anew on purpose, remove {folder / _BATCH}."
        raise UserError(message, remedy)
    count = 0
    if shipped < batch.number:
        records = Records(problem)
        rows, bad = records.rows(_lines(folder, batch))
        if bad:
            (folder / BAD).mkdir(exist_ok=True)
            _replace(folder / BAD / batch.segments[0], b"\n".join(bad) + b"\n")
        if not rows.is_empty():
            # The inference log comes last: its number says that all of the batch is there.
            lakehouse.merge(tables.predictions(problem), records.predictions(rows))
            shadow = records.log(rows, shadow=True)
            if not shadow.is_empty():
                shadow_log = tables.shadow_log(problem)
                lakehouse.append_once(shadow_log, shadow, batch.writer, batch.number)
            lakehouse.append_once(log, records.log(rows), batch.writer, batch.number)
            count = rows.height
            shipped = batch.number
    for name in batch.segments:
        (folder / name).unlink(missing_ok=True)
    _write(folder, _Batch(batch.writer, shipped, []))
    return count


def _next_batch(folder: Path) -> _Batch | None:
    """The batch that was begun, or the next one; None where nothing waits."""
    batch = _Batch(f"requests:{uuid.uuid4().hex}", 0, [])
    with suppress(FileNotFoundError):
        batch = msgspec.json.decode((folder / _BATCH).read_bytes(), type=_Batch)
    if batch.segments:
        return batch
    size = 0
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if size < _MAX_BYTES and is_complete(path):
            batch.segments.append(path.name)
            size += path.stat().st_size
    if not batch.segments:
        return None
    _write(folder, batch)
    return batch


def _write(folder: Path, batch: _Batch) -> None:
    _replace(folder / _BATCH, msgspec.json.encode(batch))


def _lines(folder: Path, batch: _Batch) -> Iterator[bytes]:
    """Lines of a batch without their ends; one that has no end was not answered for."""
    for name in batch.segments:
        with suppress(FileNotFoundError):  # it was shipped, and the table made anew
            *lines, _ = (folder / name).read_bytes().split(b"\n")
            yield from lines


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
