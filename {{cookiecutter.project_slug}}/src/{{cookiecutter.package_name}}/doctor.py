"""What a run needs and does not have: each thing that is missing, and the command that mends it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import hosting
from .context import Context, open_context
from .core.errors import UserError
from .core.settings import Settings, find_project
from .store import tables

_LOCK = Path("requirements", "run.txt")
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(;[^\\]*)?", re.MULTILINE)
_OLDEST_PYTHON = (3, 11)
_FREE_GB = 2.0
_OLDEST_JAVA = 17
_PATIENCE_S = 30
_JAVA = re.compile(r'version "(?:1\.)?(\d+)')
_ASK_INDEX = ("-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed")


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what is wrong with it and how to mend that; empty: nothing."""

    name: str
    said: str
    remedy: str = ""

    @property
    def is_well(self) -> bool:
        """Whether nothing is to be mended."""
        return not self.remedy


def examine(env: str) -> Iterator[Finding]:
    """Look at all that an environment needs, from the machine to the registry.

    What cannot be looked at, because something before it is wrong, is left out.
    """
    project = find_project(Path.cwd())
    yield _python()
    yield _disk(project)
    yield _packages(project)
    yield from _index()
    yield from _git(project)
    yield from _hosting(project)
    try:
        context = open_context(env)
    except UserError as error:
        yield Finding("configuration", error.what, error.remedy)
        return
    yield Finding("configuration", f"conf/{env}.yml is valid")
    yield from _java(context.settings)
    yield from _reachable(context)
    yield _receivers(context)


def _python() -> Finding:
    here = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= _OLDEST_PYTHON:
        return Finding("Python", here)
    return Finding("Python", f"{here} is too old", "Install 3.11 or later; remove .venv.")


def _disk(project: Path) -> Finding:
    free = shutil.disk_usage(project).free / 1e9
    said = f"{free:.1f} GB are free"
    return Finding("disk", said, "" if free >= _FREE_GB else f"Free {_FREE_GB:g} GB.")


def _packages(project: Path) -> Finding:
    """Whether what is installed is what the lock says."""
    lock = project / _LOCK
    if not lock.is_file():
        return Finding("packages", f"{_LOCK} is missing", "python3 bootstrap.py lock")
    pinned = _PINNED.findall(lock.read_text(encoding="utf-8"))
    # A marker says that a package is for some machines only.
    other = [name for name, wanted, marker in pinned if not marker and _installed(name) != wanted]
    if not other:
        return Finding("packages", f"all {len(pinned)} are as locked")
    shown = ", ".join(sorted(other)[:3])
    said = f"{len(other)} of {len(pinned)} are not as locked ({shown})"
    return Finding("packages", said, "python3 bootstrap.py list")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _index() -> Iterator[Finding]:
    """Whether packages can be had, asked as pip asks; left out where there is no pip."""
    if importlib.util.find_spec("pip") is None:
        return
    if _said(sys.executable, *_ASK_INDEX, "pip") is not None:
        yield Finding("package index", "answers")
        return
    remedy = "Check the network, a proxy, and pip's configuration: `python -m pip config list`."
    yield Finding("package index", "does not answer", remedy)


def _java(settings: Settings) -> Iterator[Finding]:
    """Whether Spark can start here; a server that is asked over the network has its own."""
    if settings.engine != "spark" or settings.spark.remote:
        return
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home, "bin")) if home else None)
    remedy = f"Install Java {_OLDEST_JAVA} or later, or name it by JAVA_HOME."
    version_said = _JAVA.search(_said(java, "-version") or "") if java else None
    if version_said is None:
        yield Finding("Java", "not found", remedy)
    elif int(version_said[1]) < _OLDEST_JAVA:
        yield Finding("Java", f"{version_said[1]} is too old", remedy)
    else:
        yield Finding("Java", version_said[1])


def _hosting(project: Path) -> Iterator[Finding]:
    """Whether the repository is set up where it is hosted."""
    origin = _asked(project, "remote", "get-url", "origin") or ""
    for said, remedy in hosting.look(origin, _said):
        yield Finding(hosting.NAME, said, remedy)


def _said(*command: str) -> str | None:
    """What a program writes; None where it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout + done.stderr


def _git(project: Path) -> Iterator[Finding]:
    if shutil.which("git") is None:
        yield Finding("git", "not found", "Install git: each training names the code that it ran.")
        return
    if _asked(project, "rev-parse", "--verify", "HEAD") is None:
        remedy = "git init && git add --all && git commit --message 'As rendered'"
        yield Finding("git", "no commit yet", remedy)
        return
    changed = (_asked(project, "status", "--porcelain") or "").splitlines()
    yield Finding("git", f"{len(changed)} files are not committed" if changed else "committed")
    remote = _asked(project, "remote", "get-url", "origin")
    added = "git remote add origin ADDRESS && git push --set-upstream origin main"
    yield Finding("origin", remote or "no remote", "" if remote else added)


def _asked(project: Path, *command: str) -> str | None:
    """What git answers; None where it fails."""
    done = subprocess.run(
        ["git", *command], cwd=project, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def _reachable(context: Context) -> Iterator[Finding]:
    settings = context.settings
    state = settings.state_address or str(settings.state)
    parts: dict[str, tuple[str, Callable[[], object], str]] = {
        "state": (state, lambda: _state(context), "`state` in conf/"),
        "tables": (
            str(settings.lakehouse.root),
            lambda: [context.lakehouse.version(table) for table in tables.every(context.problem)],
            "`lakehouse` in conf/",
        ),
        "MLflow": (settings.mlflow.tracking_uri, lambda: _versions(context), "`mlflow` in conf/"),
    }
    for name, (place, look, where) in parts.items():
        try:
            look()
        except UserError as error:
            yield Finding(name, error.what, error.remedy)
        except Exception as error:  # noqa: BLE001 a disk, a server, a cloud: each has its own
            reason = str(error).strip().partition("\n")[0]
            yield Finding(name, f"{place} does not answer: {reason}", f"Check {where}.")
        else:
            yield Finding(name, f"{place} answers")


def _state(context: Context) -> None:
    folder = context.settings.state
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    if mirror := context.mirror:
        mirror.look()


def _versions(context: Context) -> None:
    context.registry.versions()
    context.registry.require_files()


def _receivers(context: Context) -> Finding:
    named = context.settings.alerts.receivers
    unset = [name for name in named if not os.environ.get(name)]
    if unset:
        remedy = "Set them to addresses of apprise; they hold secrets."
        return Finding("receivers", f"not set: {', '.join(unset)}", remedy)
    return Finding("receivers", f"{len(named)} are set" if named else "none are asked for")
