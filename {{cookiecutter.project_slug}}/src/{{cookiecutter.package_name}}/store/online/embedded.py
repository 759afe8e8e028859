"""LMDB: one file on the local disk, many reading processes, no server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import lmdb

from .base import OnlineError, Writing

# Address space, not memory. Windows makes the file as large at once.
_MAP_BYTES = 2**30 if os.name == "nt" else 2**36
_READERS = 1_024
_REMEDY = "Check the disk and its permissions; `sync` fills a folder that was removed."


class Embedded:
    """A folder with an LMDB file."""

    def __init__(self, folder: Path) -> None:
        """Nothing is opened yet."""
        self._folder = folder

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of some keys, all as they were at one moment."""
        try:
            with self._environment.begin() as transaction:
                get = transaction.get
                return [get(key) for key in keys]
        except lmdb.Error as error:
            raise self._failure(error) from None

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """An update in one transaction; another writer waits for its end."""
        try:
            environment = self._environment
            environment.reader_check()  # readers that were killed would keep old pages
            with environment.begin(write=True) as transaction:
                yield _Transaction(transaction)
        except lmdb.Error as error:
            raise self._failure(error) from None

    @property
    def _environment(self) -> lmdb.Environment:
        return _opened(str(self._folder.absolute()), os.getpid())

    def _failure(self, error: lmdb.Error) -> OnlineError:
        return OnlineError(f"The online store in {self._folder} fails: {error}", _REMEDY)


class _Transaction:
    def __init__(self, transaction: lmdb.Transaction) -> None:
        self._transaction = transaction

    def get(self, key: bytes) -> bytes | None:
        """What a key holds."""
        value = self._transaction.get(key)
        return None if value is None else bytes(value)

    def put(self, key: bytes, value: bytes) -> None:
        """Give a key a value."""
        self._transaction.put(key, value)

    def clear(self, prefix: bytes) -> None:
        """Take away all keys that begin so."""
        with self._transaction.cursor() as cursor:
            found = cursor.set_range(prefix)
            while found and bytes(cursor.key()).startswith(prefix):
                found = cursor.delete()


@cache
def _opened(folder: str, process: int) -> lmdb.Environment:
    """A process must not open the file twice, nor use what its parent opened."""
    del process
    Path(folder).mkdir(parents=True, exist_ok=True)
    return lmdb.open(folder, map_size=_MAP_BYTES, max_readers=_READERS, max_spare_txns=8)
