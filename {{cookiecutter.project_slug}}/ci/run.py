"""Runs a task of commands.toml: `python3 -m ci.run TASK`. Needs Python 3.11 and nothing else.

Writes how each command ended, and what to do about one that failed, to the summary of the job.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import CiError, append_to, run
from .forge import OUTPUT, SUMMARY
from .report import table

COMMANDS = Path(__file__).with_name("commands.toml")
REPORTS = Path("reports")
_VARIABLE = re.compile(r"\$(\w+)")
_OUTPUT = re.compile(r"(\w+)=(.*)")


def main(arguments: list[str]) -> None:
    """Run a task.

    Raises:
        CiError: No such task, a variable that is missing, or a command that failed.
    """
    if len(arguments) != 1:
        raise CiError("Usage: python3 -m ci.run TASK")
    contract = tomllib.loads(COMMANDS.read_text(encoding="utf-8"))
    task, place = find(arguments[0], contract), folder_of(contract)
    with tempfile.TemporaryDirectory() as scratch:
        outputs = Path(scratch) / "outputs"
        outputs.touch()
        results = execute(task, outputs, place)
        for name, value in read_outputs(outputs).items():
            append_to(OUTPUT, f"{name}={value}")
    ended = table(results, "command") if results else [f"{arguments[0]}: nothing to do here."]
    append_to(SUMMARY, "\n".join(ended))
    if reports := task.get("reports"):
        keep(Path(fill(reports, given())))
    if failed := [command for command, result in results.items() if result == "failure"]:
        raise CiError(f"{failed[0]} failed.")


def find(name: str, tasks: Mapping[str, Any]) -> Mapping[str, Any]:
    """The task of this name.

    Raises:
        CiError: There is none.
    """
    tables = {task: content for task, content in tasks.items() if isinstance(content, dict)}
    known = [task for task, content in tables.items() if "run" in content]
    if name not in known:
        raise CiError(f"There is no task {name!r} in {COMMANDS.name}: {', '.join(known)}.")
    return dict(tasks[name])


def folder_of(contract: Mapping[str, Any]) -> Path:
    """Where commands run: `folder` of the contract, in a repository that holds other things too.

    Raises:
        CiError: It is not there.
    """
    place = Path.cwd() / str(contract.get("folder", ""))
    if not place.is_dir():
        raise CiError(f"{COMMANDS.name} names a folder that is not there: {contract['folder']}.")
    return place


def execute(task: Mapping[str, Any], outputs: Path, place: Path) -> dict[str, str]:
    """Run the commands; returns how each ended: success, failure, or skipped after a failure."""
    results: dict[str, str] = {}
    for command in task["run"]:
        failed = "failure" in results.values()
        results[command] = "skipped" if failed else start(command, outputs, place)
    for command in task.get("finally", ()):
        results[command] = start(command, outputs, place)
    return results


def start(command: str, outputs: Path, place: Path) -> str:
    """Run a command in a folder; returns how it ended."""
    variables = {**given(), "OUTPUTS": str(outputs), **read_outputs(outputs)}
    print(f"$ {command}", flush=True)
    try:
        words = [fill(word, variables) for word in shlex.split(command)]
    except CiError as error:
        print(f"ci: {error}", flush=True)
        return "failure"
    try:
        done = subprocess.run(words, cwd=place, check=False)
    except OSError as error:
        print(f"ci: {words[0]} cannot be started: {error.strerror}", flush=True)
        return "failure"
    return "failure" if done.returncode else "success"


def given() -> dict[str, str]:
    """What a command is given: the variables of the workflow, and where the checkout is."""
    return {**os.environ, "ROOT": str(Path.cwd())}


def fill(word: str, variables: Mapping[str, str]) -> str:
    """A word of a command with its variables filled in; what they hold remains one word.

    Raises:
        CiError: One is not set, or empty.
    """

    def value(found: re.Match[str]) -> str:
        if given := variables.get(found[1]):
            return given
        raise CiError(f"{found[1]} is not set, or empty: the workflow must give it.")

    return _VARIABLE.sub(value, word)


def read_outputs(path: Path) -> dict[str, str]:
    """What commands have written as NAME=value; the last one counts."""
    found = map(_OUTPUT.fullmatch, path.read_text(encoding="utf-8").splitlines())
    return {match[1]: match[2] for match in found if match}


def keep(folder: Path) -> None:
    """Copy reports to where the forge collects them."""
    if folder.is_dir():
        shutil.copytree(folder, REPORTS, dirs_exist_ok=True)


if __name__ == "__main__":
    run(main)
