"""Measure the stream on Kafka: `python -m benchmarks.kafka`, or `python3 bootstrap.py bench-kafka`.

In one run, on a broker and in tables of its own: a loop that only consumes and produces in the same
transactions, the stream to tables and to a topic, and how long an answer takes at a tenth of that.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from confluent_kafka import Consumer, Message, Producer

from {{cookiecutter.package_name}}.context import open_context
from {{cookiecutter.package_name}}.core.console import step, table
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.inference.stream_kafka import send

from benchmarks.bench import COMMAND, PROJECT, call, own_environment, to_stream
from tests.kafka.broker import Broker, unique

ROWS = 100_000
AT_ONCE = 10_000
SECONDS = 30  # of the load whose latency is measured
PARTITIONS = 3
TOPICS = ("requests", "predictions", "dead_letters")


@dataclass(frozen=True)
class Pass:
    """All requests, once through."""

    seconds: float
    processor: float

    def cells(self, name: str, bare: Pass) -> tuple[str, ...]:
        """A line of the table."""
        rate = f"{ROWS / self.seconds:,.0f}"
        share = f"{bare.seconds / self.seconds:.0%}"
        return (name, rate, share, f"{1e6 * self.processor / ROWS:.0f}")


def main() -> None:
    """Train, send, measure one after the other, print what came."""
    os.chdir(PROJECT)
    with tempfile.TemporaryDirectory(prefix="kafka-") as folder, own_environment():
        with step("train"):
            call("run")
        broker = Broker(Path(folder))
        broker.format()
        started = time.perf_counter()
        broker.start()
        ready = time.perf_counter() - started
        try:
            measure(broker, ready)
        finally:
            broker.kill()


def measure(broker: Broker, ready: float) -> None:
    """Measure with the champion that is there."""
    settings(SERVERS=broker.address)
    rows = to_stream(ROWS)
    passes = {}
    with step("bare loop"):
        asked(broker, rows)
        passes["consume and produce"] = bare(broker)
    for sink in ("kafka", "tables"):
        with step(f"stream to {sink}"):
            asked(broker, rows)
            passes[f"stream to {sink}"] = streamed(sink)
    rate = ROWS / passes["stream to kafka"].seconds / 10
    with step("latency"):
        asked(broker, rows.head(0))
        waited = np.array(list(latencies(broker, rows, rate)))
    load = os.getloadavg()[0]
    table(
        f"{ROWS:,} requests, {os.cpu_count()} cores, load {load:.1f}, Kafka ready in {ready:.0f} s",
        ("what", "a second", "of the bare loop", "CPU µs each"),
        [done.cells(name, passes["consume and produce"]) for name, done in passes.items()],
    )
    half, most = (1000 * np.quantile(waited, share) for share in (0.5, 0.99))
    print(f"At {rate:,.0f} a second, to the topic: p50 {half:,.0f} ms, p99 {most:,.0f} ms.")


def settings(**values: str) -> None:
    """Set `kafka` of the configuration."""
    names = {f"{ENV_PREFIX}KAFKA__{name}": value for name, value in values.items()}
    os.environ.update({f"{ENV_PREFIX}STREAM__SOURCE": "kafka", **names})


def asked(broker: Broker, rows: pl.DataFrame) -> None:
    """Make topics of its own for a pass, and send the requests."""
    topics = {name.upper(): unique(name) for name in TOPICS}
    broker.create(*topics.values(), partitions=PARTITIONS)
    settings(GROUP=unique("group"), **topics)
    send(open_context("dev"), [rows])


def bare(broker: Broker) -> Pass:
    """Consume and produce all messages as they are, with their offsets, as the stream does."""
    topics = open_context("dev").settings.kafka
    address = {"bootstrap.servers": broker.address}
    reading = {"group.id": unique("bare"), "auto.offset.reset": "earliest"}
    consumer = Consumer({**address, **reading, "enable.auto.commit": "false"})
    producer = Producer({**address, "transactional.id": unique("bare"), "linger.ms": 5})
    producer.init_transactions()
    consumer.subscribe([topics.requests])
    done, began, processor = 0, 0.0, 0.0
    while done < ROWS:
        messages: list[Message] = consumer.consume(AT_ONCE, 0.5)
        if not began:  # what comes before is the group's coming together
            began, processor = time.perf_counter(), time.process_time()
        if not messages:
            continue
        producer.begin_transaction()
        for message in messages:
            producer.produce(topics.predictions, message.value(), message.key())
        offsets = consumer.position(consumer.assignment())
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata())
        producer.commit_transaction()
        done += len(messages)
    seconds = time.perf_counter() - began
    consumer.close()
    return Pass(seconds, time.process_time() - processor)


def streamed(sink: str) -> Pass:
    """All requests through `stream`, without what it takes to begin and to end."""
    os.environ[f"{ENV_PREFIX}STREAM__SINK"] = sink
    taken = call("stream", "--once")
    idle = call("stream", "--once")
    return Pass(taken.seconds - idle.seconds, taken.processor - idle.processor)


def latencies(broker: Broker, rows: pl.DataFrame, rate: float) -> Iterator[float]:
    """Seconds from each request to when its answer can be read, at so many requests a second."""
    os.environ[f"{ENV_PREFIX}STREAM__SINK"] = "kafka"
    topics = open_context("dev").settings.kafka
    reading = {
        "bootstrap.servers": broker.address,
        "group.id": unique("reader"),
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
    }
    consumer = Consumer(reading)
    consumer.subscribe([topics.predictions])
    producer = Producer({"bootstrap.servers": broker.address, "linger.ms": 5})
    lines = [line.encode() for line in rows.write_ndjson().splitlines()]
    with subprocess.Popen([*COMMAND, "stream"], stdout=subprocess.DEVNULL) as stream:
        asked_at: dict[str, float] = {}
        answered = 0
        producer.produce(topics.requests, _named(lines[0], "first"))
        while not consumer.consume(1, 1):  # until the stream has begun
            producer.poll(0)
        began = time.perf_counter()
        while answered < len(asked_at) or time.perf_counter() < began + SECONDS:
            now = time.perf_counter()
            due = min(int(rate * (now - began)), int(rate * SECONDS), len(lines) - 1)
            for number in range(len(asked_at), due):
                asked_at[str(number)] = time.perf_counter()
                producer.produce(topics.requests, _named(lines[number], str(number)))
            producer.poll(0)
            found = consumer.consume(AT_ONCE, 0.01)
            now = time.perf_counter()
            for message in found:
                answered += 1
                yield now - asked_at[msgspec.json.decode(message.value())["request_id"]]
        stream.terminate()
    consumer.close()


def _named(line: bytes, request: str) -> bytes:
    """A row in JSON as a request with an id."""
    return b'{"request_id":"%s",%s' % (request.encode(), line[1:])


if __name__ == "__main__":
    main()
