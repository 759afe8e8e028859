"""The ways in which people render and update: cookiecutter's command line, replay, cruft."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from post_gen_project import INSTEAD, PARTS
from support import (
    NASTY,
    OPTIONS,
    OWN_LINE,
    OWNED,
    RELEASED,
    ROOT,
    Bake,
    commit,
    execute,
    files_in,
    settings_in,
    updated_from,
)
from versions import Version, tag, versions

BIN = Path(sys.executable).parent


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    """Environment in which cookiecutter keeps what it remembers in the test's own folder."""
    return {"COOKIECUTTER_CONFIG": str(settings_in(tmp_path))}


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    """The template as a git repository, as people fetch it."""
    copy = tmp_path / "a template"
    shutil.copytree(template, copy)
    execute("git", "init", "--quiet", cwd=copy)
    commit(copy, "one")
    return copy


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


@pytest.mark.parametrize("program", ["cookiecutter", "cruft"])
def test_a_refusal_is_one_line(
    program: str, repository: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    options: dict[str, list[str]] = {
        "cookiecutter": ["project_slug=yes"],
        "cruft": ["--extra-context", '{"project_slug": "yes"}'],
    }
    create = ["create"] if program == "cruft" else []
    done = subprocess.run(
        [BIN / program, *create, repository, "--no-input", *options[program]],
        cwd=tmp_path,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Cannot render the project: project_slug 'yes'")
    assert done.stderr.count("\n") == 1


def test_rendering_over_a_project_stops_before_work_is_lost(
    repository: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    # given a project with an edit
    command = (BIN / "cookiecutter", repository, "--no-input", "--overwrite-if-exists")
    execute(*command, cwd=tmp_path, **settings)
    project = tmp_path / "flight-delays"
    (project / "README.md").write_text("ours\n")
    # when
    with pytest.raises(AssertionError, match=r"could be lost \(README\.md\): commit them first"):
        execute(*command, cwd=tmp_path, **settings)
    # then
    assert (project / "README.md").read_text() == "ours\n"
    commit(project, "ours")
    execute(*command, cwd=tmp_path, **settings)
    assert (project / "README.md").read_text().startswith("# Flight Delays")


def test_a_rendering_that_skips_existing_files_keeps_them(
    repository: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    # given a project with a target of its own, and without a file of the template's
    command = (BIN / "cookiecutter", repository, "--no-input", "--overwrite-if-exists")
    execute(*command, cwd=tmp_path, **settings)
    project = tmp_path / "flight-delays"
    target = project / "src" / "flight_delays" / "problem" / "target.py"
    target.write_text("ours\n")
    (project / "README.md").unlink()
    commit(project, "ours")
    # when
    execute(*command, "--skip-if-file-exists", cwd=tmp_path, **settings)
    # then
    assert target.read_text() == "ours\n"
    assert execute("git", "status", "--porcelain", cwd=project) == "?? README.md\n"


def test_without_hooks_all_but_the_repository_is_there_and_parts_of_other_answers_too(
    repository: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    command = (BIN / "cookiecutter", repository, "--no-input", "--output-dir")
    execute(*command, "with", cwd=tmp_path, **settings)
    execute(*command, "without", "--accept-hooks", "no", cwd=tmp_path, **settings)
    with_hooks, without = (
        files_in(tmp_path / name / "flight-delays") for name in ("with", "without")
    )
    assert with_hooks.items() <= without.items()
    # what comes with a choice that was not made is there, too: only a hook can leave it out
    parts = [path for values in PARTS.values() for paths in values.values() for path in paths]
    parts += INSTEAD.values()
    others = tuple(map(rendered, parts))
    more = without.keys() - with_hooks.keys()
    assert [name for name in more if not name.startswith(others)] == []
    assert not (tmp_path / "without" / "flight-delays" / ".git").exists()


def rendered(name: str) -> str:
    """A file of the hook's list in the default project."""
    return re.sub(r"\{\{.*?\}\}", "flight_delays", name)


def test_cruft_brings_a_later_template_and_keeps_changes(
    repository: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    # given a project with a change of its own, and a template that has moved on
    cruft = BIN / "cruft"
    answers = json.dumps({"description": NASTY["description"], "problem_type": "regression"})
    create = ("create", repository, "--no-input", "--extra-context", answers)
    execute(cruft, *create, cwd=tmp_path, **settings)
    project = tmp_path / "flight-delays"
    # what was not asked for is left out under cruft, too
    assert not (project / "databricks.yml").exists()
    execute("git", "init", "--quiet", cwd=project)
    configuration = project / "conf" / "dev.yml"
    own = configuration.read_text(encoding="utf-8") + "# ours\n"
    configuration.write_text(own, encoding="utf-8")
    commit(project, "ours")
    sources = repository / "{{cookiecutter.project_slug}}"
    extension = repository / "template_extensions.py"
    filters = extension.read_text(encoding="utf-8")
    own_filter = 'environment.filters["loud"] = str.upper'
    extension.write_text(filters.replace('environment.filters["markdown"] = markdown', own_filter))
    for path in sources.rglob("*.md"):
        path.write_text(path.read_text(encoding="utf-8").replace("| markdown", "| loud"))
    for owned in ("conf/dev.yml", "src/{{cookiecutter.package_name}}/problem/model.py"):
        with (sources / owned).open("a", encoding="utf-8") as theirs:
            theirs.write("# theirs\n")
    (sources / "NEW.md").write_text("New in {{ cookiecutter.project_name }}: ${{ x }}\n")
    with (sources / ".gitignore").open("a", encoding="utf-8") as ignored:
        ignored.write("/new/\n")
    commit(repository, "two")
    # when
    execute(cruft, "update", "--skip-apply-ask", cwd=project, **settings)
    # then
    assert (project / "README.md").read_text().startswith("# FLIGHT DELAYS\n")
    assert (project / "NEW.md").read_text() == "New in Flight Delays: ${{ x }}\n"
    assert (project / ".gitignore").read_text().endswith("/new/\n")
    assert configuration.read_text(encoding="utf-8") == own
    model = project / "src" / "flight_delays" / "problem" / "model.py"
    assert "# theirs" not in model.read_text(encoding="utf-8")
    assert execute("git", "rev-list", "--count", "HEAD", cwd=project) == "1\n"
    commit(project, "update")
    execute(cruft, "check", cwd=project, **settings)
    assert execute(cruft, "diff", cwd=project, **settings) == ""


def test_a_plain_rendering_can_be_linked_and_updated(
    repository: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    # given a project that cookiecutter rendered, and a later template
    command = (BIN / "cookiecutter", repository, "--no-input", "project_slug=ours")
    execute(*command, cwd=tmp_path, **settings)
    project = tmp_path / "ours"
    execute("git", "tag", "v1", cwd=repository)
    (repository / "{{cookiecutter.project_slug}}" / "NEW.md").write_text("New.\n")
    commit(repository, "two")
    # when
    link = ("link", repository, "--checkout", "v1", "--no-input")
    answers = json.dumps({"project_slug": "ours"})
    execute(BIN / "cruft", *link, "--extra-context", answers, cwd=project, **settings)
    commit(project, "link")
    execute(BIN / "cruft", "update", "--skip-apply-ask", cwd=project, **settings)
    # then
    assert (project / "NEW.md").read_text() == "New.\n"
    changed = execute("git", "status", "--porcelain", cwd=project)
    assert {line[3:] for line in changed.splitlines()} == {".cruft.json", "NEW.md"}


@pytest.mark.parametrize("version", RELEASED, ids=lambda version: version.number)
def test_a_project_of_any_version_updates_without_conflict(
    version: Version, bake: Bake, template: Path, tmp_path: Path
) -> None:
    # given
    fresh = files_in(bake().project_path)
    # when
    project = updated_from(version, template, tmp_path)
    # then
    assert execute("git", "diff", "--name-only", "--diff-filter=U", cwd=project) == ""
    files = files_in(project)
    assert [name for name in files if name.endswith((".rej", ".orig"))] == []
    assert all(files[name].decode().endswith(OWN_LINE) for name in OWNED)
    assert files["README.md"].decode().endswith("## Ours\n")
    assert '"ours", "' in files["pyproject.toml"].decode()
    theirs = {name for name in fresh if name.startswith(("conf/", "notebooks/", "tests/problem/"))}
    theirs |= {name for name in fresh if "/problem/" in name} | {"README.md", "pyproject.toml"}
    left = {name for name in fresh.keys() - theirs if files.get(name) != fresh[name]}
    assert left == set()


def test_the_changelog_describes_every_version() -> None:
    described = versions()
    assert described[0].number == OPTIONS["_version"]
    assert all("### To do" in version.notes for version in described)
    assert all(version.commit for version in described[1:])


def test_a_version_is_tagged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    execute("git", "init", "--quiet", cwd=tmp_path)
    commit(tmp_path, "one")
    head = execute("git", "rev-parse", "HEAD", cwd=tmp_path).strip()
    monkeypatch.setattr("versions.ROOT", tmp_path)
    assert tag(Version("1.2.3", head, "")) == f"v1.2.3: tagged {head}"
    assert tag(Version("1.2.3", head, "")) == "v1.2.3: tagged already"
    assert tag(Version("1.2.4", None, "")) == "v1.2.4: not committed yet"
    assert execute("git", "tag", "--points-at", head, cwd=tmp_path) == "v1.2.3\n"


@pytest.mark.parametrize("folder", [ROOT, ROOT / "{{cookiecutter.project_slug}}"])
def test_files_end_their_lines_alike_on_windows(folder: Path) -> None:
    attributes = (folder / ".gitattributes").read_text(encoding="utf-8")
    assert attributes.startswith("* text=auto eol=lf\n")
