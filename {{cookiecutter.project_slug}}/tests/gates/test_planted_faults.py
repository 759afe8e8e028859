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
import pytest
from mlflow.entities.model_registry import ModelVersion

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.deployment.compliance import ACTIVE, CHECKS, PASSIVE
from {{cookiecutter.package_name}}.modeling.lightgbm import BOOSTER, ENCODING
from {{cookiecutter.package_name}}.modeling.pyfunc import ESTIMATOR
from {{cookiecutter.package_name}}.modeling.stored import CODE
from {{cookiecutter.package_name}}.tracking.registry import (
    ARTIFACT_DIGEST,
    CHALLENGER,
    CHAMPION,
    TRAINING_ID,
    Registry,
)

from tests.parcels import PROBLEM

Run = Callable[..., tuple[int, str, str]]
Breed = Callable[[str], ModelVersion]
Add = Callable[..., str]
Promote = Callable[[Context, str], str]
NEEDS_FILES = frozenset({"signature", "no_outcome_among_inputs", "size"})


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


def signature(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], object]:
    """Rewrite the inputs of a model's signature."""

    def rewritten(folder: Path) -> None:
        path = folder / "MLmodel"
        lines = path.read_text(encoding="utf-8").splitlines()
        (place,) = (
            number for number, line in enumerate(lines) if line.strip().startswith("inputs: ")
        )
        start = lines[place].index("'") + 1
        end = next(number for number in range(place, len(lines)) if lines[number].endswith("'"))
        inputs = json.loads(
            "".join([lines[place][start:], *(line.strip() for line in lines[place + 1 : end + 1])])[
                :-1
            ]
        )
        change(inputs)
        lines[place : end + 1] = [f"{lines[place][:start]}{json.dumps(inputs)}'"]
        path.write_text("\n".join(lines), encoding="utf-8")

    return rewritten


def renamed(inputs: list[dict[str, Any]]) -> None:
    inputs[-1]["name"] = "unknown"


def without_example(folder: Path) -> None:
    path = folder / "MLmodel"
    lines, kept, inside = path.read_text(encoding="utf-8").splitlines(), [], False
    for line in lines:
        inside = line.startswith("saved_input_example_info:") or (inside and line.startswith(" "))
        kept += [] if inside else [line]
    path.write_text("\n".join(kept), encoding="utf-8")


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
    "labels were shuffled": Fault("better_than_baseline", "not above 0", model="shuffled"),
    "it predicts a constant": Fault("better_than_baseline", "not above 0", model="constant"),
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
        files=without_example,
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
    "it raises": Fault(
        "scores_in_clean_process",
        "fails in a clean process: ValueError: broken",
        frozenset({"latency", "in_range", "evidence", "plausible", "better_than_baseline"}),
        files=code("predict", "raise ValueError('broken')"),
    ),
    "it predicts NaN": Fault(
        "scores_in_clean_process",
        "nan",
        frozenset({"in_range", "evidence", "better_than_baseline"}),
        files=code("predict", "return np.full(len(rows), np.nan)"),
    ),
    "it predicts something else every time": Fault(
        "scores_in_clean_process",
        "differently a second time",
        frozenset({"evidence", "better_than_baseline"}),
        files=code("predict", "return np.random.default_rng().random(len(rows))"),
    ),
    "it uses the network": Fault(
        "scores_in_clean_process",
        "must not use the network",
        frozenset({"latency", "in_range", "evidence", "plausible", "better_than_baseline"}),
        files=code("predict", "import socket; socket.create_connection(('127.0.0.1', 9), 1)"),
    ),
    "it needs too long": Fault(
        "latency", "0.001 are allowed", settings={"DEPLOYMENT__MAX_CPU_MS": "0.001"}
    ),
    "it gives log-odds": Fault(
        "in_range",
        "its probabilities reach from",
        frozenset({"evidence"}),
        files=code("predict", "p = _honest(self, rows); return np.log(p / (1 - p))"),
    ),
    "its scores are squeezed": Fault(
        "evidence",
        "recorded other scores",
        files=code("predict", "return 0.5 + _honest(self, rows) / 100"),
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
    "its files were deleted": Fault(
        "digest", "has lost its files", NEEDS_FILES, files=kept, after=shutil.rmtree
    ),
    "its digest was not recorded": Fault(
        "digest",
        "not those that were registered",
        NEEDS_FILES,
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
    number = add(arena, fault.model, fault.tags(breed(fault.model).tags), folder, **changes)
    if fault.after and folder:
        fault.after(folder)
    take_for_problem(fault.problem)

    code, _, err = run("check", "--env", "test", "--version", number, "--who", "me")

    version = arena.registry.version(number)
    outcomes = {name: version.tags[f"compliance.{name}"] for name in CHECKS}
    failed = {name for name, outcome in outcomes.items() if outcome.startswith("fail: ")}
    assert failed == {fault.check, *fault.also}
    # Its code has run only where nothing could be said against it without.
    not_run = {name for name, outcome in outcomes.items() if outcome == "not run"}
    assert not_run == (set(ACTIVE) if failed & set(PASSIVE) else set())
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
