"""Bodies of requests: read within limits, and to their end before anything is answered.

A server that answers while a body is still on its way closes the connection under the hands of who
sends it: what arrives there is no answer, only a broken pipe.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .requests import RequestError

MOST_DROPPED = 16 * 2**20  # bytes
_TOO_SLOW = 408


async def read_body(scope: Scope, receive: Receive, max_bytes: int, seconds: float) -> bytes:
    """The body, within limits of size and time.

    Raises:
        RequestError: 400 where it breaks off, 408 or 413 where it is beyond a limit.
    """
    length = declared_bytes(scope)
    if length is not None and length > max_bytes:
        raise _too_large(max_bytes)
    ends = time.monotonic() + seconds
    parts = []
    size = 0
    more = True
    while more:
        message = await _within(receive, ends, seconds)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > max_bytes:
            raise _too_large(max_bytes)
        more = message.get("more_body", False)
    return b"".join(parts)


def declared_bytes(scope: Scope) -> int | None:
    """How long the body is, by the request's own word: none where it does not say."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None


class ReadToTheEnd:
    """An application each of whose answers waits until the body of its request has arrived.

    What the application leaves of a body is dropped. Nobody can hold a worker by it: a body that
    says it is too long, or takes too long, is answered at once, and so is who waits to be told that
    a body is welcome (`Expect: 100-continue`).
    """

    def __init__(self, application: ASGIApp, seconds: float, most: int = MOST_DROPPED) -> None:
        """Wrap an application.

        Args:
            application: Of ASGI.
            seconds: How long an answer waits for what is left of a body.
            most: Bytes of a body that are dropped.
        """
        self._application = application
        self._seconds = seconds
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or not _comes_by_itself(scope, self._most):
            await self._application(scope, receive, send)
            return
        more = True

        async def watched() -> Message:
            nonlocal more
            message = await receive()
            more = message.get("more_body", False)
            return message

        async def late(message: Message) -> None:
            starts = message["type"] == "http.response.start"
            if more and starts and message["status"] != _TOO_SLOW:
                await self._drop(receive)
            await send(message)

        await self._application(scope, watched, late)

    async def _drop(self, receive: Receive) -> None:
        dropped = 0
        more = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                while more and dropped < self._most:
                    message = await receive()
                    dropped += len(message.get("body", b""))
                    more = message.get("more_body", False)


def _comes_by_itself(scope: Scope, most: int) -> bool:
    """Whether there is a body that is sent whatever is answered, and not too much of it."""
    named = {name for name, _ in scope["headers"]}
    if b"expect" in named:
        return False
    length = declared_bytes(scope)
    return b"transfer-encoding" in named if length is None else 0 < length <= most


async def _within(receive: Receive, ends: float, seconds: float) -> Message:
    try:
        async with asyncio.timeout(max(ends - time.monotonic(), 0)):
            message = await receive()
    except TimeoutError:
        detail = f"The body took longer than {seconds:g} seconds."
        raise RequestError(_TOO_SLOW, "too-slow", detail) from None
    if message["type"] == "http.disconnect":
        raise RequestError(400, "invalid-request", "The body did not arrive.")
    return message


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(413, "too-large", f"The body is larger than {max_bytes:,} bytes.")
