"""From a bare Python to a session, on a small project of its own, with real installations."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import ROOT

import bootstrap

NOXFILE = """
import nox


@nox.session(venv_backend="none")
def greet(session):
    session.run("uv", "--version", silent=True, external=True)
    print("HELLO", *session.posargs)


@nox.session(venv_backend="none")
def fail(session):
    session.error("as it should")
"""
PYPROJECT = """
[tool.nothing]
"""


def lay_out(folder: Path) -> Path:
    """A project with the least that bootstrap.py needs."""
    (folder / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / "bootstrap.py", folder)
    for lock in ("bootstrap.txt", "dev.txt"):
        shutil.copy(ROOT / "requirements" / lock, folder / "requirements")
    (folder / "noxfile.py").write_text(NOXFILE)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A small project, nothing installed, in a path with spaces and an umlaut."""
    return lay_out(tmp_path / "a spacy földer")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project after a first run with an empty HOME."""
    folder = lay_out(tmp_path_factory.mktemp("installed") / "a spacy földer")
    done = run(folder, "greet", HOME="")
    assert done.returncode == 0, done.stderr
    assert "bootstrap: installing into" in done.stdout
    return folder


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, folder / "bootstrap.py", *arguments],
        cwd=folder.parent,
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_a_second_run_installs_nothing_and_passes_arguments_on(installed: Path) -> None:
    done = run(installed, "greet", "--two", "words here")
    assert done.returncode == 0
    assert "HELLO --two words here" in done.stdout
    assert "installing" not in done.stdout


def test_sessions_can_be_listed(installed: Path) -> None:
    assert "* greet" in run(installed, "list").stdout


def test_a_failing_session_fails(installed: Path) -> None:
    done = run(installed, "fail")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_new_lock_is_installed(installed: Path) -> None:
    with (installed / "requirements" / "dev.txt").open("a") as lock:
        lock.write("# later\n")
    assert "installing" in run(installed, "greet").stdout
    assert "installing" not in run(installed, "greet").stdout


def test_a_moved_project_is_installed_again(installed: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(installed, moved, symlinks=True)
    done = run(moved, "greet")
    assert done.returncode == 0, done.stderr
    assert "installing" in done.stdout


def test_a_killed_installation_is_taken_up_again(small: Path) -> None:
    # given a run that is killed as soon as the interpreter of .venv is there
    command = [sys.executable, str(small / "bootstrap.py"), "greet"]
    killed = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    while not list((small / ".venv").glob("*/python*")):
        assert killed.poll() is None
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (small / ".venv" / bootstrap.STAMP.name).exists()
    # when
    done = run(small, "greet")
    # then
    assert done.returncode == 0, done.stderr
    assert "HELLO" in done.stdout


def test_a_wrong_hash_installs_nothing(small: Path) -> None:
    lock = small / "requirements" / "bootstrap.txt"
    text = lock.read_text()
    start = text.index("sha256:") + len("sha256:")
    lock.write_text(text[:start] + "0" * 64 + "\n")
    done = run(small, "greet")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("bootstrap: Installing failed")
    assert "Traceback" not in done.stderr
    assert not (small / ".venv" / bootstrap.STAMP.name).exists()


def test_a_python_without_venv_is_one_clear_error(small: Path, tmp_path: Path) -> None:
    # given a Python whose `-m venv` fails, as Debian's does for want of ensurepip
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "venv.py").write_text("raise SystemExit('ensurepip is not\\n available')\n")
    done = run(small, "greet", PYTHONPATH=str(broken))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "install python3-venv" in done.stderr


def test_an_older_python_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 9, "final", 0))
    assert bootstrap.main(["greet"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("bootstrap: Python 3.11 or later is needed")
    assert "is Python 3.10." in printed
    assert printed.count("\n") == 1


def test_older_pythons_can_read_it_as_far_as_that_error() -> None:
    source = (ROOT / "bootstrap.py").read_text(encoding="utf-8")
    for name in ("match ", ":=", "from __future__"):
        assert name not in source
    compile(source, "bootstrap.py", "exec", dont_inherit=True, _feature_version=6)


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--help"], 0), (["--nonsense"], 2)])
def test_without_a_session_it_helps(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bootstrap.main(arguments) == code
    assert "python3 bootstrap.py SESSION" in capsys.readouterr().out
