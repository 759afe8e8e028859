"""The hooks as functions: what a rendering would lose, and the git repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

import post_gen_project
import pre_gen_project
import pytest
from cookiecutter.utils import create_env_with_context
from post_gen_project import FIRST_COMMIT, start_repository
from support import execute


def committed(folder: Path) -> Path:
    """A repository whose one file is committed and which ignores another."""
    (folder / "kept").write_text("kept")
    (folder / ".gitignore").write_text("/.data/\n")
    start_repository(folder)
    return folder


def test_a_new_project_is_rendered(tmp_path: Path) -> None:
    assert pre_gen_project.main(tmp_path) == 0


def test_a_project_whose_work_is_committed_is_rendered_over(tmp_path: Path) -> None:
    project = committed(tmp_path)
    (project / ".data").mkdir()
    (project / ".data" / "table").write_text("ignored")
    assert pre_gen_project.main(project) == 0


@pytest.mark.parametrize("name", ["kept", "new", "dir/né w"])
def test_work_that_is_not_committed_is_named_and_stays(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    project = committed(tmp_path)
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text("work")
    assert pre_gen_project.main(project) == 1
    printed = capsys.readouterr().err
    assert name in printed
    assert printed.count("\n") == 1


def test_of_many_changes_a_few_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = committed(tmp_path)
    for number in range(9):
        (project / f"new{number}").write_text("work")
    assert pre_gen_project.main(project) == 1
    assert "new4 and 4 more" in capsys.readouterr().err


def test_files_that_no_repository_keeps_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("work")
    assert pre_gen_project.main(tmp_path) == 1
    assert "no git repository keeps them" in capsys.readouterr().err


def test_a_repository_with_a_first_commit(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert start_repository(tmp_path) == []
    said = execute("git", "log", "--format=%s %D", cwd=tmp_path)
    assert said == f"{FIRST_COMMIT} HEAD -> main\n"
    assert execute("git", "status", "--porcelain", cwd=tmp_path) == ""


def test_a_second_rendering_commits_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    start_repository(tmp_path)
    (tmp_path / "file").write_text("y")
    assert start_repository(tmp_path) == []
    assert execute("git", "rev-list", "--count", "HEAD", cwd=tmp_path) == "1\n"


def test_a_folder_of_another_repository_stays_in_it(tmp_path: Path) -> None:
    execute("git", "init", "--quiet", cwd=tmp_path)
    project = tmp_path / "project"
    project.mkdir()
    assert start_repository(project) == []
    assert not (project / ".git").exists()


def test_a_folder_that_another_repository_ignores_gets_its_own(tmp_path: Path) -> None:
    execute("git", "init", "--quiet", cwd=tmp_path)
    (tmp_path / ".gitignore").write_text("/project/\n")
    project = tmp_path / "project"
    project.mkdir()
    (project / "file").write_text("x")
    assert start_repository(project) == []
    assert (project / ".git").is_dir()


def test_without_an_identity_nothing_is_committed_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "settings"
    settings.write_text("[user]\n  useConfigOnly = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    project = tmp_path / "project"
    project.mkdir()
    (line,) = start_repository(project)
    assert "Nothing is committed" in line
    assert (project / ".git").is_dir()


def test_without_git_the_project_stays_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (line,) = start_repository(tmp_path)
    assert "git was not found" in line


def test_a_commit_that_fails_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = post_gen_project.git

    def fail_to_commit(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "commit":
            return subprocess.CompletedProcess(arguments, 1, "", "disk\n full")
        return real(project, *arguments)

    monkeypatch.setattr(post_gen_project, "git", fail_to_commit)
    assert start_repository(tmp_path) == ["Nothing is committed yet: disk full"]


def test_the_hooks_hold_no_answers(template: Path) -> None:
    for path in (template / "hooks").glob("*.py"):
        environment = create_env_with_context({})
        source = environment.from_string(path.read_text(encoding="utf-8"))
        options = {"contents": "everything", "ci": "github", "_overwrite": "no"}
        plain = source.render(cookiecutter={"description": "a", **options})
        for name in ("description", *options):
            odd = {"description": "a", **options, name: '"; print("b'}
            assert source.render(cookiecutter=odd) == plain
