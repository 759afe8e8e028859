"""Tables that another problem filled are noticed."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import narwhals as nw
import polars as pl
import pytest

from {{cookiecutter.package_name}} import flows
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import KNOWN_AT, Frame, Problem, Source
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.core.settings import Settings
from {{cookiecutter.package_name}}.tracking.provenance import source_digest

from tests.conftest import START

FIRST, SECOND = START + timedelta(days=1), START + timedelta(days=2)
WHERE = "here"


def nothing(name: str, since: datetime | None, until: datetime) -> Frame:
    """Rows of a table that has none; where it is stands in a constant."""
    schema = {WHERE: pl.Int64(), KNOWN_AT: pl.Datetime("us", "UTC")}
    return nw.from_native(pl.LazyFrame(schema=schema))


def another(since: datetime | None, until: datetime) -> Frame:
    return nothing("another", since, until)


SOURCE = Source(name="here", raw={WHERE: nw.Int64}, load=partial(nothing, "a"), keys=(WHERE,))


@pytest.fixture
def context(settings: Settings, toy: Problem) -> Context:
    return Context(settings, toy)


def with_sources(context: Context, *sources: Source) -> Context:
    return Context(context.settings, replace(context.problem, sources=sources))


def test_a_digest_follows_columns_code_and_what_is_bound_to_it() -> None:
    changed = [
        replace(SOURCE, raw={WHERE: nw.Float64}),
        replace(SOURCE, load=partial(nothing, "b")),
        replace(SOURCE, load=another),
    ]
    digests = {source_digest(source) for source in [SOURCE, *changed]}
    assert len(digests) == 1 + len(changed)
    same = replace(SOURCE, checks=lambda rows: rows, max_rejected=0.5, max_age=timedelta(1))
    assert source_digest(same) == source_digest(SOURCE)


def test_a_digest_follows_the_file_that_is_read_once(project: Path) -> None:
    (project / "rows.csv").write_text("a\n1\n")
    source = replace(SOURCE, snapshot="rows.csv")
    before = source_digest(source)
    (project / "rows.csv").write_text("a\n2\n")
    assert source_digest(source) != before


@pytest.mark.parametrize("other", [replace(SOURCE, load=another), replace(SOURCE, name="there")])
def test_another_problem_does_not_add_to_the_tables_unless_told_to(
    context: Context, other: Source
) -> None:
    # given
    flows.ingest(with_sources(context, SOURCE), FIRST)
    later = with_sources(context, other)
    # then
    with pytest.raises(UserError, match="filled by another problem") as refusal:
        flows.ingest(later, SECOND)
    assert str(context.settings.state) in refusal.value.remedy
    # when told to keep the rows
    flows.settle_change(later, "keep", SECOND)
    assert flows.ingest(later, SECOND) == {other.name: 0}


def test_more_sources_are_no_other_problem(context: Context) -> None:
    flows.ingest(with_sources(context, SOURCE), FIRST)
    flows.ingest(with_sources(context, SOURCE, replace(SOURCE, name="more")), SECOND)


def test_starting_anew_removes_the_environment_and_nothing_else(context: Context) -> None:
    flows.ingest(with_sources(context, SOURCE), FIRST)
    state = context.settings.state
    other = state.with_name("other")
    other.mkdir()
    flows.settle_change(context, "anew", SECOND)
    assert (state.exists(), other.exists()) == (False, True)


def test_nothing_is_removed_where_a_person_decides_or_tables_are_elsewhere(
    context: Context, tmp_path: Path
) -> None:
    settings = context.settings
    person = settings.deployment.model_copy(update={"approval": "person"})
    elsewhere = settings.lakehouse.model_copy(update={"root": str(tmp_path / "elsewhere")})
    for change in ({"deployment": person}, {"lakehouse": elsewhere}):
        refused = Context(settings.model_copy(update=change), context.problem)
        with pytest.raises(UserError):
            flows.settle_change(refused, "anew", SECOND)
    with pytest.raises(UserError, match="stop, keep, anew"):
        flows.settle_change(context, "perhaps", SECOND)
