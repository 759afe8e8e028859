"""Consume a stream in processes that are killed (-9) at random moments, then in two at once.

Usage, in a project's folder: `python streamer.py KILLS SEED SPAN`. A consumer is killed up to SPAN
seconds after it has begun to read. Each is a fork of a process that has imported everything. Prints
how many were killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from mlflow.store.model_registry import sqlalchemy_store as model_registry
from mlflow.store.tracking import sqlalchemy_store as tracking

from {{cookiecutter.package_name}} import cli
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.inference import stream
from {{cookiecutter.package_name}}.serving import streamed

IMPORTED = (model_registry, streamed, tracking)
BEGUN = Path(".data/begun")


def consume(name: str) -> int:
    """Start a consumer of this name; returns its process."""
    BEGUN.unlink(missing_ok=True)
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.environ[f"{ENV_PREFIX}KAFKA__INSTANCE"] = name
        read = stream.consume

        def begin(*given: Any, **options: Any) -> stream.Streamed:
            BEGUN.touch()
            return read(*given, **options)

        setattr(stream, "consume", begin)  # noqa: B010 a function, for mypy
        sys.argv = ["project", "stream", "--once", "--env", "test"]
        cli.main()
        code = 0
    except SystemExit as stopped:
        code = int(stopped.code or 1)
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """How a process ended."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(child: int, seconds: float) -> bool:
    """Kill a consumer so long after it has begun; whether it was still alive."""
    while not BEGUN.exists():
        time.sleep(0.002)
        if os.waitpid(child, os.WNOHANG)[0]:
            sys.exit("A consumer ended before it began.")
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return ended(child) == -signal.SIGKILL


if __name__ == "__main__":
    kills, seed, span = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    draw = random.Random(seed)  # noqa: S311 no secret
    killed = sum(kill(consume("a"), draw.uniform(0, span)) for _ in range(kills))
    together = [consume("a"), consume("b")]
    print(killed)  # noqa: T201
    sys.exit(max(map(ended, together)))
