"""Bodies of requests: within limits, and at their end before anything is answered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from {{cookiecutter.package_name}}.serving.bodies import ReadToTheEnd, read_body
from {{cookiecutter.package_name}}.serving.requests import RequestError

PARTS = [b"a" * 100] * 5
Headers = list[tuple[bytes, bytes]]
CHUNKED: Headers = [(b"transfer-encoding", b"chunked")]


def declared(size: int) -> Headers:
    """What says how long a body is."""
    return [(b"content-length", str(size).encode())]


class Wire:
    """A request on its way: what has been taken of it, and what was answered when."""

    def __init__(self, parts: list[bytes], *, is_cut: bool = False) -> None:
        """Let so many parts come, and then the end or no more."""
        self._parts = list(parts)
        self._is_cut = is_cut
        self.sent: list[tuple[str, int]] = []

    async def receive(self) -> Message:
        """The next part; waits for ever where none comes."""
        if not self._parts:
            await asyncio.Event().wait()
        part = self._parts.pop(0)
        more = bool(self._parts) or self._is_cut
        return {"type": "http.request", "body": part, "more_body": more}

    async def send(self, message: Message) -> None:
        """Note what is answered, and how many parts had not been taken then."""
        self.sent.append((message["type"], len(self._parts)))


def refusing(status: int) -> ASGIApp:
    """An application that looks at no body."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return application


def left_by(
    application: ASGIApp, headers: Headers, *, is_cut: bool = False, **limits: Any
) -> list[int]:
    """How many parts had not been taken when the answer started, and when it ended."""
    wire = Wire(PARTS, is_cut=is_cut)
    whole = ReadToTheEnd(application, **{"seconds": 60.0, **limits})
    scope = {"type": "http", "headers": headers}
    asyncio.run(whole(scope, wire.receive, wire.send))
    assert [kind for kind, _ in wire.sent] == ["http.response.start", "http.response.body"]
    return [left for _, left in wire.sent]


@pytest.mark.parametrize("status", [200, 401, 404, 413, 500])
@pytest.mark.parametrize("headers", [declared(500), CHUNKED])
def test_an_answer_waits_for_the_whole_body(headers: Headers, status: int) -> None:
    assert left_by(refusing(status), headers) == [0, 0]


@pytest.mark.parametrize(
    "headers",
    [[], declared(0), declared(1_001), [*declared(500), (b"expect", b"100-continue")]],
)
def test_what_does_not_come_by_itself_is_not_waited_for(headers: Headers) -> None:
    assert left_by(refusing(404), headers, most=1_000) == [5, 5]


def test_who_was_too_slow_is_not_waited_for_again() -> None:
    assert left_by(refusing(408), declared(500)) == [5, 5]


def test_a_body_without_end_is_answered() -> None:
    assert left_by(refusing(413), CHUNKED, most=250) == [2, 2]


def test_a_body_that_stops_coming_is_answered() -> None:
    assert left_by(refusing(413), CHUNKED, is_cut=True, seconds=0.01) == [0, 0]


def test_an_application_that_reads_gets_every_part() -> None:
    read = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        read.append(await read_body(scope, receive, 500, 60.0))
        await refusing(200)(scope, receive, send)

    assert left_by(application, declared(500)) == [0, 0]
    assert read == [b"".join(PARTS)]


@pytest.mark.parametrize(
    ("headers", "seconds", "status"),
    [(declared(500), 60.0, 413), (CHUNKED, 60.0, 413), (declared(5), 0.0, 408)],
)
def test_a_body_beyond_a_limit_is_refused(headers: Headers, seconds: float, status: int) -> None:
    wire = Wire([] if status == 408 else PARTS)
    with pytest.raises(RequestError) as raised:
        asyncio.run(read_body({"headers": headers}, wire.receive, 499, seconds))
    assert raised.value.status == status
