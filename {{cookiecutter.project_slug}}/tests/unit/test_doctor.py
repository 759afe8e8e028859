from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from {{cookiecutter.package_name}} import doctor, hosting, store
from {{cookiecutter.package_name}}.context import open_context
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX, Settings

from tests.conftest import ROOT


def found(env: str) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine(env)}


@pytest.fixture
def committed(project: Path) -> Path:
    """A project with its lock, under git, without a remote."""
    (project / "requirements").mkdir()
    lock = (ROOT / "requirements" / "run.txt").read_text(encoding="utf-8")
    (project / "requirements" / "run.txt").write_text(lock, encoding="utf-8")
    git = ("git", "-C", str(project), "-c", "user.name=test", "-c", "user.email=test@localhost")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "As rendered")):
        subprocess.run([*git, *command], check=True)
    return project


def test_a_sound_project_lacks_a_remote_only(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_reachable", lambda context: iter(()))
    findings = found("test")
    assert [name for name, finding in findings.items() if not finding.is_well] == ["origin"]
    assert findings["origin"].remedy.startswith("git remote add origin")


def test_packages_that_are_not_as_locked_are_named(committed: Path) -> None:
    lock = committed / "requirements" / "run.txt"
    lock.write_text("polars==0.0.1 \\\n    --hash=sha256:00\nnumpy==0 ; python_version < '3'\n")
    finding = doctor._packages(committed)
    assert finding.said == "1 of 2 are not as locked (polars)"
    assert finding.remedy == "python3 bootstrap.py list"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a program on the PATH, as a script of the shell."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("JAVA_HOME", raising=False)

    def put(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    return put


@pytest.mark.skipif(os.name == "nt", reason="programs are scripts of a shell")
def test_java_is_looked_for_where_spark_computes(
    settings: Settings, programs: Callable[[str, str], None]
) -> None:
    on_spark = settings.model_copy(update={"engine": "spark"})
    assert list(doctor._java(settings)) == []
    programs("java", """echo 'openjdk version "11.0.2"' >&2""")
    [old] = doctor._java(on_spark)
    assert old.said == "11 is too old"
    assert "Java 17" in old.remedy
    programs("java", """echo 'openjdk version "21.0.1"' >&2""")
    [found_java] = doctor._java(on_spark)
    assert found_java.is_well
    programs("java", "exit 1")
    [none] = doctor._java(on_spark)
    assert none.said == "not found"


def test_the_repository_is_looked_at_where_it_is_hosted(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def look(origin: str, said: Callable[..., str | None]) -> list[tuple[str, str]]:
        seen.append(origin)
        return [("not set up", "Set it up.")]

    monkeypatch.setattr(hosting, "look", look)
    [finding] = doctor._hosting(committed)
    assert (finding.name, finding.remedy, seen) == (hosting.NAME, "Set it up.", [""])


def test_an_index_that_does_not_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for answer, is_well in (("", True), (None, False)):
        monkeypatch.setattr(doctor, "_said", lambda *_, answer=answer: answer)
        [finding] = doctor._index()
        assert finding.is_well is is_well


def test_without_a_commit_the_commands_are_named(project: Path) -> None:
    [finding] = doctor._git(project)
    assert finding.remedy.startswith("git init && git add --all && git commit")


def test_a_full_disk_is_found(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_FREE_GB", 1e9)
    assert not doctor._disk(project).is_well


def test_a_setting_that_is_wrong_ends_the_examination(committed: Path) -> None:
    (committed / "conf" / "test.yml").write_text("seed: maybe\n", encoding="utf-8")
    findings = found("test")
    assert "seed" in findings["configuration"].said
    assert "MLflow" not in findings


def test_receivers_that_are_not_set_are_named(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_reachable", lambda context: iter(()))
    with (committed / "conf" / "test.yml").open("a", encoding="utf-8") as file:
        file.write("alerts: {receivers: [PAGER_URL]}\n")
    assert found("test")["receivers"].said == "not set: PAGER_URL"
    monkeypatch.setenv("PAGER_URL", "json://localhost")
    assert found("test")["receivers"].is_well


def test_a_place_that_cannot_be_written_is_found(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a file where the state's folder should be, and a store below it
    (committed / ".data").write_text("", encoding="utf-8")
    # then
    findings = found("test")
    assert not findings["state"].is_well
    assert findings["state"].remedy == "Check `state` in conf/."
    assert not findings["MLflow"].is_well


def test_a_client_of_the_state_that_is_not_installed_is_found(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, f"{store.__name__}.mirror", raising=False)
    monkeypatch.setenv(f"{ENV_PREFIX}STATE_ADDRESS", "s3://bucket/state")
    monkeypatch.setenv(f"{ENV_PREFIX}MLFLOW__SIGNING_KEY", "SIGNING_KEY")
    state = next(doctor._reachable(open_context("test")))
    assert state.said == "`state_address` needs obstore, which is not installed."
    assert "`aws.in`" in state.remedy
