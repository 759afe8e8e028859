"""Write to a table on Spark in a process that ends (-9) when rows are staged and nothing committed.

Usage, where tests find the project: `python mortal.py ROOT VERB`. The verbs are those of `WRITES`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, NoReturn

import narwhals as nw
import polars as pl

from {{cookiecutter.package_name}}.core.contract import KNOWN_AT, UTC_TIME, Table
from {{cookiecutter.package_name}}.core.settings import load_settings
from {{cookiecutter.package_name}}.store.engines import delta
from {{cookiecutter.package_name}}.store.engines.spark import SparkEngine, open_session
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse

from tests.conftest import CONF, START

UNTIL = START + timedelta(days=1)
THINGS = Table(
    "things", {"id": nw.Int64, "value": nw.Float64, KNOWN_AT: UTC_TIME}, ("id",), KNOWN_AT
)


def things(values: Mapping[int, float], day: int) -> pl.DataFrame:
    """Rows that became known on a day."""
    rows = pl.DataFrame({"id": list(values), "value": list(values.values())})
    known = pl.lit(START + timedelta(days=day)).cast(pl.Datetime("us", "UTC"))
    return rows.with_columns(known.alias(KNOWN_AT))


def appended(lakehouse: Lakehouse) -> int:
    """Add a row."""
    return lakehouse.append(THINGS, things({2: 2.0}, 1), UNTIL)


def merged(lakehouse: Lakehouse) -> int:
    """Change a row, and add one."""
    return lakehouse.merge(THINGS, things({1: 1.5, 2: 2.0}, 1), UNTIL)


def replaced(lakehouse: Lakehouse) -> int:
    """Put other rows in place of all."""
    return lakehouse.overwrite(THINGS, things({2: 2.0, 3: 3.0}, 1), None, UNTIL)


WRITES: Mapping[str, Callable[[Lakehouse], int]] = {
    "append": appended,
    "merge": merged,
    "overwrite": replaced,
}


def die(*arguments: Any, **named: Any) -> NoReturn:
    """End the process in place of a commit."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


if __name__ == "__main__":
    root, verb = sys.argv[1:]
    session = open_session(load_settings("test", CONF.parent).spark)
    delta.commit_properties = die  # asked for when the files of an append are written
    SparkEngine._committing = die  # type: ignore[method-assign]
    WRITES[verb](Lakehouse(root, engine=SparkEngine(session)))
