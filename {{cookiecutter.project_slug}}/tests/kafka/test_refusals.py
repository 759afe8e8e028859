"""What Kafka refuses for good ends a stream with one message, which says how to mend it."""

from __future__ import annotations

import json

import pytest
from confluent_kafka import KafkaError

from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.inference.stream_kafka import _require_passing, send

from tests.kafka.broker import PASSWORD, USER, unique
from tests.kafka.conftest import PARTITIONS, Line

RIGHTS = (
    ("TOPIC", "requests", "DESCRIBE"),
    ("TOPIC", "requests", "READ"),
    ("TOPIC", "predictions", "DESCRIBE"),
    ("TOPIC", "predictions", "WRITE"),
    ("TOPIC", "dead_letters", "WRITE"),
    ("GROUP", "group", "READ"),
    ("TRANSACTIONAL_ID", "group", "WRITE"),
)
MENDS: dict[tuple[str, ...], str] = {
    ("TOPIC", "dead_letters", "WRITE"): "Cannot use the topic .*Allow the user .* to write",
    ("TOPIC", "requests", "READ"): "Cannot read the topic .*Allow the user to read the topic",
    ("TOPIC", "predictions", "WRITE"): "Cannot publish to the topics .*Allow the user .* to write",
    ("GROUP", "group", "READ"): "Cannot read the topic .*Allow the user to read as the group",
    ("TRANSACTIONAL_ID", "group", "WRITE"): "Cannot publish .*transactional ids that begin with",
}


def guarded(line: Line, *, without: tuple[str, ...] = (), password: str = PASSWORD) -> None:
    """Reach Kafka as a user who may do all that a stream does but one thing."""
    for right in RIGHTS:
        if right != without:
            kind, what, operation = right
            line.broker.allow(kind, line.topic(what), operation)
    who = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": USER}
    line.patch.setenv("PASSWORD_OF_KAFKA", password)
    line.set(
        KAFKA__SERVERS=f"127.0.0.1:{line.broker.guarded}",
        KAFKA__OPTIONS=json.dumps(who),
        KAFKA__SECRETS=json.dumps({"sasl.password": "PASSWORD_OF_KAFKA"}),
        STREAM__SINK="kafka",
    )


def test_with_all_rights_a_stream_answers(line: Line) -> None:
    sent = send(line.context, [line.home.rows])
    guarded(line)
    assert line.stream().scored == sent


@pytest.mark.parametrize("right", MENDS, ids="-".join)
def test_a_right_that_is_missing_is_said(line: Line, right: tuple[str, ...]) -> None:
    # Given
    send(line.context, [line.home.rows])
    guarded(line, without=right)
    # Then
    with pytest.raises(UserError, match=f"(?s){MENDS[right]}"):
        line.stream()


def test_a_wrong_password_is_said(line: Line) -> None:
    guarded(line, password="another")  # noqa: S106 none
    with pytest.raises(UserError, match=r"(?s)Cannot reach .*Correct the user in"):
        line.stream()


def test_an_answer_that_is_too_long_for_its_topic_is_said(line: Line) -> None:
    # Given
    small = unique("predictions")
    line.broker.create(small, partitions=PARTITIONS, **{"max.message.bytes": "100"})
    line.set(KAFKA__PREDICTIONS=small, STREAM__SINK="kafka")
    send(line.context, [line.home.rows])
    # Then
    with pytest.raises(UserError, match=f"(?s)Cannot publish .*{small}.*Raise `max.message.bytes`"):
        line.stream()


def test_requests_that_are_too_long_for_their_topic_are_said(line: Line) -> None:
    # Given
    small = unique("requests")
    line.broker.create(small, partitions=PARTITIONS, **{"max.message.bytes": "100"})
    line.set(KAFKA__REQUESTS=small)
    # Then
    with pytest.raises(UserError, match=f"(?s){small}.*Raise `max.message.bytes`"):
        send(line.context, [line.home.rows])


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError._AUTHENTICATION,
    ],
)
def test_each_refusal_has_a_mend(code: int) -> None:
    with pytest.raises(UserError) as refused:
        _require_passing("do it", KafkaError(code))
    assert refused.value.what.startswith("Cannot do it: ")
    assert refused.value.remedy != "Nothing is lost: start the stream again."


@pytest.mark.parametrize("code", [KafkaError._TRANSPORT, KafkaError.NOT_LEADER_FOR_PARTITION])
def test_what_passes_is_no_refusal(code: int) -> None:
    _require_passing("do it", KafkaError(code))
