"""What every engine must do, whichever it is; and that nobody but an engine knows which it is."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import narwhals as nw
import polars as pl
import pytest

import {{cookiecutter.package_name}} as package
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.store.engines import (
    COMMIT,
    Engine,
    OvertakenError,
    PolarsEngine,
    Snapshot,
    StorageError,
)

NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SOURCE = Path(package.__file__).parent


@pytest.fixture
def engine() -> Engine:
    """Tests of Spark put theirs in its place."""
    return PolarsEngine()


@pytest.fixture
def address(tmp_path: Path) -> str:
    """Where a table may be made; a space and an umlaut are as good as other characters."""
    return str(tmp_path / "räume und orte" / "things")


def rows(*pairs: tuple[int, float | None], at: datetime = NOON) -> pl.DataFrame:
    frame = pl.DataFrame(list(pairs), schema={"id": pl.Int64, "value": pl.Float64}, orient="row")
    return frame.with_columns(pl.lit(at).cast(pl.Datetime("us", "UTC")).alias("at"))


def opened(engine: Engine, address: str) -> Snapshot:
    seen = engine.open(address)
    assert seen is not None
    return seen


def held(engine: Engine, address: str, version: int | None = None) -> list[tuple[int, float]]:
    seen = engine.open(address, version)
    assert seen is not None
    found = engine.collect(engine.scan(seen, seen.columns).select("id", "value"))
    return [(number, value) for number, value in found.sort("id").iter_rows()]


def test_a_table_that_was_never_written_is_not_there(engine: Engine, address: str) -> None:
    assert engine.open(address) is None


def test_an_append_makes_the_table_and_records_until_when(engine: Engine, address: str) -> None:
    engine.append(address, engine.frame(rows((1, 1.0))), None, NOON)
    seen = opened(engine, address)
    assert (seen.version, tuple(seen.columns), seen.complete_until) == (
        0,
        ("id", "value", "at"),
        NOON,
    )
    engine.append(address, engine.frame(rows((2, None))), seen, NOON + DAY)
    assert held(engine, address) == [(1, 1.0), (2, None)]
    assert held(engine, address, version=0) == [(1, 1.0)]
    assert opened(engine, address).complete_until == NOON + DAY
    assert len(engine.history(address)) == 2


def test_a_version_that_is_not_there_is_refused(engine: Engine, address: str) -> None:
    engine.append(address, engine.frame(rows((1, 1.0))), None, NOON)
    with pytest.raises(StorageError):
        engine.open(address, 9)


def test_a_merge_updates_and_inserts(engine: Engine, address: str) -> None:
    engine.append(address, engine.frame(rows((1, 1.0), (2, 2.0))), None, NOON)
    seen = opened(engine, address)
    engine.merge(engine.frame(rows((2, None), (3, 3.0))), seen, ["id"], NOON + DAY)
    assert held(engine, address) == [(1, 1.0), (2, None), (3, 3.0)]
    assert opened(engine, address).complete_until == NOON + DAY


def test_a_merge_records_a_batch_with_its_rows(engine: Engine, address: str) -> None:
    engine.append(address, engine.frame(rows((1, 1.0))), None, None)
    seen = opened(engine, address)
    engine.merge(engine.frame(rows((1, 2.0))), seen, ["id"], None, {"writer": 7})
    assert engine.last_batch(opened(engine, address), "writer") == 7
    assert held(engine, address) == [(1, 2.0)]


def test_a_feed_tells_which_commit_added_a_row(engine: Engine, address: str) -> None:
    # Given
    engine.create_feed(address, rows())
    for number in (1, 2):
        engine.append(address, engine.frame(rows((number, 0.5))), opened(engine, address), None)
    opened(engine, address).handle.optimize.compact()  # adds a file, and no rows
    engine.append(address, engine.frame(rows((3, None))), opened(engine, address), None)
    # When
    seen = opened(engine, address)
    found = engine.appended(seen, 2, 4).select(COMMIT, "id", "value").sort(COMMIT)
    # Then
    assert found.rows() == [(2, 2, 0.5), (4, 3, None)]
    with pytest.raises(StorageError):
        engine.appended(seen, 5, 6)


def test_a_table_without_a_feed_says_so(engine: Engine, address: str) -> None:
    engine.append(address, engine.frame(rows((1, 1.0))), None, None)
    with pytest.raises(StorageError, match="no feed"):
        engine.appended(opened(engine, address), 0, 0)


def test_a_table_that_is_made_anew_is_another(engine: Engine, address: str) -> None:
    # Given
    engine.create_feed(address, rows())
    first = engine.identity(opened(engine, address))
    assert engine.identity(opened(engine, address)) == first
    # When
    shutil.rmtree(address)
    engine.create_feed(address, rows())
    # Then
    assert engine.identity(opened(engine, address)) != first


def test_a_replacement_leaves_what_is_outside_its_interval(engine: Engine, address: str) -> None:
    days = [rows((number, 0.0), at=NOON + number * DAY) for number in range(3)]
    engine.append(address, engine.frame(pl.concat(days)), None, NOON)
    new = engine.frame(rows((7, 7.0), at=NOON + DAY))
    seen = opened(engine, address)
    engine.replace(address, new, seen, "at", (NOON, NOON + DAY), NOON + 2 * DAY)
    assert opened(engine, address).complete_until == NOON + 2 * DAY
    assert held(engine, address) == [(0, 0.0), (2, 0.0), (7, 7.0)]


@pytest.mark.parametrize("verb", ["append", "merge", "create"])
def test_who_comes_second_is_told_so(engine: Engine, address: str, verb: str) -> None:
    engine.append(address, engine.frame(rows((1, 1.0))), None, NOON)
    seen = opened(engine, address)
    engine.append(address, engine.frame(rows((2, 2.0))), opened(engine, address), NOON)
    mine = engine.frame(rows((1, 3.0)))
    writes = {
        "append": partial(engine.append, address, mine, seen, NOON),
        "create": partial(engine.append, address, mine, None, NOON),
        "merge": partial(engine.merge, mine, seen, ["id"], NOON),
    }
    with pytest.raises(OvertakenError):
        writes[verb]()
    assert held(engine, address) == [(1, 1.0), (2, 2.0)]


def test_batches_are_mapped_and_can_be_staged(engine: Engine) -> None:
    def double(batch: pl.DataFrame) -> pl.DataFrame:
        return batch.select("id", twice=pl.col("value") * 2)

    given = engine.frame(rows((1, 1.0), (2, None), (3, 3.0)))
    mapped = engine.map_batches(given, double, {"id": nw.Int64, "twice": nw.Float64})
    with engine.stage(mapped) as staged:
        found = engine.collect(staged.filter(nw.col("id") > 1).select("twice", "id").sort("id"))
    assert found.rows() == [(None, 2), (6.0, 3)]


def test_what_a_function_raises_reaches_the_caller(engine: Engine) -> None:
    def refuse(_: pl.DataFrame) -> pl.DataFrame:
        raise UserError("Not these.", "Give others.")

    mapped = engine.map_batches(engine.frame(rows((1, 1.0))), refuse, {"id": nw.Int64})
    with pytest.raises(UserError, match="Not these"), engine.stage(mapped):
        pass


def test_batches_have_at_most_so_many_rows_in_order(engine: Engine) -> None:
    given = engine.frame(rows(*((number, 0.0) for number in range(10))))
    batches = list(engine.batches(given, 4))
    assert max(batch.height for batch in batches) <= 4
    assert pl.concat(batches)["id"].to_list() == list(range(10))


def test_null_equals_null_where_rows_are_taken_away(engine: Engine) -> None:
    given = engine.frame(rows((1, None), (2, 2.0), (3, None)))
    others = engine.frame(rows((1, None), (2, 0.0)))
    left = engine.collect(engine.without(given, others, ["id", "value"])).sort("id")
    assert left["id"].to_list() == [2, 3]


def test_nobody_but_an_engine_and_the_encoding_knows_which_engine_it_is() -> None:
    """`problem/` is where rows come in; an estimator takes whatever frame it is given.

    Structured Streaming hands over frames of Spark, and there is no other that does the same.
    """
    places = ("store/engines/", "store/online/planned.py", "problem/", "modeling/lightgbm.py")
    allowed = re.compile("|".join((*places, "inference/stream_spark.py")))
    found = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if re.search(r"\b(to|from)_native\(", path.read_text(encoding="utf-8"))
    }
    assert {path for path in found if not allowed.match(path)} == set()
