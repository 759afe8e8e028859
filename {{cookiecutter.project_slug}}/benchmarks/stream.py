"""Measure the stream beside Spark's: `python -m benchmarks.stream`, or `bootstrap.py bench-stream`.

In one run, from copies of one table of requests to copies of the same tables, with the same
champion: the embedded stream, and Structured Streaming on this machine, which is given all requests
as one micro-batch. What it takes either to begin and to end is left out.
"""

from __future__ import annotations

import os
import shutil
import sys

from {{cookiecutter.package_name}}.context import open_context
from {{cookiecutter.package_name}}.core.console import step, table
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.inference.stream_tables import send

from benchmarks.bench import PROJECT, call, own_environment, to_stream

ROWS = 100_000
NAMES = {"polars": "embedded", "spark": "Structured Streaming"}


def main() -> None:
    """Train, send, let each engine answer, print what came."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    os.chdir(PROJECT)
    with own_environment():
        with step("train"):
            call("run")
        with step("send"):
            send(open_context("dev"), [to_stream(rows)])
        root = open_context("dev").settings.lakehouse.root
        for engine in NAMES:
            shutil.copytree(root, f"{root}-{engine}")
        seconds = {engine: answered(engine, f"{root}-{engine}") for engine in NAMES}
    load = os.getloadavg()[0]
    table(
        f"{rows:,} requests, {os.cpu_count()} cores, load {load:.1f}",
        ("what", "seconds", "a second", "of Structured Streaming"),
        [
            (name, f"{took:.1f}", f"{rows / took:,.0f}", f"{seconds['spark'] / took:.1f}x")
            for name, took in zip(NAMES.values(), seconds.values(), strict=True)
        ],
    )


def answered(engine: str, root: str) -> float:
    """Seconds that an engine takes to answer what waits below a root."""
    os.environ[f"{ENV_PREFIX}ENGINE"] = engine
    os.environ[f"{ENV_PREFIX}LAKEHOUSE__ROOT"] = root
    with step(f"stream, {NAMES[engine]}"):
        taken = call("stream", "--once")
        idle = call("stream", "--once")
    return taken.seconds - idle.seconds


if __name__ == "__main__":
    main()
