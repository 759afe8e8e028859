"""The HTTP server: few connections at a time, none of which stays for long."""

from __future__ import annotations

import asyncio

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from .bodies import ReadToTheEnd

MOST_CONNECTIONS = 64
LONGEST_SECONDS = 60.0
_BODY_SECONDS = 5.0


class BriefProtocol(H11Protocol):
    """A connection that is cut when its time is over, whatever the other end does meanwhile."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to count; one too many is cut at once."""
        super().connection_made(transport)
        too_many = len(self.connections) > MOST_CONNECTIONS
        self._end = self.loop.call_later(0 if too_many else LONGEST_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting."""
        self._end.cancel()
        super().connection_lost(exc)


def server(application: ASGIApp, host: str, port: int) -> uvicorn.Server:
    """A server that is ready to run."""
    config = uvicorn.Config(
        ReadToTheEnd(application, _BODY_SECONDS),
        host=host,
        port=port,
        http=BriefProtocol,
        log_level="warning",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=5,
    )
    return uvicorn.Server(config)
