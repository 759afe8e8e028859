"""The state of an environment at an address: fetched as a verb begins, kept as it ends.

So a runner that keeps nothing can run any verb. A verb works in its folder all the while; where the
address is out of reach at the end, what was written is still there, and the tables are complete:
none of them depends on these files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from ..core.errors import UserError

PARTS = ("reports", "studies.log", "deliveries")
"""What of the folder is kept. Tables, runs and online features have addresses of their own."""
_CLOUDS = ("aws_", "azure_", "google_")  # what is not theirs is for Delta's library alone
_Stamp = tuple[int, int]  # time of the last change, in nanoseconds, and size


@dataclass(frozen=True)
class Mirror:
    """A folder, the address that keeps its files, and the options of the storage there."""

    folder: Path
    address: str
    options: Mapping[str, str]  # as Delta's Rust library has them
    kept: dict[str, _Stamp] = field(default_factory=dict)  # files as they are at the address

    def fetch(self) -> None:
        """Bring what the folder has not, or has in an older state.

        Raises:
            UserError: The address cannot be read.
        """
        with self._reaching() as store:
            for found in (item for page in obstore.list(store) for item in page):
                name, changed = str(found["path"]), found["last_modified"].timestamp()
                path = self.folder / name
                if not path.exists() or path.stat().st_mtime < changed:
                    content = obstore.get(store, name).bytes()
                    _write(path, bytes(content), changed)
                self.kept[name] = _stamp(path)

    def keep(self) -> None:
        """Put to the address what was written in the folder since.

        Raises:
            UserError: The address cannot be written.
        """
        with self._reaching() as store:
            for path in self._files():
                name, stamp = path.relative_to(self.folder).as_posix(), _stamp(path)
                if self.kept.get(name) != stamp:
                    obstore.put(store, name, path)
                    self.kept[name] = stamp

    def _files(self) -> Iterator[Path]:
        for part in PARTS:
            path = self.folder / part
            if path.is_file():
                yield path
            yield from (file for file in sorted(path.rglob("*")) if file.is_file())

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
    """Write a file whole or not at all, as of the time at which it was changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.utime(partial, (changed, changed))
    partial.replace(path)


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
