"""Scoring in batches: what may be seen, what is written, what the command line refuses."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import narwhals as nw
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from {{cookiecutter.package_name}}.context import Context, open_context
from {{cookiecutter.package_name}}.core.contract import (
    AVAILABLE_AT,
    PREDICTION_TIME,
    Frame,
    Table,
    polars_schema,
)
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.inference import batch
from {{cookiecutter.package_name}}.modeling.lightgbm import BOOSTER
from {{cookiecutter.package_name}}.modeling.pyfunc import ESTIMATOR
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse
from {{cookiecutter.package_name}}.store.point_in_time import training_set
from {{cookiecutter.package_name}}.store.tables import CHAMPIONS_STAGE, TRANSITIONS
from {{cookiecutter.package_name}}.tracking.registry import CHAMPION
from {{cookiecutter.package_name}}.training.pipeline import Trained

from tests import parcels
from tests.parcels import PROBLEM

Run = Callable[..., tuple[int, str, str]]
Open = Callable[..., Context]
MODEL, SCORED = PROBLEM.model, (tables.predictions(PROBLEM), tables.inference_log(PROBLEM))
KEYS = [*MODEL.keys, PREDICTION_TIME]
TEXT, NUMBER = "planted", 10_000


@pytest.fixture
def champion(trained: tuple[Context, Trained]) -> Iterator[str]:
    """The version of the trained project, in production."""
    home, done = trained
    home.registry.point(CHAMPION, done.version)
    yield str(done.version)
    if home.registry.aliased(CHAMPION):
        home.registry.point(CHAMPION, None)


def promoted(version: str) -> pl.DataFrame:
    """A log of transitions that says who is champion."""
    said = {"sequence": 0, "at": PROBLEM.begins, "version": version, "to_stage": CHAMPIONS_STAGE}
    return pl.DataFrame([said], schema=polars_schema(TRANSITIONS.schema))


@pytest.fixture
def opened(
    trained: tuple[Context, Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Open:
    """Open an environment that only scores; it may own some of the tables that it reads."""
    home = trained[0]
    monkeypatch.chdir(home.settings.project)

    def environment(name: str = "scores", *own: Table, **settings: object) -> Context:
        root, mounted = (
            tmp_path / name,
            [table.name for table in tables.inputs(PROBLEM) if table not in own],
        )
        for table in own:
            shutil.copytree(Path(home.lakehouse.root) / table.name, root / table.name)
        mounts = json.dumps(dict.fromkeys(mounted, home.lakehouse.root))
        values = {
            "LAKEHOUSE__ROOT": root,
            "LAKEHOUSE__MOUNTS": mounts,
            "INFERENCE__FIRST_DAYS": 1,
            **settings,
        }
        for key, value in values.items():
            monkeypatch.setenv(f"{ENV_PREFIX}{key}", str(value))
        context = open_context("test")
        if version := home.registry.aliased(CHAMPION):
            context.lakehouse.append_if_unchanged(TRANSITIONS, promoted(version), None)
        return context

    return environment


@pytest.fixture
def scoring(opened: Open, champion: str) -> Context:
    return opened()


def score(context: Context, as_of: datetime) -> int:
    return batch.predict(context, as_of, batch.due(context, as_of), complete=True).rows


def rows(context: Context, table: Table) -> pl.DataFrame:
    found = pl.DataFrame(context.lakehouse.scan(table).collect("polars").to_native())
    return found.sort(table.keys)


def inputs(context: Context) -> pl.DataFrame:
    return rows(context, tables.inference_log(PROBLEM)).drop("latency_ms", "feature_versions")


def versions(context: Context) -> list[int | None]:
    return [context.lakehouse.version(table) for table in SCORED]


def spine_of(context: Context, requests: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    return context.lakehouse.collect(next(batch.spines(context, [requests], as_of)))


def asked(context: Context, as_of: datetime, since: datetime, until: datetime) -> pl.DataFrame:
    """Prepared rows that ask for a prediction in an interval of time, as a file would hold them."""
    schedule = rows(context, tables.prepared(PROBLEM.scored)).select(*PROBLEM.scored.prepared)
    spine = spine_of(context, schedule, as_of)
    inside = spine.filter(pl.col(PREDICTION_TIME).is_between(since, until, closed="right"))
    return schedule.join(inside, on=list(MODEL.keys), how="semi")


# What may be seen


def plant(context: Context, spine: pl.DataFrame, at: datetime) -> None:
    """Give the entities of a row other features, available at a moment."""
    for feature in PROBLEM.feature_tables:
        strange = {
            name: pl.lit(
                TEXT if kind == nw.String else NUMBER, nw.Schema({name: kind}).to_polars()[name]
            )
            for name, kind in feature.values.items()
        }
        planted = spine.select(*feature.keys, pl.lit(at).alias(AVAILABLE_AT)).with_columns(
            **strange
        )
        context.lakehouse.merge(
            tables.features(feature),
            nw.from_native(planted.lazy().select(*tables.features(feature).schema)),
        )


@pytest.mark.parametrize("after", [timedelta(0), timedelta(microseconds=1)])
def test_nothing_after_the_prediction_time_is_seen(
    opened: Open, champion: str, as_of: datetime, after: timedelta
) -> None:
    # given a request, and features that became available as it is scored or right after
    built = [tables.features(feature) for feature in PROBLEM.feature_tables]
    honest, other = opened("honest"), opened("planted", *built)
    requests = asked(other, as_of, as_of - timedelta(hours=4), as_of)
    spine = spine_of(other, requests, as_of).head(1)
    plant(other, spine, spine[PREDICTION_TIME].item() + after)
    # when both are scored
    for context in (honest, other):
        batch.predict(context, as_of, [context.lakehouse.frame(spine)])
    # then only what was available made a difference
    same = inputs(honest).equals(inputs(other))
    assert same == (after > timedelta(0))


@pytest.mark.parametrize("after", [timedelta(0), timedelta(microseconds=1)])
def test_nothing_after_the_as_of_is_seen(
    opened: Open, champion: str, as_of: datetime, after: timedelta
) -> None:
    # given a request whose prediction time lies ahead, and features that come until then
    built = [tables.features(feature) for feature in PROBLEM.feature_tables]
    honest, other = opened("honest"), opened("planted", *built)
    tomorrow = asked(other, as_of, as_of + timedelta(hours=12), as_of + timedelta(days=1)).head(1)
    spine = spine_of(honest, tomorrow, as_of)
    plant(other, spine, as_of + after)
    for context in (honest, other):
        batch.predict(context, as_of, [context.lakehouse.frame(spine)])
    same = inputs(honest).equals(inputs(other))
    assert same == (after > timedelta(0))


def test_no_prediction_is_made_for_later_than_the_as_of(scoring: Context, as_of: datetime) -> None:
    score(scoring, as_of)
    times = rows(scoring, tables.predictions(PROBLEM))[PREDICTION_TIME]
    assert times.is_between(as_of - timedelta(days=1), as_of, closed="right").all()
    assert times.len() == asked(scoring, as_of, as_of - timedelta(days=1), as_of).height > 100


# What is written


def test_what_is_due_is_scored_once(scoring: Context, as_of: datetime) -> None:
    # given a first scoring the day before
    earlier = score(scoring, as_of - timedelta(days=1))
    # when a day passes
    later = score(scoring, as_of)
    found, before = rows(scoring, tables.predictions(PROBLEM)), versions(scoring)
    # then each row was scored once, and again changes nothing
    assert earlier > 0
    assert later > 0
    assert found.height == earlier + later == scoring.lakehouse.count(tables.inference_log(PROBLEM))
    assert found.select(KEYS).is_duplicated().sum() == 0
    assert score(scoring, as_of) == 0
    assert versions(scoring) == before


def test_a_row_is_the_same_in_training_and_in_scoring(
    scoring: Context, champion: str, as_of: datetime
) -> None:
    # given the training set of the days that are due
    since = as_of - timedelta(days=scoring.settings.inference.first_days)
    learned = training_set(
        scoring.lakehouse, PROBLEM, since + timedelta(microseconds=1), as_of, {}
    ).sort(KEYS)
    # when they are scored
    score(scoring, as_of)
    # then inputs and predictions are the same to the bit
    found = rows(scoring, tables.inference_log(PROBLEM))
    logged = found.join(learned.select(KEYS), on=KEYS, how="semi").sort(KEYS)
    inputs = [pl.col(name).cast(found.schema[name]) for name in PROBLEM.model.features]
    assert learned.height > 100
    assert_frame_equal(logged.select(inputs), learned.select(inputs), check_exact=True)
    assert (
        logged["prediction"].to_list() == scoring.registry.load(champion).predict(learned).tolist()
    )


def test_the_size_of_chunks_changes_nothing(opened: Open, champion: str, as_of: datetime) -> None:
    whole, small = opened("whole"), opened("small", INFERENCE__CHUNK_ROWS=70)
    assert score(whole, as_of) == score(small, as_of) > 200
    assert_frame_equal(inputs(small), inputs(whole), check_exact=True)
    predictions = [rows(context, tables.predictions(PROBLEM)) for context in (small, whole)]
    assert_frame_equal(*predictions, check_exact=True)


def test_every_row_names_the_versions_of_all_that_it_was_made_with(
    scoring: Context, champion: str, as_of: datetime
) -> None:
    score(scoring, as_of)
    read = {table.name: scoring.lakehouse.version(table) for table in tables.inputs(PROBLEM)}
    predictions, logged = (
        rows(scoring, tables.predictions(PROBLEM)),
        rows(scoring, tables.inference_log(PROBLEM)),
    )
    assert [json.loads(text) for text in predictions["feature_versions"].unique()] == [read]
    assert {*predictions["model_version"], *logged["model_version"]} == {champion}
    assert_frame_equal(
        predictions.select(*KEYS, "prediction"),
        logged.select(*KEYS, "prediction"),
        check_exact=True,
    )
    assert logged["latency_ms"].is_between(0, 1_000, closed="right").all()


def test_a_request_is_logged_once(scoring: Context, as_of: datetime) -> None:
    # given requests that were scored
    requests = asked(scoring, as_of, as_of - timedelta(hours=3), as_of)
    batch.predict(scoring, as_of, batch.spines(scoring, [requests], as_of))
    logged, before = rows(scoring, tables.inference_log(PROBLEM)), versions(scoring)
    # when they are sent again
    batch.predict(scoring, as_of, batch.spines(scoring, [requests, requests.head(1)], as_of))
    # then nothing changes, and what is due later adds to it
    assert_frame_equal(rows(scoring, tables.inference_log(PROBLEM)), logged, check_exact=True)
    assert versions(scoring) == before
    score(scoring, as_of)
    added = rows(scoring, tables.inference_log(PROBLEM))
    assert_frame_equal(
        added.join(logged.select(KEYS), on=KEYS, how="semi"), logged, check_exact=True
    )
    operations = {
        commit["operation"] for commit in scoring.lakehouse.history(tables.inference_log(PROBLEM))
    }
    assert "MERGE" not in operations


@pytest.mark.parametrize("call", range(6))
def test_a_scoring_that_is_killed_anywhere_is_finished_by_the_next(
    opened: Open, champion: str, as_of: datetime, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    # given three chunks, two tables, and a process that ends before one of the six writes
    undisturbed, other = (opened(name, INFERENCE__CHUNK_ROWS=100) for name in ("whole", "killed"))
    score(undisturbed, as_of)
    merge, calls = Lakehouse.merge, iter(range(100))

    def dying(*arguments: object, **options: object) -> int:
        if next(calls) == call:
            raise KeyboardInterrupt
        return merge(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Lakehouse, "merge", dying)
        with pytest.raises(KeyboardInterrupt):
            score(other, as_of)
    # when it runs again
    assert score(other, as_of) > 200
    # then all is as if nothing had happened
    assert_frame_equal(inputs(other), inputs(undisturbed), check_exact=True)
    predictions = [rows(context, tables.predictions(PROBLEM)) for context in (other, undisturbed)]
    assert_frame_equal(*predictions, check_exact=True)
    assert score(other, as_of) == 0


# Files


@pytest.fixture
def predict(run: Run, as_of: datetime) -> Run:
    def command(*arguments: str) -> tuple[int, str, str]:
        return run("predict", "--env", "test", "--as-of", as_of.isoformat(), *arguments)

    return command


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_file_holds_what_the_table_would(
    scoring: Context, predict: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    # given an output written in several chunks
    monkeypatch.setenv(f"{ENV_PREFIX}INFERENCE__CHUNK_ROWS", "100")
    output = tmp_path / "new folder" / f"scored{suffix}"
    assert predict("--output", str(output))[0] == 0
    assert versions(scoring) == [None, None]
    # when the tables are written
    assert predict()[0] == 0
    # then both hold the same
    table = rows(scoring, tables.predictions(PROBLEM))
    file = (
        pl.read_parquet(output)
        if suffix == ".parquet"
        else pl.read_csv(output, schema_overrides=table.schema)
    )
    assert_frame_equal(file.sort(KEYS), table, check_exact=True)
    # and what is due no more is a file without rows
    assert predict("--output", str(output))[0] == 0
    left = pl.read_parquet(output) if suffix == ".parquet" else pl.read_csv(output)
    assert (left.columns, left.height) == (table.columns, 0)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_fault_midway_leaves_the_file_of_before(
    scoring: Context,
    as_of: datetime,
    predict: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    # given rows of which the last has no key, in chunks, and an output of before
    monkeypatch.setenv(f"{ENV_PREFIX}INFERENCE__CHUNK_ROWS", "50")
    requests = asked(scoring, as_of, as_of - timedelta(days=1), as_of)
    keyless = requests.tail(1).with_columns(
        pl.lit(None, requests[MODEL.keys[0]].dtype).alias(MODEL.keys[0])
    )
    pl.concat([requests, keyless]).write_parquet(tmp_path / "requests.parquet")
    output = tmp_path / "out" / f"scored{suffix}"
    output.parent.mkdir()
    output.write_text("of before", encoding="utf-8")
    # when they are scored
    end = predict("--input", str(tmp_path / "requests.parquet"), "--output", str(output))
    # then the fault is named and nothing else has changed
    assert f"Null key in rows to score: {MODEL.keys[0]}" in one_message(end)
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    assert output.read_text(encoding="utf-8") == "of before"


def as_parquet(rows: pl.DataFrame, folder: Path) -> tuple[str, str]:
    rows.write_parquet(folder / "requests.parquet")
    return str(folder / "requests.parquet"), ""


def as_csv(rows: pl.DataFrame, folder: Path) -> tuple[str, str]:
    rows.write_csv(folder / "requests.csv")
    return str(folder / "requests.csv"), ""


def as_sqlite(rows: pl.DataFrame, folder: Path) -> tuple[str, str]:
    times = pl.selectors.datetime().dt.strftime("%Y-%m-%dT%H:%M:%S%z")
    texts = rows.with_columns(times)
    with sqlite3.connect(folder / "requests.db") as database:
        database.execute(f"CREATE TABLE requests ({', '.join(texts.columns)})")
        holes = ", ".join("?" * texts.width)
        database.executemany(f"INSERT INTO requests VALUES ({holes})", texts.rows())  # noqa: S608
    return f"sqlite:///{folder / 'requests.db'}", "SELECT * FROM requests"


@pytest.mark.parametrize("store", [as_parquet, as_csv, as_sqlite])
def test_files_and_databases_are_scored_like_the_tables(
    scoring: Context,
    predict: Run,
    as_of: datetime,
    tmp_path: Path,
    store: Callable[[pl.DataFrame, Path], tuple[str, str]],
) -> None:
    score(scoring, as_of)
    requests = asked(scoring, as_of, as_of - timedelta(days=1), as_of)
    (source, query), output = store(requests, tmp_path), tmp_path / "scored.parquet"
    assert predict("--input", source, "--query", query, "--output", str(output))[0] == 0
    assert_frame_equal(
        pl.read_parquet(output).sort(KEYS),
        rows(scoring, tables.predictions(PROBLEM)),
        check_exact=True,
    )


# Refusals


def one_message(end: tuple[int, str, str]) -> str:
    code, _, err = end
    assert (code, err.count("✗"), err.count("→"), "Traceback" in err) == (1, 1, 1, False)
    return err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--as-of", "{later}"), "complete until"),
        (("--output", "scored.xlsx"), "neither .parquet nor .csv"),
        (("--input", "requests.xlsx"), "neither .parquet nor .csv"),
        (("--input", "absent.parquet"), "No such file"),
        (("--input", "sqlite:///absent.db", "--query", "SELECT 1"), "No such file"),
        (
            ("--input", "oracle://me:secret@host/db", "--query", "SELECT 1"),
            "No driver for oracle://",
        ),
        (("--input", "postgresql://me:top/secret@127.0.0.1:1/db"), "not written as a URI"),
        (
            ("--input", "postgresql://me:secret@127.0.0.1:1/db", "--query", "SELECT 1"),
            "Failed to connect",
        ),
    ],
)
def test_what_cannot_be_scored_is_one_message(
    scoring: Context, as_of: datetime, run: Run, arguments: tuple[str, ...], message: str
) -> None:
    here, later = scoring.settings.project, (as_of + timedelta(days=1)).isoformat()
    before = set(here.iterdir())
    given = [argument.format(later=later) for argument in arguments]
    moment = [] if "--as-of" in given else ["--as-of", as_of.isoformat()]
    said = one_message(run("predict", "--env", "test", *moment, *given))
    assert message in said
    assert "secret" not in said
    assert versions(scoring) == [None, None]
    assert set(here.iterdir()) == before


def no_column(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.drop(rows.columns[0])


def garbage_time(rows: pl.DataFrame) -> pl.DataFrame:
    time = next(name for name, kind in rows.schema.items() if isinstance(kind, pl.Datetime))
    return rows.with_columns(pl.lit("soon").alias(time))


def retyped(rows: pl.DataFrame) -> pl.DataFrame:
    text = next(name for name, kind in rows.schema.items() if kind == pl.String)
    return rows.with_columns(pl.lit(1).alias(text))


@pytest.mark.parametrize(
    ("damage", "message"),
    [(no_column, "has no column"), (garbage_time, "declared types"), (retyped, "declared String")],
)
def test_rows_of_another_shape_are_one_message(
    scoring: Context,
    predict: Run,
    as_of: datetime,
    tmp_path: Path,
    damage: Callable[[pl.DataFrame], pl.DataFrame],
    message: str,
) -> None:
    requests = asked(scoring, as_of, as_of - timedelta(days=1), as_of)
    source, _ = as_parquet(damage(requests), tmp_path)
    assert message in one_message(predict("--input", source))
    assert versions(scoring) == [None, None]


def test_without_a_champion_it_says_how_to_get_one(opened: Open, predict: Run) -> None:
    empty = opened()
    assert "There is no champion yet" in one_message(predict())
    assert versions(empty) == [None, None]


def test_files_that_were_tampered_with_are_not_loaded(
    scoring: Context, champion: str, predict: Run
) -> None:
    booster = scoring.registry.download(champion) / "artifacts" / ESTIMATOR / BOOSTER
    honest = booster.read_bytes()
    try:
        booster.write_bytes(honest + b"\n")
        assert "not those that were registered" in one_message(predict())
        booster.unlink()
        assert "not those that were registered" in one_message(predict())
    finally:
        booster.write_bytes(honest)
    assert versions(scoring) == [None, None]


def vanished(rows: Frame) -> Frame:
    return MODEL.on_demand(rows).drop(MODEL.features[-1])


def a_number(rows: Frame) -> Frame:
    return MODEL.on_demand(rows).with_columns(nw.lit(1.0).alias(MODEL.categorical[-1]))


def a_text(rows: Frame) -> Frame:
    return MODEL.on_demand(rows).with_columns(nw.lit("7").alias(MODEL.features[-1]))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (vanished, MODEL.features[-1]),
        (a_number, MODEL.categorical[-1]),
        (a_text, MODEL.features[-1]),
    ],
)
def test_features_that_are_not_those_of_the_training_are_named(
    scoring: Context,
    predict: Run,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Frame], Frame],
    name: str,
) -> None:
    if name in (*MODEL.slices, *MODEL.keys):
        pytest.skip("not to be changed alone")
    monkeypatch.setattr(
        parcels, "PROBLEM", replace(PROBLEM, model=replace(MODEL, on_demand=change))
    )
    assert f"The champion needs {name}, which" in one_message(predict())
    assert versions(scoring) == [None, None]


def test_a_table_without_a_declared_column_is_named(
    opened: Open, champion: str, predict: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    feature, *others = PROBLEM.feature_tables
    context = opened("scores", tables.features(feature))
    declared = replace(feature, values={**feature.values, "unheard_of": nw.Float64})
    monkeypatch.setattr(parcels, "PROBLEM", replace(PROBLEM, feature_tables=(declared, *others)))
    assert f"{tables.features(feature).name} has no column unheard_of" in one_message(predict())
    assert versions(context) == [None, None]
