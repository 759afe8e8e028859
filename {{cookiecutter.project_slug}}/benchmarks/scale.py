"""Measure how features and scoring grow with rows: `bootstrap.py scale [spark] [FACTOR ...]`.

The sample's prepared tables are there several times over, each time with other entities. Every step
is a process of its own: its peak memory is that of the step. With `spark` it is Spark that
computes, as conf/ says; its own processes are not counted. What is printed is measured here and
now. It changes no exit code, but that on Linux a step of polars is killed, and the run fails, where
it has more than 4 GB of memory of its own.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import narwhals as nw
import polars as pl

from {{cookiecutter.package_name}}.context import Context, open_context
from {{cookiecutter.package_name}}.core.console import step, table
from {{cookiecutter.package_name}}.core.contract import KNOWN_AT
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.parts import in_parts

from benchmarks.bench import PROJECT, Call, call, own_environment

FACTORS = (1, 10)
ALL_DAYS = 36_500
PART_ROWS = 2_000_000
INSTANT = timedelta(microseconds=1)
MEMORY = 4 * 10**9


def entities(context: Context) -> set[str]:
    """Columns that name an entity: keys of a source or of a feature table."""
    problem = context.problem
    keys = {name for source in problem.sources for name in source.keys}
    return keys | {name for item in problem.feature_tables for name in item.keys}


def copied(rows: pl.DataFrame, names: set[str], copy: int) -> pl.LazyFrame:
    """Rows of other entities; copy 0 is the original."""
    renamed = []
    for name in sorted(names & set(rows.columns)):
        if rows.schema[name] == pl.String and copy:
            renamed.append(pl.col(name) + f"~{copy}")
        elif rows.schema[name].is_integer():
            renamed.append(pl.col(name) + copy * 2**40)
    return rows.lazy().with_columns(renamed)


def replicate(rows: dict[str, pl.DataFrame], factor: int) -> int:
    """Write so many copies of the prepared tables, and what else scoring asks for.

    Returns:
        Rows to score.
    """
    context = open_context("dev")
    lakehouse, problem = context.lakehouse, context.problem
    names = entities(context)
    until = problem.ends or datetime.now(UTC)
    for declared in (tables.TRANSITIONS, tables.DECLARATIONS):
        lakehouse.append(declared, rows[declared.name], datetime.now(UTC))
    for source in problem.sources:
        prepared = tables.prepared(source)
        original = rows[prepared.name]
        framed = nw.from_native(original.lazy())
        # As they come in production: from day to day, so that a file holds a part of the time.
        for start, end in in_parts(lakehouse, framed, KNOWN_AT, PART_ROWS // factor):
            inside = original.filter(pl.col(KNOWN_AT).is_between(start, end, closed="left"))
            copies = [copied(inside, names, copy) for copy in range(factor)]
            lakehouse.append(prepared, nw.from_native(pl.concat(copies)), end - INSTANT)
        lakehouse.append(prepared, prepared.empty(), until)
    return factor * rows[tables.prepared(problem.scored).name].height


def main() -> None:
    """Train on the sample, then measure each factor in a lakehouse of its own."""
    os.chdir(PROJECT)
    engine = "spark" if "spark" in sys.argv else "polars"
    factors = [int(given) for given in sys.argv[1:] if given.isdigit()] or FACTORS
    found: list[tuple[str, ...]] = []
    with own_environment():
        try:
            found.extend(measured(engine, factors))
        finally:
            heads = ("verb", "rows", "seconds", "CPU µs a row", "peak memory")
            table(f"{engine}, measured on {os.cpu_count()} cores", heads, found)


def measured(engine: str, factors: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """Lines of the table."""
    with step("train"):
        call("run")
    context = open_context("dev")
    wanted = [tables.TRANSITIONS, tables.DECLARATIONS]
    wanted += [tables.prepared(source) for source in context.problem.sources]
    rows = {item.name: context.lakehouse.read(item) for item in wanted}
    os.environ[f"{ENV_PREFIX}INFERENCE__FIRST_DAYS"] = str(ALL_DAYS)
    root = context.settings.lakehouse.root
    memory = MEMORY if engine == "polars" else None
    for factor in factors:
        os.environ[f"{ENV_PREFIX}ENGINE"] = "polars"
        os.environ[f"{ENV_PREFIX}LAKEHOUSE__ROOT"] = f"{root}-{factor}"
        with step(f"{factor} x"):
            count = replicate(rows, factor)
            os.environ[f"{ENV_PREFIX}ENGINE"] = engine
            for verb in ("features", "predict"):
                yield cells(verb, count, call(verb, memory=memory))


def cells(verb: str, rows: int, taken: Call) -> tuple[str, ...]:
    """A line of the table."""
    return (
        verb,
        f"{rows:,}",
        f"{taken.seconds:.0f}",
        f"{1e6 * taken.processor / rows:.1f}",
        f"{taken.peak / 1e9:.2f} GB",
    )


if __name__ == "__main__":
    main()
