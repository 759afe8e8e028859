"""Run a verb again and again until it ends, each time in a process that is killed (-9) early.

Usage, in a project's folder: `python mortal.py PLACES VERB [ARGUMENT ...]`. PLACES is a JSON list
of writes, as `name:number`: the process ends right after the so many-th write of that name,
counted over all processes. A name is a table (metrics with its producer, transitions with its
action), or a call of the registry. PLACES `"all"` kills after every write once. Prints the places
at which a process was killed, as a JSON list; exit code: that of the last process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.store.model_registry import sqlalchemy_store as model_registry
from mlflow.store.tracking import sqlalchemy_store as tracking

from {{cookiecutter.package_name}}.core.contract import Frame
from {{cookiecutter.package_name}}.data import ingest, prepare
from {{cookiecutter.package_name}}.deployment import comparison, compliance, transitions
from {{cookiecutter.package_name}}.features import build
from {{cookiecutter.package_name}}.inference import batch
from {{cookiecutter.package_name}}.monitoring import (
    alerts,
    backtest,
    pipeline,
    retraining,
)
from {{cookiecutter.package_name}}.serving import dashboard
from {{cookiecutter.package_name}}.store.engines import PolarsEngine, Snapshot
from {{cookiecutter.package_name}}.training import pipeline as training

from tests.killing import ended, started, verb

IMPORTED = (
    alerts,
    batch,
    build,
    comparison,
    compliance,
    dashboard,
    ingest,
    model_registry,
    pipeline,
    backtest,
)
IMPORTED_TOO = (prepare, retraining, tracking, training, transitions)
LOG, SAID, MOST = Path(".data/writes.log"), ".data/said.log", 300


def of_write(_: PolarsEngine, place: str, staged: Frame, *others: Any, **named: Any) -> str:
    """Name of a write to a table; none for the record of a run, which every process makes."""
    table = place.rpartition("/")[2]
    kind = {"metrics": "producer", "transitions": "action"}.get(table)
    if kind is None:
        return table
    (name,) = staged.select(kind).head(1).collect("polars").to_native().row(0)
    return "" if name in ("run", None) else f"{table}.{name}"


def of_merge(engine: PolarsEngine, staged: Frame, seen: Snapshot, *others: Any) -> str:
    """Name of a merge into a table."""
    return of_write(engine, seen.place, staged)


def of_tag(_: MlflowClient, name: str, version: str, key: str, value: Any) -> str:
    """Name of a tag."""
    return f"tag.{key}"


def of_call(name: str) -> Callable[..., str]:
    """Name of a call."""
    return lambda *arguments, **named: name


WRITES: tuple[tuple[type, str, Callable[..., str]], ...] = (
    (PolarsEngine, "append", of_write),
    (PolarsEngine, "replace", of_write),
    (PolarsEngine, "merge", of_merge),
    (MlflowClient, "set_model_version_tag", of_tag),
    (MlflowClient, "create_model_version", of_call("version")),
    (MlflowClient, "set_registered_model_alias", of_call("alias")),
    (MlflowClient, "delete_registered_model_alias", of_call("no alias")),
)


def count(name: str) -> str:
    """Note a write; returns its place."""
    with LOG.open("a") as log:
        log.write(f"{name}\n")
    return f"{name}:{LOG.read_text().splitlines().count(name)}"


def mortal(
    function: Callable[..., Any], name_of: Callable[..., str], places: list[str] | str
) -> Callable[..., Any]:
    """A write that may be the last of its process."""

    def write(*arguments: Any, **named: Any) -> Any:
        name = name_of(*arguments, **named)
        done = function(*arguments, **named)
        if name:
            place = count(name)
            first = places == "all" and place.endswith(":1")
            if first or place in places:
                os.kill(os.getpid(), signal.SIGKILL)
        return done

    return write


def run(places: list[str] | str, arguments: list[str]) -> None:
    """Run a verb whose writes may be its last."""
    for holder, method, name_of in WRITES:
        setattr(holder, method, mortal(getattr(holder, method), name_of, places))
    os.dup2(1, 2)
    verb(*arguments)


if __name__ == "__main__":
    killed: list[str] = []
    for _ in range(MOST):
        run_it = partial(run, json.loads(sys.argv[1]), sys.argv[2:])
        code = ended(started(run_it, said=SAID))
        if code != -signal.SIGKILL:
            break
        written = LOG.read_text().splitlines()
        killed.append(f"{written[-1]}:{written.count(written[-1])}")
    print(json.dumps(killed))  # noqa: T201
    sys.exit(code)
