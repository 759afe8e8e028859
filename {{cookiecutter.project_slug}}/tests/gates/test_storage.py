"""An environment knows its own storage; and what its registry holds is found, announced or not."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.tracking.registry import CHAMPION

Run = Callable[..., tuple[int, str, str]]
Configure = Callable[..., Context]
Add = Callable[..., str]


def places(arena: Context) -> dict[str, str]:
    """Settings of the storage of an arena."""
    settings = arena.settings
    root, model = settings.lakehouse.root, settings.mlflow.model
    return {"LAKEHOUSE__ROOT": root, "MLFLOW__MODEL": model, "STATE": str(settings.state)}


def test_storage_is_refused_until_it_has_been_named(configure: Configure, run: Run) -> None:
    # given an environment with a name, on empty storage
    named = configure(STORAGE_NAME="ours")
    with pytest.raises(UserError, match="not those of ours: they carry no name"):
        _ = named.lakehouse
    with pytest.raises(UserError, match="not those of ours: they carry no name"):
        _ = named.registry.client
    # when it is named, twice
    for _ in range(2):
        assert run("init", "--env", "test")[0] == 0
    # then it is open, and closed to an environment of another name
    assert named.lakehouse.root
    assert named.registry.versions() == []
    other = configure(**places(named), STORAGE_NAME="theirs")
    with pytest.raises(UserError, match="they belong to ours"):
        _ = other.lakehouse
    with pytest.raises(UserError, match="they belong to ours"):
        _ = other.registry.client
    code, _, err = run("init", "--env", "test")
    assert code == 1
    assert "they belong to ours" in err


def test_an_empty_machine_is_refused_and_left_as_it_was(
    configure: Configure, run: Run, tmp_path: Path
) -> None:
    nothing = tmp_path / "nothing here"
    address = f"sqlite:///{nothing}/mlflow.db"
    root = str(nothing / "tables")
    configure(STORAGE_NAME="ours", LAKEHOUSE__ROOT=root, MLFLOW__TRACKING_URI=address)
    for verb in ("predict", "status"):
        code, _, err = run(verb, "--env", "test")
        assert code == 1
        assert "they carry no name" in err
    assert not nothing.exists()


def test_half_a_restored_backup_is_refused(configure: Configure, run: Run, tmp_path: Path) -> None:
    named = configure(STORAGE_NAME="ours")
    assert run("init", "--env", "test")[0] == 0
    # given the tables, and a registry that knows nothing
    other = configure(**{**places(named), "MLFLOW__MODEL": "empty"}, STORAGE_NAME="ours")
    with pytest.raises(UserError, match="they carry no name"):
        _ = other.registry.client
    with closing(
        sqlite3.connect(other.settings.mlflow.tracking_uri.removeprefix("sqlite:///"))
    ) as store:
        found = store.execute("SELECT * FROM registered_models WHERE name = 'empty'").fetchall()
    assert found == []


def test_an_environment_without_a_name_takes_any_storage(arena: Context, run: Run) -> None:
    assert arena.lakehouse.root
    code, _, err = run("init", "--env", "test")
    assert code == 1
    assert "has no `storage_name` in conf/" in err


def test_all_versions_that_nobody_examined_go_through_the_gates(
    configure: Configure, add: Add, run: Run, tmp_path: Path
) -> None:
    # given a burst of versions of which no announcement arrived, a bad one among them
    arena, outputs = configure(DEPLOYMENT__APPROVAL="person"), tmp_path / "outputs"
    first, bad, last = add(arena), add(arena, tags={"git_commit": None}), add(arena)
    deploy_new = ("deploy", "--env", "test", "--new", "--who", "me")
    # when
    code, _, err = run(*deploy_new, "--outputs", str(outputs))
    # then each was examined, the bad one is named, and the last one waits
    assert code == 1
    assert f"Version {bad}" in err
    stages = {str(it.version): it.tags["stage"] for it in arena.registry.versions()}
    assert (stages[bad], stages[last]) == ("Archived", "Staging")
    assert stages[first] != "None"
    # and nothing is left to do
    code, _, err = run(*deploy_new)
    assert (code, err) == (0, "")
    assert arena.registry.aliased(CHAMPION) is None


def test_what_waits_is_written_for_the_job_that_decides(
    configure: Configure, add: Add, run: Run, tmp_path: Path
) -> None:
    outputs = tmp_path / "outputs"
    number = add(configure(DEPLOYMENT__APPROVAL="person"))
    assert run("deploy", "--env", "test", "--new", "--outputs", str(outputs))[0] == 0
    assert outputs.read_text(encoding="utf-8") == f"waiting={number}\n"
    # where policy decides, nothing waits
    outputs.unlink()
    number = add(configure(DEPLOYMENT__APPROVAL="policy"))
    assert run("deploy", "--env", "test", "--version", number, "--outputs", str(outputs))[0] == 0
    assert not outputs.exists()


def test_all_of_them_or_one(arena: Context, run: Run) -> None:
    code, _, err = run("deploy", "--env", "test", "--new", "--version", "1")
    assert code == 1
    assert "exclude each other" in err
