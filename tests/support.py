"""What several tests use: awkward answers, checked baking, commands that must succeed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_cookies.plugin import Cookies, Result

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
PROMPTS = {name for name in OPTIONS if not name.startswith("_")}
PROBLEM_TYPES: list[str] = OPTIONS["problem_type"]
# Other problems that a project is given: one of hours and a quantity, one without a feature table,
# and the one that the project's documentation shows.
OTHER_PROBLEMS = ("demand", "churn", "documented")

# Ordinary prose that breaks careless quoting in TOML, YAML, Markdown, HTML or Python.
NASTY = {
    "project_name": 'Jörg\'s "Late" <b>Flights</b> & #1 \\ *best*',
    "description": "1. \"It's\" 'late' <b>by</b> C:\\temp # `5` %s {0} _über_ 飛 🛫 ~ [x](y) | $z",
    "author": '# O\'Neil "Ö" & Söhne \\ <ops@example.org>',
}

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
