"""From a bare Python to a session, on a small project of its own, with real installations."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import ROOT

SOURCE = ROOT / "{{cookiecutter.project_slug}}" / "bootstrap.py"
BOOTSTRAP = runpy.run_path(str(SOURCE))
STAMP = BOOTSTRAP["stamp"](Path()).name

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
    shutil.copy(SOURCE, folder)
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
    assert not (small / ".venv" / STAMP).exists()
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
    said = done.stderr.splitlines()[-1]
    assert said.startswith("bootstrap: Installing failed")
    assert "serves another file than the one locked" in said
    assert "Traceback" not in done.stderr
    assert not (small / ".venv" / STAMP).exists()


def test_an_unknown_session_is_reported_before_anything_is_installed(small: Path) -> None:
    done = run(small, "geet")
    assert done.returncode == 1
    assert done.stderr == ("bootstrap: There is no session 'geet'. Use one of: greet, fail.\n")
    assert not (small / ".venv").exists()


def test_the_generator_is_bootstrapped_by_the_projects_own(small: Path) -> None:
    # given a folder that holds a template, as the root of this repository does
    template = small / SOURCE.parent.name
    template.mkdir()
    (small / "bootstrap.py").replace(template / "bootstrap.py")
    shutil.copy(ROOT / "bootstrap.py", small)
    # when
    done = run(small, "geet")
    # then
    assert done.returncode == 1
    assert "Use one of: greet, fail." in done.stderr
    assert "python3 bootstrap.py SESSION" in run(small).stdout


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("error: Failed to write: No space left on device (os error 28)", "The disk is full"),
        ("error: Failed to initialize cache at `/x`\n  cause: Permission denied", "UV_CACHE_DIR"),
        ("error: failed to open `/x/uv`: Permission denied (os error 13)", "cannot be written to"),
        ("/usr/bin/python3: No module named ensurepip", "install python3-venv"),
        ("error: Failed to fetch: dns error: failed to lookup address", "not within reach"),
        ("invalid peer certificate: UnknownIssuer", "UV_SYSTEM_CERTS"),
        ("error: Hash mismatch for `nox==1`", "another file than the one locked"),
    ],
)
def test_the_true_cause_is_named(said: str, meant: str) -> None:
    assert meant in BOOTSTRAP["cause_of"](said)


def test_an_unknown_cause_is_not_guessed() -> None:
    assert BOOTSTRAP["cause_of"]("error: the parser is confused") == ""


def test_settings_that_install_elsewhere_are_overruled(small: Path, tmp_path: Path) -> None:
    elsewhere = {
        name: str(tmp_path / "elsewhere")
        for name in ("PIP_PREFIX", "PIP_ROOT", "PIP_TARGET", "UV_PYTHON", "PYTHONUSERBASE")
    }
    settings = tmp_path / "pip.conf"
    settings.write_text("[install]\nuser = true\n")
    elsewhere |= {"PIP_USER": "1", "PIP_CONFIG_FILE": str(settings), "UV_SYSTEM_PYTHON": "1"}
    done = run(small, "greet", **elsewhere)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "elsewhere").exists()


def test_an_interpreter_that_no_longer_answers_is_replaced(installed: Path) -> None:
    # given an upgrade that took away the Python that .venv was made with
    python = next((installed / ".venv").glob("*/python"))
    python.unlink()
    python.symlink_to(installed / "gone")
    # when
    done = run(installed, "greet")
    # then
    assert done.returncode == 0, done.stderr
    assert "installing" in done.stdout


def test_a_link_in_the_place_of_the_environment_is_replaced(small: Path, tmp_path: Path) -> None:
    # given an environment that belongs to somebody else
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "kept").touch()
    (small / ".venv").symlink_to(theirs)
    # when
    done = run(small, "greet")
    # then
    assert done.returncode == 0, done.stderr
    assert [path.name for path in theirs.iterdir()] == ["kept"]


def test_an_installation_without_a_stamp_is_made_again(installed: Path) -> None:
    # given what a full disk leaves: a package with files missing, and no stamp
    (installed / ".venv" / STAMP).unlink()
    (module,) = (installed / ".venv").rglob("site-packages/nox/__init__.py")
    module.unlink()  # not overwritten: uv links to files in its cache
    # when
    done = run(installed, "greet")
    # then
    assert done.returncode == 0, done.stderr
    assert "HELLO" in done.stdout


def test_two_first_runs_at_once_install_once(small: Path) -> None:
    # given a process that holds the lock, and a run that finds it held
    with BOOTSTRAP["only_one"](small / ".venv.lock"):
        command = [sys.executable, str(small / "bootstrap.py"), "greet"]
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")
        assert waiting.stdout is not None
        assert "waiting for another one" in waiting.stdout.readline()
        # when the first has installed
        BOOTSTRAP["install"](small)
    # then
    printed, _ = waiting.communicate()
    assert waiting.returncode == 0
    assert "HELLO" in printed
    assert "installing" not in printed


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 9, "final", 0))
    assert BOOTSTRAP["main"](tmp_path, ["greet"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("bootstrap: Python 3.11 or later is needed")
    assert "is Python 3.10." in printed
    assert printed.count("\n") == 1


def test_older_pythons_can_read_it_as_far_as_that_error() -> None:
    for path in (SOURCE, ROOT / "bootstrap.py"):
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*match |:=|^from __future__", source, re.MULTILINE)
        compile(source, "bootstrap.py", "exec", dont_inherit=True, _feature_version=6)


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--help"], 0), (["--nonsense"], 2)])
def test_without_a_session_it_helps(
    arguments: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert BOOTSTRAP["main"](tmp_path, arguments) == code
    assert "python3 bootstrap.py SESSION" in capsys.readouterr().out
