"""What comes with `platform: databricks`, and with nothing else."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from post_gen_project import PARTS, keep_parts
from pytest_cookies.plugin import Cookies
from rules import RULES, VERBS, Rendered
from support import LONGEST, NASTY, PROBLEM_TYPES, ROOT, Bake, checked, execute, files_in
from test_structure import COLUMNS, PARSERS, PRAGMA, SCARS

TEMPLATE = ROOT / "{{cookiecutter.project_slug}}"
# What these files hold for Databricks to fill in.
PLACES = re.compile(r"\{\{(job|tasks)\.[a-z_.]+\}\}")
# Files that hold lines for Databricks among others.
SHARED = ("README.md", "ci/commands.toml", "noxfile.py", "pyproject.toml", "zensical.toml")
JINJA = re.compile(r"\{\{|\{%|cookiecutter")


@pytest.fixture(scope="module")
def on_databricks(cookies_session: Cookies, template: Path) -> Path:
    """The default project, on Databricks."""
    result = checked(cookies_session, template)(platform="databricks")
    assert result.exception is None
    return Path(result.project_path)


def own_files(package: str) -> set[str]:
    """What the hook says comes with this choice."""
    answer = "{{ cookiecutter.get('package_name') }}"
    return {name.replace(answer, package) for name in PARTS["platform"]["databricks"]}


def test_what_comes_with_it_is_what_the_hook_leaves_out(bake: Bake, on_databricks: Path) -> None:
    local = files_in(bake().project_path)
    there = files_in(on_databricks)
    assert there.keys() - local.keys() == own_files("flight_delays")
    assert local.keys() <= there.keys()


def test_other_files_differ_by_whole_lines_that_are_added(bake: Bake, on_databricks: Path) -> None:
    local = files_in(bake().project_path)
    there = files_in(on_databricks)
    changed = {name for name, content in local.items() if there[name] != content}
    assert changed == {
        "README.md",
        "ci/commands.toml",
        "noxfile.py",
        "pyproject.toml",
        "zensical.toml",
    }
    for name in changed:
        more = iter(there[name].decode().splitlines())
        left_out = re.compile(r" \[Databricks\]\(docs/databricks\.md\);")
        lines = local[name].decode().splitlines()
        assert all(any(line == left_out.sub("", other) for other in more) for line in lines), name


def test_files_of_the_user_stay_where_others_are_left_out(tmp_path: Path) -> None:
    for name in (
        "resources/jobs.yml",
        "resources/ours.yml",
        "tests/bundle/jobs.py",
        "conf/dev.yml",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    keep_parts(tmp_path, {"contents": "everything", "ci": "github", "platform": "local"})
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"resources", "resources/ours.yml", "conf", "conf/dev.yml"}


def test_its_files_are_whole(on_databricks: Path) -> None:
    for name in (*own_files("flight_delays"), *SHARED):
        text = (on_databricks / name).read_text(encoding="utf-8")
        assert not JINJA.search(PLACES.sub("", text)), name
        assert not SCARS.search(text), name
        assert text.endswith("\n"), name
        if parse := PARSERS.get(Path(name).suffix):
            parse(text)


def test_its_workflows_keep_the_rules(on_databricks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERBS, "integration", f"{VERBS['integration']} databricks")
    for rule in RULES:
        rule(Rendered(on_databricks))


@pytest.mark.parametrize("slug", [LONGEST, "a"])
def test_it_is_whole_with_any_names(bake: Bake, slug: str) -> None:
    project = bake(**NASTY, project_slug=slug, platform="databricks").project_path
    for name in own_files(slug.replace("-", "_")):
        text = (project / name).read_text(encoding="utf-8")
        if parse := PARSERS.get(Path(name).suffix):
            parse(text)
        if name.endswith(".py"):
            assert all(len(PRAGMA.sub("", line)) <= COLUMNS for line in text.splitlines()), name


def nox(project: Path, session: str, *arguments: str) -> str:
    shared = ("--envdir", str(ROOT / ".nox" / "rendered"))
    command = (sys.executable, "-m", "nox", *shared, "--session", session, "--", *arguments)
    return execute(*command, cwd=project)


@pytest.mark.run
@pytest.mark.parametrize("session", ["lint", "types", "docs", "databricks"])
def test_its_own_checks_pass(on_databricks: Path, session: str) -> None:
    assert "was successful" in nox(on_databricks, session)


# What else is in `unit` is the same without the bundle.
@pytest.mark.run
def test_its_own_unit_tests_pass(on_databricks: Path) -> None:
    assert "was successful" in nox(on_databricks, "unit", "-k", "test_job")


@pytest.mark.run
@pytest.mark.swapped
@pytest.mark.parametrize("kind", PROBLEM_TYPES[1:])
def test_tasks_run_with_any_target(bake: Bake, kind: str) -> None:
    project = bake(problem_type=kind, platform="databricks").project_path
    assert "was successful" in nox(project, "databricks")
