"""A data file of the sample that is damaged ends in one message, and loses nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from {{cookiecutter.package_name}} import problem
from {{cookiecutter.package_name}}.core.contract import KNOWN_AT
from {{cookiecutter.package_name}}.problem import PROBLEM, sources
from {{cookiecutter.package_name}}.store import tables

Run = Callable[..., tuple[int, str, str]]


def one_message(end: tuple[int, str, str]) -> str:
    code, _, err = end
    assert code == 1
    assert err.count("✗") == err.count("→") == 1
    assert "Traceback" not in err
    return err


def _renamed(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"tailnum", b"tail", 1))


def _retyped(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"2004", b"new", 1))


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _header_only(path: Path) -> None:
    path.write_bytes(path.read_bytes().partition(b"\n")[0] + b"\n")


def _other_encoding(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"EMBRAER", b"EMBRA\xcbR", 1))


@pytest.mark.parametrize(
    "damage", [_renamed, _retyped, _emptied, _header_only, _other_encoding, Path.unlink]
)
def test_a_damaged_source_is_named_and_once_restored_loses_nothing(
    project: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    damage: Callable[[Path], None],
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    whole = sources.data_folder() / "planes.csv"
    shutil.copy(whole, folder)
    planes = next(source for source in PROBLEM.sources if source.name == "planes")
    monkeypatch.setattr(sources, "data_folder", lambda: folder)
    monkeypatch.setattr(problem, "PROBLEM", replace(PROBLEM, sources=(planes,)))
    tomorrow = (PROBLEM.begins + timedelta(days=1)).isoformat()
    ingest = ("ingest", "--env", "test", "--as-of", tomorrow)
    lakehouse = project / ".data" / "test" / "lakehouse"

    damage(folder / "planes.csv")
    assert str(folder / "planes.csv") in one_message(run(*ingest))
    assert [path.name for path in lakehouse.iterdir()] == ["metrics"]  # that it failed

    shutil.copy(whole, folder)
    assert run(*ingest)[0] == 0
    assert KNOWN_AT in tables.raw(planes).schema
    assert len(list((lakehouse / tables.raw(planes).name).glob("*.parquet"))) == 1
