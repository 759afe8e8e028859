"""The registered champion as the opponent of a pull request's model."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.training.pipeline import Trained

from ci import forge, model, report
from ci.errors import CiError

Add = Callable[..., str]
Promote = Callable[[Context, str], str]


def test_a_pull_request_is_compared_with_the_registered_champion(
    trained: tuple[Context, Trained],
    arena: Context,
    add: Add,
    promote: Promote,
    tmp_path: Path,
) -> None:
    # given the rows of a pull request's model, and a champion elsewhere that is as good
    promote(arena, add(arena))
    model.score(trained[0], tmp_path / "head.parquet")
    model.score_champion(trained[0], arena, tmp_path / "base.parquet")
    # when
    head, base = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("head", "base"))
    found = model.judge(head, base, arena.problem.model, 0.01)
    # then they were judged on the same rows, and the report names the opponent
    assert (found["verdict"], found["rows"]) == ("alike", head.height)
    assert "as good as that of the champion of test" in found["sentence"]
    assert f"| metric | this {forge.CHANGE} | champion of test | gain |" in report.compose(
        {"model": "success"}, {}, found, ""
    )


def test_a_champion_that_has_learned_from_the_rows_is_no_opponent(
    trained: tuple[Context, Trained],
    arena: Context,
    add: Add,
    promote: Promote,
    as_of: datetime,
    tmp_path: Path,
) -> None:
    with pytest.raises(CiError, match="test has no champion yet"):
        model.score_champion(trained[0], arena, tmp_path / "base.parquet")
    later = (as_of + timedelta(days=7)).isoformat()
    promote(arena, add(arena, tags={"holdout_start": later}))
    with pytest.raises(CiError, match="has learned until"):
        model.score_champion(trained[0], arena, tmp_path / "base.parquet")
    assert not list(tmp_path.glob("*.parquet"))
