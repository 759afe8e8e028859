"""The ways in which people render and update: cookiecutter's command line, replay, cruft."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from support import NASTY, execute, files_in

BIN = Path(sys.executable).parent


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    """Environment in which cookiecutter keeps what it remembers in the test's own folder."""
    config = tmp_path / "cookiecutter.yml"
    config.write_text(
        json.dumps(
            {
                "cookiecutters_dir": str(tmp_path / "templates"),
                "replay_dir": str(tmp_path / "replay"),
            }
        )
    )
    return {"COOKIECUTTER_CONFIG": str(config)}


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    """The template as a git repository, as people fetch it."""
    copy = tmp_path / "a template"
    shutil.copytree(template, copy)
    execute("git", "init", "--quiet", cwd=copy)
    commit(copy, "one")
    return copy


def commit(folder: Path, message: str) -> None:
    execute("git", "add", "--all", cwd=folder)
    execute("git", "commit", "--quiet", "--message", message, cwd=folder)


def test_command_line_and_replay(
    repository: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    # given a first rendering
    answers = [f"{name}={text}" for name, text in NASTY.items()]
    places = [tmp_path / "first one", tmp_path / "second one"]
    command: tuple[str | Path, ...] = (BIN / "cookiecutter", repository, "--output-dir")
    execute(
        *(*command, places[0], "--no-input", *answers, "project_slug=x", "problem_type=regression"),
        cwd=tmp_path,
        **settings,
    )
    # when its answers are replayed
    said = execute(*command, places[1], "--replay", cwd=tmp_path, **settings)
    # then
    assert "Next, in x: python3 bootstrap.py demo" in said
    first, second = (files_in(place / "x") for place in places)
    assert first == second
    assert (places[0] / "x" / ".git").is_dir()


def test_cruft_brings_a_later_template_and_keeps_changes(
    repository: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    # given a project with a change of its own, and a template that has moved on
    cruft = BIN / "cruft"
    answers = json.dumps({"description": NASTY["description"], "problem_type": "regression"})
    create = ("create", repository, "--no-input", "--extra-context", answers)
    execute(cruft, *create, cwd=tmp_path, **settings)
    project = tmp_path / "flight-delays"
    execute("git", "init", "--quiet", cwd=project)
    configuration = project / "conf" / "dev.yml"
    own = configuration.read_text(encoding="utf-8") + "# ours\n"
    configuration.write_text(own, encoding="utf-8")
    commit(project, "ours")
    sources = repository / "{{cookiecutter.project_slug}}"
    (sources / "NEW.md").write_text("New in {{ cookiecutter.project_name }}: ${{ x }}\n")
    with (sources / ".gitignore").open("a", encoding="utf-8") as ignored:
        ignored.write("/new/\n")
    commit(repository, "two")
    # when
    execute(cruft, "update", "--skip-apply-ask", cwd=project, **settings)
    # then
    assert (project / "NEW.md").read_text() == "New in Flight Delays: ${{ x }}\n"
    assert (project / ".gitignore").read_text().endswith("/new/\n")
    assert configuration.read_text(encoding="utf-8") == own
    package = project / "src" / "flight_delays" / "problem"
    assert sorted(path.name for path in package.glob("target*")) == ["target.py"]
    assert execute("git", "rev-list", "--count", "HEAD", cwd=project) == "1\n"
    commit(project, "update")
    execute(cruft, "check", cwd=project, **settings)
    difference = execute(cruft, "diff", cwd=project, **settings)
    assert "# ours" in difference
    assert "target__" not in difference
