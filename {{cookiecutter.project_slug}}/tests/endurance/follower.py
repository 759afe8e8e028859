"""Take events over in processes that are killed (-9) at random moments, then in two at once.

Usage, in a project's folder: `python follower.py KILLS SEED SPAN ROWS`. Before each process begins,
so many events of deliveries and of parcels are sent. A process is killed up to SPAN seconds after
it has begun a round. Prints how many were killed.
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event

import polars as pl

from {{cookiecutter.package_name}} import flows
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import KNOWN_AT
from {{cookiecutter.package_name}}.core.settings import load_settings
from {{cookiecutter.package_name}}.data import ingest, prepare
from {{cookiecutter.package_name}}.data.events import send_events
from {{cookiecutter.package_name}}.features import build
from {{cookiecutter.package_name}}.store import online

from tests.killing import ended, kill, started, tell_of
from tests.parcels import PROBLEM
from tests.parcels.sources import REGIONS

IMPORTED = (build, ingest, online, prepare)
LIVE = replace(PROBLEM, ends=None)


def opened() -> Context:
    """The project in this folder, as a live feed."""
    return Context(load_settings("test", Path.cwd()), LIVE)


def send(number: int, rows: int) -> None:
    """Events of so many parcels, which a later batch of parcels corrects, and their deliveries."""
    context = opened()
    parcel = 10**6 + number * rows // 2 + pl.int_range(rows, eager=True)
    depots = pl.Series(list(REGIONS)).gather(parcel % len(REGIONS))
    posted = pl.lit(LIVE.begins).cast(pl.Datetime("us", "UTC"))
    known = pl.lit(None)
    events = pl.DataFrame({"parcel": parcel, "depot": depots}).with_columns(known.alias(KNOWN_AT))
    # Fewer bad ones than a source may have, however many rows a round takes.
    weighed = pl.when(pl.col("parcel") % 200 == 0).then(-1.0).otherwise(1.0 + number)
    parcels = events.with_columns(
        weighed.alias("kilograms"), pl.lit(value=True).alias("express"), posted.alias("posted_at")
    )
    deliveries = events.with_columns(minutes_late=pl.col("parcel") % 120 + number)
    send_events(context, LIVE.source("parcels"), [parcels])
    send_events(context, LIVE.source("deliveries"), [deliveries])


def follow() -> None:
    """Take over what waits; each round says that it begins."""
    tell_of(flows, "refresh")
    flows.follow(opened(), Event(), once=True)


if __name__ == "__main__":
    kills, seed, rows = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[4])
    draw = random.Random(seed)  # noqa: S311 no secret
    killed = 0
    for number in range(kills):
        ended(started(partial(send, number, rows)))
        killed += kill(started(follow), draw.uniform(0, float(sys.argv[3])))
    ended(started(partial(send, kills, rows)))
    together = [started(follow), started(follow)]
    print(killed)  # noqa: T201
    sys.exit(max(map(ended, together)))
