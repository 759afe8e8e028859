"""Consume a stream on Spark in processes that are killed (-9) at random moments.

Usage, in a project's folder: `python streamer.py KILLS SEED SPAN`. A process, whose Spark ends with
it, is killed up to SPAN seconds after it has begun its first batch. Prints how many were killed,
among what Spark has to say.
"""

from __future__ import annotations

import sys
from functools import partial

from {{cookiecutter.package_name}}.inference import stream_spark

from tests.killing import ended, kill_many, started, tell_of, verb


def consume() -> None:
    """Score what waits; each batch says that it begins."""
    tell_of(stream_spark._Answering, "answer")
    verb("stream", "--once", "--env", "test")


if __name__ == "__main__":
    kills, seed, span = sys.argv[1:]
    killed = kill_many(partial(started, consume), int(kills), int(seed), float(span))
    print(f"killed: {killed}", flush=True)  # noqa: T201
    sys.exit(ended(started(consume)))
