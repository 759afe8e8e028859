"""Challenger against champion on a holdout."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import narwhals as nw
import polars as pl
import pytest

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import Problem
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.deployment import transitions
from {{cookiecutter.package_name}}.deployment.comparison import (
    Comparison,
    compare_versions,
)
from {{cookiecutter.package_name}}.store.tables import MEASUREMENTS
from {{cookiecutter.package_name}}.tracking.registry import CHALLENGER, CHAMPION
from {{cookiecutter.package_name}}.tracking.stages import history

from tests.gates.conftest import with_hint
from tests.parcels import PROBLEM

Run = Callable[..., tuple[int, str, str]]
Configure = Callable[..., Context]
Add = Callable[..., str]
Promote = Callable[[Context, str], str]
MODEL = PROBLEM.model
METRIC = MODEL.target.metrics[0].name


def with_model(arena: Context, **changes: object) -> Context:
    problem: Problem = replace(arena.problem, model=replace(arena.problem.model, **changes))  # type: ignore[arg-type]
    return Context(arena.settings, problem)


def recorded(arena: Context, done: Comparison) -> pl.DataFrame:
    rows = arena.lakehouse.read(MEASUREMENTS)
    return rows.filter(
        producer="comparison", subject=f"version {done.challenger} against {done.opponent}"
    )


def test_a_first_version_is_measured_against_the_baseline(arena: Context, add: Add) -> None:
    done = compare_versions(arena, add(arena))
    assert (done.champion, done.objections) == (None, [])
    assert f"{METRIC} " in done.evidence
    assert "of the baseline on" in done.evidence


def test_a_better_challenger_is_promoted_on_the_evidence(
    arena: Context, add: Add, promote: Promote, run: Run
) -> None:
    promote(arena, add(arena, "constant"))
    code, out, err = run("deploy", "--env", "test", "--version", add(arena), "--who", "me")
    assert (code, err, "of version 1 on" in out) == (0, "", True)
    assert (arena.registry.aliased(CHAMPION), arena.registry.aliased(CHALLENGER)) == ("2", None)
    assert "of version 1 on" in history(arena.lakehouse).row(-1, named=True)["why"]


def test_a_version_equals_itself(arena: Context, add: Add, promote: Promote) -> None:
    promote(arena, add(arena))
    done = compare_versions(arena, add(arena))
    assert done.objections == []
    assert done.results["gain"].unique().to_list() == [0.0]


def test_a_worse_challenger_is_refused_and_the_champion_stays(
    arena: Context, add: Add, promote: Promote, run: Run
) -> None:
    promote(arena, add(arena))
    transitions.move(arena, "stage", add(arena, "constant"), "me", "let it through")
    for verb in ("compare", "request"):
        code, _, err = run(verb, "--env", "test", "--version", "2")
        assert (
            code,
            err.startswith(f"✗ Version 2 is worse than the margins allow: {METRIC}_gain"),
        ) == (1, True)
    assert arena.registry.aliased(CHAMPION) == "1"
    assert history(arena.lakehouse)["action"].to_list() == ["stage", "approve", "stage"]


def test_a_challenger_that_is_worse_on_one_slice_is_refused_by_its_name(
    configure: Configure, add: Add, promote: Promote
) -> None:
    arena = configure(DEPLOYMENT__MARGIN="9")
    promote(arena, add(arena, "leaky"))
    right = nw.col("told")
    hint = nw.when(nw.col("depot") == "north").then(right).otherwise(1 - right)
    told_on_a_slice = with_model(arena, on_demand=with_hint(hint), slices=("depot",))
    done = compare_versions(told_on_a_slice, add(arena))
    assert done.objections == [f"{METRIC}_gain depot=north"]


def test_a_holdout_that_the_champion_has_learned_from_is_refused(
    arena: Context, add: Add, promote: Promote, run: Run
) -> None:
    promote(arena, add(arena))
    code, _, err = run("compare", "--env", "test", "--version", add(arena, "old"))
    assert (code, "Traceback" in err) == (1, False)
    assert re.search(r"The holdout begins on .*, but version 1 has learned from rows\s+until", err)
    assert recorded(
        arena, Comparison("2", "1", pl.DataFrame(), [], {}, arena.settings.state)
    ).is_empty()


def test_a_holdout_that_the_challenger_has_learned_from_is_refused(
    arena: Context, add: Add
) -> None:
    number = add(
        arena, tags={"validation_end": arena.registry.version(add(arena)).tags["holdout_end"]}
    )
    with pytest.raises(UserError, match=f"version {number} has learned from rows"):
        compare_versions(arena, number)


def test_a_version_that_does_not_say_what_it_has_learned_from_is_refused(
    arena: Context, add: Add
) -> None:
    with pytest.raises(UserError, match="no tag validation_end"):
        compare_versions(arena, add(arena, tags={"validation_end": None}))


def test_a_champion_whose_features_vanished_is_one_message(
    arena: Context, add: Add, promote: Promote, run: Run
) -> None:
    promote(arena, add(arena, "leaky"))
    code, _, err = run("compare", "--env", "test", "--version", add(arena))
    assert code == 1
    assert err.startswith("✗ No table has hint any more, which a version takes as an input.")
    assert "Traceback" not in err


def test_a_champion_with_a_feature_that_the_model_no_longer_takes_is_measured(
    arena: Context, add: Add, promote: Promote
) -> None:
    promote(arena, add(arena))
    fewer = with_model(arena, features=MODEL.features[:-1])
    assert compare_versions(fewer, add(arena)).objections == []


def test_every_comparison_is_recorded_once(arena: Context, add: Add, promote: Promote) -> None:
    promote(arena, add(arena, "constant"))
    number = add(arena)
    done = [compare_versions(arena, number) for _ in range(2)][1]
    rows, settings = recorded(arena, done), arena.settings.deployment
    first = done.results.filter(slice="", metric=METRIC).row(0, named=True)
    overall = rows.filter(slice="").row(0, named=True)
    assert (overall["metric"], overall["value"], overall["status"]) == (
        f"{METRIC}_gain",
        first["gain"],
        "ok",
    )
    assert overall["threshold"] == pytest.approx(-settings.margin * abs(first["reference"]))
    assert rows.height == done.results.height  # the first metric, slices, and the guards
    assert (
        rows["window_start"].unique().item().isoformat()
        == arena.registry.version(number).tags["holdout_start"]
    )


def test_the_page_shows_both_sides_and_loads_nothing(arena: Context, add: Add) -> None:
    done = compare_versions(arena, add(arena))
    page = done.report.read_text(encoding="utf-8")
    for part in (
        "Version 1 against the baseline",
        "Slices",
        "Calibration",
        "disagree",
        done.evidence,
        METRIC,
    ):
        assert part in page
    assert not re.search(r"""(?:src|href|url|@import)\s*[=(]?\s*["']?(?:https?:)?//""", page)
    assert "<script" not in page
