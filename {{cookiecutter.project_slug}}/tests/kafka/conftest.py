"""A broker, and a project with a champion whose requests come from it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

import polars as pl
import pytest
from confluent_kafka import Consumer, Message, Producer

from {{cookiecutter.package_name}} import cli, flows
from {{cookiecutter.package_name}}.context import Context, open_context
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.inference.stream import Streamed

from tests.conftest import ROOT
from tests.integration.test_stream import Home, home  # noqa: F401 a fixture
from tests.kafka.broker import Broker, unique


@dataclass(frozen=True)
class Line:
    """A project and its topics."""

    home: Home
    broker: Broker
    patch: pytest.MonkeyPatch

    @property
    def context(self) -> Context:
        """The environment as its variables have it now."""
        return open_context("test")

    def set(self, **settings: object) -> None:
        """Change settings; `STREAM__SINK` and the like."""
        for name, value in settings.items():
            self.patch.setenv(f"{ENV_PREFIX}{name}", str(value))

    def topic(self, what: str) -> str:
        """A topic by its setting."""
        return str(getattr(self.context.settings.kafka, what))

    def stream(self) -> Streamed:
        """Score what waits."""
        return flows.stream(self.context, Event(), once=True)

    def keep(self) -> Streamed:
        """Take answers from their topic to the tables."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(f"{ENV_PREFIX}STREAM__SOURCE", "predictions")
            patch.setenv(f"{ENV_PREFIX}STREAM__SINK", "tables")
            return self.stream()

    def is_alone(self) -> bool:
        """Whether the group has no members."""
        group = str(self.context.settings.kafka.group)
        admin = self.broker.admin
        return not admin.describe_consumer_groups([group])[group].result(60).members

    def finish(self, sink: str) -> Streamed:
        """Score what waits; the answers are in the tables afterwards."""
        self.set(STREAM__SINK=sink)
        done = self.stream()
        if sink == "kafka":
            assert self.keep() == Streamed(scored=done.scored, refused=0)
        return done

    def produce(self, *values: bytes | None, key: bytes | None = None) -> None:
        """Send messages as they are."""
        longest = {"message.max.bytes": 1_040_000}
        producer = Producer({"bootstrap.servers": self.broker.address, **longest})
        for value in values:
            producer.produce(self.topic("requests"), value, key)
        assert producer.flush(60) == 0

    def messages(self, what: str) -> list[Message]:
        """All messages of a topic that are committed."""
        reading = {
            "bootstrap.servers": self.broker.address,
            "group.id": unique("reader"),
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": "true",
        }
        consumer = Consumer(reading)
        consumer.subscribe([self.topic(what)])
        found: list[Message] = []
        ends = 0
        while ends < PARTITIONS:
            for message in consumer.consume(10_000, 1):
                ends += message.error() is not None
                found += [] if message.error() else [message]
        consumer.close()
        return found

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        """Start a program in the project's folder."""
        own = {f"{ENV_PREFIX}{name}": value for name, value in settings.items()}
        paths = os.pathsep.join((str(ROOT), str(ROOT / "src")))
        return subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **own, "PYTHONPATH": paths, "COLUMNS": "400"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def verb(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        """Start a verb of the command line."""
        return self.start("-m", str(cli.__package__), *arguments, "--env", "test", **settings)

    def table(self, table: Any, order: Sequence[str] = ()) -> pl.DataFrame:
        """Rows of a table."""
        return self.context.lakehouse.read(table, order=order)


PARTITIONS = 3


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that runs."""
    made = Broker(tmp_path_factory.mktemp("kafka"))
    made.format()
    made.start()
    yield made
    made.kill()


@pytest.fixture
def line(home: Home, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Line:  # noqa: F811
    """A project whose requests come from topics that nobody else has."""
    made = Line(home, broker, monkeypatch)
    names = {name: unique(name) for name in ("requests", "predictions", "dead_letters")}
    broker.create(*names.values(), partitions=PARTITIONS)
    made.set(**{f"KAFKA__{name.upper()}": topic for name, topic in names.items()})
    made.set(
        KAFKA__SERVERS=broker.address,
        KAFKA__GROUP=unique("group"),
        STREAM__SOURCE="kafka",
        STREAM__BATCH_ROWS="50",
        STREAM__POLL_SECONDS="0.2",
    )
    return made
