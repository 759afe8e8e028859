"""Jobs as Databricks runs them: tasks in the order of their graph, from the wheel alone."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

_PLACE = re.compile(r"[{]{2}([^}]*)[}]{2}")
_TRIGGERED = "job.trigger.time.iso_datetime"
# What starts a wheel task: the entry point that its metadata names, in a process of its own.
_START = """
import sys
from importlib.metadata import distribution

package, name, *sys.argv[1:] = sys.argv[1:]
[entry_point] = distribution(package).entry_points.select(name=name)
entry_point.load()()
"""


def order(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tasks of a job so that none comes before what it depends on.

    Raises:
        KeyError: A task depends on one that is not there.
        CycleError: Tasks wait for each other.
    """
    tasks = {task["task_key"]: task for task in job["tasks"]}
    graph = {key: needed(task) for key, task in tasks.items()}
    return [tasks[key] for key in TopologicalSorter(graph).static_order()]


def needed(task: Mapping[str, Any]) -> list[str]:
    """Keys of the tasks that this one depends on."""
    return [item["task_key"] for item in task.get("depends_on", [])]


def parameters(
    job: Mapping[str, Any], task: Mapping[str, Any], triggered: str, given: Mapping[str, str]
) -> list[str]:
    """What a task is called with in a run.

    Args:
        job: Names the parameters of a run and their defaults.
        task: One of its tasks.
        triggered: When the run was triggered, as ISO writes it.
        given: Values of whoever started the run.

    Raises:
        KeyError: A reference in double braces names nothing.
    """
    values = {_TRIGGERED: triggered}
    for item in job["parameters"]:
        name = f"job.parameters.{item['name']}"
        values[name] = _put(given.get(item["name"], item["default"]), values)
    return [_put(text, values) for text in task["python_wheel_task"]["parameters"]]


def _put(text: str, values: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda found: values[found[1]], text)


@dataclass(frozen=True)
class Ended:
    """How a task ended."""

    key: str
    code: int
    said: str


@dataclass(frozen=True)
class Machine:
    """Where tasks run: an interpreter with the wheel, an empty folder, nothing of the project."""

    python: Path
    folder: Path
    variables: Mapping[str, str]

    def run(
        self, job: Mapping[str, Any], triggered: str, given: Mapping[str, str]
    ) -> Iterator[Ended]:
        """Run the tasks of a job, until one fails; those that wait for any end go on."""
        failed: set[str] = set()
        for task in order(job):
            waits_for_any = task.get("run_if") == "ALL_DONE"
            if failed & set(needed(task)) and not waits_for_any:
                failed.add(task["task_key"])
                continue
            ended = self._start(task, parameters(job, task, triggered, given))
            if ended.code:
                failed.add(ended.key)
            yield ended

    def _start(self, task: Mapping[str, Any], arguments: list[str]) -> Ended:
        called = task["python_wheel_task"]
        command = [self.python, "-c", _START, called["package_name"], called["entry_point"]]
        done = subprocess.run(
            [*command, *arguments],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.variables},
            capture_output=True,
            text=True,
            check=False,
        )
        return Ended(task["task_key"], done.returncode, done.stdout + done.stderr)
