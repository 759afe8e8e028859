"""Puts the files of a problem in place of those that are there, and takes them back."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ..core.errors import UserError
from ..core.project import PACKAGE

PROBLEM = PurePosixPath("src", PACKAGE, "problem")
TESTS = PurePosixPath("tests", "problem")
CONF = PurePosixPath("conf")
NOTEBOOKS = PurePosixPath("notebooks")
OWNED = (PROBLEM, TESTS, CONF, NOTEBOOKS)
DATA = "data"
_SAMPLE = TESTS / "test_sample.py"  # where this is, the sample is
# Tests that hold for any problem.
_STAY = ("test_problem.py", "test_notebooks.py")
_EXTRA = re.compile(r"^problem = \[(.*?)\]$", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PIN = re.compile(r"^(\S+?)==.*?(?=^\S|\Z)", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(r"^(\w+):.*?(?=^\w|\Z)", re.DOTALL | re.MULTILINE)


def require_kept(project: Path) -> None:
    """Refuse to replace what git does not keep.

    Raises:
        UserError: Names the files.
    """
    paths = [str(path) for path in OWNED]
    changed = _git(project, "status", "--porcelain", "--untracked-files=all", "--", *paths)
    if changed is None:
        message = "No git repository keeps what would be replaced (problem, conf, notebook)."
        raise UserError(message, "Commit it first, or say --force.")
    if changed:
        names = ", ".join(line[3:] for line in changed.splitlines()[:5])
        message = f"These would be replaced and are not committed: {names}."
        raise UserError(message, "Commit them first, or say --force.")


def bring(project: Path, source: str) -> str:
    """Where a table is, relative to the project; what is elsewhere is copied to `data/`.

    Raises:
        UserError: There is no such file or folder.
    """
    if "://" in source:
        return source
    path = Path(source).absolute()
    if not path.exists():
        raise UserError(f"There is no {source}.", "Name a file, a Delta table or a database.")
    inside = path.resolve()
    if inside.is_relative_to(project.resolve()):
        return inside.relative_to(project.resolve()).as_posix()
    (project / DATA).mkdir(exist_ok=True)
    copy = project / DATA / path.name
    if path.is_dir():
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(path, copy)
    else:
        shutil.copy(path, copy)
    return copy.relative_to(project).as_posix()


def write(project: Path, files: Mapping[PurePosixPath, str], settings: str) -> None:
    """Put files in place of the problem that is there, with its tests and its notebooks.

    All is written beside its place first: where that fails, nothing has changed.
    """
    base = project / CONF / "base.yml"
    joined = with_sections(base.read_text(encoding="utf-8"), settings)
    with tempfile.TemporaryDirectory(dir=project, prefix=".adopt-") as scratch:
        for path, content in {**files, CONF / "base.yml": joined}.items():
            place = Path(scratch) / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content, encoding="utf-8", newline="\n")
        _clear(project)
        shutil.copytree(scratch, project, dirs_exist_ok=True)


def _clear(project: Path) -> None:
    """Remove a problem with its tests and its notebooks; what holds for any problem stays."""
    shutil.rmtree(project / PROBLEM, ignore_errors=True)
    for path in (project / TESTS).glob("test_*.py"):
        if path.name not in _STAY:
            path.unlink()
    for path in (project / NOTEBOOKS).glob("*.ipynb"):
        path.unlink()


def with_sections(text: str, sections: str) -> str:
    """Settings with these sections in place of those of the same name, at their end."""
    replaced = {match[1] for match in _BLOCK.finditer(sections)}
    kept = _BLOCK.sub(lambda match: "" if match[1] in replaced else match[0], text)
    return f"{kept.rstrip()}\n\n{sections}"


# What the problem needs besides -----------------------------------------------------------------


def drop_packages(project: Path) -> list[str]:
    """Take what only the problem before needed out of pyproject.toml and the locks; its names."""
    settings = project / "pyproject.toml"
    text = settings.read_text(encoding="utf-8")
    found = _EXTRA.search(text)
    names = [_NAME.match(item)[0] for item in re.findall(r'"(.*?)"', found[1])] if found else []  # type: ignore[index]
    if names:
        settings.write_text(_EXTRA.sub("problem = []", text), encoding="utf-8")
    for lock in (project / "requirements").glob("*.txt"):
        pins = lock.read_text(encoding="utf-8")
        kept = _PIN.sub(lambda pin: "" if pin[1].partition("[")[0] in names else pin[0], pins)
        if kept != pins:
            lock.write_text(kept, encoding="utf-8")
    return names


def _restore_packages(project: Path, commit: str) -> None:
    """Put what the problem of a commit needs into pyproject.toml and the locks."""
    settings = project / "pyproject.toml"
    before = _EXTRA.search(_git(project, "show", f"{commit}:pyproject.toml") or "")
    if before is None:
        return
    text = settings.read_text(encoding="utf-8")
    settings.write_text(_EXTRA.sub(lambda _: before[0], text), encoding="utf-8")
    wanted = {_NAME.match(item)[0] for item in re.findall(r'"(.*?)"', before[1])}  # type: ignore[index]
    for lock in (project / "requirements").glob("*.txt"):
        pins = lock.read_text(encoding="utf-8")
        there = {pin[1] for pin in _PIN.finditer(pins)}
        shown = _git(project, "show", f"{commit}:requirements/{lock.name}") or ""
        lost = [pin for pin in _PIN.finditer(f"{shown}\n") if pin[1] in wanted - there]
        for pin in lost:
            later = next((other for other in _PIN.finditer(pins) if other[1] > pin[1]), None)
            at = later.start() if later else len(pins)
            pins = f"{pins[:at]}{pin[0].rstrip()}\n{pins[at:]}"
        if lost:
            lock.write_text(pins, encoding="utf-8")


# The sample -------------------------------------------------------------------------------------


def restore_sample(project: Path) -> str:
    """Put the sample back from the newest commit that has it; returns that commit.

    Raises:
        UserError: No commit has it.
    """
    commits = (_git(project, "log", "--format=%H", "--", str(PROBLEM), str(TESTS)) or "").split()
    for commit in commits:
        if _git(project, "cat-file", "-e", f"{commit}:./{_SAMPLE}") is not None:
            _clear(project)
            _git(project, "checkout", commit, "--", *(str(path) for path in OWNED))
            _restore_packages(project, commit)
            return commit
    message = "No commit of this repository has the sample."
    raise UserError(message, "Render the template anew beside this project, and copy it.")


def _git(project: Path, *arguments: str) -> str | None:
    """What git says of the project; None where it cannot."""
    command = ["git", "-C", str(project), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip("\n")
