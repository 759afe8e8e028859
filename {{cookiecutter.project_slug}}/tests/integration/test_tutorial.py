"""Every command of the tutorial, in its order, on the toy problem."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from {{cookiecutter.package_name}} import cli

from tests.conftest import CONF, ROOT, copy_project

BLOCK = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)
TUTORIAL = ROOT / "docs" / "tutorial.md"
VERB = [sys.executable, "-m", str(cli.__package__)]
CHECKED = {"fix", "lint"}  # sessions: CI runs them, on the project itself


def commands() -> list[list[str]]:
    text = TUTORIAL.read_text(encoding="utf-8")
    return [shlex.split(line) for block in BLOCK.findall(text) for line in block.splitlines()]


def sessions() -> set[str]:
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def translated(command: list[str]) -> list[str] | None:
    """What the tutorial's command is in a copy that has no `.venv`; None: a session of CI."""
    if command[:2] == ["python3", "bootstrap.py"]:
        assert command[2] in sessions()
        assert command[2] in {"demo", *CHECKED}
        return [*VERB, "run"] if command[2] == "demo" else None
    if command[0].startswith(".venv/bin/"):
        return [*VERB, *command[1:]]
    assert command[0] == "git"
    return ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *command[1:]]


def test_every_command_of_the_tutorial_runs(tmp_path: Path) -> None:
    # given the toy, and a setting that the reader is going to lower
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    (conf / "dev.yml").write_text("training: {trials: 2}\n", encoding="utf-8")
    project = copy_project(tmp_path / "my project", conf)
    settings = project / "conf" / "dev.yml"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "BROWSER": "true",  # a program that opens nothing
    }
    done = []
    for command in commands():
        if command[-1] == "train":  # whose reader has just edited the settings
            text = settings.read_text(encoding="utf-8")
            settings.write_text(re.sub(r"trials: \d+", "trials: 1", text), encoding="utf-8")
        runnable = translated(command)
        if runnable is None:
            continue
        ran = subprocess.run(
            runnable, cwd=project, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, (command, ran.stderr)
        done.append(command[-1])
    assert {"demo", "status", "open", "monitor", "train", "first-change"} <= set(done)
    log = ["git", "log", "--format=%s"]
    said = subprocess.run(log, cwd=project, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[0] == "Fewer trials in dev"
