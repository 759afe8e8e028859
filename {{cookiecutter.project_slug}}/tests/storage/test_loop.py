"""The loop on object storage, each verb on a machine that has nothing and keeps nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event

import boto3
import narwhals as nw
import polars as pl
import pytest
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from moto import settings as moto_settings
from polars.testing import assert_frame_equal

from {{cookiecutter.package_name}} import doctor
from {{cookiecutter.package_name}}.context import open_context
from {{cookiecutter.package_name}}.core.contract import (
    KNOWN_AT,
    UTC_TIME,
    Table,
    polars_schema,
)
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.engines import PolarsEngine
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse
from {{cookiecutter.package_name}}.tracking.clients import require_client

from tests.conftest import PATIENCE, ROOT, copy_project
from tests.parcels import PROBLEM
from tests.storage.conftest import KEY, REGION, Gone, Server, Storage, write_conf

Run = Callable[..., tuple[int, str, str]]
Verb = Callable[..., str]
End = Callable[[subprocess.Popen[str]], int]
TRAINED = PROBLEM.begins + timedelta(days=38)
AT = TRAINED.isoformat()
NEXT, LATER = TRAINED + timedelta(days=1), TRAINED + timedelta(days=8)
THINGS = Table("things", {"id": nw.Int64, KNOWN_AT: UTC_TIME}, ("id",), KNOWN_AT)
UNCOMPARED = {"latency_ms", "feature_versions", "subject", "at"}  # clocks, numbers of commits, ids


@pytest.fixture
def anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: Storage) -> Path:
    """What a runner is given: secrets in its environment."""
    for name, value in storage.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KEY_OF_TESTS", "k" * 32)
    return tmp_path


@pytest.fixture
def verb(
    anywhere: Path, storage: Storage, mlflow_server: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> Verb:
    """Run a verb as of a moment in a folder that nobody has used; returns what it said."""
    runners = iter(range(100))

    def on_a_new_machine(name: str, as_of: datetime | None, *arguments: str) -> str:
        folder = copy_project(anywhere / f"runner {next(runners)}")
        write_conf(folder, storage, mlflow_server, f"loop-{storage.scheme}")
        monkeypatch.chdir(folder)
        when = [] if as_of is None else ["--as-of", as_of.isoformat()]
        code, out, err = run(name, "--env", "test", *when, *arguments)
        assert code == 0, err
        return out

    return on_a_new_machine


def test_runners_that_keep_nothing_close_the_loop(
    storage: Storage, verb: Verb, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a version in production, trained and checked by machines that are gone
    for name in ("ingest", "prepare", "features", "train"):
        verb(name, TRAINED)
    verb("deploy", None)
    # when there are days of production, each verb on a machine of its own
    for day in (NEXT, LATER):
        for name in ("ingest", "prepare", "features", "predict", "monitor"):
            verb(name, day)
    verb("train", LATER)
    verb("deploy", None, "--who", "somebody")
    verb("rollback", None, "--why", "to see whether it works")
    # then what was found is what one machine finds on its disk
    held = Lakehouse(
        storage.address(f"loop-{storage.scheme}", "lakehouse"), engine=PolarsEngine(storage.options)
    )
    alone = copy_project(tmp_path / "alone")
    monkeypatch.chdir(alone)
    for name in ("ingest", "prepare", "features", "train"):
        assert run(name, "--env", "test", "--as-of", TRAINED.isoformat())[0] == 0
    assert run("deploy", "--env", "test")[0] == 0
    for day in (NEXT, LATER):
        for name in ("ingest", "prepare", "features", "predict", "monitor"):
            assert run(name, "--env", "test", "--as-of", day.isoformat())[0] == 0
    own = Lakehouse(str(alone / ".data" / "test" / "lakehouse"))
    for table in (*tables.inputs(PROBLEM), tables.predictions(PROBLEM)):
        assert_frame_equal(sorted_rows(held, table), sorted_rows(own, table))
    assert "1" in verb("status", None)
    # and reports, journals and the dashboard are where the next machine finds them
    kept = storage.names(f"loop-{storage.scheme}/state/")
    assert [name for name in kept if name.endswith("/reports/index.html")]
    assert [name for name in kept if "/reports/training_" in name]
    assert [name for name in kept if name.endswith("/studies.log")]
    assert [name for name in kept if "key" in name] == []


def sorted_rows(lakehouse: Lakehouse, table: Table) -> pl.DataFrame:
    rows = lakehouse.read(table)
    compared = rows.drop(UNCOMPARED & set(rows.columns))
    return compared.sort(compared.columns)


# Writers that meet, or die


@pytest.fixture
def lakehouse(storage: Storage, request: pytest.FixtureRequest) -> Lakehouse:
    """An empty one in the bucket."""
    name = request.node.name.replace("[", "-").replace("]", "")
    return Lakehouse(storage.address(name), engine=PolarsEngine(storage.options))


def things(*numbers: int, at: datetime = TRAINED) -> pl.DataFrame:
    rows = pl.DataFrame({"id": numbers}).with_columns(pl.lit(at).alias(KNOWN_AT))
    return rows.cast(polars_schema(THINGS.schema))


def ids(lakehouse: Lakehouse) -> list[int]:
    return lakehouse.read(THINGS)["id"].sort().to_list()


def test_of_two_writers_one_is_first(lakehouse: Lakehouse) -> None:
    lakehouse.append(THINGS, things(0), TRAINED)
    won = []
    for turn in range(5):
        numbers = (10 * turn + 1, 10 * turn + 2)
        write = partial(write_if_unchanged, lakehouse, lakehouse.version(THINGS))
        with ThreadPoolExecutor(2) as pool:
            succeeded = list(pool.map(write, numbers))
        assert sorted(succeeded) == [False, True]
        won.append(numbers[succeeded.index(True)])
    assert ids(lakehouse) == [0, *won]


def write_if_unchanged(lakehouse: Lakehouse, version: int | None, number: int) -> bool:
    return lakehouse.append_if_unchanged(THINGS, things(number), version)


def test_two_who_merge_at_once_add_no_row_twice(lakehouse: Lakehouse) -> None:
    lakehouse.append(THINGS, things(0), TRAINED)
    with ThreadPoolExecutor(2) as pool:
        merged = pool.map(partial(lakehouse.merge, THINGS), [things(0, 1, 2), things(2, 3)])
    assert sum(merged) >= 3
    assert ids(lakehouse) == [0, 1, 2, 3]


@contextmanager
def killed_at_commit(server: Server, table: str) -> Iterator[End]:
    """A process is killed (-9) when its files are in the bucket and their commit arrives.

    Gives a function that waits for a process and returns how it ended.
    """
    arrived = Event()

    def see(method: str, path: str) -> None:
        if method == "PUT" and f"/{table}/_delta_log/" in path:
            arrived.set()
            ended.wait()
            raise ConnectionAbortedError

    def end(process: subprocess.Popen[str]) -> int:
        assert arrived.wait(PATIENCE), "The commit never came."
        process.kill()
        code = process.wait()
        ended.set()
        return code

    ended = Event()
    server.seen = see
    yield end
    server.seen = None


KILLED = {
    "ingest": "raw_deliveries",
    "prepare": "prepared_parcels",
    "features": "features_depot",
}


@pytest.mark.parametrize("storage", ["s3"], indirect=True)
def test_killed_between_its_files_and_its_commit_a_verb_loses_nothing(
    anywhere: Path,
    storage: Storage,
    server: Server,
    mlflow_server: str,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given a runner whose every verb is killed as it commits
    folder = copy_project(anywhere / "runner")
    write_conf(folder, storage, mlflow_server, "killed")
    monkeypatch.chdir(folder)
    for name, written in KILLED.items():
        before = storage.names(f"killed/lakehouse/{written}/_delta_log")
        with killed_at_commit(server, written) as end:
            module = "{{cookiecutter.package_name}}"
            command = (sys.executable, "-m", module, name, "--env", "test", "--as-of", AT)
            path = os.pathsep.join(sys.path)
            with subprocess.Popen(
                command, env={**os.environ, "PYTHONPATH": path}, text=True
            ) as process:
                assert end(process) == -signal.SIGKILL
        assert storage.names(f"killed/lakehouse/{written}/_delta_log") == before
        # when the verb runs again
        assert run(name, "--env", "test", "--as-of", AT)[0] == 0
    # then the tables are those of an undisturbed disk
    alone = copy_project(anywhere / "alone")
    monkeypatch.chdir(alone)
    for name in KILLED:
        assert run(name, "--env", "test", "--as-of", AT)[0] == 0
    own = Lakehouse(str(alone / ".data" / "test" / "lakehouse"))
    held = Lakehouse(storage.address("killed", "lakehouse"), engine=PolarsEngine(storage.options))
    for table in tables.inputs(PROBLEM):
        assert_frame_equal(sorted_rows(held, table), sorted_rows(own, table))


def test_doctor_looks_where_tables_state_and_files_are(
    anywhere: Path, storage: Storage, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_project(anywhere / "runner")
    write_conf(folder, storage, mlflow_server, f"examined-{storage.scheme}")
    monkeypatch.chdir(folder)
    examined = list(doctor._reachable(open_context("test")))
    assert [finding for finding in examined if not finding.is_well] == []
    assert examined[0].said.startswith(f"{storage.scheme}://")


# What fails


def test_a_wrong_key_is_one_line(
    anywhere: Path,
    azure: Storage,
    mlflow_server: str,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = {**azure.options, "azure_storage_account_key": "AAAA" + KEY[4:]}
    folder = copy_project(anywhere / "runner")
    write_conf(folder, replace(azure, options=wrong), mlflow_server, "wrong-key")
    monkeypatch.chdir(folder)
    code, _, err = run("ingest", "--env", "test", "--as-of", AT)
    assert code == 1
    assert err.startswith("✗ Cannot reach az://lake/wrong-key/state")
    assert "Traceback" not in err
    examined = {finding.name: finding for finding in doctor._reachable(open_context("test"))}
    assert examined["state"].said.startswith("Cannot reach az://lake/wrong-key/state")
    with pytest.raises(UserError, match=r"^Cannot read az://lake/wrong-key/things: .*privileges"):
        Lakehouse(azure.address("wrong-key"), engine=PolarsEngine(wrong)).read(THINGS)


@pytest.mark.parametrize("storage", ["s3"], indirect=True)
def test_a_bucket_that_disappears_is_one_line_and_what_was_written_is_kept(
    anywhere: Path,
    storage: Storage,
    mlflow_server: str,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    server: Server,
) -> None:
    folder = copy_project(anywhere / "runner")
    write_conf(folder, storage, mlflow_server, "gone")
    monkeypatch.chdir(folder)
    assert run("ingest", "--env", "test", "--as-of", AT)[0] == 0

    # given a bucket that is refused from the first commit on
    def see(method: str, path: str) -> None:
        if method == "PUT" and "/_delta_log/" in path:
            is_gone.set()
        if is_gone.is_set():
            raise Gone

    is_gone = Event()
    server.seen = see
    code, _, err = run("prepare", "--env", "test", "--as-of", AT)
    server.seen = None
    # then that is said, in one message
    assert code == 1
    assert err.count("✗") == 1
    assert "Cannot" in err
    assert "Traceback" not in err
    # and once it is back, a rerun completes
    assert run("prepare", "--env", "test", "--as-of", AT)[0] == 0
    assert run("features", "--env", "test", "--as-of", AT)[0] == 0


def test_the_policy_in_the_documentation_lets_development_read_production_and_no_more(
    s3: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given production's tables, and somebody who has the policy that the page on storage shows
    page = (ROOT / "docs" / "storage.md").read_text(encoding="utf-8")
    (policy,) = re.findall(r"^```json\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tables_of_prod,) = re.findall(r'"arn:aws:s3:::(\S+/prod/lakehouse)/\*"', policy)
    bucket, _, prod = tables_of_prod.partition("/")
    s3.client.create_bucket(Bucket=bucket)
    everybody = PolarsEngine(s3.options)
    Lakehouse(f"s3://{bucket}/{prod}", engine=everybody).append(THINGS, things(1), TRAINED)
    developer = PolarsEngine({**s3.options, **keys_of_a_user(s3, policy)})
    root = f"s3://{bucket}/{prod.replace('/prod/', '/dev/')}"
    own = Lakehouse(root, {"things": f"s3://{bucket}/{prod}"}, developer)
    # when whoever has no right is refused
    monkeypatch.setattr(moto_settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
    # then production can be read through the mount, and only one's own written
    assert ids(own) == [1]
    other = replace(THINGS, name="others")
    own.append(other, things(2), TRAINED)
    assert own.read(other)["id"].to_list() == [2]
    production = Lakehouse(f"s3://{bucket}/{prod}", engine=developer)
    with pytest.raises(UserError, match=r"^Cannot write s3://.*/prod/"):
        production.append(THINGS, things(3, at=NEXT), NEXT)
    assert ids(own) == [1]


def keys_of_a_user(s3: Storage, policy: str) -> dict[str, str]:
    """Keys of somebody to whom a policy is given."""
    endpoint = s3.options["aws_endpoint_url"]
    names = {name: s3.options[name] for name in ("aws_access_key_id", "aws_secret_access_key")}
    iam = boto3.client("iam", endpoint_url=endpoint, region_name=REGION, **names)
    iam.create_user(UserName="developer")
    iam.put_user_policy(UserName="developer", PolicyName="data", PolicyDocument=policy)
    key = iam.create_access_key(UserName="developer")["AccessKey"]
    return {
        "aws_access_key_id": key["AccessKeyId"],
        "aws_secret_access_key": key["SecretAccessKey"],
    }


def test_a_state_at_an_address_needs_a_key_of_the_environment(
    anywhere: Path, s3: Storage, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_project(anywhere / "runner")
    write_conf(folder, s3, "sqlite:///nowhere.db", "unsigned")
    path = folder / "conf" / "test.yml"
    path.write_text(path.read_text().replace("  signing_key: KEY_OF_TESTS\n", ""))
    monkeypatch.chdir(folder)
    code, _, err = run("ingest", "--env", "test", "--as-of", AT)
    assert code == 1
    assert "signing_key" in err


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/runs",
        "wasbs://runs@account.blob.core.windows.net/runs",
        "abfss://runs@account.dfs.core.windows.net/runs",
        "gs://bucket/runs",
    ],
)
def test_requirements_of_a_cloud_bring_what_mlflow_imports(address: str) -> None:
    require_client(address)
    assert get_artifact_repository(address).artifact_uri == address
