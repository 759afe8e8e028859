"""Run steps of the command line, each in a fork of one process that has imported everything.

Usage, in a project's folder: `python killer.py AS_OF PLAN`, a JSON list of [step, pattern, count].
A step is killed (-9) as soon as `count` files below `.data/test` match the pattern; "" lets it end.
Prints how each ended, as a JSON list: its exit code, or -9.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from mlflow.store.model_registry import sqlalchemy_store as model_registry
from mlflow.store.tracking import sqlalchemy_store as tracking

from {{cookiecutter.package_name}}.data import ingest, prepare
from {{cookiecutter.package_name}}.features import build
from {{cookiecutter.package_name}}.training import pipeline

from tests.killing import started, verb

IMPORTED = (build, ingest, pipeline, prepare, model_registry, tracking)


def watched(child: int, pattern: str, count: int) -> int:
    """Kill a process when the files are there; returns how it ended."""
    data = Path(".data/test")
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if pattern and sum(1 for _ in data.glob(pattern)) >= count:
            os.kill(child, signal.SIGKILL)
            pattern = ""
        time.sleep(0.002)


if __name__ == "__main__":
    ends = []
    for step, pattern, count in json.loads(sys.argv[2]):
        run = partial(verb, step, "--env", "test", "--as-of", sys.argv[1])
        ends.append(watched(started(run), pattern, count))
    print(json.dumps(ends))  # noqa: T201
