from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from {{cookiecutter.package_name}}.contract import PREDICTION_TIME
from {{cookiecutter.package_name}}.errors import UserError
from {{cookiecutter.package_name}}.feature_store import training_set
from {{cookiecutter.package_name}}.inference import batch
from {{cookiecutter.package_name}}.inference.requests import read
from {{cookiecutter.package_name}}.lakehouse import Lakehouse
from {{cookiecutter.package_name}}.problem import PROBLEM
from {{cookiecutter.package_name}}.registry import CHAMPION
from {{cookiecutter.package_name}}.training.pipeline import Trained
from {{cookiecutter.package_name}}.workspace import Workspace

KEYS = [*PROBLEM.model.keys, PREDICTION_TIME]
COLUMNS = [*KEYS, "prediction", "model_version", "feature_versions"]


@pytest.fixture
def scoring(trained: tuple[Workspace, Trained], tmp_path: Path) -> Iterator[Workspace]:
    """An environment that reads the features of the trained project, and whose champion is its version."""
    home, done = trained
    mounts = dict.fromkeys(("raw_*", "prepared_*", "features_*"), home.lakehouse.root)
    place = home.settings.lakehouse.model_copy(update={"root": str(tmp_path / "lakehouse"), "mounts": mounts})
    home.registry.point(CHAMPION, done.version)
    yield Workspace(home.settings.model_copy(update={"lakehouse": place, "state": tmp_path}), PROBLEM)
    home.registry.point(CHAMPION, None)


@pytest.fixture
def requests(scoring: Workspace, as_of: datetime) -> pl.DataFrame:
    """Two days of rows that ask for a prediction, as a file holds them."""
    table = PROBLEM.requests.prepared_table
    rows = pl.DataFrame(scoring.lakehouse.scan(table).select(*PROBLEM.requests.prepared).collect("polars").to_native())
    spine = next(batch.spines(PROBLEM, [rows], as_of))
    recent = spine.filter(pl.col(PREDICTION_TIME).is_between(as_of - timedelta(days=2), as_of))
    return rows.join(recent.select(*PROBLEM.model.keys), on=list(PROBLEM.model.keys), how="semi")


def score_due(workspace: Workspace, as_of: datetime) -> int:
    return batch.predict(workspace, as_of, batch.due(workspace, as_of), complete=True)[1]


def predictions(workspace: Workspace) -> pl.DataFrame:
    found = workspace.lakehouse.scan(PROBLEM.predictions).collect("polars").to_native()
    return pl.DataFrame(found).select(COLUMNS).sort(KEYS)


def versions(workspace: Workspace) -> list[int | None]:
    return [workspace.lakehouse.version(table) for table in (PROBLEM.predictions, PROBLEM.inference_log)]


def test_what_is_due_is_scored_once(scoring: Workspace, as_of: datetime) -> None:
    # given a first scoring the day before
    earlier = score_due(scoring, as_of - timedelta(days=1))
    # when a day passes
    later = score_due(scoring, as_of)
    rows, before = predictions(scoring), versions(scoring)
    # then each row was scored once, and again changes nothing
    assert earlier > 0
    assert later > 0
    assert rows.height == earlier + later == scoring.lakehouse.count(PROBLEM.inference_log)
    assert rows.select(KEYS).is_duplicated().sum() == 0
    assert score_due(scoring, as_of) == 0
    assert versions(scoring) == before


def test_every_row_names_the_model_and_the_features_it_was_made_with(
    scoring: Workspace, trained: tuple[Workspace, Trained], as_of: datetime
) -> None:
    score_due(scoring, as_of)
    rows = predictions(scoring)
    assert rows["model_version"].unique().to_list() == [str(trained[1].version)]
    assert rows["feature_versions"].str.contains(PROBLEM.feature_tables[0].table.name).all()


def test_a_row_is_the_same_in_training_and_in_scoring(scoring: Workspace, as_of: datetime) -> None:
    # given the training set of the days that are due
    since = as_of - timedelta(days=scoring.settings.inference.first_days)
    learned = training_set(scoring.lakehouse, PROBLEM, since + timedelta(microseconds=1), as_of, {}).sort(KEYS)
    # when they are scored
    score_due(scoring, as_of)
    # then inputs and predictions are the same to the bit
    found = pl.DataFrame(scoring.lakehouse.scan(PROBLEM.inference_log).collect("polars").to_native())
    logged = found.join(learned.select(KEYS), on=KEYS, how="semi").sort(KEYS)
    inputs = [pl.col(name).cast(found.schema[name]) for name in PROBLEM.model.features]
    assert learned.height > 100
    assert_frame_equal(logged.select(inputs), learned.select(inputs), check_exact=True)
    champion = scoring.registry.load(str(scoring.registry.aliased(CHAMPION)))
    assert logged["prediction"].to_list() == champion.predict(learned).tolist()


def test_the_size_of_chunks_changes_nothing(scoring: Workspace, as_of: datetime, tmp_path: Path) -> None:
    score_due(scoring, as_of)
    whole = predictions(scoring)
    small = scoring.settings.inference.model_copy(update={"chunk_rows": 700})
    place = scoring.settings.lakehouse.model_copy(update={"root": str(tmp_path / "small")})
    settings = scoring.settings.model_copy(update={"inference": small, "lakehouse": place})
    other = Workspace(settings, PROBLEM)
    score_due(other, as_of)
    assert_frame_equal(predictions(other), whole, check_exact=True)


def test_a_scoring_that_is_killed_is_finished_by_the_next(
    scoring: Workspace, as_of: datetime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a process that dies between the log and the predictions
    merge, calls = Lakehouse.merge, iter(range(100))

    def dying(*arguments: object, **options: object) -> int:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return merge(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Lakehouse, "merge", dying)
    with pytest.raises(KeyboardInterrupt):
        score_due(scoring, as_of)
    monkeypatch.setattr(Lakehouse, "merge", merge)
    # when it runs again
    count = score_due(scoring, as_of)
    # then nothing is missing and nothing is there twice
    assert predictions(scoring).height == count == scoring.lakehouse.count(PROBLEM.inference_log)


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
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_files_and_databases_are_scored_like_the_tables(
    scoring: Workspace,
    requests: pl.DataFrame,
    as_of: datetime,
    tmp_path: Path,
    store: Callable[[pl.DataFrame, Path], tuple[str, str]],
    suffix: str,
) -> None:
    score_due(scoring, as_of)
    output = tmp_path / f"scored{suffix}"
    chunks = batch.spines(PROBLEM, read(scoring, *store(requests, tmp_path)), as_of)
    batch.predict(scoring, as_of, chunks, output)
    scored = pl.read_parquet(output) if suffix == ".parquet" else pl.read_csv(output, try_parse_dates=True)
    expected = predictions(scoring).join(requests, on=list(PROBLEM.model.keys), how="semi")
    assert scored.height == requests.height == expected.height
    assert scored["prediction"].sort().to_list() == pytest.approx(expected["prediction"].sort().to_list(), abs=1e-12)


def test_an_output_is_there_whole_or_not_at_all(
    scoring: Workspace, requests: pl.DataFrame, as_of: datetime, tmp_path: Path
) -> None:
    def breaking() -> Iterator[pl.DataFrame]:
        yield from batch.spines(PROBLEM, [requests], as_of)
        raise UserError("The source broke.", "Mend it.")

    with pytest.raises(UserError, match="broke"):
        batch.predict(scoring, as_of, breaking(), tmp_path / "scored.parquet")
    assert not (tmp_path / "scored.parquet").exists()


def no_column(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.drop(rows.columns[0])


def no_key(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.lit(None, pl.String).alias(PROBLEM.model.keys[0]))


def garbage_time(rows: pl.DataFrame) -> pl.DataFrame:
    time = next(name for name, kind in rows.schema.items() if isinstance(kind, pl.Datetime))
    return rows.with_columns(pl.lit("soon").alias(time))


def retyped(rows: pl.DataFrame) -> pl.DataFrame:
    text = next(name for name, kind in rows.schema.items() if kind == pl.String)
    return rows.with_columns(pl.lit(1).alias(text))


@pytest.mark.parametrize(
    ("damage", "message"),
    [(no_column, "no column"), (no_key, "has no"), (garbage_time, "declared types"), (retyped, "declared String")],
)
def test_rows_that_cannot_be_scored_are_refused(
    scoring: Workspace,
    requests: pl.DataFrame,
    as_of: datetime,
    tmp_path: Path,
    damage: Callable[[pl.DataFrame], pl.DataFrame],
    message: str,
) -> None:
    source, query = as_parquet(damage(requests), tmp_path)
    with pytest.raises(UserError, match=message):
        batch.predict(scoring, as_of, batch.spines(PROBLEM, read(scoring, source, query), as_of))
    assert versions(scoring) == [None, None]


@pytest.mark.parametrize(
    ("source", "query", "message"),
    [
        ("requests.xlsx", "", "neither"),
        ("absent.parquet", "", "Cannot read"),
        ("oracle://user:secret@host/db", "", "No driver for oracle"),
        ("sqlite:///requests.db", "SELECT nonsense FROM nowhere", "Cannot read"),
    ],
)
def test_sources_that_are_none_are_refused(scoring: Workspace, source: str, query: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        next(read(scoring, source, query))
    assert "secret" not in str(refusal.value)


def test_without_a_champion_nothing_is_scored(scoring: Workspace, as_of: datetime) -> None:
    scoring.registry.point(CHAMPION, None)
    with pytest.raises(UserError, match="no champion"):
        score_due(scoring, as_of)


def test_features_that_are_not_built_are_refused(scoring: Workspace, as_of: datetime) -> None:
    with pytest.raises(UserError, match="complete until"):
        score_due(scoring, as_of + timedelta(days=1))
    assert versions(scoring) == [None, None]


def test_a_champion_that_was_tampered_with_is_refused(scoring: Workspace, as_of: datetime) -> None:
    booster = scoring.registry.download(str(scoring.registry.aliased(CHAMPION))) / "artifacts" / "booster.txt"
    honest = booster.read_bytes()
    try:
        booster.write_bytes(honest.replace(b"leaf_value=", b"leaf_value=0", 1))
        with pytest.raises(UserError, match="digest differs"):
            score_due(scoring, as_of)
    finally:
        booster.write_bytes(honest)
    assert versions(scoring) == [None, None]
