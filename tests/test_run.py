"""Rendered projects run their own checks; their environments are built once and shared."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
from pytest_cookies.plugin import Cookies
from support import (
    ADOPTED,
    ENVIRONMENTS,
    LONGEST,
    NASTY,
    OTHER_PROBLEMS,
    PROBLEM_TYPES,
    RELEASED,
    ROOT,
    checked,
    execute,
    nox,
    replace_problem,
    updated_from,
)
from versions import Version

from template_answers import SLUG, problem_with_slug

pytestmark = pytest.mark.run

# Formatting must not depend on how long a name is.
NAMES = {
    "long": NASTY | {"project_slug": LONGEST},
    "short": {"project_slug": "a"},
}
UNPINNED = """\
on: push
permissions: {}
jobs:
  extra:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@main
"""
SESSIONS = ("lint", "types", "problem")
# These test the machinery on a toy of its own, which is the same in every project.
ON_A_TOY = ("unit", "integration", "gates")
LONGER_SESSIONS = ("hostile", "endurance", "docs", "browser")
PYTHONS = ("3.11", "3.12", "3.13")


@pytest.fixture(scope="module")
def rendered(cookies_session: Cookies, template: Path) -> dict[str, Path]:
    """A project of each problem type, and of each kind of name."""
    answers: dict[str, dict[str, str]] = {kind: {"problem_type": kind} for kind in PROBLEM_TYPES}
    others = (*OTHER_PROBLEMS, ADOPTED)
    answers |= NAMES | {name: {"project_slug": f"own-{name}"} for name in others}
    bake = checked(cookies_session, template)
    projects = {name: bake(**given).project_path for name, given in answers.items()}
    for name in OTHER_PROBLEMS:
        replace_problem(projects[name], name)
    adopt(projects[ADOPTED])
    return projects


def adopt(project: Path) -> None:
    """Do what somebody does who has a table and types one command."""
    nox(project, "problem", "--install-only")
    python = python_of("problem")
    script = ROOT / "tests" / "problems" / ADOPTED / "table.py"
    execute(python, script, project / "my wines.csv", cwd=project)
    command = ("-m", "own_adopted", "adopt", "my wines.csv", "--label", "Cultivar of the wine")
    execute(python, *command, "--force", cwd=project, PYTHONPATH="src")


def python_of(session: str) -> Path:
    """The interpreter of a session's environment."""
    folder = ENVIRONMENTS / session
    (python,) = (*folder.glob("bin/python"), *folder.glob("*/python.exe"))
    return python


@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize("name", [*PROBLEM_TYPES, *OTHER_PROBLEMS, ADOPTED])
def test_its_own_checks_pass(rendered: dict[str, Path], name: str, session: str) -> None:
    assert "was successful" in nox(rendered[name], session)


@pytest.mark.parametrize("session", ON_A_TOY)
def test_its_machinery_passes(rendered: dict[str, Path], session: str) -> None:
    assert "was successful" in nox(rendered[PROBLEM_TYPES[0]], session)


@pytest.mark.swapped
@pytest.mark.parametrize(
    ("name", "session"),
    [
        *itertools.product(OTHER_PROBLEMS, (*ON_A_TOY, *LONGER_SESSIONS)),
        *itertools.product([ADOPTED], ON_A_TOY),
    ],
)
def test_all_else_passes_with_another_problem(
    rendered: dict[str, Path], name: str, session: str
) -> None:
    assert "was successful" in nox(rendered[name], session)


@pytest.mark.swapped
@pytest.mark.parametrize(
    ("name", "session", "arguments", "said"),
    [
        ("demand", "bench", (), "weekly replay of the past"),
        ("demand", "drift", ("3",), "Weeks caught after 28 days"),
        ("demand", "replay", (), "gain over never"),
        (ADOPTED, "bench", (), "champion / bare booster"),
    ],
)
def test_another_problem_can_be_measured(
    rendered: dict[str, Path], name: str, session: str, arguments: tuple[str, ...], said: str
) -> None:
    assert said in nox(rendered[name], session, arguments=arguments)


@pytest.mark.parametrize("name", NAMES)
def test_lint_passes_with_any_names(rendered: dict[str, Path], name: str) -> None:
    assert "was successful" in nox(rendered[name], "lint")


# Stubs differ between the versions that the lock names for either Python.
@pytest.mark.parametrize(
    ("session", "version"),
    [
        ("types", PYTHONS[-1]),
        *(pytest.param("unit", version, marks=pytest.mark.swapped) for version in PYTHONS),
    ],
)
def test_checks_pass_on_other_pythons(
    rendered: dict[str, Path], session: str, version: str
) -> None:
    if shutil.which("uv") is None:
        pytest.fail("uv is not on the PATH")
    try:
        execute("uv", "python", "find", "--no-python-downloads", version, cwd=ROOT)
    except AssertionError:
        pytest.skip(f"Python {version} is not installed here")
    assert "was successful" in nox(rendered[PROBLEM_TYPES[0]], session, "--force-python", version)


@pytest.mark.parametrize("version", RELEASED, ids=lambda version: version.number)
def test_a_project_of_any_version_passes_its_checks_after_an_update(
    version: Version, template: Path, tmp_path: Path
) -> None:
    project = updated_from(version, template, tmp_path)
    for session in SESSIONS:  # the machinery is that of a fresh project, to the byte
        assert "was successful" in nox(project, session)


def test_lint_catches_what_it_is_there_for(rendered: dict[str, Path], tmp_path: Path) -> None:
    # given one fault of each kind that only this project's settings can tell
    project = tmp_path / "project"
    shutil.copytree(rendered[PROBLEM_TYPES[0]], project)
    package = project / "src" / "flight_delays"
    faults = {
        "ruff check": (package / "features" / "extra.py", "def undocumented(x):\n    return x\n"),
        "ruff format": (package / "features" / "extra.py", '"""Doc."""\n\nX = [1,2]\n'),
        "lint-imports": (
            package / "problem" / "extra.py",
            '"""Doc."""\n\nfrom ..store.lakehouse import Lakehouse\n\nX = Lakehouse\n',
        ),
        "zizmor": (project / ".github" / "workflows" / "extra.yml", UNPINNED),
        "check-jsonschema": (
            project / ".github" / "actions" / "extra" / "action.yml",
            "name: Extra\n",
        ),
        "nbstripout": (project / "notebooks" / "extra.ipynb", notebook_with_output()),
    }
    for tool, (path, text) in faults.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        # when
        with pytest.raises(AssertionError) as failure:
            nox(project, "workflows" if tool in ("zizmor", "check-jsonschema") else "lint")
        # then
        assert f"Command {tool}" in str(failure.value)
        path.unlink()


def notebook_with_output() -> str:
    output = {"name": "stdout", "output_type": "stream", "text": ["1\n"]}
    cell = {
        "cell_type": "code",
        "execution_count": 1,
        "id": "one",
        "metadata": {},
        "outputs": [output],
        "source": ["print(1)"],
    }
    return json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def test_no_slug_hides_what_is_installed(rendered: dict[str, Path]) -> None:
    nox(rendered[PROBLEM_TYPES[0]], "types")
    question = (
        "import importlib.metadata as m, json; print(json.dumps(list(m.packages_distributions())))"
    )
    python = python_of("types")
    modules = json.loads(execute(python, "-c", question, cwd=ROOT))
    programs = [path.name.removesuffix(".exe") for path in python.parent.iterdir()]
    slugs = {name.lower().replace("_", "-") for name in (*modules, *programs)}
    valid = {slug for slug in slugs if SLUG.fullmatch(slug)}
    assert len(valid) > 100
    assert [slug for slug in valid if problem_with_slug(slug) is None] == []
