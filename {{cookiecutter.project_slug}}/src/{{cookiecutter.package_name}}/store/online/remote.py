"""Redis: a server that several machines share, for more than one of them to answer."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError, WatchError
from redis.retry import Retry

from .base import OnlineError, OvertakenError, Writing

_READ_SECONDS = 1.0  # a worker waits for it, and so do all its requests
_WRITE_SECONDS = 60.0
_KEYS_AT_ONCE = 1_000
_SPECIAL = re.compile(rb"([\\*?\[\]^-])")  # in a pattern of keys


class Remote:
    """A part of a Redis server's keys.

    One command reads all keys, and one transaction writes them: nobody sees half an update. An
    update is refused where another one came in between, which the number of updates tells.
    """

    def __init__(self, variable: str, name: str) -> None:
        """Nothing is asked for yet.

        Args:
            variable: Environment variable with the server's address, such as `redis://host:6379`.
            name: Begins all keys: other stores on the server have other names.

        Raises:
            OnlineError: The variable is not set, or holds no address.
        """
        address = os.environ.get(variable)
        remedy = f"Set {variable} to redis://host:6379, rediss:// or unix://, and run again."
        if not address:
            message = f"`online.redis` names the variable {variable}, which is not set."
            raise OnlineError(message, remedy)
        try:
            self._reader = _client(address, _READ_SECONDS)
            self._writer = _client(address, _WRITE_SECONDS)
        except ValueError:  # it quotes the address, which may hold a password
            message = f"{variable} holds no address of a Redis server."
            raise OnlineError(message, remedy) from None
        self._prefix = name.encode() + b"\0"
        self._remedy = f"See whether the server that {variable} names runs; `sync` fills it."

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of some keys, all as they were at one moment."""
        try:
            values: list[bytes | None] = self._reader.mget([self._prefix + key for key in keys])
        except RedisError as error:
            raise self._failure(error) from None
        return values

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """An update in one transaction.

        Raises:
            OvertakenError: Somebody else's update was faster.
        """
        updates = self._prefix + b"\0updates"
        try:
            self._require_lasting()
            with self._writer.pipeline() as pipeline:
                pipeline.watch(updates)
                update = _Update(pipeline, self._prefix)
                yield update
                if update.changes:
                    pipeline.multi()
                    update.send()
                    pipeline.incr(updates)
                    pipeline.execute()
        except WatchError:
            message = "Another process brought the online store in step at the same time."
            raise OvertakenError(message, "Run `sync`.") from None
        except RedisError as error:
            raise self._failure(error) from None

    def _require_lasting(self) -> None:
        """Refuse a server that would drop rows, which then read as never known."""
        memory: dict[str, Any] = self._writer.info("memory")
        policy = str(memory.get("maxmemory_policy", ""))
        if policy.startswith("allkeys"):
            message = f"The Redis server drops keys where memory is short (`{policy}`)."
            raise OnlineError(message, "Set its maxmemory-policy to noeviction.")

    def _failure(self, error: RedisError) -> OnlineError:
        # Callers of the API read the message: it names no host.
        what = str(error) if isinstance(error, ResponseError) else type(error).__name__
        return OnlineError(f"The online store on Redis fails: {what}", self._remedy)


class _Update:
    """Changes are kept here until the end; what was there before is read at once."""

    def __init__(self, pipeline: Pipeline, prefix: bytes) -> None:
        self._pipeline = pipeline
        self._prefix = prefix
        self.changes: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        """What a key held when the update began, or what this update put there."""
        if key in self.changes:
            return self.changes[key]
        held: bytes | None = self._pipeline.get(self._prefix + key)
        return held

    def put(self, key: bytes, value: bytes) -> None:
        """Give a key a value."""
        self.changes[key] = value

    def clear(self, prefix: bytes) -> None:
        """Take away all keys that begin so."""
        pattern = _SPECIAL.sub(rb"\\\1", self._prefix + prefix) + b"*"
        found = self._pipeline.scan_iter(pattern, count=_KEYS_AT_ONCE)
        there = [key.removeprefix(self._prefix) for key in found]
        put = [key for key in self.changes if key.startswith(prefix)]
        self.changes.update(dict.fromkeys((*there, *put)))

    def send(self) -> None:
        """Hand over all changes."""
        full = {self._prefix + key: value for key, value in self.changes.items()}
        gone = [key for key, value in full.items() if value is None]
        kept = [(key, value) for key, value in full.items() if value is not None]
        for start in range(0, len(gone), _KEYS_AT_ONCE):
            self._pipeline.unlink(*gone[start : start + _KEYS_AT_ONCE])
        for start in range(0, len(kept), _KEYS_AT_ONCE):
            self._pipeline.mset(dict(kept[start : start + _KEYS_AT_ONCE]))


def _client(address: str, seconds: float) -> Redis:
    """A client that tries once more where the server was restarted."""
    return Redis.from_url(
        address,
        socket_timeout=seconds,
        socket_connect_timeout=_READ_SECONDS,
        retry=Retry(NoBackoff(), 1),
    )
