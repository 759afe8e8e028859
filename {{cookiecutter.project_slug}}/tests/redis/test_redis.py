"""The online store on a Redis server of its own: whole, in step, and plain when it fails."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import RedisError

from {{cookiecutter.package_name}}.context import Context, open_context
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.serving.api import open_service
from {{cookiecutter.package_name}}.serving.follower import try_version
from {{cookiecutter.package_name}}.serving.online import config_of
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse
from {{cookiecutter.package_name}}.store.online import (
    Backend,
    OnlineError,
    OnlineFeatures,
    open_backend,
)
from {{cookiecutter.package_name}}.store.online.base import OvertakenError
from {{cookiecutter.package_name}}.training.pipeline import Trained

from tests.conftest import START, free_port, wait_for
from tests.feature_rows import (
    HOUR,
    TABLE,
    build,
    builds,
    check_parity,
    every_hour,
    publish_shops,
)

VARIABLE = "REDIS_ADDRESS"
PASSWORD = "of nobody's concern"  # noqa: S105


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A server with a password, whose address stands in the variable."""
    port, folder = free_port(), tmp_path_factory.mktemp("redis")
    command = [os.environ["REDIS_SERVER"], "--bind", "127.0.0.1", "--port", str(port)]
    command += ["--requirepass", PASSWORD, "--save", "", "--dir", str(folder)]
    client = Redis(port=port, password=PASSWORD)
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(command, stdout=subprocess.DEVNULL) as process,
    ):
        quoted = PASSWORD.replace(" ", "%20")
        patch.setenv(VARIABLE, f"redis://:{quoted}@127.0.0.1:{port}")
        assert wait_for(lambda: answers(client))
        yield client
        client.close()
        process.terminate()


def answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


@pytest.fixture
def backend(server: Redis) -> Backend:
    """A store that nobody else uses."""
    return open_backend(Path("none"), VARIABLE, uuid4().hex)


@pytest.mark.usefixtures("server")
@given(data=st.data(), built=builds)
def test_online_row_is_the_offline_row_to_the_bit(
    data: st.DataObject, built: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    lakehouse = Lakehouse(str(tmp_path_factory.mktemp("lake")))
    check_parity(data, built, lakehouse, open_backend(Path("none"), VARIABLE, uuid4().hex))


def test_the_server_scores_as_batches_do(
    server: Redis, trained: tuple[Context, Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    home, done = trained
    monkeypatch.setenv(f"{ENV_PREFIX}ONLINE__REDIS", VARIABLE)
    monkeypatch.chdir(home.settings.project)
    context = open_context("test")
    number = str(done.version)
    # When
    assert context.publish()
    # Then
    try_version(context, number, home.registry.load(number))
    folder = home.settings.state / "on_redis"
    folder.mkdir()
    service = open_service(config_of(context, folder), context.problem)
    assert service.features.published().keys() == {
        table.name for table in context.problem.feature_tables
    }
    service.journal.close()


def test_nobody_reads_half_an_update(backend: Backend) -> None:
    # Given
    keys = [f"key {number}".encode() for number in range(2_500)]
    ended = threading.Event()

    def write() -> None:
        for number in range(20):
            with backend.writing() as writing:
                writing.clear(b"key")
                for key in keys[number:]:
                    writing.put(key, str(number).encode())
        ended.set()

    writer = threading.Thread(target=write)
    # When
    writer.start()
    seen = []
    while not ended.is_set():
        seen.append(backend.read([keys[0], *keys[-2:], *keys[1_000:1_010], keys[-1]]))
    writer.join()
    # Then
    assert all(len(set(values[1:])) == 1 for values in seen)
    assert {values[0] for values in seen} <= {None, b"0"}
    assert backend.read(keys[18:20]) == [None, b"19"]


def test_an_update_that_fails_is_not_seen(backend: Backend) -> None:
    # Given
    def failing() -> None:
        with backend.writing() as writing:
            writing.put(b"key", b"value")
            raise OSError

    # When
    with pytest.raises(OSError):
        failing()
    # Then
    assert backend.read([b"key"]) == [None]


def test_an_update_that_was_overtaken_is_not_seen(backend: Backend) -> None:
    # Given
    def overtaken() -> None:
        with backend.writing() as slow:
            assert slow.get(b"key") is None
            with backend.writing() as fast:
                fast.put(b"key", b"fast")
            slow.put(b"key", b"slow")

    # When
    with pytest.raises(OvertakenError):
        overtaken()
    # Then
    assert backend.read([b"key"]) == [b"fast"]


def test_servers_that_share_a_store_bring_it_in_step_together(
    backend: Backend, lakehouse: Lakehouse
) -> None:
    # Given
    build(lakehouse, None, START + 24 * HOUR, every_hour(24))
    written: list[int] = []

    def bring() -> None:
        written.append(publish_shops(lakehouse, backend).get("shop", 0))

    threads = [threading.Thread(target=bring) for _ in range(4)]
    # When
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Then
    assert sorted(written)[:3] == [0, 0, 0]
    assert sorted(written)[3] > 0


@pytest.mark.parametrize("name", ["a*", "a[b]", "a?", "a\\", "a^-"])
def test_only_keys_that_begin_so_are_cleared(backend: Backend, name: str) -> None:
    # Given
    prefix = name.encode()
    with backend.writing() as writing:
        for key in (prefix + b"\n", b"ab", b"a1", b"b" + prefix):
            writing.put(key, b"")
    # When
    with backend.writing() as writing:
        writing.clear(prefix)
        writing.put(prefix, b"new")
    # Then
    assert backend.read([prefix, prefix + b"\n", b"ab", b"a1", b"b" + prefix]) == [
        b"new",
        None,
        b"",
        b"",
        b"",
    ]


def test_stores_of_two_models_do_not_meet(server: Redis) -> None:
    # Given
    one, other = (open_backend(Path("none"), VARIABLE, name) for name in ("shop", "shop2"))
    for backend in (one, other):
        with backend.writing() as writing:
            writing.put(b"key", b"value")
    # When
    with one.writing() as writing:
        writing.clear(b"")
    # Then
    assert (one.read([b"key"]), other.read([b"key"])) == ([None], [b"value"])


def test_a_server_that_would_drop_rows_is_refused(backend: Backend, server: Redis) -> None:
    server.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(OnlineError, match="allkeys-lru"), backend.writing():
            pass
    finally:
        server.config_set("maxmemory-policy", "noeviction")


def test_a_store_without_memory_keeps_what_it_had(backend: Backend, server: Redis) -> None:
    # Given
    with backend.writing() as writing:
        writing.put(b"key", b"old")
    server.config_set("maxmemory", 1)
    try:
        # When
        with pytest.raises(OnlineError, match=r"(?i)memory"), backend.writing() as writing:
            writing.put(b"key", b"new")
    finally:
        server.config_set("maxmemory", 0)
    # Then
    assert backend.read([b"key"]) == [b"old"]


def test_a_server_that_was_emptied_is_filled_again(
    backend: Backend, server: Redis, lakehouse: Lakehouse
) -> None:
    # Given
    build(lakehouse, None, START + 24 * HOUR, every_hour(24))
    publish_shops(lakehouse, backend)
    features = OnlineFeatures([TABLE], backend)
    before = features.published()
    # When
    server.flushall()
    # Then
    with pytest.raises(OnlineError, match="not there yet"):
        features.published()
    assert publish_shops(lakehouse, backend)
    assert features.published() == before


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (None, "is not set"),
        ("", "is not set"),
        (f"nonsense://:{PASSWORD}@host", "holds no address"),
        (f"redis://:{PASSWORD}@127.0.0.1:1", "fails: ConnectionError"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(
    monkeypatch: pytest.MonkeyPatch, address: str | None, message: str
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if address is not None:
        monkeypatch.setenv(VARIABLE, address)
    with pytest.raises(OnlineError, match=message) as caught:
        open_backend(Path("none"), VARIABLE).read([b"key"])
    assert PASSWORD not in f"{caught.value.what}{caught.value.remedy}"
