from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import mlflow
import optuna
import polars as pl
import pytest
from mlflow.entities.model_registry import ModelVersion
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from polars.testing import assert_frame_equal

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import Table
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.core.settings import load_settings
from {{cookiecutter.package_name}}.modeling.lightgbm import BOOSTER
from {{cookiecutter.package_name}}.modeling.pyfunc import ESTIMATOR
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.measurements import RUN
from {{cookiecutter.package_name}}.store.tables import MEASUREMENTS
from {{cookiecutter.package_name}}.tracking.provenance import artifact_digest, provenance
from {{cookiecutter.package_name}}.tracking.signing import ARTIFACT_DIGEST
from {{cookiecutter.package_name}}.training.pipeline import Trained

from tests.parcels import PROBLEM

Run = Callable[..., tuple[int, str, str]]
STEPS = ("ingest", "prepare", "features", "train")
WRITTEN = [
    table for item in PROBLEM.sources for table in (tables.raw(item), tables.quarantine(item))
]
DATA = [*WRITTEN, *tables.inputs(PROBLEM)]
TABLES = [*DATA, MEASUREMENTS]


def rows(context: Context, table: Table) -> pl.DataFrame:
    """What a table holds; of the metrics, all but how long runs took."""
    frame = pl.DataFrame(context.lakehouse.scan(table).collect("polars").to_native())
    kept = frame.filter(pl.col("producer") != RUN) if table is MEASUREMENTS else frame
    return kept.sort(table.keys or frame.columns)


def booster(context: Context) -> str:
    mlflow.set_tracking_uri(context.settings.mlflow.tracking_uri)
    first = context.registry.versions()[-1]
    folder = context.registry.download(first.version)
    return (folder / "artifacts" / ESTIMATOR / BOOSTER).read_text(encoding="utf-8")


def test_every_table_is_filled_with_what_was_known_and_nothing_later(
    context: Context, as_of: datetime
) -> None:
    for table in [*(tables.raw(item) for item in PROBLEM.sources), *tables.inputs(PROBLEM)]:
        latest = rows(context, table)[table.time].max()
        assert latest is not None
        assert latest <= as_of  # type: ignore[operator]
        assert context.lakehouse.complete_until(table) == as_of


def test_no_row_is_lost_on_the_way(context: Context) -> None:
    quarantined = 0
    for source in PROBLEM.sources:
        given, passed, failed = map(
            context.lakehouse.count,
            (tables.raw(source), tables.prepared(source), tables.quarantine(source)),
        )
        assert given == passed + failed
        quarantined += failed
        assert (
            rows(context, tables.quarantine(source))
            .filter(pl.col("reason").str.len_chars() == 0)
            .is_empty()
        )
    assert quarantined > 0


def test_a_version_tells_where_it_comes_from(
    context: Context, version: ModelVersion, as_of: datetime
) -> None:
    project, registry = context.settings.project, context.registry
    head = subprocess.run(
        ["git", "-C", project, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    lock = hashlib.sha256((project / "requirements" / "run.txt").read_bytes()).hexdigest()
    assert version.tags["as_of"] == as_of.isoformat()
    assert version.tags["git_commit"] == head.stdout.strip()
    assert version.tags["git_dirty"] == "false"
    assert version.tags["lock_sha256"] == lock
    assert version.tags["source_sha256"] == provenance(project)["source_sha256"]
    assert version.tags["target"] == PROBLEM.model.target.label
    assert json.loads(version.tags["data_versions"]) == {
        table.name: context.lakehouse.version(table) for table in tables.inputs(PROBLEM)
    }
    assert version.tags[ARTIFACT_DIGEST] == artifact_digest(registry.download(version.version))
    bounds = [
        version.tags[f"{name}_{side}"] for name in ("train", "holdout") for side in ("start", "end")
    ]
    assert bounds == sorted(bounds)
    assert PROBLEM.model.target.unit in str(version.description)


def test_a_run_holds_parameters_metrics_and_data(
    context: Context, trained: tuple[Context, Trained], version: ModelVersion
) -> None:
    results = trained[1].results
    run = context.registry.client.get_run(str(version.run_id))
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == str(context.settings.seed)
    assert {
        *PROBLEM.model.params,
        "num_leaves",
    } <= run.data.params.keys()
    assert results is not None
    for row in results.filter(slice="").iter_rows(named=True):
        assert run.data.metrics[row["metric"]] == pytest.approx(row["value"])
        assert run.data.metrics[f"{row['metric']}_gain"] == pytest.approx(row["gain"])
    assert run.inputs is not None
    assert {item.dataset.name for item in run.inputs.dataset_inputs} == {
        item.name for item in tables.inputs(PROBLEM)
    }


def test_a_run_tells_how_long_it_took_its_trials_and_its_learning_curve(
    context: Context, version: ModelVersion, as_of: datetime
) -> None:
    client = context.registry.client
    run_id = str(version.run_id)
    run = client.get_run(run_id)
    assert run.info.run_name.startswith(f"as of {as_of:%Y-%m-%d} (")
    journal = JournalStorage(JournalFileBackend(str(context.settings.state / "studies.log")))
    study = optuna.load_study(study_name=version.tags["training_id"], storage=journal)
    first = min(trial.datetime_start for trial in study.trials if trial.datetime_start)
    assert run.info.start_time / 1000 <= first.timestamp() < run.info.end_time / 1000
    assert len(client.get_metric_history(run_id, "learning_curve")) > 1
    trials = client.get_metric_history(run_id, "trial_loss")
    assert {item.step for item in trials} <= set(range(context.settings.training.trials))
    assert trials
    model = client.get_registered_model(context.registry.settings.model)
    assert "@champion is in production" in model.description


def test_documents_are_logged(
    trained: tuple[Context, Trained], version: ModelVersion, tmp_path: Path
) -> None:
    logged = f"runs:/{version.run_id}/evaluation"
    folder = Path(mlflow.artifacts.download_artifacts(logged, dst_path=str(tmp_path)))
    names = {path.name for path in folder.iterdir()}
    assert {
        "report.html",
        "model_card.md",
        "results.csv",
        "calibration.csv",
        "contributions.csv",
    } <= names
    pictures = [path.read_bytes() for path in folder.glob("*.png")]
    assert len(pictures) == 3
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page == trained[1].report.read_text(encoding="utf-8")
    assert page.count("<svg ") == page.count('role="img"') == 6
    assert PROBLEM.model.card.strip() in (folder / "model_card.md").read_text(encoding="utf-8")


def test_a_version_says_what_it_takes(version: ModelVersion) -> None:
    info = mlflow.models.get_model_info(str(version.source))
    assert tuple(info.signature.inputs.input_names()) == PROBLEM.model.features
    kinds = dict(
        zip(info.signature.inputs.input_names(), info.signature.inputs.input_types(), strict=True)
    )
    assert {name for name, kind in kinds.items() if kind.name == "string"} == set(
        PROBLEM.model.categorical
    )
    example = mlflow.pyfunc.load_model(info.model_uri).input_example
    assert list(example.columns) == list(PROBLEM.model.features)
    assert len(example) > 0


def test_pages_work_offline(context: Context) -> None:
    pages = sorted(context.settings.project.rglob("*.html"))
    assert {"report.html"} < {path.name for path in pages}
    fetched = re.compile(
        r"<script|<link|<iframe|@import|href=.?(?:[a-z]+:|//)"
        r"|(?:src=|url\()\s*(?![\"']?(?:#|data:))"
    )
    for path in pages:
        assert fetched.findall(path.read_text(encoding="utf-8")) == []


def test_nothing_is_pickled(context: Context) -> None:
    found = context.settings.state.rglob("*")
    files = [path for path in found if path.is_file() and path.suffix != ".skops"]  # others' own
    assert any(path.name == BOOSTER for path in files)
    for path in files:
        assert path.suffix not in {".pkl", ".pickle", ".joblib", ".npy"}
        assert not re.match(rb"\x80[\x02-\x05]|\x1f\x8b|PK\x03\x04", path.read_bytes()[:4])


def test_everything_again_changes_nothing(
    context: Context, as_of: datetime, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(context.settings.project)
    before = {table.name: context.lakehouse.version(table) for table in DATA}
    measured = rows(context, MEASUREMENTS)
    numbers = [version.version for version in context.registry.versions()]
    for step in STEPS:
        assert run(step, "--env", "test", "--as-of", as_of.isoformat())[0] == 0
    assert {table.name: context.lakehouse.version(table) for table in DATA} == before
    assert_frame_equal(rows(context, MEASUREMENTS), measured)
    assert [version.version for version in context.registry.versions()] == numbers


def test_status_shows_tables_and_versions(
    context: Context, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(context.settings.project)
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run("status", "--env", "test")
    assert code == 0
    for table in TABLES:
        if context.lakehouse.count(table):
            assert re.search(rf"{table.name} .* {context.lakehouse.count(table):,} ", out)


def test_code_that_differs_from_its_commit_is_called_dirty(
    context: Context, tmp_path: Path
) -> None:
    changed = context.settings.project / "conf" / "dev.yml"
    content = changed.read_text(encoding="utf-8")
    changed.write_text(content + "# changed\n", encoding="utf-8")
    dirty = provenance(context.settings.project)["git_dirty"]
    changed.write_text(content, encoding="utf-8")
    assert (dirty, provenance(context.settings.project)["git_dirty"]) == ("true", "false")


@pytest.mark.parametrize(
    ("given", "commit", "dirty"),
    [
        ("", "none", "unknown"),
        ("1b" * 20, "1b" * 20, "false"),
        (f"{'1b' * 20}-dirty", "1b" * 20, "true"),
    ],
)
def test_where_git_tells_nothing_whoever_deployed_says_what_code_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, commit: str, dirty: str
) -> None:
    monkeypatch.setenv("DEPLOYED_COMMIT", given)
    outside = provenance(tmp_path)
    assert (outside["git_commit"], outside["git_dirty"]) == (commit, dirty)
    assert outside["lock_sha256"] == "none"


def test_git_is_believed_rather_than_whoever_deployed(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = provenance(context.settings.project)
    monkeypatch.setenv("DEPLOYED_COMMIT", "1b" * 20)
    assert provenance(context.settings.project) == told


@pytest.mark.parametrize("given", ["main", "1b1b1b1", f"{'1b' * 20}-clean"])
def test_a_commit_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str
) -> None:
    monkeypatch.setenv("DEPLOYED_COMMIT", given)
    with pytest.raises(UserError, match=f"'{given}'.*is not a commit"):
        provenance(tmp_path)


def test_steps_that_are_killed_and_run_again_end_as_if_undisturbed(
    context: Context, disturbed: tuple[Path, subprocess.Popen[str]]
) -> None:
    project, process = disturbed
    ends = json.loads(process.communicate()[0])
    other = Context(load_settings("test", project), PROBLEM)
    killed = [end for end in ends if end != 0]
    assert killed == [-signal.SIGKILL] * (len(ends) - len(STEPS))
    for table in TABLES:
        assert_frame_equal(rows(other, table), rows(context, table), check_exact=True)
        assert table is MEASUREMENTS or other.lakehouse.version(table) == context.lakehouse.version(
            table
        )
    assert len(other.registry.versions()) == 1
    assert booster(other) == booster(context)
    runs = other.registry.client.search_runs([other.registry.experiment])
    assert sorted({item.info.status for item in runs} - {"KILLED"}) == ["FINISHED"]
