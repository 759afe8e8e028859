"""The online store answers as the point-in-time join does, whatever became of the tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

import narwhals as nw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse
from {{cookiecutter.package_name}}.store.online import (
    OnlineError,
    OnlineFeatures,
    open_backend,
    publishing,
)
from {{cookiecutter.package_name}}.store.online.features import (
    Codec,
    microseconds,
    pack,
    unpack,
)
from {{cookiecutter.package_name}}.store.online.publishing import publish

from tests.conftest import START
from tests.feature_rows import (
    HISTORY,
    HOUR,
    ROWS_AT_ONCE,
    TABLE,
    build,
    builds,
    check_parity,
    every_hour,
    exactly,
    publish_shops,
)


@given(data=st.data(), built=builds)
def test_online_row_is_the_offline_row_to_the_bit(
    data: st.DataObject, built: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("online")
    check_parity(data, built, Lakehouse(str(folder / "lake")), open_backend(folder / "online"))


@pytest.fixture
def published(lakehouse: Lakehouse, tmp_path: Path) -> tuple[OnlineFeatures, Any]:
    """A store with a row per hour of one shop."""
    given_rows = every_hour(24)
    build(lakehouse, None, START + 24 * HOUR, given_rows)
    backend = open_backend(tmp_path / "online")
    publish_shops(lakehouse, backend)
    return OnlineFeatures([TABLE], backend), backend


def test_what_is_known_later_is_not_found(published: tuple[OnlineFeatures, Any]) -> None:
    # Given
    features, _ = published
    moment = START + 20 * HOUR + timedelta(minutes=59)
    # When
    [[found]] = features.look_up([{"shop": "a", "number": 0}], [microseconds(moment)])
    # Then
    assert found is not None
    assert found.values[1] == 20
    assert found.available_at == microseconds(START + 20 * HOUR)


@given(steps=st.lists(st.integers(0, 3), max_size=50), moment=st.integers(-1, 151))
def test_of_many_rows_the_newest_before_a_moment_is_found(steps: list[int], moment: int) -> None:
    # Given rows in order, some of which became available at the same moment
    codec = Codec(TABLE)
    moments = list(accumulate(steps))
    rows = [(float(number), number, "", True, None) for number in range(len(moments))]
    entries = [(at, codec.row(row)) for at, row in zip(moments, rows, strict=True)]
    # When
    held = pack(entries)
    found = codec.find(held, moment)
    # Then
    known = [(at, row) for at, row in zip(moments, rows, strict=True) if at <= moment]
    assert (found and (found.available_at, found.values)) == (known[-1] if known else None)
    assert list(unpack(held)) == entries


def test_longer_ago_than_the_store_goes_back_is_refused(
    published: tuple[OnlineFeatures, Any],
) -> None:
    features, _ = published
    with pytest.raises(OnlineError, match="goes back to 2020-01-01 18:00"):
        features.look_up([{"shop": "a", "number": 0}], [microseconds(START + 17 * HOUR)])


def test_rows_that_are_too_old_to_be_asked_for_are_not_kept(
    published: tuple[OnlineFeatures, Any], lakehouse: Lakehouse
) -> None:
    # Given
    features, backend = published
    key = features.codecs[0].key(["a", 0])
    before = len(backend.read([key])[0])
    # When
    build(lakehouse, START + 24 * HOUR, START + 123 * HOUR, every_hour(99))
    publish_shops(lakehouse, backend)
    # Then
    assert len(backend.read([key])[0]) == before


def test_publishing_again_writes_nothing(
    published: tuple[OnlineFeatures, Any], lakehouse: Lakehouse
) -> None:
    assert publish_shops(lakehouse, published[1]) == {}


def test_nothing_is_forgotten_while_the_tables_are_out_of_reach(
    published: tuple[OnlineFeatures, Any], lakehouse: Lakehouse, tmp_path: Path
) -> None:
    # Given
    features, backend = published
    Path(lakehouse.root).rename(tmp_path / "aside")
    # When
    with pytest.raises(UserError, match="shop is gone"):
        publish_shops(lakehouse, backend)
    # Then
    [[found]] = features.look_up([{"shop": "a", "number": 0}], [microseconds(START + 20 * HOUR)])
    assert found is not None


def test_only_new_rows_are_written_where_a_table_grew(
    published: tuple[OnlineFeatures, Any], lakehouse: Lakehouse
) -> None:
    # When
    build(lakehouse, START + 24 * HOUR, START + 25 * HOUR, {("b", 0, 30): (1.0, 1, "", True, None)})
    # Then
    assert publish_shops(lakehouse, published[1]) == {"shop": 1}


def test_an_update_that_fails_is_not_seen(
    published: tuple[OnlineFeatures, Any],
    lakehouse: Lakehouse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given
    features, backend = published
    before = features.published()
    build(lakehouse, None, START + 30 * HOUR, {("a", 0, 1): (1.0, 1, "", True, None)})

    def failing(*_: object) -> Iterator[object]:
        yield features.codecs[0].key(["a", 0]), []
        raise OSError

    monkeypatch.setattr(publishing, "_by_entity", failing)
    # When
    with pytest.raises(OSError):
        publish_shops(lakehouse, backend)
    # Then
    [[found]] = features.look_up([{"shop": "a", "number": 0}], [microseconds(START + 24 * HOUR)])
    assert found is not None
    assert features.published() == before


def test_rows_of_another_declaration_are_not_served(
    published: tuple[OnlineFeatures, Any], lakehouse: Lakehouse
) -> None:
    # Given
    _, backend = published
    other = replace(TABLE, values={**TABLE.values, "count": nw.Float64})
    # When
    features = OnlineFeatures([other], backend)
    # Then
    with pytest.raises(OnlineError, match="other columns"):
        features.published()


def test_a_store_that_is_empty_says_so(tmp_path: Path) -> None:
    features = OnlineFeatures([TABLE], open_backend(tmp_path / "online"))
    with pytest.raises(OnlineError, match="not there yet"):
        features.published()


def test_a_table_that_is_no_longer_declared_goes(
    published: tuple[OnlineFeatures, Any], lakehouse: Lakehouse
) -> None:
    # Given
    features, backend = published
    # When
    publish(lakehouse, [], backend, HISTORY, ROWS_AT_ONCE)
    # Then
    assert backend.read([features.codecs[0].key(["a", 0])]) == [None]


def test_a_type_that_cannot_be_looked_up_is_refused(tmp_path: Path) -> None:
    other = replace(TABLE, values={"many": nw.List(nw.Int64)})
    with pytest.raises(OnlineError, match="many is List"):
        OnlineFeatures([other], open_backend(tmp_path / "online"))


def test_long_keys_are_told_apart() -> None:
    features = OnlineFeatures([TABLE], open_backend(Path("online")))
    codec = features.codecs[0]
    keys = {codec.key(["x" * 1_000 + end, 0]) for end in "ab"}
    assert len(keys) == 2
    assert all(len(key) < 511 for key in keys)


def test_zeros_and_nans_are_told_apart() -> None:
    assert exactly([(0.0,)]) != exactly([(-0.0,)])
    assert exactly([(math.nan,)]) == exactly([(math.nan,)])
