"""A challenger shows on requests that it is as good, where the environment wants to see that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import (
    KNOWN_AT,
    PREDICTION,
    PREDICTION_TIME,
    Table,
    polars_schema,
)
from {{cookiecutter.package_name}}.deployment import transitions
from {{cookiecutter.package_name}}.deployment.live import compare_live
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.tables import MEASUREMENTS
from {{cookiecutter.package_name}}.tracking.registry import CHALLENGER, CHAMPION
from {{cookiecutter.package_name}}.tracking.stages import history

from tests.parcels import PROBLEM

Run = Callable[..., tuple[int, str, str]]
Configure = Callable[..., Context]
Add = Callable[..., str]
Promote = Callable[[Context, str], str]
WANTED, ROWS, DAYS = "200", 400, 10
(KEY,) = PROBLEM.model.keys


@pytest.fixture
def arena(configure: Configure, add: Add, promote: Promote) -> Context:
    """A champion, and a challenger that its holdout shows to be as good."""
    arena = configure(DEPLOYMENT__LIVE_ROWS=WANTED)
    promote(arena, add(arena))
    transitions.move(arena, "stage", add(arena), "me", "examined")
    return arena


def serve(
    arena: Context,
    as_of: datetime,
    noise: float,
    *,
    rows: int = ROWS,
    canary: bool = True,
    labelled: bool = True,
) -> None:
    """Requests that both versions have scored; the challenger's scores are that much noisier."""
    generator = np.random.default_rng(0)
    right = generator.random(rows)
    label = (generator.random(rows) < right).astype(float)
    noisier = np.clip(right + noise * generator.standard_normal(rows), 0, 1)
    base = {
        KEY: range(rows),
        PREDICTION_TIME: [as_of - timedelta(days=DAYS * (n + 1) / rows) for n in range(rows)],
        "request_id": [f"{n}" for n in range(rows)],
    }
    said = {"1": right, "2": noisier}
    given, beside = ("2", "1") if canary else ("1", "2")
    lakehouse = arena.lakehouse
    logs = {given: tables.inference_log(PROBLEM), beside: tables.shadow_log(PROBLEM)}
    for version, table in logs.items():
        values = {**base, PREDICTION: said[version], "model_version": version}
        lakehouse.append_once(table, filled(values, table), "tests", 1)
    if labelled:
        outcome = {**base, PREDICTION: said[given], "model_version": given, "label": label}
        table = tables.outcomes(PROBLEM)
        lakehouse.merge(table, filled({**outcome, KNOWN_AT: as_of}, table))


def filled(values: Mapping[str, Any], table: Table) -> pl.DataFrame:
    """Rows of a table; columns that are not given are null."""
    schema = polars_schema(table.schema)
    rows = pl.DataFrame({name: value for name, value in values.items() if name in schema})
    missing = [pl.lit(None).alias(name) for name in schema if name not in rows.columns]
    typed = [pl.col(name).cast(kind) for name, kind in schema.items()]
    return rows.with_columns(missing).select(typed)


def asked(run: Run) -> tuple[int, str, str]:
    return run("request", "--env", "test", "--version", "2", "--who", "me")


@pytest.mark.parametrize("canary", [True, False])
def test_a_challenger_that_is_as_good_is_promoted(
    arena: Context, as_of: datetime, run: Run, *, canary: bool
) -> None:
    serve(arena, as_of, 0, canary=canary)
    assert asked(run)[0] == 0
    assert arena.registry.aliased(CHAMPION) == "2"
    assert "live: a gain of" in history(arena.lakehouse).row(-1, named=True)["why"]


@pytest.mark.parametrize("canary", [True, False])
def test_a_challenger_that_is_worse_in_the_canary_is_not_promoted(
    arena: Context, as_of: datetime, run: Run, *, canary: bool
) -> None:
    serve(arena, as_of, 0.6, canary=canary)
    code, _, err = asked(run)
    assert (code, "Traceback" in err) == (1, False)
    assert "Version 2 is worse than the margin allows" in err
    assert (arena.registry.aliased(CHAMPION), arena.registry.aliased(CHALLENGER)) == ("1", "2")
    (found,) = arena.lakehouse.read(MEASUREMENTS).filter(metric="live_gain").rows(named=True)
    assert (found["status"], found["rows"]) == ("worse", ROWS)


def test_a_challenger_that_is_a_little_worse_is_not_promoted_either(
    arena: Context, as_of: datetime, run: Run
) -> None:
    serve(arena, as_of, 0.1)
    assert asked(run)[0] == 0
    assert arena.registry.aliased(CHAMPION) == "1"


@pytest.mark.parametrize(
    ("served", "said"),
    [
        (None, "live: on 0 of 200 labelled requests"),
        ({"labelled": False}, "live: on 0 of 200 labelled requests"),
        ({"rows": 100}, "on 100 of 200 labelled requests"),
    ],
)
def test_a_challenger_that_has_not_shown_enough_waits(
    arena: Context,
    as_of: datetime,
    run: Run,
    served: dict[str, int] | None,
    said: str,
) -> None:
    # Given
    if served is not None:
        serve(arena, as_of, 0, **served)  # type: ignore[arg-type]
    # When
    code, out, _ = asked(run)
    # Then
    assert code == 0
    assert "Version 2 stays the challenger" in out
    assert said in " ".join(out.split())
    assert arena.registry.aliased(CHAMPION) == "1"
    assert transitions.waiting(arena) is None
    page = (arena.settings.reports / "comparison_2_1.html").read_text(encoding="utf-8")
    assert "Not known yet: live: " in page
    assert said in page


def test_deploy_new_asks_again_for_a_challenger_that_waited(
    arena: Context, as_of: datetime, run: Run
) -> None:
    # Given
    assert run("deploy", "--env", "test", "--new", "--who", "me")[0] == 0
    assert arena.registry.aliased(CHAMPION) == "1"
    # When
    serve(arena, as_of, 0)
    # Then
    assert run("deploy", "--env", "test", "--new", "--who", "me")[0] == 0
    assert arena.registry.aliased(CHAMPION) == "2"


def test_an_entity_that_is_asked_for_again_counts_once(arena: Context, as_of: datetime) -> None:
    serve(arena, as_of, 0)
    once = compare_live(arena, "2", "1")
    for table in (tables.inference_log(PROBLEM), tables.shadow_log(PROBLEM)):
        named = pl.format("{} again", "request_id").alias("request_id")
        again = arena.lakehouse.read(table).with_columns(named)
        arena.lakehouse.append_once(table, again.select(*table.schema), "tests", 2)
    assert compare_live(arena, "2", "1") == once


def test_a_first_version_needs_no_requests(configure: Configure, add: Add, run: Run) -> None:
    arena = configure(DEPLOYMENT__LIVE_ROWS=WANTED)
    version = add(arena)
    assert run("deploy", "--env", "test", "--version", version, "--who", "me")[0] == 0
    assert arena.registry.aliased(CHAMPION) == version
