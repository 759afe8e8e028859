"""Rows to score that come from PostgreSQL: a server of its own, on a socket in a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import pytest
from adbc_driver_postgresql import dbapi
from polars.testing import assert_frame_equal

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import (
    PREDICTION_TIME,
    UTC_TIME,
    Problem,
)
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX, Settings
from {{cookiecutter.package_name}}.deployment import transitions
from {{cookiecutter.package_name}}.inference import batch
from {{cookiecutter.package_name}}.inference.inputs import conform, read
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.training.pipeline import Trained

from tests.parcels import PROBLEM

Run = Callable[..., tuple[int, str, str]]
USER, PASSWORD = "asker", "a b/c:d@e?f=100%"
EVERYTHING = "SELECT * FROM requests"


def rights() -> dict[str, Any]:
    """Options of a subprocess that make it another user's: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    import pwd

    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@pytest.fixture(scope="session")
def socket_folder() -> Iterator[Path]:
    """Where the server listens; a path that is short enough for a socket."""
    programs, owner = Path(os.environ["POSTGRES_PROGRAMS"]), rights()
    with tempfile.TemporaryDirectory(prefix="postgres ") as name:
        folder, secret, log = Path(name), Path(name) / "secret", Path(name) / "log"
        secret.write_text(PASSWORD, encoding="utf-8")
        for path in (folder, secret):
            shutil.chown(path, owner.get("user", os.geteuid()))

        def call(program: str, *arguments: str) -> None:
            command = [str(programs / program), "--pgdata", str(folder / "data"), *arguments]
            done = subprocess.run(
                command, cwd=folder, stdout=subprocess.DEVNULL, check=False, **owner
            )
            said = log.read_text(encoding="utf-8") if log.exists() else ""
            assert done.returncode == 0, f"{program} failed: {said}"

        call(
            "initdb",
            "--no-sync",
            "--auth=scram-sha-256",
            "--username",
            USER,
            "--pwfile",
            str(secret),
        )
        with (folder / "data" / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.write(
                f"listen_addresses = ''\nunix_socket_directories = '{folder}'\nfsync = off\n"
            )
        call("pg_ctl", "start", "--wait", "--log", str(log))
        yield folder
        call("pg_ctl", "stop", "--wait", "--mode", "immediate")


@pytest.fixture(scope="session")
def address(socket_folder: Path) -> Callable[[str], str]:
    """The database's URI, with a password."""

    def uri(password: str) -> str:
        return f"postgresql://{USER}:{password}@/postgres?host={quote(str(socket_folder))}"

    return uri


@pytest.fixture
def uri(address: Callable[[str], str]) -> str:
    return address(quote(PASSWORD, safe=""))


@pytest.fixture
def asking(toy: Problem, settings: Settings) -> Context:
    return Context(settings, toy)


def execute(uri: str, statement: str) -> None:
    with dbapi.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(statement)


def store(uri: str, rows: pl.DataFrame) -> None:
    execute(uri, "DROP TABLE IF EXISTS requests")
    with dbapi.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("requests", rows)


def test_rows_come_as_they_are_declared(uri: str, asking: Context, feed: pl.DataFrame) -> None:
    # given orders in the types that a database may have chosen, one of them without an amount
    amount = pl.when(pl.col("order") != 3).then("amount")
    rows = feed.select("order", "shop", amount)
    store(uri, rows)
    execute(uri, 'ALTER TABLE requests ALTER "order" TYPE integer, ALTER shop TYPE char(1)')
    # when they are read
    chunks = list(read(asking, uri, f'{EVERYTHING} ORDER BY "order"'))
    # then types and values are those of the prepared table
    assert sum(chunk.height for chunk in chunks) == 600
    assert_frame_equal(pl.concat(chunks), rows, check_exact=True)


def test_moments_come_in_utc_whatever_the_session_says(uri: str, asking: Context) -> None:
    with dbapi.connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'Asia/Tokyo'")
        cursor.execute(
            "SELECT timestamptz '2020-02-01 09:00+09' AS zoned, "
            "timestamp '2020-02-01 00:00' AS naive"
        )
        found = pl.DataFrame(cursor.fetch_arrow_table())
    rows = conform(found, dict.fromkeys(("zoned", "naive"), UTC_TIME), "The query")
    assert rows.rows() == [(datetime.fromisoformat("2020-02-01T00:00Z"),) * 2]


def test_a_database_is_scored_like_the_tables(
    uri: str,
    trained: tuple[Context, Trained],
    as_of: datetime,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given the rows of the last day that ask for a prediction, in the database
    home, done = trained
    transitions.move(home, "stage", done.version, "me", "it is good")
    transitions.move(home, "approve", done.version, "you", "indeed")
    table, keys = tables.prepared(PROBLEM.scored), list(PROBLEM.model.keys)
    rows = home.lakehouse.read(table).select(*PROBLEM.scored.prepared)
    last_day = pl.col(PREDICTION_TIME).is_between(as_of - timedelta(days=1), as_of, closed="right")
    spine = next(batch.spines(home, [rows], as_of))
    asked = home.lakehouse.collect(spine).filter(last_day)
    store(uri, rows.join(asked, on=keys, how="semi"))
    # when the tables and the database are scored by the command line
    monkeypatch.chdir(home.settings.project)
    monkeypatch.setenv(f"{ENV_PREFIX}INFERENCE__FIRST_DAYS", "1")
    common = ("predict", "--env", "test", "--as-of", as_of.isoformat(), "--output")
    assert run(*common, str(tmp_path / "tables.parquet"))[0] == 0
    assert (
        run(*common, str(tmp_path / "base.parquet"), "--input", uri, "--query", EVERYTHING)[0] == 0
    )
    # then the predictions are the same to the bit
    by_table, by_base = (
        pl.read_parquet(tmp_path / f"{name}.parquet").sort(keys) for name in ("tables", "base")
    )
    assert by_base.height == asked.height > 100
    assert_frame_equal(by_base, by_table, check_exact=True)


@pytest.mark.parametrize("statement", ["DROP TABLE requests", "DELETE FROM requests RETURNING *"])
def test_what_is_no_question_changes_nothing(
    uri: str, asking: Context, feed: pl.DataFrame, statement: str
) -> None:
    store(uri, feed)
    with suppress(UserError):
        list(read(asking, uri, statement))
    assert sum(chunk.height for chunk in read(asking, uri, EVERYTHING)) == feed.height


@pytest.mark.parametrize(
    "query", ["", "SELECT", "SELECT nonsense FROM requests", "SELECT * FROM nowhere"]
)
def test_a_query_that_is_none_is_one_message(
    uri: str, asking: Context, feed: pl.DataFrame, query: str
) -> None:
    store(uri, feed)
    with pytest.raises(UserError, match=r"Cannot read the query's rows|has no column") as refusal:
        list(read(asking, uri, query))
    assert PASSWORD not in str(refusal.value)


@pytest.mark.parametrize("given", ["wrong", PASSWORD, *(f"top{sign}secret" for sign in "% @/?#&[")])
def test_a_password_never_shows(address: Callable[[str], str], asking: Context, given: str) -> None:
    for uri in (
        address(given),
        f"{address('')}&password={given}",
        f"{address('')}&password={given}&nonsense=1",
    ):
        with pytest.raises(UserError) as refusal:
            list(read(asking, uri, "SELECT 1"))
        assert not any(
            part and part in str(refusal.value) for part in ("secret", "wrong", "c:d", "100%")
        )
