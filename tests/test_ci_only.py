"""`contents: ci_only`: the workflows alone, in a repository that is there and of another layout."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import post_gen_project
import pytest
import yaml
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter
from rules import Rendered
from stage import REPOSITORY, Run, Stage, clean, open_foreign
from support import Bake, commit, execute, files_in, settings_in
from test_workflows import lint

Add = Callable[..., None]

NUMBER = 7
CONTRACT = "ci/commands.toml"
LOGIN = ".github/actions/login/action.yml"
ALL_GREEN = ("lint", "types", "unit", "integration", "model", "ready", "comment")


def render_into(repository: Path, template: Path, scratch: Path, **answers: str) -> None:
    """Render the workflows into a repository."""
    cookiecutter(
        str(template),
        no_input=True,
        extra_context={"contents": "ci_only", **answers},
        output_dir=str(repository),
        config_file=str(settings_in(scratch)),
    )


def changes(repository: Path) -> set[str]:
    """Lines of git's status."""
    said = execute("git", "status", "--porcelain", "--untracked-files=all", cwd=repository)
    return set(said.splitlines())


@pytest.fixture
def add(template: Path, tmp_path: Path) -> Add:
    """Render the workflows into a repository, with further answers."""
    return partial(render_into, template=template, scratch=tmp_path)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A repository of another layout: a package at its root, old metadata, workflows of its own."""
    repository = tmp_path / "Foreign_Repo"
    files = {
        "setup.cfg": "[metadata]\nname = foreign\nversion = 1\n",
        "foreign/__init__.py": "def double(n):\n    return 2 * n\n",
        "foreign/test_double.py": "from foreign import double\n\n\ndef test_double():\n"
        "    assert double(2) == 4\n",
        ".github/workflows/own.yml": "on: push\njobs: {}\n",
        ".github/CODEOWNERS": "* @ours\n",
        "README.rst": "Foreign\n",
        "requirements/dev.txt": "pytest\n",
    }
    for name, text in files.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text, encoding="utf-8")
    execute("git", "init", "--quiet", cwd=repository)
    commit(repository, "theirs")
    return repository


def test_workflows_join_a_repository_and_change_nothing_else(add: Add, foreign: Path) -> None:
    before = files_in(foreign)
    add(foreign)
    after = files_in(foreign)
    assert {name: after[name] for name in before} == before
    places = {name.split("/")[0] for name in after.keys() - before.keys()}
    assert places == {".github", "ci", "docs"}
    assert all(line.startswith("??") for line in changes(foreign))
    assert execute("git", "rev-list", "--count", "HEAD", cwd=foreign) == "1\n"
    assert not (foreign / ".rendering").exists()
    # and the page that the workflows' messages name is there
    assert "# Continuous integration" in after["docs/ci.md"].decode()
    assert ".github/workflows/locks.yml" not in after


def test_the_workflows_are_those_of_a_project(add: Add, foreign: Path, bake: Bake) -> None:
    add(foreign)
    project = bake().project_path
    own = {"docs/ci.md", CONTRACT}
    added = {line[3:] for line in changes(foreign)} - own
    assert len(added) > 20
    for name in added:
        assert (foreign / name).read_bytes() == (project / name).read_bytes(), name
    (foreign / ".github" / "workflows" / "own.yml").unlink()
    lint(foreign / ".github")


def test_the_contract_names_every_task_that_workflows_start(
    template: Path, add: Add, foreign: Path
) -> None:
    add(foreign)
    ours = Rendered(template / "{{cookiecutter.project_slug}}").commands
    theirs = Rendered(foreign).commands
    assert list(theirs) == list(ours)
    page = (foreign / "docs" / "ci.md").read_text(encoding="utf-8")
    assert [task for task in theirs if task != "advice" and f"`{task}`" not in page] == []


def test_no_word_of_the_template_is_left(add: Add, foreign: Path) -> None:
    add(foreign)
    for line in changes(foreign):
        text = (foreign / line[3:]).read_text(encoding="utf-8")
        assert "bootstrap.py" not in text, line
        assert "cookiecutter" not in text, line


def refused(add: Add, repository: Path, **answers: str) -> None:
    """Try to add the workflows; nothing may have changed."""
    before = files_in(repository)
    with pytest.raises(FailedHookException):
        add(repository, **answers)
    assert files_in(repository) == before


def test_no_file_is_overwritten_unless_told(
    add: Add, foreign: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    release = foreign / ".github" / "workflows" / "release.yml"
    release.write_text("theirs\n", encoding="utf-8")
    commit(foreign, "a release of their own")
    refused(add, foreign)
    said = capfd.readouterr().err
    assert ".github/workflows/release.yml is there already: move them away" in said
    assert said.count("\n") == 1
    # told, it is replaced, as long as git keeps it
    release.write_text("edited\n", encoding="utf-8")
    refused(add, foreign, _overwrite="yes")
    assert "release.yml is not committed and would be lost" in capfd.readouterr().err
    commit(foreign, "edited")
    add(foreign, _overwrite="yes")
    assert " M .github/workflows/release.yml" in changes(foreign)


def test_what_is_theirs_stays_when_a_newer_version_is_rendered(add: Add, foreign: Path) -> None:
    add(foreign)
    (foreign / CONTRACT).write_text("# ours\n", encoding="utf-8")
    (foreign / LOGIN).write_text("# ours\n", encoding="utf-8")
    commit(foreign, "joined")
    add(foreign)
    assert changes(foreign) == set()
    (foreign / "ci" / "run.py").write_text("# of an earlier version\n", encoding="utf-8")
    commit(foreign, "earlier")
    add(foreign, _overwrite="yes")
    assert changes(foreign) == {" M ci/run.py"}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("file", "ci is in the way of a folder"),
        ("folder", "ci/run.py is in the way of a file"),
        ("link", "ci is in the way of a folder"),
        ("dangling", "docs/ci.md is in the way of a file"),
    ],
)
def test_what_stands_in_the_way_is_named(
    add: Add, foreign: Path, capfd: pytest.CaptureFixture[str], kind: str, said: str
) -> None:
    path = foreign / said.split(maxsplit=1)[0]
    path.parent.mkdir(exist_ok=True)
    if kind == "folder":
        path.mkdir(parents=True)
    elif kind == "file":
        path.write_text("theirs\n", encoding="utf-8")
    else:
        path.symlink_to(foreign / "foreign" if kind == "link" else foreign / "nowhere")
    refused(add, foreign)
    assert said in capfd.readouterr().err


def test_outside_a_repository_nothing_is_added(
    add: Add, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "no repository"
    place.mkdir()
    refused(add, place)
    said = capfd.readouterr().err
    assert f"Nothing was added to {place}: it is no git repository" in said


def test_a_folder_of_a_repository_is_told_how(
    add: Add, foreign: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refused(add, foreign / "foreign")
    said = capfd.readouterr().err
    assert 'render at the root, then write folder = "foreign" into ci/commands.toml' in said


def test_a_task_runs_in_the_folder_of_a_monorepo(add: Add, foreign: Path) -> None:
    add(foreign)
    command = f"{sys.executable} -m pytest -q --junitxml=$ROOT/reports/unit.xml test_double.py"
    contract = f'folder = "foreign"\n[unit]\nrun = ["{command}"]\n[advice]\n'
    (foreign / CONTRACT).write_text(contract, encoding="utf-8")
    said = execute(sys.executable, "-m", "ci.run", "unit", cwd=foreign, PYTHONPATH=str(foreign))
    assert "1 passed" in said
    assert (foreign / "reports" / "unit.xml").is_file()


def test_a_disk_that_is_full_leaves_nothing(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendering = tmp_path / "rendering"
    for name in ("a/one", "a/b/two", "a/b/three"):
        (rendering / name).parent.mkdir(parents=True, exist_ok=True)
        (rendering / name).write_text("new\n", encoding="utf-8")
    before = files_in(foreign)
    real = shutil.copy

    def copy(source: Path, place: Path) -> None:
        if source.name == "two":
            raise OSError(28, "No space left on device", str(place))
        real(source, place)

    monkeypatch.setattr(shutil, "copy", copy)
    reason = post_gen_project.join(foreign, rendering, overwrite=False)
    assert reason
    assert reason.endswith("could not be written (No space left on device).")
    assert files_in(foreign) == before
    assert not (foreign / "a").exists()


@pytest.mark.parametrize("name", ["GITHUB_TOKEN", "PYTEST_ADDOPTS", "VIRTUAL_ENV"])
def test_jobs_know_nothing_of_the_session_that_executes_them(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = clean()
    monkeypatch.setenv(name, "of this session")
    assert clean() == {key: value for key, value in before.items() if key != name}


# Executed


@pytest.fixture(scope="module")
def joined(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A public package as its maintainers lay it out, with the workflows, on a stage.

    The session `workflows` fetches its sources: a package at the root, tests by unittest.
    """
    scratch = tmp_path_factory.mktemp("foreign")
    shutil.unpack_archive(os.environ["FOREIGN"], scratch, filter="data")
    (repository,) = (path for path in scratch.iterdir() if path.is_dir())
    execute("git", "init", "--quiet", cwd=repository)
    commit(repository, "theirs")
    render_into(repository, template, scratch)
    assert all(line.startswith("??") for line in changes(repository))
    contract = tomllib.loads((repository / CONTRACT).read_text(encoding="utf-8"))
    commands = dict.fromkeys((task for task in contract if task != "advice"), "")
    python = sys.executable
    commands["lint"] = f"{python} -m compileall -q pathspec"
    commands["unit"] = f"{python} -m pytest -q --junitxml=$ROOT/reports/unit-$PYTHON.xml tests"
    written = "".join(
        f"[{task}]\nrun = {json.dumps([command] if command else [])}\n"
        for task, command in commands.items()
    )
    (repository / CONTRACT).write_text(f"{written}[advice]\n", encoding="utf-8")
    return open_foreign(tmp_path_factory.mktemp("stage"), repository)


def propose(stage: Stage) -> Run:
    """What a pull request of the branch that the stage stands on runs."""
    change = stage.merge("main")
    (path,) = (stage.work / ".github" / "workflows").glob("*-request.yml")
    assert "pull_request" in yaml.safe_load(path.read_text(encoding="utf-8"))[True]
    request = {
        "number": NUMBER,
        "base": {"ref": "main", "sha": stage.git("rev-parse", "origin/main")},
        "head": {"ref": "change", "sha": change, "repo": {"full_name": REPOSITORY, "fork": False}},
    }
    payload = {"pull_request": request, "number": NUMBER, "repository": {"full_name": REPOSITORY}}
    return stage.run(path.stem, "pull_request", payload, "ann", "--matrix", "python:3.12")


@pytest.mark.act
def test_their_own_tests_are_green(joined: Stage) -> None:
    joined.branch("change", "origin/main")
    joined.commit("change", "A word", **{"doc/word.rst": "A word.\n"})
    done = propose(joined)
    assert done.jobs == dict.fromkeys(ALL_GREEN, "success"), done.output
    (comment,) = joined.github.comments[NUMBER]
    assert "## ✅ Ready to merge" in comment["body"]
    assert "| unit-3.12 | 1" in comment["body"]


@pytest.mark.act
def test_their_own_tests_are_red(joined: Stage) -> None:
    joined.branch("change", "origin/main")
    path = joined.work / "pathspec" / "util.py"
    path.write_text(path.read_text(encoding="utf-8").replace("'/'", "'!'"), encoding="utf-8")
    joined.commit("change", "A slip")
    done = propose(joined)
    red = {"unit": "failure", "ready": "failure"}
    assert done.jobs == {"lint": "success", "types": "success", "comment": "success", **red}, (
        done.output
    )
    (comment,) = joined.github.comments[NUMBER]
    assert "## ❌ Not ready to merge" in comment["body"]
    assert "tests.test" in comment["body"].replace("\\", "")
