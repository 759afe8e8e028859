"""Events that processes take over while they are killed are in every table once, as in a batch."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import narwhals as nw
import polars as pl
from polars.testing import assert_frame_equal

from {{cookiecutter.package_name}} import flows
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import KNOWN_AT, Frame, Source, Table
from {{cookiecutter.package_name}}.core.settings import load_settings
from {{cookiecutter.package_name}}.store import tables

from tests.conftest import ROOT, copy_project
from tests.endurance.conftest import Home
from tests.killing import KILLS
from tests.parcels import PROBLEM

ROWS = 200  # of parcels and of deliveries, sent before each kill


def test_every_event_is_taken_once_though_processes_are_killed(tmp_path: Path) -> None:
    # Given
    home = Home(copy_project(tmp_path / "my project"))
    # When
    script = ROOT / "tests" / "endurance" / "follower.py"
    process = home.start(str(script), str(KILLS), "7", str(ROWS))
    said, _ = process.communicate()
    # Then
    assert process.returncode == 0, said
    assert int(said.split()[-1]) > KILLS / 2
    found = Context(load_settings("test", home.folder), PROBLEM)
    for source in PROBLEM.sources[1:]:
        assert_all_are_there_once(found, source)
    expected = in_one_batch(found, copy_project(tmp_path / "batch"))
    for table in tables.fed(PROBLEM):
        if not table.name.startswith("events_"):
            assert_frame_equal(held(found, table), held(expected, table))


def assert_all_are_there_once(context: Context, source: Source) -> None:
    """The raw table has what was sent."""
    lakehouse = context.lakehouse
    sent = lakehouse.read(tables.events(source)).drop(KNOWN_AT)
    assert sent.height == (KILLS + 1) * ROWS
    taken = lakehouse.read(tables.raw(source), nw.col("parcel") >= 10**6).drop(KNOWN_AT)
    assert_frame_equal(taken, sent, check_row_order=False)


def in_one_batch(context: Context, folder: Path) -> Context:
    """Another project that loads what the raw tables hold, at once."""
    lakehouse = context.lakehouse

    def loaded(source: Source) -> Source:
        rows = lakehouse.read(tables.raw(source))

        def load(since: datetime | None, until: datetime) -> Frame:
            return nw.from_native(rows.lazy())

        return replace(source, load=load)

    problem = replace(PROBLEM, ends=None, sources=tuple(map(loaded, PROBLEM.sources)))
    other = Context(load_settings("test", folder), problem)
    until = lakehouse.complete_until(tables.features(PROBLEM.feature_tables[0]))
    assert until is not None
    flows.refresh(other, until)
    return other


def held(context: Context, table: Table) -> pl.DataFrame:
    """What a table holds, in order."""
    return context.lakehouse.read(table, order=list(table.schema))
