"""What a version's code can neither see nor do where it is examined."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities.model_registry import ModelVersion

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.deployment import compliance
from {{cookiecutter.package_name}}.modeling.pyfunc import ESTIMATOR
from {{cookiecutter.package_name}}.modeling.stored import CODE

PLANTED = {
    "secrets": (
        "raise ValueError([name for name in os.environ if os.environ[name] == 'secret'])",
        "ValueError: []",
    ),
    "secrets of the parent": ("open(f'/proc/{os.getppid()}/environ').read()", "not read /proc/"),
    "a secret file": ("open({secret!r}).read()", "must not read"),
    "a file elsewhere": ("open({elsewhere!r}, 'w')", "must not write outside"),
    "a file that is removed": ("os.remove({secret!r})", "must not write outside"),
    "a program": ("os.system('true')", "must not start programs"),
    "a socket": ("import socket; socket.create_connection(('127.0.0.1', 9), 1)", "the network"),
    "memory": ("np.ones(10 * 2**30 // 8)", "MemoryError: Unable to allocate 10.0 GiB"),
    "a large file": ("open('large', 'wb').truncate(2**30)", "File too large"),
    "its end": ("os._exit(3)", "ended with 3"),
}


@pytest.fixture(autouse=True)
def scored_once() -> None:
    """Here nothing stands for a clean process: each is started."""


@pytest.mark.parametrize(("body", "told"), PLANTED.values(), ids=PLANTED)
def test_code_that_reaches_out_is_refused(
    body: str,
    told: str,
    context: Context,
    version: ModelVersion,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given a version whose scoring does something else first, secrets, and a project's files
    monkeypatch.setenv("TOKEN", "secret")
    secret = tmp_path / "project" / "secret.txt"
    secret.parent.mkdir()
    secret.write_text("secret", encoding="utf-8")
    elsewhere = tmp_path / "elsewhere.txt"
    folder = shutil.copytree(context.registry.download(version.version), tmp_path / "version")
    line = body.replace("{secret!r}", repr(str(secret)))
    line = line.replace("{elsewhere!r}", repr(str(elsewhere)))
    planted = f"\n\ndef _planted(self, rows):\n    import os\n    {line}\n"
    with (folder / "artifacts" / ESTIMATOR / CODE).open("a", encoding="utf-8") as file:
        file.write(f"{planted}\nLightGBM.predict = _planted\n")
    # when it is scored apart
    found = compliance.score_alone(folder, (secret.parent,))
    # then it was stopped, and nothing has come of it
    assert told in found["failure"]
    assert secret.read_text(encoding="utf-8") == "secret"
    assert not elsewhere.exists()


def test_a_process_that_needs_too_much_time_is_told_by_its_processor_time(
    context: Context, version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compliance, "_CPU_SECONDS", 1)
    found = compliance.score_alone(context.registry.download(version.version), ())
    assert "of CPU time" in found["failure"]


def test_a_version_is_not_changed_by_being_scored(context: Context, version: ModelVersion) -> None:
    folder = context.registry.download(version.version)
    found = compliance.score_alone(folder, (context.settings.project, Path.home()))
    assert found["scores"] == found["again"]
    assert context.registry.download(version.version) == folder


def test_the_environment_of_this_process_is_not_handed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, Any] = {}

    def run(command: list[str], **options: Any) -> Any:
        given.update(options)
        raise subprocess.CalledProcessError(1, command, stderr="no")

    monkeypatch.setenv("TOKEN", "secret")
    monkeypatch.setattr(subprocess, "run", run)
    assert compliance.score_alone(tmp_path, ()) == {"failure": "no"}
    handed_on = dict(given["env"])
    assert "secret" not in handed_on.values()
    assert set(handed_on) == {"HOME", "TMPDIR", *compliance.THREADS}
