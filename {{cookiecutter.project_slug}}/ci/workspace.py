"""What tasks ask the workspace on Databricks: `python3 -m ci.workspace VERB TARGET ...`.

`newest TARGET FILE` appends `version=N`, the newest version of the model, to a file; `waiting`
appends `waiting=N` if that version waits for a decision. `day TARGET AS_OF` runs the job `loop`
unless a run that began in the day before ended well. `reports TARGET FOLDER` copies the reports of
the jobs. Needs Python 3.11 and Databricks' command line, logged in; the bundle must be deployed.
"""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from .errors import CiError, run

USAGE = (
    "Usage: ci.workspace newest TARGET FILE | waiting TARGET FILE | day TARGET AS_OF | "
    "reports TARGET FOLDER"
)
WAITS = "challenger"  # the alias of a version that has passed the gates
DAY = timedelta(days=1)


def main(arguments: list[str]) -> None:
    """Do what is asked for.

    Raises:
        CiError: Arguments, or what the command line refuses.
    """
    match arguments:
        case ["newest", target, file]:
            append(file, "version", newest(model_of(target)))
        case ["waiting", target, file]:
            model = model_of(target)
            if (version := newest(model)) == aliased(model, WAITS):
                append(file, "waiting", version)
        case ["day", target, as_of]:
            see_to_the_day(target, as_of)
        case ["reports", target, folder]:
            volume = id_of(target, "volumes", "state").replace(".", "/")
            source = f"dbfs:/Volumes/{volume}/reports"
            call("fs", "cp", "--recursive", "--overwrite", source, folder)
        case _:
            raise CiError(USAGE)


def append(file: str, name: str, value: int) -> None:
    """Append NAME=value to a file."""
    with Path(file).open("a", encoding="utf-8") as opened:
        opened.write(f"{name}={value}\n")


def see_to_the_day(target: str, as_of: str) -> None:
    """Run `loop` as of a moment, unless a run that began in the day before it ended well.

    One that has not ended waits for nobody: the run that is started here waits in the job's queue,
    and finds the work done.

    Raises:
        CiError: The moment is none, or the run failed.
    """
    try:
        moment = datetime.fromisoformat(as_of)
    except ValueError:
        raise CiError(f"{as_of} is no moment: write one as 2024-11-01T06:00.") from None
    until = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    job = id_of(target, "jobs", "loop")
    since = f"--start-time-from={_milliseconds(until - DAY)}"
    to = f"--start-time-to={_milliseconds(until)}"
    for begun in ask("jobs", "list-runs", f"--job-id={job}", since, to):
        if begun["state"].get("result_state") == "SUCCESS":
            print(f"It ran already, and well: {begun['run_page_url']}")
            return
    call("bundle", "run", "--target", target, "loop", "--", f"--as_of={as_of}")


def newest(model: str) -> int:
    """The newest version of a model.

    Raises:
        CiError: It has none.
    """
    versions = [int(item["version"]) for item in ask("model-versions", "list", model)]
    if not versions:
        raise CiError(f"{model} has no version yet: run the job `training` first.")
    return max(versions)


def aliased(model: str, alias: str) -> int | None:
    """The version of a model that an alias points to."""
    known = ask("registered-models", "get", model, "--include-aliases").get("aliases", [])
    found = {item["alias_name"]: int(item["version_num"]) for item in known}
    return found.get(alias)


def model_of(target: str) -> str:
    """The model's name of three levels."""
    return id_of(target, "registered_models", "model")


def id_of(target: str, kind: str, name: str) -> str:
    """The id of a resource of the bundle.

    Raises:
        CiError: It is not deployed.
    """
    resources = ask("bundle", "summary", "--target", target).get("resources", {})
    found = resources.get(kind, {}).get(name, {}).get("id")
    if not found:
        raise CiError(f"{kind} {name} is not deployed: databricks bundle deploy --target {target}.")
    return str(found)


def ask(*words: str) -> Any:
    """What the command line answers, read as JSON; nothing counts as an empty list."""
    return json.loads(call(*words, "--output", "json", is_read=True) or "[]")


def call(*words: str, is_read: bool = False) -> str:
    """Call the command line; returns what it prints where that is read, else the log has it.

    Raises:
        CiError: It is not there, or fails.
    """
    command = ["databricks", *words]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE if is_read else None, text=True, check=False
        )
    except FileNotFoundError:
        raise CiError("There is no `databricks` on the PATH: the login puts it there.") from None
    if done.returncode:
        raise CiError(f"`{' '.join(command)}` failed.")
    return done.stdout or ""


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


if __name__ == "__main__":
    run(main)
