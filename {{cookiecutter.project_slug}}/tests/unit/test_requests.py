from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import UTC_TIME, Problem, Schema
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.core.settings import Settings
from {{cookiecutter.package_name}}.inference.inputs import conform, read

SCHEMA: Schema = {
    "count": nw.Int64,
    "size": nw.Float64,
    "at": UTC_TIME,
    "name": nw.String,
    "new": nw.Boolean,
}
NOON = datetime(2020, 2, 1, 12, tzinfo=UTC)
ROW = {"count": 1, "size": 1.5, "at": NOON, "name": "a", "new": True}
EVERYTHING = "SELECT * FROM requests"


@pytest.fixture
def asking(toy: Problem, settings: Settings) -> Context:
    """The toy, with chunks of 100 rows."""
    small = settings.inference.model_copy(update={"chunk_rows": 100})
    return Context(settings.model_copy(update={"inference": small}), toy)


@pytest.fixture
def rows(feed: pl.DataFrame) -> pl.DataFrame:
    """600 orders as prepared; the first 50 without a shop, others without an amount."""
    shop, amount = (
        pl.when(pl.col("order") >= 50).then("shop"),
        pl.when(pl.col("order") % 7 > 0).then("amount"),
    )
    return feed.select("order", shop, amount)


def stored(rows: pl.DataFrame, path: Path) -> str:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute('CREATE TABLE requests ("order", shop, amount)')
        database.executemany("INSERT INTO requests VALUES (?, ?, ?)", rows.rows())
    return f"sqlite:///{path}"


def conformed(column: str, values: Any) -> Any:
    frame = pl.DataFrame(ROW).with_columns(pl.Series(column, values))
    return conform(frame, SCHEMA, "requests.csv")[column].to_list()


# Types


@pytest.mark.parametrize(
    ("column", "given", "meant"),
    [
        ("count", ["7"], 7),
        ("count", [7.0], 7),
        ("count", pl.Series([7], dtype=pl.UInt8), 7),
        ("size", ["1e3"], 1000.0),
        ("size", [2], 2.0),
        ("size", pl.Series([0.5], dtype=pl.Float32), 0.5),
        ("new", ["true"], True),
        ("new", ["False"], False),
        ("new", [1], True),
        ("name", ["007"], "007"),
        ("at", [datetime(2020, 2, 1, 12)], NOON),  # noqa: DTZ001 a time without a zone is UTC
        ("at", [date(2020, 2, 1)], NOON.replace(hour=0)),
        *(
            ("at", [text], NOON)
            for text in ("2020-02-01T12:00:00Z", "2020-02-01 12:00", "2020-02-01T13:00:00+01:00")
        ),
        ("at", pl.Series([NOON]).dt.convert_time_zone("Asia/Tokyo"), NOON),
        ("at", pl.Series([NOON]).dt.cast_time_unit("ns"), NOON),
    ],
)
def test_values_that_mean_the_same_get_the_declared_type(
    column: str, given: Any, meant: object
) -> None:
    assert conformed(column, given) == [meant]


@pytest.mark.parametrize("column", SCHEMA)
@pytest.mark.parametrize("kind", [pl.Null, pl.String, pl.Int64, pl.Boolean])
def test_a_column_without_values_may_have_lost_its_type(
    column: str, kind: type[pl.DataType]
) -> None:
    assert conformed(column, pl.Series([None], dtype=kind)) == [None]


@pytest.mark.parametrize(
    ("column", "given"),
    [
        ("count", [1.5]),
        ("count", [float("nan")]),
        ("count", [2.0**70]),
        ("count", ["1.5"]),
        ("count", ["many"]),
        ("count", [NOON]),
        ("size", ["big"]),
        ("size", [2**53 + 1]),
        ("size", [{"width": 1.0}]),
        ("size", [[1.0]]),
        ("new", [2]),
        ("new", ["maybe"]),
        ("at", [1_580_558_400]),
        ("at", [1.5]),
        ("at", ["soon"]),
        ("at", ["2020-02-30T12:00:00Z"]),
        ("name", [1]),
        ("name", [b"a"]),
        ("name", [True]),
    ],
)
def test_values_that_the_declared_type_does_not_hold_are_refused(column: str, given: Any) -> None:
    with pytest.raises(UserError, match=r"requests\.csv") as refusal:
        conformed(column, given)
    assert column in str(refusal.value) or repr(given[0]).strip("'") in str(refusal.value)


def test_all_columns_that_are_wrong_are_named_at_once() -> None:
    frame = pl.DataFrame({**ROW, "count": [1.5], "at": ["soon"], "name": [1]})
    with pytest.raises(UserError, match=r"requests\.csv: count .*; at .*; name is Int64, decl"):
        conform(frame, SCHEMA, "requests.csv")


def test_missing_columns_are_named_and_others_left_out() -> None:
    frame = pl.DataFrame(ROW)
    assert conform(frame.with_columns(more=1), SCHEMA, "it").columns == list(SCHEMA)
    with pytest.raises(UserError, match=r"requests\.csv has no column size, new"):
        conform(frame.drop("size", "new"), SCHEMA, "requests.csv")


@given(st.lists(st.fixed_dictionaries({
    "count": st.none() | st.integers(-(2**63), 2**63 - 1),
    "size": st.none() | st.floats(allow_nan=False),
    "at": st.none()
    | st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    "name": st.none()
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    "new": st.none() | st.booleans(),
}), min_size=1))  # fmt: skip
def test_rows_survive_a_csv_file(drawn: list[dict[str, object]]) -> None:
    types = nw.Schema(SCHEMA).to_polars()
    rows = pl.DataFrame(drawn, schema=types)
    texts = pl.read_csv(rows.write_csv(quote_style="necessary").encode(), infer_schema=False)
    assert_frame_equal(conform(texts, SCHEMA, "it"), rows)


# Places


def test_files_and_databases_hold_the_same_rows(
    asking: Context, rows: pl.DataFrame, tmp_path: Path
) -> None:
    rows.write_parquet(tmp_path / "requests.parquet", row_group_size=50)
    rows.write_csv(tmp_path / "requests.csv")
    sqlite = stored(rows, tmp_path / "my requests.db")
    for source in (str(tmp_path / "requests.parquet"), str(tmp_path / "requests.csv"), sqlite):
        chunks = list(read(asking, source, EVERYTHING))
        assert_frame_equal(pl.concat(chunks), rows, check_exact=True)
        assert len(chunks) > 1


def test_a_database_without_types_tells_them_by_a_whole_chunk(
    toy: Problem, settings: Settings, tmp_path: Path
) -> None:
    shop = pl.when(pl.col("order") >= 2_000).then(pl.lit("a"))
    rows = pl.select(order=pl.int_range(3_000)).with_columns(shop=shop, amount=pl.lit(1.0))
    source = stored(rows, tmp_path / "requests.db")
    assert_frame_equal(
        pl.concat(read(Context(settings, toy), source, EVERYTHING)), rows, check_exact=True
    )


@pytest.mark.parametrize("kind", ["parquet", "csv", "sqlite"])
def test_no_rows_are_no_chunks_but_still_need_their_columns(
    asking: Context, rows: pl.DataFrame, tmp_path: Path, kind: str
) -> None:
    def source(rows: pl.DataFrame) -> tuple[str, str]:
        path = tmp_path / f"requests{rows.width}.{kind}"
        if kind == "sqlite":
            columns = ", ".join(f'"{name}"' for name in rows.columns)
            made = rows.clear().with_columns(order=0, shop=0, amount=0)
            return stored(made, path), f"SELECT {columns} FROM requests"  # noqa: S608 our own names
        getattr(rows.clear(), f"write_{kind}")(path)
        return str(path), ""

    assert list(read(asking, *source(rows))) == []
    with pytest.raises(UserError, match="has no column amount"):
        list(read(asking, *source(rows.drop("amount"))))


def test_a_database_that_is_not_there_is_not_made(asking: Context, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Cannot read .* No such file"):
        list(read(asking, f"sqlite:///{tmp_path / 'requests.db'}", EVERYTHING))
    assert not (tmp_path / "requests.db").exists()


def test_a_query_changes_nothing(asking: Context, rows: pl.DataFrame, tmp_path: Path) -> None:
    uri = stored(rows, tmp_path / "requests.db")
    before = (tmp_path / "requests.db").read_bytes()
    for statement in ("DROP TABLE requests", "DELETE FROM requests", "nonsense", ""):
        with pytest.raises(UserError):
            list(read(asking, uri, statement))
    assert (tmp_path / "requests.db").read_bytes() == before


@pytest.mark.parametrize("name", ["requests.parquet", "requests.csv", "requests.db"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0garbage", b"PAR1"])
def test_a_damaged_file_is_one_message(
    asking: Context, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    source = f"sqlite:///{tmp_path / name}" if name.endswith(".db") else str(tmp_path / name)
    with pytest.raises(UserError):
        list(read(asking, source, EVERYTHING))


@pytest.mark.parametrize(
    "source", ["requests.xlsx", "requests", "folder.parquet", "absent.parquet", "absent.csv"]
)
def test_what_is_no_file_of_rows_is_named(asking: Context, tmp_path: Path, source: str) -> None:
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(UserError, match=source):
        list(read(asking, str(tmp_path / source), ""))


@pytest.mark.parametrize(
    "uri", ["oracle://me:secret@host/db", "me:secret://host", "s3://bucket/requests.parquet"]
)
def test_an_unknown_kind_of_database_is_named_without_its_password(
    asking: Context, uri: str
) -> None:
    with pytest.raises(UserError, match="No driver for") as refusal:
        list(read(asking, uri, EVERYTHING))
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "rest",
    [
        *(f"me:top{sign}secret@127.0.0.1:1/db" for sign in "@:/?%# "),
        "127.0.0.1:1/db?user=me&password=top%secret",
        "127.0.0.1:1/db?password:secret",
        "me:secret@127.0.0.1:1/db?unheard=of",
    ],
)
def test_a_password_never_shows(asking: Context, rest: str) -> None:
    with pytest.raises(UserError) as refusal:
        list(read(asking, f"postgresql://{rest}", EVERYTHING))
    assert "secret" not in str(refusal.value)
