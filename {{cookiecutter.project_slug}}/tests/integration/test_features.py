"""Feature tables of the problem, built in steps, again, and at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from {{cookiecutter.package_name}}.core.contract import (
    AVAILABLE_AT,
    KNOWN_AT,
    UTC_TIME,
    FeatureTable,
    Source,
)
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.features.build import build_features
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse

from tests.conftest import within
from tests.parcels import PROBLEM

BEGIN = datetime(2024, 3, 8, tzinfo=UTC)


def random_prepared(source: Source, rows: int, days: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    moments = pl.Series(rng.choice(days * 24 * 60, rows, replace=False)) * 60_000_000 + int(
        BEGIN.timestamp() * 1e6
    )
    makers: dict[object, Callable[[], Any]] = {
        nw.String: lambda: rng.choice(["a", "b", "c"], rows),
        nw.Int64: lambda: rng.integers(-30, 120, rows),
        nw.Float64: lambda: rng.normal(0, 30, rows),
        nw.Boolean: lambda: rng.random(rows) < 0.1,
        UTC_TIME: lambda: moments.sample(fraction=1, shuffle=True, seed=seed),
    }
    entities = {key for feature in PROBLEM.feature_tables for key in feature.keys}
    columns = {}
    for name, kind in tables.prepared(source).schema.items():
        values = pl.Series(name, moments if name == KNOWN_AT else makers[kind]())
        holes = (rng.random(rows) < 0.1) & (name not in {*source.keys, *entities, KNOWN_AT})
        columns[name] = pl.select(pl.when(~pl.Series(holes)).then(values).alias(name)).to_series()
    schema = Lakehouse("").scan(tables.prepared(source)).collect_schema().to_polars()
    return pl.DataFrame(columns).cast(schema).unique(list(source.keys), maintain_order=True)


@pytest.fixture
def filled(lakehouse: Lakehouse) -> Lakehouse:
    for seed, source in enumerate(PROBLEM.sources):
        rows = random_prepared(source, 400, 40, seed).lazy()
        lakehouse.merge(tables.prepared(source), nw.from_native(rows), BEGIN + timedelta(days=40))
    return lakehouse


def stored(lakehouse: Lakehouse, feature: FeatureTable) -> pl.DataFrame:
    rows = pl.DataFrame(lakehouse.scan(tables.features(feature)).collect("polars").to_native())
    return rows.sort(tables.features(feature).keys)


def test_features_built_step_by_step_equal_features_built_at_once(
    filled: Lakehouse, tmp_path: Path
) -> None:
    end = BEGIN + timedelta(days=39)
    at_once = Lakehouse(str(tmp_path / "at once"), mounts={"prepared_*": filled.root})
    build_features(within(at_once, PROBLEM), end)
    steps: Sequence[float] = (8.02, 20.5, 39.0)
    for days in steps:
        build_features(within(filled, PROBLEM), BEGIN + timedelta(days=days))
    for feature in PROBLEM.feature_tables:
        rows = stored(at_once, feature)
        assert rows.height > 2
        assert rows[AVAILABLE_AT].max() <= end  # type: ignore[operator]
        assert_frame_equal(stored(filled, feature), rows, check_exact=True)


def test_features_built_again_change_nothing(filled: Lakehouse) -> None:
    until = BEGIN + timedelta(days=10)
    build_features(within(filled, PROBLEM), until)
    before = {
        feature.name: filled.version(tables.features(feature)) for feature in PROBLEM.feature_tables
    }
    assert build_features(within(filled, PROBLEM), until) == {}
    assert build_features(within(filled, PROBLEM), until - timedelta(days=1)) == {}
    assert {
        feature.name: filled.version(tables.features(feature)) for feature in PROBLEM.feature_tables
    } == before


def test_features_rebuilt_since_a_moment_come_out_the_same(filled: Lakehouse) -> None:
    until = BEGIN + timedelta(days=35)
    build_features(within(filled, PROBLEM), until)
    before = [stored(filled, feature) for feature in PROBLEM.feature_tables]
    assert (
        sum(
            build_features(
                within(filled, PROBLEM), until, since=BEGIN + timedelta(days=30.2)
            ).values()
        )
        > 0
    )
    for feature, rows in zip(PROBLEM.feature_tables, before, strict=True):
        assert_frame_equal(stored(filled, feature), rows, check_exact=True)


def test_features_need_prepared_tables(filled: Lakehouse) -> None:
    with pytest.raises(UserError, match=r"prepared_.* is complete until .* only"):
        build_features(within(filled, PROBLEM), BEGIN + timedelta(days=41))
