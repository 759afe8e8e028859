"""Consume a stream in processes that are killed (-9) at random moments, then in two at once.

Usage, in a project's folder: `python streamer.py KILLS SEED`. A consumer is killed as it begins to
read, or in one of its first batches. Prints how many were killed.
"""

from __future__ import annotations

import os
import sys

from mlflow.store.model_registry import sqlalchemy_store as model_registry
from mlflow.store.tracking import sqlalchemy_store as tracking

from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.inference import stream
from {{cookiecutter.package_name}}.serving import streamed

from tests.killing import ended, kill_many, started, tell_of, verb

IMPORTED = (model_registry, streamed, tracking)
CALLS = 4  # the first tells that it begins, each of the others that a batch is done


def consumer(name: str) -> int:
    """Start a consumer of this name; returns its process."""

    def consume() -> None:
        os.environ[f"{ENV_PREFIX}KAFKA__INSTANCE"] = name
        tell_of(stream, "consume")
        tell_of(stream.Meter, "count")
        verb("stream", "--once", "--env", "test")

    return started(consume)


if __name__ == "__main__":
    kills, seed = map(int, sys.argv[1:])
    killed = kill_many(lambda _: consumer("a"), kills, seed, CALLS)
    together = [consumer("a"), consumer("b")]
    print(killed)  # noqa: T201
    sys.exit(max(map(ended, together)))
