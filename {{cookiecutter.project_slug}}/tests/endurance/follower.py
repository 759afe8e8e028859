"""Take events over in processes that are killed (-9) at random moments, then in two at once.

Usage, in a project's folder: `python follower.py KILLS SEED ROWS`. Before each process begins, so
many events of deliveries and of parcels are sent. A process is killed as it begins its round, or
one of its first writes. Prints how many were killed.
"""

from __future__ import annotations

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
from {{cookiecutter.package_name}}.store.engines import PolarsEngine

from tests.killing import ended, kill_many, started, tell_of
from tests.parcels import PROBLEM
from tests.parcels.sources import REGIONS

IMPORTED = (build, ingest, online, prepare)
LIVE = replace(PROBLEM, ends=None)
CALLS = 6  # of those that a round makes


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
    """Take over what waits; tells of its round and of each write."""
    tell_of(flows, "refresh")
    for write in ("append", "merge", "replace"):
        tell_of(PolarsEngine, write)
    flows.follow(opened(), Event(), once=True)


def sent_and_followed(number: int, rows: int) -> int:
    """Send events, then start a process that takes them over; returns its number."""
    ended(started(partial(send, number, rows)))
    return started(follow)


if __name__ == "__main__":
    kills, seed, rows = map(int, sys.argv[1:])
    killed = kill_many(partial(sent_and_followed, rows=rows), kills, seed, CALLS)
    together = [sent_and_followed(kills, rows), started(follow)]
    print(killed)  # noqa: T201
    sys.exit(max(map(ended, together)))
