"""Consume a stream on Spark in processes that are killed (-9) at random moments.

Usage, in a project's folder: `python streamer.py KILLS SEED`. A process, whose Spark ends with it,
is killed in a step of its first batch. Prints how many were killed, among what Spark has to say.
"""

from __future__ import annotations

import sys

from {{cookiecutter.package_name}}.inference import stream_spark

from tests.killing import ended, kill_many, started, tell_of, verb

STEPS = ("answer", "_scored", "_commit")  # of a batch
SPAN = 1.0  # seconds


def consume() -> None:
    """Score what waits; tells of each step of a batch."""
    for step in STEPS:
        tell_of(stream_spark._Answering, step)
    verb("stream", "--once", "--env", "test")


if __name__ == "__main__":
    kills, seed = map(int, sys.argv[1:])
    killed = kill_many(lambda _: started(consume), kills, seed, len(STEPS), SPAN)
    print(f"killed: {killed}", flush=True)  # noqa: T201
    sys.exit(ended(started(consume)))
