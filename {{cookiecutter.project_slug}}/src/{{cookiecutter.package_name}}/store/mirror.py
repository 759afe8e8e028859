"""The state of an environment at an address: fetched as a verb begins, kept as it ends.

So a runner that keeps nothing can run any verb. A verb works in its folder all the while; where the
address is out of reach at the end, what was written is still there, and the tables are complete:
none of them depends on these files. The next verb in that folder puts it to the address.

The folder remembers how each file was when folder and address last agreed, with the tag that the
storage gave it. Times would not do: two clocks differ, and those of storages count whole seconds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from ..core.errors import UserError

PARTS = ("reports", "studies.log", "deliveries")
"""What of the folder is kept, and no more is fetched: keys and tokens come from nowhere else.

Tables, runs and online features have addresses of their own.
"""
_CLOUDS = ("aws_", "azure_", "google_")  # what is not theirs is for Delta's library alone
_AGREED = ".agreed.json"


class _Agreed(NamedTuple):
    """A file, as folder and address had it when they agreed."""

    tag: str  # by which the storage tells its states apart
    changed: int  # here, in nanoseconds
    size: int


@dataclass(frozen=True)
class Mirror:
    """A folder, the address that keeps its files, and the options of the storage there."""

    folder: Path
    address: str
    options: Mapping[str, str]  # as Delta's Rust library has them

    def look(self) -> None:
        """Ask the address what it holds.

        Raises:
            UserError: The address cannot be read.
        """
        with self._reaching() as store:
            next(iter(obstore.list(store, chunk_size=1)), None)

    def fetch(self) -> None:
        """Bring what has changed at the address; of what has changed here, too, the newer counts.

        Raises:
            UserError: The address cannot be read.
        """
        with self._agreed() as agreed, self._reaching() as store:
            for found in (item for page in obstore.list(store) for item in page):
                name = str(found["path"])
                if name.partition("/")[0] not in PARTS:
                    continue
                path = self.folder / name
                last = agreed.get(name)
                if path.exists():
                    is_same = last is not None and last.tag == _tag(found)
                    is_ours = last is None or _stamp(path) != last[1:]
                    if is_same or (is_ours and path.stat().st_mtime > _seconds(found)):
                        continue
                given = obstore.get(store, name)
                _write(path, bytes(given.bytes()), _seconds(given.meta))
                agreed[name] = _Agreed(_tag(given.meta), *_stamp(path))

    def keep(self) -> None:
        """Put to the address what has changed in the folder.

        Raises:
            UserError: The address cannot be written.
        """
        with self._agreed() as agreed, self._reaching() as store:
            for path in self._files():
                name, stamp = path.relative_to(self.folder).as_posix(), _stamp(path)
                if name not in agreed or agreed[name][1:] != stamp:
                    agreed[name] = _Agreed(_tag(obstore.put(store, name, path)), *stamp)

    def _files(self) -> Iterator[Path]:
        for part in PARTS:
            path = self.folder / part
            if path.is_file():
                yield path
            yield from (file for file in sorted(path.rglob("*")) if file.is_file())

    @contextmanager
    def _agreed(self) -> Iterator[dict[str, _Agreed]]:
        """By name, files on which folder and address agreed; what is added is remembered."""
        path = self.folder / _AGREED
        written = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        files = written["files"] if written.get("address") == self.address else {}
        agreed = {name: _Agreed(*each) for name, each in files.items()}
        try:
            yield agreed
        finally:
            _replace(path, json.dumps({"address": self.address, "files": agreed}).encode())

    @contextmanager
    def _reaching(self) -> Iterator[ObjectStore]:
        given = {key.lower(): value for key, value in self.options.items()}
        options = {key: value for key, value in given.items() if key.startswith(_CLOUDS)}
        over_http = any(options.pop(f"{cloud}allow_http", "") == "true" for cloud in _CLOUDS)
        try:
            yield from_url(
                self.address, config=cast("Any", options), client_options={"allow_http": over_http}
            )
        except (BaseError, OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            message = f"Cannot reach {self.address}, where the state is kept: {reason}"
            remedy = f"Check `state_address` in conf/; what was written is in {self.folder}."
            raise UserError(message, remedy) from None


def _write(path: Path, content: bytes, changed: float) -> None:
    """Write a file as of the time at which it was changed."""
    _replace(path, content)
    os.utime(path, (changed, changed))


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def _stamp(path: Path) -> tuple[int, int]:
    """By which a change is seen: when it was, in nanoseconds, and the file's size."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _tag(stored: Mapping[str, Any]) -> str:
    """A storage's tag; some put it into quotes in one answer and not in the next."""
    return str(stored["e_tag"]).strip('"')


def _seconds(stored: Mapping[str, Any]) -> float:
    """When the storage was given a file, in seconds since 1970."""
    return float(stored["last_modified"].timestamp())
