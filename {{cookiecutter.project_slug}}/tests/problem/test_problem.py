"""What holds for any problem: its declarations agree, and the loop closes on its data."""

from __future__ import annotations

from datetime import datetime, timedelta

import narwhals as nw
import polars as pl

from {{cookiecutter.package_name}} import flows
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import KNOWN_AT
from {{cookiecutter.package_name}}.problem import PROBLEM
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.tracking.registry import CHAMPION

MODEL = PROBLEM.model
TARGET = MODEL.target


def test_the_declarations_agree() -> None:
    stored = [name for table in PROBLEM.feature_tables for name in table.values]
    assert len(stored) == len(set(stored))
    assert len(MODEL.features) == len(set(MODEL.features))
    assert {*MODEL.categorical, *MODEL.monotone} <= set(MODEL.features)
    assert not {TARGET.label, *MODEL.forbidden} & set(MODEL.features)


def test_preparation_keeps_nearly_all_rows(context: Context) -> None:
    for source in PROBLEM.sources:
        kept = context.lakehouse.count(tables.prepared(source))
        rejected = context.lakehouse.count(tables.quarantine(source))
        assert kept > 0
        assert rejected <= source.max_rejected * (kept + rejected)


def test_a_table_grows_with_time(context: Context, as_of: datetime) -> None:
    for source in PROBLEM.sources:
        known = context.lakehouse.scan(tables.prepared(source)).select(nw.col(KNOWN_AT).max())
        assert context.lakehouse.collect(known).item() <= as_of


def test_the_first_model_beats_the_baseline_and_is_the_champion(context: Context) -> None:
    champion = context.registry.aliased(CHAMPION)
    assert champion == "1"
    measured = context.registry.version(champion).tags
    assert measured["stage"] == "Production"


def test_the_champion_scores_the_next_day(context: Context, as_of: datetime) -> None:
    tomorrow = as_of + timedelta(days=1)
    for step in (flows.ingest, flows.prepare, flows.features):
        step(context, tomorrow)
    flows.predict(context, tomorrow)
    scored = context.lakehouse.read(tables.predictions(PROBLEM))
    assert scored.height > 0
    assert scored.select(pl.col(TARGET.scores).is_finite().all()).row(0) == (True,) * len(
        TARGET.scores
    )
    if TARGET.classes:
        assert scored.select(pl.col(TARGET.scores).is_between(0, 1).all()).row(0)[0]
