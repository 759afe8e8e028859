"""Every fault is rejected by the check that exists for it, and the champion stays."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
import yaml
from mlflow.entities.model_registry import ModelVersion

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.deployment.compliance import (
    ACTIVE,
    CHECKS,
    PASSIVE,
    RECOMPUTED,
)
from {{cookiecutter.package_name}}.modeling import stored
from {{cookiecutter.package_name}}.modeling.lightgbm import BOOSTER, ENCODING
from {{cookiecutter.package_name}}.modeling.pyfunc import ESTIMATOR
from {{cookiecutter.package_name}}.modeling.stored import CODE
from {{cookiecutter.package_name}}.tracking.provenance import artifact_digest
from {{cookiecutter.package_name}}.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    HOLDOUT,
    Registry,
)
from {{cookiecutter.package_name}}.tracking.signing import (
    ARTIFACT_DIGEST,
    SIGNATURE,
    TRAINING_ID,
    Signer,
)

from tests.parcels import PROBLEM

Run = Callable[..., tuple[int, str, str]]
Breed = Callable[[str], ModelVersion]
Add = Callable[..., str]
Promote = Callable[[Context, str], str]
NEEDS_FILES = frozenset({"signature", "no_outcome_among_inputs", "own_code", "size"})


@dataclass(frozen=True)
class Fault:
    """What is planted, the check that must reject it, what it says, and which others fail too."""

    check: str
    why: str
    also: frozenset[str] = frozenset()
    model: str = "good"
    problem: str = "good"
    tags: Callable[[Mapping[str, str]], Mapping[str, str | None]] = field(default=lambda tags: {})
    files: Callable[[Path], object] | None = None  # changed before registration
    after: Callable[[Path], object] | None = None  # changed after it
    is_own: bool = False  # the code in its files is that of the project
    by_hand: Callable[[Registry, str, Path], object] | None = None  # in the registry, after it
    is_foreign: bool = False  # signed with the key of another environment
    settings: Mapping[str, str] = field(default_factory=dict)
    description: str | None = None
    run: Callable[[Registry], str] | None = None


def later(tags: Mapping[str, str], name: str, days: int) -> str:
    return (datetime.fromisoformat(tags[name]) + timedelta(days=days)).isoformat()


def without(tag: str, tags: Mapping[str, str]) -> dict[str, str | None]:
    return {tag: None}


def without_a_table(tags: Mapping[str, str]) -> dict[str, str | None]:
    versions = json.loads(tags["data_versions"])
    versions.popitem()
    return {"data_versions": json.dumps(versions)}


def described(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Rewrite what MLflow knows of a model."""

    def rewritten(folder: Path) -> None:
        path = folder / "MLmodel"
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(yaml.safe_dump(content), encoding="utf-8")

    return rewritten


def signature(
    change: Callable[[list[dict[str, Any]]], object], side: str = "inputs"
) -> Callable[[Path], object]:
    """Rewrite one side of a model's signature."""

    def rewritten(content: dict[str, Any]) -> None:
        columns = json.loads(content["signature"][side])
        change(columns)
        content["signature"][side] = json.dumps(columns)

    return described(rewritten)


def renamed(inputs: list[dict[str, Any]]) -> None:
    inputs[-1]["name"] = "unknown"


def typed(kind: str) -> Callable[[list[dict[str, Any]]], object]:
    return lambda columns: columns[-1].update(type=kind)


def optional(columns: list[dict[str, Any]]) -> None:
    columns[0]["required"] = False


def edited_and_digested(registry: Registry, number: str, folder: Path) -> None:
    edited(folder)
    set_tag(registry, number, ARTIFACT_DIGEST, artifact_digest(folder))


def set_tag(registry: Registry, number: str, name: str, value: str) -> None:
    registry.client.set_model_version_tag(registry.settings.model, number, name, value)


def by_hand(name: str, value: str) -> Callable[[Registry, str, Path], object]:
    """Set a tag after the version was registered."""
    return lambda registry, number, _: set_tag(registry, number, name, value)


def unsigned(registry: Registry, number: str, folder: Path) -> None:
    registry.client.delete_model_version_tag(registry.settings.model, number, SIGNATURE)


def planted(name: str) -> Callable[[Path], object]:
    """Put a file of code beside the version's own."""

    def put(folder: Path) -> None:
        path = folder / name
        path.parent.unlink(missing_ok=True) if path.parent.is_file() else None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"import os\n")

    return put


def recorded_otherwise(folder: Path) -> None:
    """Let the version have recorded other scores of its holdout."""
    path = folder / "artifacts" / HOLDOUT
    rows = pl.read_parquet(path)
    rows.with_columns(prediction=1 - pl.col("prediction")).write_parquet(path)


def code(name: str, body: str) -> Callable[[Path], object]:
    """Let a method of the version's estimator do something else."""

    def rewritten(folder: Path) -> None:
        path = folder / "artifacts" / ESTIMATOR / CODE
        planted = f"def _planted(self, rows):\n    {body}\n"
        lines = ["", "", f"_honest = LightGBM.{name}", "", planted, f"LightGBM.{name} = _planted"]
        with path.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines))

    return rewritten


def kept(folder: Path) -> None:
    """Nothing is changed before registration."""


def edited(folder: Path) -> None:
    path = folder / "artifacts" / ESTIMATOR / BOOSTER
    path.write_text(
        path.read_text(encoding="utf-8").replace("leaf_value=", "leaf_value=9", 1), encoding="utf-8"
    )


def reversed_categories(folder: Path) -> None:
    path = folder / "artifacts" / ESTIMATOR / ENCODING
    encoding = json.loads(path.read_text(encoding="utf-8"))
    for known in encoding["categories"].values():
        known.reverse()
    path.write_text(json.dumps(encoding), encoding="utf-8")


def empty_run(registry: Registry) -> str:
    return str(registry.client.create_run(registry.experiment).info.run_id)


def empty_card(registry: Registry) -> str:
    run = empty_run(registry)
    registry.client.log_text(run, "\n", "evaluation/model_card.md")
    return run


FAULTS = {
    "an input tells the outcome": Fault(
        "plausible", "hint alone explains", model="leaky", problem="leaky"
    ),
    "an input has a forbidden name": Fault(
        "no_outcome_among_inputs",
        PROBLEM.model.forbidden[-1],
        model="forbidden",
        problem="forbidden",
    ),
    "labels were shuffled": Fault(
        "same_data", "its train window", frozenset({"same_fit"}), model="shuffled"
    ),
    "its data are said to be others": Fault(
        "same_data",
        "its holdout window",
        tags=lambda tags: {
            "data_fingerprint": json.dumps(
                {**json.loads(tags["data_fingerprint"]), "holdout": "1680 rows 0123456789abcdef"}
            )
        },
    ),
    "it has learned from its holdout alone": Fault(
        "same_fit", "scores its holdout otherwise", model="on the holdout"
    ),
    "it has learned from its holdout, too": Fault(
        "same_fit", "scores its holdout otherwise", model="on train and holdout"
    ),
    "it was fit otherwise than it says": Fault(
        "same_fit",
        "scores its holdout otherwise",
        tags=lambda tags: {"recipe": json.dumps({**json.loads(tags["recipe"]), "rounds": 3})},
    ),
    "its recipe is not one": Fault(
        "same_fit", "cannot be examined", tags=lambda tags: {"recipe": "[]"}
    ),
    "it recorded scores that its fit does not give": Fault(
        "same_fit", "scores its holdout otherwise", files=recorded_otherwise
    ),
    "it predicts a constant": Fault(
        "better_than_baseline", "not above 0", frozenset({"proper_scores"}), model="constant"
    ),
    "its holdout begins in its training window": Fault(
        "in_its_time",
        "windows overlap",
        tags=lambda tags: {"holdout_start": later(tags, "train_end", -1)},
    ),
    "its windows reach beyond the as-of": Fault(
        "in_its_time",
        "beyond the as-of",
        tags=lambda tags: {"as_of": later(tags, "holdout_end", -1)},
    ),
    "a window is not a moment": Fault(
        "in_its_time",
        "cannot be examined",
        tags=lambda tags: {"holdout_start": "soon"},
    ),
    **{
        f"it has no {tag}": Fault("described", f"without {tag}", tags=partial(without, tag))
        for tag in (TRAINING_ID, "target", "git_commit", "source_sha256")
    },
    "its description is blank": Fault("described", "without description", description="  "),
    "it has no description": Fault("described", "without description", description=""),
    "it has no model card": Fault("model_card", "no model card", run=empty_run),
    "its model card is empty": Fault("model_card", "is empty", run=empty_card),
    "its inputs have another order": Fault(
        "signature", "their order", files=signature(lambda inputs: inputs.reverse())
    ),
    "an input has another name": Fault(
        "signature",
        "unknown",
        files=signature(renamed),
    ),
    "it has no input example": Fault(
        "signature",
        "no input example",
        files=described(lambda content: content.pop("saved_input_example_info")),
    ),
    "a table's version was not recorded": Fault(
        "data_versions", "no version recorded", tags=without_a_table
    ),
    "a table's version is gone": Fault(
        "data_versions",
        "no version recorded, or left",
        tags=lambda tags: {
            "data_versions": json.dumps(dict.fromkeys(json.loads(tags["data_versions"]), 10**6))
        },
    ),
    "data versions are not a mapping": Fault(
        "data_versions",
        "cannot be examined",
        tags=lambda tags: {"data_versions": "[]"},
    ),
    **{
        f"git_dirty is {state}": Fault(
            "clean_code",
            f"git_dirty: {state}",
            tags=lambda tags, state=state: {"git_dirty": state},  # type: ignore[misc]
            settings={"DEPLOYMENT__CLEAN_GIT": "true"},
        )
        for state in ("true", "unknown")
    },
    "it was trained with another lock": Fault(
        "lock", "another requirements", tags=lambda tags: {"lock_sha256": "0" * 64}
    ),
    "a number is said to be whole": Fault(
        "signature",
        "is long; it is double",
        files=signature(typed("long")),
    ),
    "an input is said to be dispensable": Fault(
        "signature", "or nothing; it is string", files=signature(optional)
    ),
    "its score is said to be a text": Fault(
        "signature", "a score string", files=signature(typed("string"), "outputs")
    ),
    "it says nothing of its score": Fault(
        "signature",
        "gives none",
        files=described(lambda content: content["signature"].update(outputs=None)),
    ),
    "its scoring code was changed": Fault(
        "own_code",
        f"artifacts/{ESTIMATOR}/{CODE}",
        files=code("predict", "import os; os._exit(1)"),
    ),
    **{
        f"it brings {name}": Fault("own_code", name, files=planted(name))
        for name in (
            "__pycache__/pyfunc.cpython-311.pyc",
            "artifacts/estimator/__pycache__/anything",
            "sitecustomize.py",
            "artifacts/estimator/model.pkl",
            "extension.so",
        )
    },
    "it has MLflow load something else": Fault(
        "own_code",
        "has MLflow load",
        files=described(
            lambda content: content["flavors"]["python_function"].update(loader_module="os")
        ),
    ),
    "it has MLflow put a folder on the path": Fault(
        "own_code",
        "has MLflow load",
        files=described(lambda content: content["flavors"]["python_function"].update(code="code")),
    ),
    "it raises": Fault(
        "scores_in_clean_process",
        "fails in a clean process: ValueError: broken",
        frozenset(ACTIVE),
        files=code("predict", "raise ValueError('broken')"),
        is_own=True,
    ),
    "it predicts NaN": Fault(
        "scores_in_clean_process",
        "nan",
        frozenset({"in_range", "evidence", "better_than_baseline"}),
        files=code("predict", "return np.full(len(rows), np.nan)"),
        is_own=True,
    ),
    "it predicts something else every time": Fault(
        "scores_in_clean_process",
        "differently a second time",
        frozenset({"evidence", "better_than_baseline", "proper_scores", "calibrated"}),
        files=code("predict", "return np.random.default_rng().random(len(rows))"),
        is_own=True,
    ),
    "a score depends on the rows beside it": Fault(
        "scores_in_clean_process",
        "otherwise when they are alone",
        frozenset({"evidence"}),
        files=code("predict", "p = _honest(self, rows); return (p + p.mean()) / 2"),
        is_own=True,
    ),
    "it uses the network": Fault(
        "scores_in_clean_process",
        "must not use the network",
        frozenset(ACTIVE),
        files=code("predict", "import socket; socket.create_connection(('127.0.0.1', 9), 1)"),
        is_own=True,
    ),
    "it needs too long": Fault(
        "latency", "0.001 are allowed", settings={"DEPLOYMENT__MAX_CPU_MS": "0.001"}
    ),
    "it gives log-odds": Fault(
        "in_range",
        "its probabilities reach from",
        frozenset({"evidence", "calibrated", "proper_scores", "sound_on_slices"}),
        files=code("predict", "p = _honest(self, rows); return np.log(p / (1 - p))"),
        is_own=True,
    ),
    "its scores are squeezed": Fault(
        "calibrated",
        "times as steeply",
        frozenset({"evidence", "proper_scores"}),
        files=code("predict", "return 0.5 + _honest(self, rows) / 100"),
        is_own=True,
    ),
    "its scores are too high": Fault(
        "calibrated",
        "spreads of the label off",
        frozenset({"evidence", "proper_scores"}),
        files=code("predict", "return _honest(self, rows) ** 0.25"),
        is_own=True,
    ),
    "its scores are exaggerated": Fault(
        "proper_scores",
        "worse than the baseline by log_loss",
        frozenset({"evidence", "sound_on_slices"}),
        files=code("predict", "p = _honest(self, rows) ** 9; return p / (p + (1 - p) ** 9)"),
        is_own=True,
    ),
    "it gives few and heavy parcels no chance": Fault(
        "sound_on_slices",
        "gave no chance to what happened in",
        frozenset({"evidence", "proper_scores"}),
        problem="sliced",
        files=code(
            "predict", "return np.where(np.asarray(rows['kilograms']) > 25, 0, _honest(self, rows))"
        ),
        is_own=True,
    ),
    "it is too sure of few and light parcels": Fault(
        "sound_on_slices",
        "gave no chance to what happened in",
        frozenset({"evidence", "proper_scores"}),
        problem="sliced",
        files=code(
            "predict", "return np.where(np.asarray(rows['kilograms']) < 1, 1, _honest(self, rows))"
        ),
        is_own=True,
    ),
    "its categories are reversed": Fault(
        "evidence",
        "recorded other scores",
        files=reversed_categories,
    ),
    "it is too big": Fault(
        "size", "0.001 are allowed", settings={"DEPLOYMENT__MAX_SIZE_MB": "0.001"}
    ),
    "its booster was edited": Fault(
        "digest", "not those that were registered", NEEDS_FILES, files=kept, after=edited
    ),
    "its booster and its digest were edited": Fault(
        "digest",
        "other tags or files than were signed",
        NEEDS_FILES,
        files=kept,
        by_hand=edited_and_digested,
    ),
    "its windows were edited": Fault(
        "digest",
        "other tags or files than were signed",
        NEEDS_FILES,
        by_hand=by_hand("train_start", "2023-01-01T00:00:00+00:00"),
    ),
    "its signature was made up": Fault(
        "digest", "signed with another key", NEEDS_FILES, by_hand=by_hand(SIGNATURE, "0" * 64)
    ),
    "its signature was taken away": Fault(
        "described", "without signature", NEEDS_FILES | {"digest"}, by_hand=unsigned
    ),
    "it was registered elsewhere": Fault(
        "digest",
        "signed with another key",
        NEEDS_FILES,
        is_foreign=True,
    ),
    "its files were deleted": Fault(
        "digest", "has lost its files", NEEDS_FILES, files=kept, after=shutil.rmtree
    ),
    "its digest was not recorded": Fault(
        "digest",
        "not those that were registered",
        NEEDS_FILES | {"described"},
        tags=lambda tags: {ARTIFACT_DIGEST: None},
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_each_fault_is_rejected_by_its_own_check(
    fault: Fault,
    configure: Callable[..., Context],
    breed: Breed,
    add: Add,
    promote: Promote,
    take_for_problem: Callable[[str], None],
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arena = configure(**fault.settings)
    champion = promote(arena, add(arena, "old"))
    folder = None
    if fault.files:
        folder = shutil.copytree(
            mlflow.artifacts.download_artifacts(breed(fault.model).source), tmp_path / "files"
        )
        fault.files(folder)
    changes = {} if fault.description is None else {"description": fault.description}
    changes |= {} if fault.run is None else {"run_id": fault.run(arena.registry)}
    tags = fault.tags(breed(fault.model).tags)
    signer = Signer(None, tmp_path / "other.key") if fault.is_foreign else None
    number = add(arena, fault.model, tags, folder, signer, **changes)
    if fault.after and folder:
        fault.after(folder)
    if fault.by_hand:
        fault.by_hand(arena.registry, number, folder or tmp_path)
    if fault.is_own and folder:
        own = folder / "artifacts" / ESTIMATOR / CODE
        monkeypatch.setattr(stored, "source_of", lambda kind: own)
    take_for_problem(fault.problem)

    code, _, err = run("check", "--env", "test", "--version", number, "--who", "me")

    version = arena.registry.version(number)
    outcomes = {name: version.tags[f"compliance.{name}"] for name in CHECKS}
    failed = {name for name, outcome in outcomes.items() if outcome.startswith("fail: ")}
    assert failed == {fault.check, *fault.also}
    # Its code has run only where nothing could be said against it without.
    not_run = {name for name, outcome in outcomes.items() if outcome == "not run"}
    later_tiers = (
        {*RECOMPUTED, *ACTIVE}
        if failed & set(PASSIVE)
        else set(ACTIVE)
        if failed & set(RECOMPUTED)
        else set()
    )
    assert not_run == later_tiers
    assert version.tags[f"compliance.{fault.check}"].startswith("fail: ")
    assert fault.why in version.tags[f"compliance.{fault.check}"]
    assert fault.why in str(version.description)
    assert (code, err.startswith(f"✗ Version {number} is archived"), "Traceback" in err) == (
        1,
        True,
        False,
    )
    assert fault.why in err
    assert (version.tags["stage"], version.tags["stage.who"]) == ("Archived", "me")
    assert (arena.registry.aliased(CHAMPION), arena.registry.aliased(CHALLENGER)) == (
        champion,
        None,
    )
    assert arena.registry.version(champion).tags["stage"] == "Production"


def test_a_good_version_passes_every_check_and_becomes_the_challenger(
    arena: Context, add: Add, promote: Promote, run: Run
) -> None:
    champion, number = promote(arena, add(arena, "old")), add(arena)
    code, out, err = run("check", "--env", "test", "--version", number, "--who", "me")
    assert (code, err, f"{len(CHECKS)}/{len(CHECKS)} checks passed" in out) == (
        0,
        "",
        True,
    )
    version = arena.registry.version(number)
    assert {name: version.tags[f"compliance.{name}"] for name in CHECKS} == dict.fromkeys(
        CHECKS, "pass"
    )
    summary = f"{len(CHECKS)}/{len(CHECKS)} checks passed"
    assert summary in str(version.description)
    assert PROBLEM.model.target.unit in str(version.description)
    assert [version.tags[f"stage{part}"] for part in ("", ".who", ".why")] == [
        "Staging",
        "me",
        summary,
    ]
    assert (arena.registry.aliased(CHALLENGER), arena.registry.aliased(CHAMPION)) == (
        number,
        champion,
    )


def test_each_check_has_a_fault_that_it_exists_for() -> None:
    assert {fault.check for fault in FAULTS.values()} == set(CHECKS)


def test_a_version_registered_by_hand_is_archived(arena: Context, breed: Breed, run: Run) -> None:
    client, name = arena.registry.client, arena.settings.mlflow.model
    number = str(client.create_model_version(name, str(breed("good").source)).version)
    code, _, err = run("deploy", "--env", "test", "--version", number)
    assert (code, "Traceback" in err) == (1, False)
    assert arena.registry.version(number).tags["stage"] == "Archived"


def test_a_version_that_never_answers_is_rejected(
    arena: Context, add: Add, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, start = add(arena), subprocess.run

    def hang(command: Any, **options: Any) -> Any:
        if "-I" in command:
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return start(command, **options)

    monkeypatch.setattr(subprocess, "run", hang)
    code, _, err = run("check", "--env", "test", "--version", number)
    assert (
        code,
        "scores_in_clean_process: fails in a clean process: no answer" in err,
    ) == (1, True)


def test_a_fault_stays_a_fault_when_the_version_is_checked_again(
    arena: Context, add: Add, run: Run
) -> None:
    number = add(arena, description="")
    for _ in range(2):
        code, _, err = run("check", "--env", "test", "--version", number)
        assert (code, "described: without description" in err) == (1, True)
