"""Other estimators and other targets go through every gate, and a version scores by itself."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from {{cookiecutter.package_name}} import flows
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import Estimator, Model
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.modeling import lightgbm, pyfunc, stored
from {{cookiecutter.package_name}}.modeling.lightgbm import LightGBM
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.point_in_time import training_set
from {{cookiecutter.package_name}}.tracking.registry import CHAMPION
from {{cookiecutter.package_name}}.training.pipeline import Trained
from {{cookiecutter.package_name}}.training.split import windows_until

from tests.estimators.forest import Forest
from tests.estimators.linear import Linear
from tests.parcels import PROBLEM
from tests.parcels.model import CLASSES, LATE, LATENESS, predicting

TARGETS = {"binary": LATE, "quantity": LATENESS, "classes": CLASSES}
ESTIMATORS: dict[str, type[Estimator]] = {
    "lightgbm": LightGBM,
    "forest": Forest,
    "linear": Linear,
}
FEW = [*((name, "quantity") for name in ESTIMATORS), ("lightgbm", "binary"), ("forest", "classes")]
MORE = [pair for pair in itertools.product(ESTIMATORS, TARGETS) if pair not in FEW]
PAIRS = [*FEW, *(pytest.param(*pair, marks=pytest.mark.long) for pair in MORE)]
ELSEWHERE = """
import json, sys
sys.modules["{package}"] = None
import mlflow, numpy as np, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
print(json.dumps(np.asarray(model.predict(pd.read_parquet(sys.argv[2]))).tolist()))
"""
Open = Callable[[Model], Context]


@pytest.fixture
def opened(trained: tuple[Context, Trained], tmp_path: Path) -> Open:
    """An environment of its own for a model, over the tables that are there."""
    home = trained[0]
    mounts = dict.fromkeys(("raw_*", "prepared_*", "features_*"), home.lakehouse.root)

    def context(model: Model) -> Context:
        lakehouse = {"root": str(tmp_path / "tables"), "mounts": mounts}
        settings = home.settings.model_copy(
            update={
                "state": tmp_path / "state",
                "lakehouse": home.settings.lakehouse.model_copy(update=lakehouse),
                "mlflow": home.settings.mlflow.model_copy(update={"model": tmp_path.name}),
            }
        )
        return Context(settings, replace(PROBLEM, model=model))

    return context


def rows_of(context: Context, as_of: datetime) -> pl.DataFrame:
    """The holdout."""
    window = windows_until(as_of, context.settings.training)[-1]
    return training_set(context.lakehouse, context.problem, window.start, as_of, {})


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_any_estimator_of_any_target_becomes_the_champion_and_is_watched(
    name: str,
    kind: str,
    opened: Open,
    as_of: datetime,
    tmp_path: Path,
) -> None:
    # given a model whose estimator and target are others
    target = TARGETS[kind]
    model = replace(predicting(target), estimator=ESTIMATORS[name], search_space=None)
    context = opened(model)
    # when it is trained and deployed, and scores
    trained = flows.train(context, as_of)
    flows.deploy(context, trained.version, "test")
    flows.predict(context, as_of)
    flows.monitor(context, as_of)
    # then it has passed all gates
    assert context.registry.aliased(CHAMPION) == "1"
    # and scores alike in this process, in the tables, and where the project is unknown
    champion = context.registry.load("1")
    rows = rows_of(context, as_of).head(200)
    predicted = champion.predict(rows)
    shape = (200,) if len(target.scores) == 1 else (200, len(target.scores))
    assert predicted.shape == shape
    inputs = rows.select(
        pl.col(name) if name in model.categorical else pl.col(name).cast(pl.Float64)
        for name in model.features
    )
    inputs.write_parquet(tmp_path / "rows.parquet")
    package = Context.__module__.partition(".")[0]
    command = [sys.executable, "-I", "-B", "-c", ELSEWHERE.replace("{package}", package)]
    arguments = [str(context.registry.download("1")), str(tmp_path / "rows.parquet")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == predicted.tolist()
    scored = context.lakehouse.read(tables.predictions(context.problem))
    assert scored.select(pl.col(target.scores).is_finite().all()).row(0) == (True,) * len(
        target.scores
    )
    # and it can say why
    contributions = champion.explain(rows)
    assert contributions.shape == (*shape, len(model.features))
    assert np.isfinite(contributions).all()
    # and nothing that it carries is pickled
    files = [path for path in context.registry.download("1").rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in {".pkl", ".pickle", ".joblib"}]
    assert not [path for path in files if path.read_bytes()[:2] in (b"\x80\x04", b"\x80\x05")]


def test_a_version_scores_with_the_code_that_it_carries(
    context: Context, holdout: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given what the champion of today predicts
    before = context.registry.load("1").predict(holdout)
    # when the encoding and the prediction of the working tree change
    reversed_codes = lightgbm.encode
    monkeypatch.setattr(lightgbm, "encode", lambda *given: -reversed_codes(*given))
    monkeypatch.setattr(LightGBM, "predict", lambda self, rows: np.zeros(len(rows)))
    # then it predicts the same to the bit
    assert context.registry.load("1").predict(holdout).tobytes() == before.tobytes()


@pytest.fixture
def copied(context: Context, tmp_path: Path) -> Path:
    """Files of a version, to be tampered with."""
    return shutil.copytree(context.registry.download("1"), tmp_path / "files")


def test_cached_bytecode_in_a_versions_folder_does_not_run(copied: Path, tmp_path: Path) -> None:
    # given bytecode that says that it was compiled from the version's code
    folder = copied / "artifacts" / pyfunc.ESTIMATOR
    (folder / "__pycache__").unlink(missing_ok=True)
    planted = tmp_path / "planted.py"
    planted.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n", encoding="utf-8")
    compile_to = folder / "__pycache__" / f"estimator.{sys.implementation.cache_tag}.pyc"
    compile_to.parent.mkdir(exist_ok=True)
    import py_compile

    py_compile.compile(str(planted), str(compile_to), str(folder / stored.CODE), doraise=True)
    # when the version is loaded
    stored.read(folder, "with_bytecode")
    # then it did not run
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["artifacts/estimator/estimator.py", "__pycache__", "new.pyc"])
def test_a_changed_or_added_file_is_refused_before_any_code_runs(
    context: Context, place: str, tmp_path: Path
) -> None:
    # given a version whose files are ours to change
    registry = context.registry
    files = shutil.copytree(registry.download("1"), tmp_path / "files")
    ran = tmp_path / "ran"
    first = registry.version("1")
    number = registry.client.create_model_version(
        registry.settings.model, str(files), first.run_id, first.tags
    ).version
    registry.load(number)
    # when one is changed or added
    path = files / place
    before = path.read_bytes() if path.exists() else b""
    path.write_bytes(before + f"\nopen({str(ran)!r}, 'w').close()\n".encode())
    # then it is refused, and has not run
    with pytest.raises(UserError, match="not those that were registered"):
        registry.load(number)
    assert not ran.exists()
    registry.client.delete_model_version(registry.settings.model, number)


def test_an_estimator_that_leans_on_the_project_is_refused(tmp_path: Path) -> None:
    source = "from {package}.core import contract\n\n\nclass Leaning:\n    pass\n"
    package = Context.__module__.partition(".")[0]
    path = tmp_path / "leaning.py"
    path.write_text(source.replace("{package}", package), encoding="utf-8")
    import importlib.util

    spec = importlib.util.spec_from_file_location("leaning", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["leaning"] = module
    spec.loader.exec_module(module)
    with pytest.raises(UserError, match=f"imports {package}.core"):
        stored.write(module.Leaning(), ("prediction",), tmp_path / "folder")
