"""The stream on Kafka: requests from a topic, answers to Delta tables or to a topic.

An offset is Kafka's: of the next message of a partition. Where tables are the sink they hold the
offsets, and the group's are not looked at; where a topic is, one transaction holds answers and
offsets. A consumer that lost its partitions meanwhile is refused by either.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import msgspec
import polars as pl
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from rich.markup import escape

from ..context import Context
from ..core.console import say
from ..core.contract import Problem, Table
from ..core.errors import UserError
from ..core.settings import KafkaSettings
from ..store import tables
from .kafka import Reader, connection, place_of
from .stream import ID, Answers, Batch, Offsets, Reached, Stop
from .stream_tables import requests_of

_PATIENCE = 60.0  # seconds in which Kafka must answer
_PROMPT = 10.0  # seconds in which it answers unless a connection has to be made anew
# Seconds in which it has undone a transaction whose producer is gone: by default it lets 60 pass
# (`transaction.timeout.ms`), and looks every 10.
_UNDONE = 120.0
_AGAIN = "Nothing is lost: start the stream again."
_END = "_PARTITION_EOF"
_PASSING = {_END, "_MAX_POLL_EXCEEDED"}
_REPLACED = "FENCED_INSTANCE_ID"
_FENCING = {"_FENCED", _REPLACED}
# Of a broker that is away or has just come back, beside what the client calls retriable.
_AWAY = {"_ALL_BROKERS_DOWN", "_STATE", "_TIMED_OUT", "_TRANSPORT", "_WAIT_COORD"}
_PAUSE = 0.1  # seconds between two tries
_GLANCE = 0.01  # seconds for what a client has learned
_USER = "Correct the user in `kafka.options` and the password that `kafka.secrets` names."
_SHORTER = "Raise `max.message.bytes` of the topic and `message.max.bytes` in `kafka.options`."
# What no other try will change, and what does.
_MENDS = {
    "TOPIC_AUTHORIZATION_FAILED": (
        "Allow the user to read the topic that is read, and to write to those of answers and dead "
        "letters."
    ),
    "GROUP_AUTHORIZATION_FAILED": "Allow the user to read as the group (`kafka.group`).",
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED": (
        "Allow the user to write with transactional ids that begin with the group (`kafka.group`)."
    ),
    "CLUSTER_AUTHORIZATION_FAILED": "Allow the user idempotent writes on the cluster.",
    "SASL_AUTHENTICATION_FAILED": _USER,
    "_AUTHENTICATION": _USER,
    "MSG_SIZE_TOO_LARGE": _SHORTER,
    "RECORD_LIST_TOO_LARGE": _SHORTER,
}
Result = TypeVar("Result")


class Topic:
    """Messages of a topic, whose partitions the consumers of a group share."""

    def __init__(
        self, context: Context, topic: str, kind: type[msgspec.Struct], table: Table
    ) -> None:
        """Find the topic.

        Args:
            context: Settings and problem.
            topic: What to read.
            kind: What a message holds, as JSON.
            table: Whose columns are those of `kind`.

        Raises:
            UserError: Kafka does not answer, or has no such topic.
        """
        settings = context.settings.kafka
        identity = _identity(settings, topic)
        self.topic = topic
        self.group = _group(context, topic)
        self.sent: Mapping[str, Any] = {}  # messages of the newest batch, by request
        self._name = f"kafka:{identity}:"  # of a partition, before its number
        self._doing = f"read the topic {topic} as the group {self.group}"
        self._reader = Reader(kind, table, tables.dead_letters(context.problem))
        self._poll_seconds = context.settings.stream.poll_seconds
        self._at: dict[int, int] = {}  # offset of the next message, by partition that is ours
        self._ended: set[int] = set()  # partitions whose end was reached
        self._has_joined = False
        self._member: object = None
        self._reached: Reached = lambda partitions: dict.fromkeys(partitions, 0)
        self._own = {
            "auto.offset.reset": "error",
            **_client(settings),
            "enable.auto.commit": "false",
            "enable.partition.eof": "true",
            "isolation.level": "read_committed",
            "partition.assignment.strategy": "cooperative-sticky",
            "group.id": self.group,
        }
        named = {"group.instance.id": settings.instance} if settings.instance else {}
        self._consumer = Consumer(self._own | named)

    def start(self, reached: Reached) -> None:
        """Join the group."""
        self._reached = reached
        self._consumer.subscribe(
            [self.topic], on_assign=self._take, on_revoke=self._leave, on_lost=self._leave
        )

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def rewind(self) -> None:
        """Go on behind what is answered, wherever that is now."""
        for place in self._places(self._at):
            _insist(self._doing, partial(self._consumer.seek, place))

    def read(self, rows: int) -> Batch | None:
        """The next requests, at most so many; None where none is there within a moment."""
        messages = self._consumer.consume(rows, self._poll_seconds)
        fresh = [message for message in messages if self._is_next(message)]
        if not fresh:
            return None
        self._note_member()
        since = {number: self._at[number] for number in {item.partition() for item in fresh}}
        batch = self._batch(fresh, {self._partition(number): at for number, at in since.items()})
        for partition, offset in batch.until.items():
            self._at[self._number(partition)] = offset
        return batch

    def wait(self, stop: Stop) -> None:
        """Reading has waited."""

    def is_drained(self) -> bool:
        """Whether all is read that was there when it was read last."""
        return self._has_joined and self._at.keys() <= self._ended

    def between(self, since: Offsets, until: Offsets) -> Batch:
        """All messages between two offsets of each partition that is named."""
        last = {self._number(partition): offset for partition, offset in until.items()}
        places = [self._place(self._number(name), offset) for name, offset in since.items()]
        found: list[Message] = []
        gives_up = time.monotonic() + _PATIENCE
        with closing(Consumer(self._own)) as consumer:
            consumer.assign(places)
            while last:
                for message in consumer.consume(10_000, self._poll_seconds):
                    number = message.partition()
                    if self._is_message(message) and message.offset() < last.get(number, 0):
                        found.append(message)
                        gives_up = time.monotonic() + _PATIENCE
                    if _is_end(message) or message.offset() + 1 >= last.get(number, 0):
                        last.pop(number, None)
                if time.monotonic() > gives_up:
                    raise UserError(f"Kafka gives nothing more of {self.topic}.", _AGAIN)
        return replace(self._batch(found, since), until=until)

    def tidy(self) -> None:
        """Kafka does."""

    def committed(self, partitions: Collection[str]) -> Offsets:
        """Offsets of the group."""
        asked = [TopicPartition(self.topic, self._number(name)) for name in partitions]
        if not asked:
            return {}
        # They are not told while a transaction over them is open, be it of one that was killed.
        asking = partial(self._consumer.committed, asked, _PROMPT)
        found = _insist(self._doing, asking, patience=_UNDONE)
        return {self._partition(place.partition): max(place.offset, 0) for place in found}

    def places(self, offsets: Offsets) -> list[TopicPartition]:
        """Offsets as the client has them."""
        return [
            TopicPartition(self.topic, self._number(name), offset)
            for name, offset in offsets.items()
        ]

    def member(self) -> object:
        """Who read the newest batch: its group knows whether the partitions are still theirs."""
        return self._member

    def _take(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        """Begin each new partition where the sink says."""
        self._has_joined = True
        consumer.incremental_assign(self._places([place.partition for place in places]))

    def _leave(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        for place in places:
            self._at.pop(place.partition, None)
        consumer.incremental_unassign(places)

    def _places(self, numbers: Iterable[int]) -> list[TopicPartition]:
        """Where partitions go on; from here on they are read from there."""
        reached = self._reached([self._partition(number) for number in numbers])
        begin = {self._number(name): offset for name, offset in reached.items()}
        self._at.update(begin)
        self._ended -= begin.keys()
        return [self._place(number, offset) for number, offset in begin.items()]

    def _note_member(self) -> None:
        """Keep who is reading; whoever was sent away is told so by what they were before."""
        member = self._consumer.consumer_group_metadata()
        if self._consumer.memberid():
            self._member = member

    def _is_next(self, message: Message) -> bool:
        """Whether a message is one to answer; notes the end of a partition."""
        number = message.partition()
        if _is_end(message):
            self._ended.add(number)
        if not self._is_message(message):
            return False
        self._ended.discard(number)
        # Others were fetched before a partition was given away, or before it was rewound.
        return number in self._at and message.offset() >= self._at[number]

    def _is_message(self, message: Message) -> bool:
        """Whether it is one, not news of another kind.

        Raises:
            UserError: An error that does not pass.
        """
        error = message.error()
        if error is None:
            return True
        if error.name() == "_AUTO_OFFSET_RESET":
            what = f"{self.topic}, partition {message.partition()}: {error.str()}."
            remedy = (
                "Requests were deleted before they were answered. To go on behind them, start once "
                "with `auto.offset.reset: earliest` in `kafka.options`."
            )
            raise UserError(what, remedy)
        _require_passing(self._doing, error)
        if error.name() not in _PASSING and not error.retriable():
            raise UserError(f"Cannot {self._doing}: {error.str()}.", _AGAIN)
        return False

    def _batch(self, messages: Sequence[Message], since: Offsets) -> Batch:
        """Messages as requests, and as dead letters where they are none."""
        until = dict(since)
        for message in messages:
            until[self._partition(message.partition())] = message.offset() + 1
        found = self._reader.read(messages)
        self.sent = found.sent
        return Batch(found.rows, found.unreadable, since, until)

    def _partition(self, number: int) -> str:
        return f"{self._name}{number}"

    def _number(self, partition: str) -> int:
        return int(partition.removeprefix(self._name))

    def _place(self, number: int, offset: int) -> TopicPartition:
        """Where to read a partition on; 0 is wherever it begins by now."""
        return TopicPartition(self.topic, number, offset or OFFSET_BEGINNING)


class Verbatim:
    """Takes answers that another stream published for what they are."""

    def __init__(self, problem: Problem) -> None:
        """Name the columns of the log."""
        self._log = list(tables.inference_log(problem).schema)
        self._letters = tables.dead_letters(problem).empty()

    def follow(self) -> None:
        """There is no version to follow."""

    def score(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """All rows, and no dead letter."""
        return rows.select(self._log), self._letters


class Published:
    """A topic of answers and one of dead letters; a transaction holds them and the offsets."""

    def __init__(self, context: Context, source: Topic) -> None:
        """Take over from whoever had this consumer's name: what they began is undone.

        Args:
            context: Settings.
            source: Whose offsets are recorded.

        Raises:
            UserError: Kafka does not answer, or lacks a topic.
        """
        settings = context.settings.kafka
        self._source = source
        self._predictions = settings.predictions
        self._dead_letters = settings.dead_letters
        for topic in (self._predictions, self._dead_letters):
            _identity(settings, topic)
        self._doing = f"publish to the topics {self._predictions} and {self._dead_letters}"
        own = settings.instance or uuid.uuid4().hex
        self._own = {**_producing(settings), "transactional.id": f"{source.group}-{own}"}
        self._producer = self._begin()

    def offsets(self, partitions: Collection[str]) -> Offsets:
        """Until where all is answered."""
        return self._source.committed(partitions)

    def write(self, batch: Batch, answers: Answers) -> bool:
        """Commit answers and offsets; False where that failed, or the partitions are another's.

        Raises:
            UserError: Another consumer has taken this one's name, or Kafka refuses for good.
        """
        producer, source = self._producer, self._source
        try:
            producer.begin_transaction()
            self._publish(answers)
            offsets, member = source.places(batch.until), source.member()
            _in_time(lambda: producer.send_offsets_to_transaction(offsets, member, _PROMPT))
            producer.commit_transaction(_PROMPT)
        except KafkaException as exception:
            error = exception.args[0]
            if error.name() in {_REPLACED, *_MENDS}:
                raise _final(self._doing, error) from None
        except TimeoutError:
            pass
        else:
            return True
        # It failed, took too long, or is another's by now: offsets and group tell.
        self._producer = self._begin()
        return False

    def tidy(self) -> None:
        """Kafka does."""

    def _begin(self) -> Producer:
        """A producer of this name; what an earlier one left undecided is decided afterwards.

        A commit that was not answered has either happened or is undone: the offsets tell.
        """
        producer = Producer(self._own)
        _insist(self._doing, lambda: producer.init_transactions(_PROMPT), producer)
        return producer

    def _publish(self, answers: Answers) -> None:
        sent = self._source.sent
        for name, value in _as_json(answers.scored):
            _produce(self._producer, self._predictions, value=value, key=sent[name].key())
        refused = answers.refused.select(ID, "reason")
        for name, reason in refused.iter_rows():
            self._bury(sent[name], reason)

    def _bury(self, message: Message, reason: str) -> None:
        """Publish a dead letter as it was sent; one that is too long by now, without its text."""
        why = [("reason", reason.encode()), ("place", place_of(message).encode())]
        whole = [*(message.headers() or ()), *why]
        topic, key = self._dead_letters, message.key()
        try:
            _produce(self._producer, topic, value=message.value(), key=key, headers=whole)
        except KafkaException as exception:
            if exception.args[0].name() != "MSG_SIZE_TOO_LARGE":
                raise
            _produce(self._producer, topic, value=None, key=None, headers=why)


def send(context: Context, rows: Iterable[pl.DataFrame]) -> int:
    """Publish requests, those of an entity in one partition; returns how many.

    Args:
        context: Settings and problem.
        rows: With the columns of the prepared table of the source that is scored.

    Raises:
        UserError: Kafka does not take them all.
    """
    settings = context.settings.kafka
    table = tables.requests(context.problem)
    _identity(settings, settings.requests)
    producer = Producer({**_producing(settings), "enable.idempotence": "true"})
    faults: list[KafkaError] = []

    def note(error: KafkaError | None, message: Message) -> None:
        if error:
            faults.append(error)

    sent = 0
    try:
        for given in rows:
            requests = requests_of(given, table)
            keys = _keys(requests, context.problem.model.keys)
            for key, (_, value) in zip(keys, _as_json(requests), strict=True):
                _produce(producer, settings.requests, value=value, key=key, on_delivery=note)
            sent += requests.height
    except KafkaException as exception:
        faults.append(exception.args[0])
    waiting = producer.flush(_PATIENCE)
    if waiting or faults:
        why = faults[0].str() if faults else "it does not answer"
        message = f"Kafka has not taken all requests for {settings.requests}: {why}."
        mend = _MENDS.get(faults[0].name(), "") if faults else ""
        raise UserError(message, f"{mend} Send what is missing again.".strip())
    return sent


def _as_json(rows: pl.DataFrame) -> Iterable[tuple[str, bytes]]:
    """Each row's request and the row as JSON."""
    lines = rows.write_ndjson().encode().split(b"\n")
    return zip(rows[ID], lines, strict=False)  # the last line is empty


def _keys(rows: pl.DataFrame, keys: Sequence[str]) -> Iterable[bytes]:
    """The entity of each row."""
    return rows.select(keys).write_ndjson().encode().splitlines()


def _produce(producer: Producer, topic: str, **message: Any) -> None:
    """Hand over a message; where many wait, wait for some of them to go."""
    while True:
        try:
            producer.produce(topic, **message)
        except BufferError:
            producer.poll(0.1)
        else:
            return


def _is_end(message: Message) -> bool:
    """Whether it is no message, but the news that its partition has no more."""
    error = message.error()
    return error is not None and error.name() == _END


def _client(settings: KafkaSettings) -> dict[str, Any]:
    """What every client is made with; what it learns of the servers is said once.

    Raises:
        UserError: No servers, or a secret that is not there. The client's methods raise one where
            the servers refuse it for good.
    """
    said: set[str] = set()

    def tell(error: KafkaError) -> None:
        _require_passing(f"reach {settings.servers}", error)
        if error.str() not in said:
            said.add(error.str())
            say(f"[yellow]kafka[/]: {escape(error.str())}")

    return {
        "error_cb": tell,
        "log_level": 2,
        # Brokers that are all away come back. A client that asks for others instead may wait for
        # its coordinator forever (librdkafka's issue 5511).
        "metadata.recovery.strategy": "none",
        "reconnect.backoff.max.ms": "1000",  # as Java's clients
        **connection(settings),
    }


def _group(context: Context, topic: str) -> str:
    """Consumers that share a topic; those of answers are others than those of requests."""
    settings = context.settings.kafka
    group = settings.group or context.settings.mlflow.model
    return group if topic == settings.requests else f"{group}-{topic}"


def _producing(settings: KafkaSettings) -> dict[str, Any]:
    """What every producer is made with; keys go where Java's clients send them."""
    return {"partitioner": "murmur2_random", "linger.ms": 5, **_client(settings)}


def _identity(settings: KafkaSettings, topic: str) -> str:
    """What tells a topic from one that is made anew under its name.

    Raises:
        UserError: Kafka does not answer, or has no such topic.
    """
    doing = f"use the topic {topic} of {settings.servers}"
    try:
        client = AdminClient(_client(settings))
        described = client.describe_topics(TopicCollection([topic]))[topic]
        gives_up = time.monotonic() + _PATIENCE
        while not described.done() and time.monotonic() < gives_up:
            client.poll(_GLANCE)
        return str(described.result(0).topic_id)
    except KafkaException as exception:
        error = exception.args[0]
        _require_passing(doing, error)
        why = error.str()
    except TimeoutError:
        why = "no answer"
    raise UserError(f"Cannot {doing}: {why}.", "Correct `kafka` in conf/, or create the topic.")


def _insist(
    doing: str,
    call: Callable[[], Result],
    client: Producer | None = None,
    patience: float | None = None,
) -> Result:
    """Call Kafka again while its errors pass, for as long as it may take to restart.

    Args:
        doing: What the call is for.
        call: To be made again.
        client: Is let tell meanwhile what it learns of the servers.
        patience: Seconds; by default those in which Kafka must answer.

    Raises:
        UserError: One that does not pass.
    """
    gives_up = time.monotonic() + (patience or _PATIENCE)
    while True:
        try:
            return call()
        except KafkaException as exception:
            error = exception.args[0]
            _require_passing(doing, error)
            is_away = error.retriable() or error.name() in _AWAY
            if not is_away or time.monotonic() > gives_up:
                raise UserError(f"Cannot {doing}: {error.str()}.", _AGAIN) from None
        if client is not None:
            client.poll(0)
        time.sleep(_PAUSE)


def _in_time(call: Callable[[], None]) -> None:
    """Call Kafka where its client may not keep to the time that it is given.

    Source: librdkafka's issue 5456.

    Raises:
        KafkaException: The call did.
        TimeoutError: It took too long, and is left to itself.
    """
    done: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except KafkaException as exception:
            done.set_exception(exception)
        else:
            done.set_result(None)

    threading.Thread(target=run, daemon=True).start()
    done.result(2 * _PROMPT)


def _require_passing(doing: str, error: KafkaError) -> None:
    """End with a message where no other try will help."""
    if error.fatal() or error.name() in _MENDS:
        raise _final(doing, error)


def _final(doing: str, error: KafkaError) -> UserError:
    """Why a consumer cannot go on."""
    if error.name() in _FENCING:
        message = f"Another consumer has taken over from this one: {error.str()}."
        return UserError(message, "Give each a `kafka.instance` of its own, or none.")
    remedy = f"{_MENDS.get(error.name(), '')} {_AGAIN}".strip()
    return UserError(f"Cannot {doing}: {error.str()}.", remedy)
