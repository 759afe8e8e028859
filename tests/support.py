"""What several tests use: awkward answers, checked baking, commands that must succeed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from pytest_cookies.plugin import Cookies, Result
from versions import Version, versions

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
PROMPTS = {name for name in OPTIONS if not name.startswith("_")}
PROBLEM_TYPES: list[str] = OPTIONS["problem_type"]
# Other problems that a project is given: one of hours and a quantity, and the one that the
# project's documentation shows.
OTHER_PROBLEMS = ("demand", "documented")
# A table without times, which a project adopts by itself.
ADOPTED = "adopted"

# The longest folder name that is accepted: code must not be laid out by how long a name is.
LONGEST = "x-" * 19 + "yz"
# Ordinary prose that breaks careless quoting in TOML, YAML, Markdown, HTML or Python.
NASTY = {
    "project_name": 'Jörg\'s "Late" <b>Flights</b> & #1 \\ *best*',
    "description": "1. \"It's\" 'late' <b>by</b> C:\\temp # `5` %s {0} _über_ 飛 🛫 ~ [x](y) | $z",
    "author": '# O\'Neil "Ö" & Söhne \\ <ops@example.org>',
}

# What the user of a project changes, among what the template has put there.
OWN_LINE = "\n\n# ours\n"  # as the formatter wants it behind a function
OWNED = (
    "conf/base.yml",
    "src/flight_delays/problem/features.py",
    "src/flight_delays/problem/model.py",
    "src/flight_delays/problem/target.py",
    "tests/problem/test_sample.py",
)

# Of rendered projects: built once, for all tests.
ENVIRONMENTS = ROOT / ".nox" / "rendered"
RELEASED = [version for version in versions() if version.commit]

Bake = Callable[..., Result]


def checked(cookies: Cookies, template: Path) -> Bake:
    """Baking that refuses answers to questions nobody asks; pytest-cookies drops them silently."""

    def bake(**answers: str) -> Result:
        if unknown := answers.keys() - PROMPTS:
            pytest.fail(f"cookiecutter.json has no {', '.join(sorted(unknown))}")
        return cookies.bake(extra_context=answers, template=str(template))

    return bake


def replace_problem(project: Path, name: str) -> None:
    """Do what somebody does who brings another problem: other data, its tests, no notebook.

    Touches what the README says is theirs: `problem/`, `conf/`, `tests/problem/`, `notebooks/`.
    """
    given = ROOT / "tests" / "problems" / name
    (package,) = (project / "src").iterdir()
    shutil.rmtree(package / "problem")
    (package / "problem").mkdir()
    (package / "problem" / "__init__.py").write_text(declared(given, project), encoding="utf-8")
    own_tests = project / "tests" / "problem"
    for path in own_tests.glob("test_*.py"):
        if path.name != "test_problem.py":
            path.unlink()
    checks = (given / "checks.py").read_text(encoding="utf-8")
    checks = checks.replace("PACKAGE", package.name)
    (own_tests / f"test_{name}.py").write_text(checks, encoding="utf-8")
    for path in given.glob("*.yml"):
        shutil.copy(path, project / "conf")
    if (given / "test.yml").exists():
        shutil.copy(given / "test.yml", project / "conf" / "dev.yml")
    for path in (project / "notebooks").glob("*.ipynb"):
        path.unlink()


def declared(given: Path, project: Path) -> str:
    """Source of a problem: a file, or else the block of code in the project's documentation."""
    if (given / "problem.py").exists():
        return (given / "problem.py").read_text(encoding="utf-8")
    page = (project / "docs" / "architecture.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return str(block)


def files_in(project: Path) -> dict[str, bytes]:
    """Contents of a rendered project by path, without the git repository."""
    return {
        path.relative_to(project).as_posix(): path.read_bytes()
        for path in sorted(project.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(project).parts
    }


def execute(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command that must succeed; returns what it printed."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, f"{command} in {cwd} failed:\n{done.stdout}"
    return done.stdout


def nox(project: Path, session: str, *options: str, arguments: Iterable[str] = ()) -> str:
    """Run a session of a rendered project, which must succeed; returns what it printed."""
    shared = ("--envdir", str(ENVIRONMENTS))
    command = (sys.executable, "-m", "nox", *shared, *options, "--session", session)
    command += ("--", *arguments) if arguments else ()
    return execute(*command, cwd=project, MYPY_CACHE_DIR=str(ENVIRONMENTS / "mypy"))


def commit(folder: Path, message: str) -> None:
    """Commit all that has changed."""
    execute("git", "add", "--all", cwd=folder)
    execute("git", "commit", "--quiet", "--message", message, cwd=folder)


def updated_from(version: Version, template: Path, folder: Path) -> Path:
    """A project of an earlier version, with its user's edits, that cruft has brought up to date.

    Everything happens in the folder, on a clone of this repository whose newest commit is the
    template as it stands. The update is not committed.
    """
    clone = folder / "clone"
    execute("git", "clone", "--quiet", "--no-checkout", ROOT, clone, cwd=folder)
    execute("git", "checkout", "--quiet", "-B", "main", str(version.commit), cwd=clone)
    environment = {"COOKIECUTTER_CONFIG": str(settings_in(folder))}
    cruft = Path(sys.executable).parent / "cruft"
    execute(cruft, "create", clone, "--no-input", cwd=folder, **environment)
    project = folder / "flight-delays"
    execute("git", "init", "--quiet", cwd=project)
    edit(project)
    commit(project, "ours")
    execute("git", "rm", "--quiet", "-r", ".", cwd=clone)
    shutil.copytree(template, clone, dirs_exist_ok=True)
    commit(clone, "later")
    execute(cruft, "update", "--skip-apply-ask", cwd=project, **environment)
    return project


def edit(project: Path) -> None:
    """What somebody does to a project who uses it as its README says."""
    for name in OWNED:
        with (project / name).open("a", encoding="utf-8") as file:
            file.write(OWN_LINE)
    (project / "src" / "flight_delays" / "problem" / "ours.py").write_text('"""Ours."""\n')
    with (project / "README.md").open("a", encoding="utf-8") as readme:
        readme.write("\n## Ours\n")
    settings = project / "pyproject.toml"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace('problem = ["', 'problem = ["ours", "'), encoding="utf-8")


def settings_in(folder: Path) -> Path:
    """Settings by which cookiecutter keeps what it remembers in this folder."""
    settings = folder / "cookiecutter.yml"
    places = {"cookiecutters_dir": folder / "templates", "replay_dir": folder / "replay"}
    settings.write_text(json.dumps({name: str(place) for name, place in places.items()}))
    return settings
