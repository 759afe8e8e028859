"""Requests on Kafka are answered exactly once, in tables and in a topic, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from datetime import datetime, timedelta
from typing import Any

import msgspec
import polars as pl
import pytest
from confluent_kafka import OFFSET_END, KafkaException, Message, Producer, TopicPartition

from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.inference import batch, stream_kafka
from {{cookiecutter.package_name}}.inference.score import score
from {{cookiecutter.package_name}}.inference.stream import Streamed
from {{cookiecutter.package_name}}.inference.stream_kafka import Published, Topic, send
from {{cookiecutter.package_name}}.serving.messages import request_type
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.point_in_time import available

from tests.conftest import ROOT, wait_for
from tests.integration.test_stream import KEYS, LETTERS, LOG, PREDICTIONS
from tests.kafka.conftest import PARTITIONS, Line
from tests.killing import KILLS
from tests.parcels import PROBLEM

SINKS = ("tables", "kafka")
MESSAGES = int(os.environ.get("MESSAGES", str(2_000 * KILLS)))
POISON = 30


@pytest.mark.parametrize("sink", SINKS)
def test_a_stream_scores_as_a_batch_does_to_the_bit(line: Line, as_of: datetime, sink: str) -> None:
    # Given
    context = line.context
    spine = next(batch.spines(context, [line.home.rows], as_of))
    estimator = context.registry.load(line.home.champion)
    features = available(context.lakehouse, PROBLEM, as_of, {})
    expected = context.lakehouse.collect(score(context, estimator, spine, features)).sort(KEYS)
    # When
    sent = send(context, [line.home.rows])
    done = line.finish(sink)
    # Then
    assert done == Streamed(scored=sent, refused=0)
    logged = line.table(LOG).sort(KEYS)
    for name in (*KEYS, "prediction", *PROBLEM.model.features):
        kind = logged.schema[name]
        assert logged[name].equals(expected[name].cast(kind)), name
    assert line.table(PREDICTIONS).sort(KEYS)["prediction"].equals(logged["prediction"])
    assert line.stream() == Streamed(scored=0, refused=0)
    measured = line.table(tables.MEASUREMENTS)
    assert {"stream_lag_seconds", "stream_rows_per_second"} <= set(measured["metric"])


def in_json(rows: pl.DataFrame) -> list[bytes]:
    """Rows as messages."""
    return rows.write_ndjson().encode().splitlines()


NOT_REQUESTS = (None, b"", b"\xff\xfe", b"[1]", b'{"parcel": "x"}', b"[" * 100_000)


@pytest.mark.parametrize("sink", SINKS)
def test_what_is_no_request_goes_to_the_dead_letters_and_spoils_nothing(
    line: Line, sink: str
) -> None:
    # Given
    rows = line.home.rows
    good = in_json(rows)
    null_key = in_json(rows.head(1).with_columns(parcel=pl.lit(None, dtype=pl.Int64)))
    too_long_ago = in_json(rows.head(1).with_columns(pl.col("posted_at") - timedelta(days=400)))
    two_in_one = good[0] + b"," + good[1]
    poison = [*NOT_REQUESTS, *null_key, *too_long_ago, two_in_one]
    # When
    line.produce(*good, *poison)
    done = line.finish(sink)
    # Then
    assert done == Streamed(scored=len(good), refused=len(poison))
    assert line.table(LOG).height == len(good)
    if sink == "tables":
        reasons = line.table(LETTERS)["reason"].to_list()
    else:
        letters = line.messages("dead_letters")
        assert sorted(map(repr, poison)) == sorted(repr(letter.value()) for letter in letters)
        reasons = [dict(letter.headers())["reason"].decode() for letter in letters]
    assert len(reasons) == len(poison)
    assert sum(reason.startswith("Not a request: ") for reason in reasons) == len(poison) - 1
    assert sum("The online store goes back to" in reason for reason in reasons) == 1


def test_a_dead_letter_that_is_too_long_is_kept_without_its_text(line: Line) -> None:
    line.set(STREAM__SINK="kafka")
    line.produce(b"x" * 1_000_050, *in_json(line.home.rows))
    assert line.stream() == Streamed(scored=line.home.rows.height, refused=1)
    (letter,) = line.messages("dead_letters")
    assert letter.value() is None
    assert dict(letter.headers())["place"].decode().startswith(line.topic("requests"))


@pytest.mark.parametrize("sink", SINKS)
def test_every_request_is_answered_once_though_consumers_are_killed(line: Line, sink: str) -> None:
    # Given
    numbered = many(line, MESSAGES)
    options = {"session.timeout.ms": "6000"}
    line.set(STREAM__BATCH_ROWS=300, STREAM__SINK=sink, KAFKA__OPTIONS=json.dumps(options))
    send(line.context, [numbered])
    line.produce(*(b"poison %d" % number for number in range(POISON)))
    # When
    script = ROOT / "tests" / "endurance" / "streamer.py"
    process = line.start(str(script), str(KILLS), "7")
    said, _ = process.communicate()
    # Then
    assert process.returncode == 0, said
    assert int(said.split()[-1]) > KILLS / 2
    # A consumer that keeps its name keeps its partitions, until it is missed: then all is answered.
    assert wait_for(line.is_alone)
    line.stream()
    if sink == "kafka":
        answers = [msgspec.json.decode(message.value()) for message in line.messages("predictions")]
        assert sorted(answer["parcel"] for answer in answers) == numbered["parcel"].to_list()
        assert len(line.messages("dead_letters")) == POISON
        line.keep()
    else:
        assert line.table(LETTERS)["request_id"].n_unique() == POISON
        assert line.table(LETTERS).height == POISON
    logged = line.table(LOG, order=("parcel",))
    assert logged["parcel"].equals(numbered["parcel"])
    assert line.table(PREDICTIONS, order=("parcel",)).equals(logged.select(*PREDICTIONS.schema))


def many(line: Line, rows: int) -> pl.DataFrame:
    """So many rows to score, each of a parcel of its own."""
    recent = line.home.rows
    several = pl.concat([recent] * (1 + rows // recent.height)).head(rows)
    return several.with_columns(parcel=pl.int_range(pl.len()) + 10**6)


def answered(line: Line, sink: str) -> int:
    """How many requests are answered by now."""
    return line.table(LOG).height if sink == "tables" else len(line.messages("predictions"))


def assert_answered_once(line: Line, sink: str, numbered: pl.DataFrame) -> None:
    """Each parcel is answered, once."""
    if sink == "kafka":
        line.keep()
    assert line.table(LOG, order=("parcel",))["parcel"].equals(numbered["parcel"])
    assert line.table(PREDICTIONS, order=("parcel",))["parcel"].equals(numbered["parcel"])


def end(process: subprocess.Popen[str]) -> str:
    """Ask a consumer to end, which it does; returns what it said."""
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


@pytest.mark.parametrize("sink", SINKS)
def test_two_consumers_share_the_partitions_and_answer_once(line: Line, sink: str) -> None:
    # Given
    numbered = many(line, 4_000)
    line.set(STREAM__SINK=sink)
    send(line.context, [numbered[:2_000]])
    first = line.verb("stream", KAFKA__INSTANCE="a")
    assert wait_for(lambda: answered(line, sink) > 0)
    # When another joins while the first one scores
    second = line.verb("stream", KAFKA__INSTANCE="b")
    assert wait_for(lambda: answered(line, sink) == 2_000)
    send(line.context, [numbered[2_000:]])
    assert wait_for(lambda: answered(line, sink) >= 4_000)
    # Then
    for process in (first, second):
        end(process)
    assert_answered_once(line, sink, numbered)


@pytest.mark.parametrize("sink", SINKS)
def test_a_consumer_that_was_taken_for_dead_is_refused(line: Line, sink: str) -> None:
    # Given
    numbered = many(line, 6_000)
    short = {"session.timeout.ms": "2000", "heartbeat.interval.ms": "500"}
    line.set(
        STREAM__SINK=sink,
        STREAM__BATCH_ROWS=200,
        KAFKA__OPTIONS=json.dumps({**short, "transaction.timeout.ms": "4000"}),
    )
    send(line.context, [numbered[:1_000]])
    zombie = line.verb("stream")
    assert wait_for(lambda: answered(line, sink) > 0)
    # When it stands still while it scores
    send(line.context, [numbered[1_000:]])
    zombie.send_signal(signal.SIGSTOP)
    assert line.stream().scored > 0
    zombie.send_signal(signal.SIGCONT)
    # Then it is refused, and goes on or ends with one message
    zombie.send_signal(signal.SIGTERM)
    said, _ = zombie.communicate()
    assert zombie.returncode == 0 or "taken over" in said, said
    assert_answered_once(line, sink, numbered)


@pytest.mark.parametrize("sink", SINKS)
def test_a_broker_that_is_killed_and_started_again_costs_nothing(line: Line, sink: str) -> None:
    # Given
    numbered = many(line, 3_000)
    line.set(STREAM__SINK=sink)
    send(line.context, [numbered[:2_000]])
    consumer = line.verb("stream", KAFKA__INSTANCE="a")
    assert wait_for(lambda: answered(line, sink) > 0)
    # When
    line.broker.kill()
    line.broker.start()
    send(line.context, [numbered[2_000:]])
    # Then
    assert wait_for(lambda: consumer.poll() is not None or answered(line, sink) >= 3_000)
    assert consumer.poll() is None, consumer.communicate()
    end(consumer)
    assert_answered_once(line, sink, numbered)


def test_a_client_that_does_not_return_is_given_up(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a client that hangs in its first transaction
    goes_on = threading.Event()
    calls: list[None] = []
    refused: list[KafkaException] = []

    class Hanging:
        """A producer; the first of them does not return from a call until it may."""

        def __init__(self, settings: dict[str, Any]) -> None:
            self._producer = Producer(settings)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._producer, name)

        def send_offsets_to_transaction(self, *given: Any) -> None:
            calls.append(None)
            if len(calls) > 1:
                self._producer.send_offsets_to_transaction(*given)
                return
            goes_on.wait()
            try:
                self._producer.send_offsets_to_transaction(*given)
            except KafkaException as exception:
                refused.append(exception)
                raise

    monkeypatch.setattr(stream_kafka, "Producer", Hanging)
    monkeypatch.setattr(stream_kafka, "_PROMPT", 5.0)
    line.set(STREAM__SINK="kafka")
    send(line.context, [line.home.rows])
    # When
    done = line.stream()
    # Then another goes on in its place, and it is refused once it does
    assert done == Streamed(scored=line.home.rows.height, refused=0)
    goes_on.set()
    assert wait_for(lambda: len(refused) == 1)
    assert len(line.messages("predictions")) == done.scored


def test_a_producer_is_fenced_by_the_next_one_of_its_name(line: Line) -> None:
    # Given a consumer in the middle of a transaction
    line.set(KAFKA__INSTANCE="a", STREAM__SINK="kafka")
    context = line.context
    kind, table = request_type(PROBLEM), tables.requests(PROBLEM)
    topic = Topic(context, line.topic("requests"), kind, table)
    zombie = Published(context, topic)
    zombie._producer.begin_transaction()
    zombie._producer.produce(line.topic("predictions"), b"{}")
    zombie._producer.flush(60)
    # When another takes its name
    send(context, [line.home.rows])
    done = line.stream()
    # Then
    with pytest.raises(KafkaException) as refused:
        zombie._producer.commit_transaction()
    assert refused.value.args[0].name() in {"_FENCED", "INVALID_PRODUCER_EPOCH"}
    assert len(line.messages("predictions")) == done.scored == line.home.rows.height
    topic.close()


def test_answers_of_a_key_are_in_the_order_of_its_requests(line: Line) -> None:
    # Given
    again = pl.concat([line.home.rows.head(4)] * 30)
    line.set(STREAM__SINK="kafka")
    # When
    send(line.context, [again])
    line.stream()
    # Then
    asked, told = line.messages("requests"), line.messages("predictions")
    assert {message.key() for message in told} == {message.key() for message in asked}
    assert order_by_key(told) == order_by_key(asked)


def order_by_key(messages: list[Message]) -> dict[bytes, list[str]]:
    """Requests of each key in the order of their messages."""
    found: dict[bytes, list[str]] = {}
    for message in messages:
        content = msgspec.json.decode(message.value())
        found.setdefault(message.key(), []).append(content["request_id"])
    return found


def test_requests_that_are_gone_before_they_are_answered_are_told_of(line: Line) -> None:
    # Given
    send(line.context, [line.home.rows])
    line.stream()
    line.produce(b"{}", b"{}", b"{}", key=b"same")
    for number in range(PARTITIONS):
        end_of_it = TopicPartition(line.topic("requests"), number, OFFSET_END)
        admin = line.broker.admin
        admin.delete_records([end_of_it])[end_of_it].result(60)
    # Then
    with pytest.raises(UserError, match="deleted before they were answered"):
        line.stream()
    line.set(KAFKA__OPTIONS='{"auto.offset.reset": "earliest"}')
    assert line.stream() == Streamed(scored=0, refused=0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"KAFKA__SERVERS": "127.0.0.1:1", "KAFKA__REQUESTS": "none"}, "Cannot use the topic none"),
        ({"KAFKA__REQUESTS": "none"}, "Cannot use the topic none"),
        ({"KAFKA__SECRETS": '{"sasl.password": "NOT_THERE"}'}, "NOT_THERE, which is not set"),
        ({"KAFKA__OPTIONS": '{"no.such": "x"}'}, "No such configuration property"),
    ],
)
def test_what_kafka_lacks_is_said_before_anything_is_read(
    line: Line, settings: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_kafka, "_PATIENCE", 5.0)
    line.set(**settings)
    with pytest.raises(UserError, match=said):
        line.stream()
