"""Fixtures that several tests share; `toy` is a small problem on which the machinery is tested."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any, cast

import hypothesis
import narwhals as nw
import numpy as np
import optuna
import pointblank as pb
import polars as pl
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

from {{cookiecutter.package_name}} import cli
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import (
    AVAILABLE_AT,
    KNOWN_AT,
    PREDICTION_TIME,
    Array,
    FeatureTable,
    Frame,
    Frames,
    Metric,
    Model,
    Problem,
    Schema,
    Source,
    Target,
)
from {{cookiecutter.package_name}}.core.settings import (
    ENV_PREFIX,
    Settings,
    load_settings,
)
from {{cookiecutter.package_name}}.modeling.lightgbm import LightGBM
from {{cookiecutter.package_name}}.store.engines import PolarsEngine
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from {{cookiecutter.package_name}}.tracking.registry import Registry
    from {{cookiecutter.package_name}}.training.pipeline import Trained

with warnings.catch_warnings():  # it warns of its own type hints
    warnings.simplefilter("ignore")
    import mlflow.pyfunc  # noqa: F401

ROOT = Path(__file__).parent.parent
CONF = ROOT / "tests" / "parcels" / "conf"
os.environ["GOMP_SPINCOUNT"] = "500"  # threads that wait sleep soon: two trainings run at once
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # else a server is seven processes
START = datetime(2020, 1, 1, tzinfo=UTC)
PATIENCE = 300.0  # seconds
Disturbed = tuple[Path, subprocess.Popen[str]]
Run = Callable[..., tuple[int, str, str]]
Intervene = Callable[[int, str, Callable[[], object]], None]

hypothesis.settings.register_profile(
    "project", deadline=None, max_examples=30, database=None, derandomize=True
)
hypothesis.settings.load_profile("project")
set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")


def free_port() -> int:
    """A port of the loopback that nobody listens on.

    Systems give connections that go out a port of their own, from 32768 on. One that a killed
    server listened on, and is to listen on again, would be given to whoever tries to reach it.
    """
    while True:
        port = SystemRandom().randrange(15_000, 30_000)
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def imported_by(module: str, names: set[str]) -> list[str]:
    """Which of these packages a module brings along, in a process of its own."""
    code = f"import sys, {module}; print(*sorted({names} & set(sys.modules)))"
    paths = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={"PYTHONPATH": paths}, capture_output=True, check=True)
    return done.stdout.decode().split()


def wait_for(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within minutes."""
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        if condition():
            return True
        time.sleep(0.1)
    return False


def copy_version(registry: Registry, number: str, **tags: str) -> str:
    """Register a version's files again, as another version that nobody has examined."""
    from {{cookiecutter.package_name}}.tracking.stages import NONE

    version = registry.version(number)
    made = registry.client.create_model_version(
        registry.settings.model,
        str(version.source),
        version.run_id,
        tags={**version.tags, "stage": NONE, **tags},
    )
    return str(made.version)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole pipelines make libraries warn of each other; our own warnings fail the unit tests."""
    whole = "integration gates endurance hostile kafka postgres problem redis soak spark storage"
    for item in items:
        if set(whole.split()) & set(item.path.parts):
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(autouse=True)
def isolated(request: pytest.FixtureRequest) -> None:
    """Unit tests reach no network, no environment variable, and no folder outside their own."""
    if request.path.parent.name == "unit":
        request.getfixturevalue("socket_disabled")
        folder: Path = request.getfixturevalue("tmp_path")
        patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        scratch = folder / "scratch"
        scratch.mkdir()
        patch.chdir(folder)
        patch.setattr(tempfile, "tempdir", str(scratch))
        for name in [name for name in os.environ if name.upper().startswith(ENV_PREFIX)]:
            patch.delenv(name)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project's configuration, where the test stands; its path has a space."""
    folder = tmp_path / "my project"
    shutil.copytree(CONF, folder / "conf")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def settings(project: Path) -> Settings:
    """The test environment."""
    return load_settings("test", project)


@pytest.fixture
def lakehouse(tmp_path: Path) -> Lakehouse:
    """An empty lakehouse; its path has a space."""
    return Lakehouse(str(tmp_path / "lake house"))


def within(lakehouse: Lakehouse, *declared: Problem | Source) -> Context:
    """A context whose tables are those of the lakehouse; of sources alone: nothing to model."""
    first, root = declared[0], Path(lakehouse.root)
    if not isinstance(first, Problem):
        sources = tuple(item for item in declared if isinstance(item, Source))
        first = Problem(sources, cast(Any, None), begins=START)
    settings = load_settings("test", CONF.parent)
    tables = {"root": lakehouse.root, "mounts": lakehouse.mounts}
    own = {"state": root, "lakehouse": settings.lakehouse.model_copy(update=tables)}
    return Context(settings.model_copy(update=own), first)


@pytest.fixture
def feed() -> pl.DataFrame:
    """600 orders over 60 days of 2020: what the toy's source publishes."""
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {"order": range(600), "amount": rng.uniform(1, 100, 600), "noise": rng.normal(0, 20, 600)}
    )
    return frame.with_columns(
        pl.Series("shop", rng.choice(["a", "b", "c"], 600)),
        pl.lit(START).cast(pl.Datetime("us", "UTC")).alias(KNOWN_AT)
        + pl.duration(minutes=144 * pl.col("order")),
    ).with_columns(paid=(pl.col("amount") + pl.col("noise") > 50).cast(pl.Float64))


@pytest.fixture
def toy(feed: pl.DataFrame) -> Problem:
    """Will an order be paid? Asked an hour after it was made; known a day after."""
    columns: Schema = {"order": nw.Int64, "shop": nw.String, "amount": nw.Float64}

    def load(names: list[str], delay: timedelta) -> Callable[[datetime | None, datetime], Frame]:
        published = feed.select(*names, pl.col(KNOWN_AT) + delay).lazy()

        def rows(since: datetime | None, until: datetime) -> Frame:
            known = pl.col(KNOWN_AT).is_between(since or START - delay, until, closed="right")
            return nw.from_native(published.filter(known))

        return rows

    def check(rows: pb.Validate) -> pb.Validate:
        return rows.col_vals_between("amount", 0, 100, brief="A plausible amount")

    def score(label: Array, prediction: Array, weights: Array) -> Array:
        return np.asarray((weights * (label - prediction) ** 2).sum(-1) / weights.sum(-1))

    def one_minus(label: Array, prediction: Array, weights: Array) -> Array:
        return 1 - score(label, prediction, weights)

    def space(trial: optuna.Trial) -> dict[str, object]:
        return {
            "num_leaves": trial.suggest_int("num_leaves", 2, 31),
            "eta": trial.suggest_float("eta", 0.05, 0.3),
        }

    def spine(frames: Frames) -> nw.LazyFrame[pl.LazyFrame]:
        asked = nw.col(KNOWN_AT).dt.offset_by("1h").alias(PREDICTION_TIME)
        return frames["orders"].with_columns(asked).drop(KNOWN_AT)

    orders = Source(
        name="orders",
        raw=columns,
        load=load(list(columns), timedelta(0)),
        prepared=columns,
        keys=("order",),
        checks=check,
        max_rejected=0.1,
    )
    paid: Schema = {"order": nw.Int64, "paid": nw.Float64}
    payments = Source(
        name="payments",
        raw=paid,
        load=load(list(paid), timedelta(days=1)),
        prepared=paid,
        keys=("order",),
    )
    last = FeatureTable(
        name="last",
        keys={"shop": nw.String},
        values={"last_amount": nw.Float64},
        build=lambda frames: frames["orders"].select(
            "shop",
            nw.col(KNOWN_AT).dt.offset_by("2h").alias(AVAILABLE_AT),
            nw.col("amount").alias("last_amount"),
        ),
        lookback=timedelta(hours=2),
    )
    target = Target(
        label="paid",
        from_outcome=nw.col("paid"),
        classes=("unpaid", "paid"),
        metrics=(
            Metric("loss", score, higher_is_better=False),
            Metric("skill", one_minus, higher_is_better=True),
        ),
        unit="probability of payment",
    )
    model = Model(
        keys=("order",),
        scored="orders",
        spine=spine,
        labels=lambda frames: frames["payments"].select("order", target.label, KNOWN_AT),
        target=target,
        estimator=LightGBM,
        features=("shop", "amount", "last_amount"),
        categorical=("shop",),
        monotone={"amount": 1},
        baseline=("shop",),
        slices=("shop",),
        forbidden=("paid",),
        search_space=space,
        params={"min_data_in_leaf": 5},
        card="A toy.",
    )
    return Problem(
        sources=(orders, payments), feature_tables=(last,), model=model, begins=START, ends=None
    )


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process: exit code, standard output, standard error."""

    def command(*arguments: str) -> tuple[int, str, str]:
        for opened in [item for item in vars(cli).values() if hasattr(item, "cache_clear")]:
            opened.cache_clear()
        monkeypatch.setattr(sys, "argv", ["project", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stopped:
            code = int(stopped.code or 1)  # success returns
        return code, *capsys.readouterr()

    return command


@pytest.fixture
def intervene(monkeypatch: pytest.MonkeyPatch) -> Intervene:
    """Do something before or after the so many-th write to a table, once."""

    def when(number: int, moment: str, what: Callable[[], object]) -> None:
        numbers = itertools.count(1)

        def wrapped(write: Callable[..., None]) -> Callable[..., None]:
            def meet(*arguments: Any) -> None:
                is_it = next(numbers) == number
                if is_it and moment == "before":
                    what()
                write(*arguments)
                if is_it and moment == "after":
                    what()

            return meet

        for name in ("append", "merge", "replace"):
            monkeypatch.setattr(PolarsEngine, name, wrapped(getattr(PolarsEngine, name)))

    return when


# Integration: the first weeks of the toy, through every step


def copy_project(folder: Path, conf: Path = CONF) -> Path:
    """A committed project of its own; its path has a space."""
    shutil.copytree(conf, folder / "conf")
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    shutil.copy(ROOT / ".gitignore", folder)
    git = ("git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@localhost")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "As rendered")):
        subprocess.run([*git, *command], check=True)
    return folder


def when_filled(problem: Problem) -> datetime:
    """Late enough for the windows of the project's environment `test`, or when the data end."""
    training = load_settings("test", ROOT).training
    days = training.train_days + training.validation_days + training.holdout_days + 10
    filled = problem.begins + timedelta(days=days)
    this_hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    yesterday = this_hour - timedelta(days=1)  # the day after it has passed, too
    return min(filled, problem.ends or yesterday)


@pytest.fixture(scope="session")
def as_of() -> datetime:
    """Late enough for the test environment's windows."""
    from tests.parcels import PROBLEM

    return PROBLEM.begins + timedelta(days=45)


@pytest.fixture(scope="session")
def disturbed(tmp_path_factory: pytest.TempPathFactory, as_of: datetime) -> Iterator[Disturbed]:
    """Another project, in the background, whose steps are killed again and again until they end."""
    log = "_delta_log/*.json"
    plan = [
        ("ingest", f"lakehouse/raw_*/{log}", 2),
        ("ingest", "", 0),
        ("prepare", f"lakehouse/quarantine_*/{log}", 1),
        ("prepare", f"lakehouse/prepared_*/{log}", 3),
        ("prepare", "", 0),
        ("features", f"lakehouse/features_*/{log}", 2),
        ("features", "", 0),
        ("train", "mlflow.db*", 1),
        ("train", "studies.log", 1),
        ("train", f"lakehouse/metrics/{log}", 1),
        ("train", "artifacts/**/MLmodel", 1),
        ("train", "", 0),
    ]
    script = ROOT / "tests" / "integration" / "killer.py"
    project = copy_project(tmp_path_factory.mktemp("disturbed") / "my project")
    with subprocess.Popen(
        [sys.executable, str(script), as_of.isoformat(), json.dumps(plan)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield project, process
        process.kill()


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, as_of: datetime, disturbed: object
) -> tuple[Context, Trained]:
    """A project in which every step has run, and what its training returned."""
    from {{cookiecutter.package_name}}.data.ingest import ingest
    from {{cookiecutter.package_name}}.data.prepare import prepare
    from {{cookiecutter.package_name}}.features.build import build_features
    from {{cookiecutter.package_name}}.training.pipeline import train

    from tests.parcels import PROBLEM

    folder = copy_project(tmp_path_factory.mktemp("sample") / "my project")
    context = Context(load_settings("test", folder), PROBLEM)
    ingest(context, as_of)
    prepare(context, as_of)
    build_features(context, as_of)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", False)  # whatever this machine has been told
        return context, train(context, as_of)


@pytest.fixture
def context(trained: tuple[Context, Trained]) -> Context:
    """The project in which every step has run."""
    return trained[0]


@pytest.fixture
def version(trained: tuple[Context, Trained]) -> ModelVersion:
    """The version that was trained there, whatever else has been registered since."""
    context, done = trained
    return context.registry.version(done.version)


@pytest.fixture
def holdout(context: Context, as_of: datetime) -> pl.DataFrame:
    """The labelled rows that the model was judged by."""
    from {{cookiecutter.package_name}}.store.point_in_time import training_set
    from {{cookiecutter.package_name}}.training.split import windows_until

    window = windows_until(as_of, context.settings.training)[-1]
    return training_set(context.lakehouse, context.problem, window.start, as_of, {})
