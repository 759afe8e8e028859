from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl
import pytest

from {{cookiecutter.package_name}}.core.contract import UTC_TIME, Frame, Schema, Table
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.store import lakehouse as module
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse

TABLE = Table("things", {"id": nw.Int64, "value": nw.Float64, "at": UTC_TIME}, ("id",), "at")
SCHEMA = {"id": pl.Int64(), "value": pl.Float64(), "at": pl.Datetime("us", "UTC")}
KEYLESS = Table("loose", TABLE.schema, (), "at")
DAY = timedelta(days=1)
NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)
Verb = Callable[[Lakehouse, Frame], int]
VERBS = [
    pytest.param(lambda lake, rows: lake.append(TABLE, rows, NOON), id="append"),
    pytest.param(lambda lake, rows: lake.overwrite(TABLE, rows, None, NOON), id="overwrite"),
    pytest.param(lambda lake, rows: lake.merge(TABLE, rows, NOON), id="merge"),
]


def rows(values: dict[int | None, float | None], at: datetime = NOON) -> Frame:
    data = {"id": list(values), "value": list(values.values()), "at": [at] * len(values)}
    return nw.from_native(pl.LazyFrame(data, schema=SCHEMA))


def content(
    lakehouse: Lakehouse, table: Table = TABLE, version: int | None = None
) -> dict[int, float | None]:
    frame = lakehouse.scan(table, version).collect("polars").to_native().sort("id")
    return dict(zip(frame["id"], frame["value"], strict=True))


def test_a_table_never_written_is_empty_and_typed(lakehouse: Lakehouse) -> None:
    assert lakehouse.scan(TABLE).collect_schema().to_polars() == SCHEMA
    assert lakehouse.count(TABLE) == 0
    assert (
        lakehouse.version(TABLE),
        lakehouse.complete_until(TABLE),
        lakehouse.history(TABLE),
    ) == (None, None, [])


def test_append_adds_what_became_known_once(lakehouse: Lakehouse) -> None:
    assert lakehouse.append(TABLE, rows({1: 1.0}), NOON) == 1
    assert lakehouse.append(TABLE, rows({1: 1.0}), NOON) == 0
    assert lakehouse.append(TABLE, rows({2: 2.0}, NOON + DAY), NOON + DAY) == 1
    assert content(lakehouse) == {1: 1.0, 2: 2.0}
    assert lakehouse.complete_until(TABLE) == NOON + DAY


def test_overwrite_replaces_its_interval_and_nothing_else(lakehouse: Lakehouse) -> None:
    for number in (0, 1, 2):
        lakehouse.append(TABLE, rows({number: 0.0}, NOON + number * DAY), NOON + number * DAY)
    lakehouse.overwrite(TABLE, rows({7: 7.0}, NOON + DAY), NOON, NOON + DAY)
    assert content(lakehouse) == {0: 0.0, 7: 7.0, 2: 0.0}


@pytest.mark.parametrize("at", [NOON, NOON + DAY + timedelta(microseconds=1)])
def test_overwrite_refuses_rows_outside_its_interval(lakehouse: Lakehouse, at: datetime) -> None:
    with pytest.raises(UserError, match="things: 1 rows have no `at` after 2020-01-01 12:00"):
        lakehouse.overwrite(TABLE, rows({1: 1.0}, at), NOON, NOON + DAY)
    assert lakehouse.version(TABLE) is None


@pytest.mark.parametrize("at", [NOON - DAY, NOON, NOON + 2 * DAY, datetime(2113, 1, 1, tzinfo=UTC)])
def test_append_refuses_rows_that_its_step_would_never_see(
    lakehouse: Lakehouse, at: datetime
) -> None:
    lakehouse.append(TABLE, rows({1: 1.0}), NOON)
    with pytest.raises(UserError, match="things: 1 rows have no `at` after 2020-01-01 12:00"):
        lakehouse.append(TABLE, rows({2: 2.0}, at), NOON + DAY)
    assert content(lakehouse) == {1: 1.0}


def test_append_refuses_rows_without_a_time(lakehouse: Lakehouse) -> None:
    timeless = rows({1: 1.0}).with_columns(nw.lit(None).cast(UTC_TIME).alias("at"))
    with pytest.raises(UserError, match="things: 1 rows have no `at`"):
        lakehouse.append(TABLE, timeless, NOON)
    assert lakehouse.version(TABLE) is None


def test_merge_inserts_updates_and_keeps_the_rest(lakehouse: Lakehouse) -> None:
    lakehouse.merge(TABLE, rows({1: 1.0, 2: None, 3: 3.0}))
    assert lakehouse.merge(TABLE, rows({2: 2.0, 3: 3.0, 4: None})) == 2
    assert content(lakehouse) == {1: 1.0, 2: 2.0, 3: 3.0, 4: None}


@pytest.mark.parametrize(
    "key", ["OrderId", "order id", "order-id", "größe", "select", "1st", 'a"b']
)
def test_a_key_may_be_called_as_its_source_calls_it(lakehouse: Lakehouse, key: str) -> None:
    schema: Schema = {key: nw.Int64, "value": nw.Float64, "at": UTC_TIME}
    table = Table("things", schema, (key,), "at")
    lakehouse.merge(table, rows({1: 1.0, 2: 2.0}).rename({"id": key}))
    lakehouse.merge(table, rows({2: 3.0, 3: 3.0}).rename({"id": key}))
    merged = lakehouse.read(table, order=[key])
    assert merged.select(key, "value").rows() == [(1, 1.0), (2, 3.0), (3, 3.0)]


def test_merge_of_the_same_rows_commits_nothing(lakehouse: Lakehouse) -> None:
    lakehouse.merge(TABLE, rows({1: 1.0, 2: None}), NOON)
    assert lakehouse.merge(TABLE, rows({1: 1.0, 2: None}), NOON) == 0
    assert lakehouse.version(TABLE) == 0


def test_merge_of_no_news_still_records_until_when_it_is_complete(lakehouse: Lakehouse) -> None:
    lakehouse.merge(TABLE, rows({1: 1.0}), NOON)
    lakehouse.merge(TABLE, rows({}), NOON + DAY)
    assert lakehouse.complete_until(TABLE) == NOON + DAY
    assert content(lakehouse) == {1: 1.0}


def before_the_commit(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Do something, once, when the next write has looked at the table and has not committed yet."""
    enforce = Lakehouse._enforce_keys

    def meet(lakehouse: Lakehouse, table: Table, staged: Frame) -> None:
        monkeypatch.setattr(Lakehouse, "_enforce_keys", enforce)
        change()
        enforce(lakehouse, table, staged)

    monkeypatch.setattr(Lakehouse, "_enforce_keys", meet)


@pytest.mark.parametrize("held", [{}, {1: 1.0}, {1: 1.0, 2: 0.0}])
def test_of_two_who_merge_at_once_none_writes_a_row_twice(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch, held: dict[int | None, float | None]
) -> None:
    if held:
        lakehouse.merge(TABLE, rows(held))
    before_the_commit(monkeypatch, lambda: lakehouse.merge(TABLE, rows({2: 2.0, 3: 3.0})))
    assert lakehouse.merge(TABLE, rows({2: 2.0, 4: 4.0})) == 1
    assert lakehouse.count(TABLE) == len(held.keys() | {2, 3, 4})
    assert content(lakehouse) == {**held, 2: 2.0, 3: 3.0, 4: 4.0}


def test_of_two_who_merge_what_became_known_the_newer_row_holds(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    lakehouse.merge_known(TABLE, rows({1: 1.0}), NOON)
    soon, later = NOON + DAY, NOON + 2 * DAY
    newer = partial(lakehouse.merge_known, TABLE, rows({1: 3.0}, later), later)
    before_the_commit(monkeypatch, newer)
    # When
    merged = lakehouse.merge_known(TABLE, rows({1: 2.0}, soon), soon)
    # Then
    assert merged == 0
    assert content(lakehouse) == {1: 3.0}
    assert lakehouse.complete_until(TABLE) == later


def test_of_two_who_append_what_became_known_each_row_is_there_once(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    lakehouse.append_known(TABLE, rows({1: 1.0}), NOON)
    soon, later = NOON + DAY, NOON + 2 * DAY
    other = rows({2: 2.0}, soon)
    before_the_commit(monkeypatch, partial(lakehouse.append_known, TABLE, other, soon))
    # When
    both = nw.concat([other, rows({3: 3.0}, later)], how="vertical")
    appended = lakehouse.append_known(TABLE, both, later)
    # Then
    assert appended == 1
    assert lakehouse.count(TABLE) == 3
    assert content(lakehouse) == {1: 1.0, 2: 2.0, 3: 3.0}


Once = Callable[..., bool]


@pytest.mark.parametrize("verb", [Lakehouse.append_once, Lakehouse.merge_once])
def test_a_batch_follows_the_one_that_it_was_made_after(lakehouse: Lakehouse, verb: Once) -> None:
    assert verb(lakehouse, TABLE, rows({1: 1.0}), "w", 2, after=0)
    assert not verb(lakehouse, TABLE, rows({2: 2.0}), "w", 3, after=1)
    assert not verb(lakehouse, TABLE, rows({2: 2.0}), "w", 2, after=2)
    assert verb(lakehouse, TABLE, rows({2: 2.0}), "w", 5, after=2)
    assert lakehouse.last_batch(TABLE, "w") == 5
    assert content(lakehouse) == {1: 1.0, 2: 2.0}


@pytest.mark.parametrize("verb", [Lakehouse.append_once, Lakehouse.merge_once])
def test_of_two_who_write_the_same_batch_one_does(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch, verb: Once
) -> None:
    # Given
    verb(lakehouse, TABLE, rows({1: 1.0}), "w", 1)
    other = partial(verb, lakehouse, TABLE, rows({2: 3.0}), "w", 2, after=1)
    before_the_commit(monkeypatch, other)
    # When
    done = verb(lakehouse, TABLE, rows({2: 2.0}), "w", 3, after=1)
    # Then
    assert not done
    assert content(lakehouse) == {1: 1.0, 2: 3.0}
    assert lakehouse.last_batch(TABLE, "w") == 2


@pytest.mark.parametrize("verb", [Lakehouse.append_once, Lakehouse.merge_once])
def test_a_batch_is_written_though_others_are_first_many_times(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch, verb: Once
) -> None:
    # Given
    verb(lakehouse, TABLE, rows({1: 1.0}), "w", 1)
    others = list(range(10, 40))
    are_next = Lakehouse._are_next

    def meet(seeing: Lakehouse, *seen: Any) -> bool:
        found = are_next(seeing, *seen)
        if others:
            lakehouse.merge(TABLE, rows({others.pop(): 0.0}))
        return found

    monkeypatch.setattr(Lakehouse, "_are_next", meet)
    monkeypatch.setattr("time.sleep", lambda _: None)
    # When
    done = verb(lakehouse, TABLE, rows({2: 2.0}), "w", 2)
    # Then
    assert done
    assert not others
    assert content(lakehouse) == {1: 1.0, 2: 2.0, **dict.fromkeys(range(10, 40), 0.0)}


def test_a_merge_of_no_news_records_its_batch(lakehouse: Lakehouse) -> None:
    lakehouse.merge(TABLE, rows({1: 1.0}))
    assert lakehouse.merge_once(TABLE, rows({1: 1.0}), "w", 1)
    assert lakehouse.last_batch(TABLE, "w") == 1
    assert content(lakehouse) == {1: 1.0}


def test_of_two_who_append_at_once_one_is_told_so(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse.append(TABLE, rows({1: 1.0}), NOON)
    later = NOON + DAY
    before_the_commit(monkeypatch, lambda: lakehouse.append(TABLE, rows({2: 2.0}, later), later))
    with pytest.raises(UserError, match="Somebody else wrote") as refused:
        lakehouse.append(TABLE, rows({3: 3.0}, later), later)
    assert "run this again" in str(refused.value)
    assert content(lakehouse) == {1: 1.0, 2: 2.0}


def test_every_version_can_be_read_again_and_history_tells_them(lakehouse: Lakehouse) -> None:
    lakehouse.merge(TABLE, rows({1: 1.0}))
    lakehouse.merge(TABLE, rows({1: 2.0}))
    assert [content(lakehouse, version=version) for version in (0, 1)] == [{1: 1.0}, {1: 2.0}]
    assert [commit["version"] for commit in lakehouse.history(TABLE)] == [1, 0]
    assert [commit["operation"] for commit in lakehouse.history(TABLE)] == ["MERGE", "WRITE"]
    with pytest.raises(UserError, match="things at version 9"):
        lakehouse.scan(TABLE, 9)


def test_require_tells_until_when_a_table_is_complete(lakehouse: Lakehouse) -> None:
    with pytest.raises(UserError, match="things is not there yet"):
        lakehouse.require(TABLE, NOON)
    lakehouse.append(TABLE, rows({1: 1.0}), NOON)
    lakehouse.require(TABLE, NOON)
    with pytest.raises(UserError, match="things is complete until 2020-01-01 12:00 only"):
        lakehouse.require(TABLE, NOON + DAY)


@pytest.mark.parametrize("verb", VERBS)
def test_a_mount_is_read_and_refuses_writes_before_anything_is_touched(
    tmp_path: Path, verb: Verb
) -> None:
    theirs = Lakehouse(str(tmp_path / "theirs"))
    theirs.append(TABLE, rows({1: 1.0}, NOON - DAY), NOON - DAY)
    ours = Lakehouse(str(tmp_path / "ours"), mounts={"thin*": theirs.root})
    never = nw.from_native(
        pl.LazyFrame().select(pl.lit(1).map_batches(lambda _: pytest.fail("was computed")))
    )
    with pytest.raises(UserError, match=r"things is read from .*theirs.* read-only"):
        verb(ours, never)
    assert content(ours) == {1: 1.0}
    assert theirs.version(TABLE) == 0
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda frame: frame.drop("value"), "missing column value"),
        (
            lambda frame: frame.rename({"value": "worth"}),
            "missing column value; undeclared column worth",
        ),
        (lambda frame: frame.with_columns(extra=nw.lit(1)), "undeclared column extra"),
        (
            lambda frame: frame.with_columns(nw.col("value").cast(nw.Int64)),
            "value is Int64, declared Float64",
        ),
        (
            lambda frame: frame.with_columns(nw.col("at").cast(nw.Datetime("us"))),
            "at is Datetime.*, declared Datetime",
        ),
        (lambda _: rows({None: 1.0}), "null key .*None"),
        (lambda frame: nw.concat([frame, frame]), "repeated key .*1"),
    ],
)
def test_rows_that_break_the_declaration_are_refused_whole(
    lakehouse: Lakehouse, verb: Verb, broken: Callable[[Frame], Frame], message: str
) -> None:
    with pytest.raises(UserError, match=f"things: {message}"):
        verb(lakehouse, broken(rows({1: 1.0})))
    assert lakehouse.version(TABLE) is None


def test_a_table_without_keys_takes_repeated_rows(lakehouse: Lakehouse) -> None:
    assert lakehouse.append(KEYLESS, nw.concat([rows({1: 1.0}), rows({1: 1.0})]), NOON) == 2


@pytest.mark.parametrize("verb", VERBS)
def test_an_unwritable_root_is_named(tmp_path: Path, verb: Verb) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"Cannot write .*file/things"):
        verb(Lakehouse(str(tmp_path / "file")), rows({1: 1.0}))


@pytest.mark.parametrize(
    "use",
    [
        *VERBS,
        pytest.param(lambda lake, _: lake.version(TABLE), id="version"),
        pytest.param(lambda lake, _: lake.scan(TABLE), id="scan"),
        pytest.param(lambda lake, _: lake.complete_until(TABLE), id="complete_until"),
    ],
)
def test_a_corrupt_log_is_named(
    lakehouse: Lakehouse, use: Callable[[Lakehouse, Frame], object]
) -> None:
    lakehouse.append(TABLE, rows({1: 1.0}, NOON - DAY), NOON - DAY)
    next(Path(lakehouse.root).glob("things/_delta_log/*.json")).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"Cannot read .*things"):
        use(lakehouse, rows({2: 2.0}))


def test_staged_files_do_not_stay(lakehouse: Lakehouse, tmp_path: Path) -> None:
    lakehouse.append(TABLE, rows({1: 1.0}), NOON)
    with pytest.raises(UserError):
        lakehouse.append(TABLE, rows({None: 1.0}), NOON + DAY)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_process_killed_in_a_write_leaves_the_table_as_it_was(lakehouse: Lakehouse) -> None:
    # given a table, with a file that an earlier kill left behind before its commit
    lakehouse.append(TABLE, rows({1: 1.0}), NOON)
    orphan = next(Path(lakehouse.root).glob("things/*.parquet"))
    orphan.with_name("part-left-behind.parquet").write_bytes(orphan.read_bytes())
    # when a process is killed where it would commit
    code = (
        "import os, signal, sys; from datetime import *; import narwhals as nw, polars as pl\n"
        f"from {module.__name__} import *\n"
        "from {0}.core.contract import Table, UTC_TIME\n"
        "import {0}.store.engines.polars as m\n"
        "m.write_deltalake = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "t = Table('things', dict(id=nw.Int64, value=nw.Float64, at=UTC_TIME), ('id',), 'at')\n"
        "r = pl.LazyFrame(dict(id=[2], value=[2.0], at=[datetime(2020, 1, 2, tzinfo=UTC)]))\n"
        "Lakehouse(sys.argv[1]).append(t, nw.from_native(r), datetime(2020, 1, 2, tzinfo=UTC))\n"
    )
    source = code.replace("{0}", module.__name__.partition(".")[0])
    search = os.pathsep.join(sys.path)
    killed = subprocess.run(
        [sys.executable, "-c", source, lakehouse.root],
        env={**os.environ, "PYTHONPATH": search},
        check=False,
    )
    # then
    assert killed.returncode == -signal.SIGKILL
    assert content(lakehouse) == {1: 1.0}
    assert lakehouse.append(TABLE, rows({2: 2.0}, NOON + DAY), NOON + DAY) == 1
    assert content(lakehouse) == {1: 1.0, 2: 2.0}
