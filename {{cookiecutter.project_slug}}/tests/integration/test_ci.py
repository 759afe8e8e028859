from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ci.errors import CiError
from ci.github import GitHub


class Api(BaseHTTPRequestHandler):
    """Answers by path; remembers nothing."""

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        status = {"moved": 302, "refused": 403, "gone": 404, "dispatches": 204}.get(name, 200)
        content = {"html": b"<html>", "dispatches": b""}.get(
            name, json.dumps(dict(self.headers)).encode()
        )
        self.send_response(status)
        self.send_header("Location", "http://127.0.0.2/elsewhere")
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815 name of the base class

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[GitHub]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield GitHub(f"http://127.0.0.1:{server.server_port}", "a/b", "secret")
        server.shutdown()


def test_a_request_carries_the_token(api: GitHub) -> None:
    headers = api.request("GET", "/issues")
    assert headers["Authorization"] == "Bearer secret"


def test_an_answer_without_content_is_none(api: GitHub) -> None:
    assert api.request("POST", "/dispatches", {"event_type": "any"}) is None


def test_a_redirect_is_not_followed(api: GitHub) -> None:
    with pytest.raises(CiError, match="refused GET /moved with 302"):
        api.request("GET", "/moved")


@pytest.mark.parametrize("path", ["/refused", "/gone"])
def test_a_refusal_points_to_permissions(api: GitHub, path: str) -> None:
    with pytest.raises(CiError, match=r"Does the token allow it \(a job's: its `permissions`\)"):
        api.request("GET", path)


def test_what_is_not_github_is_said(api: GitHub) -> None:
    with pytest.raises(CiError, match="does not answer GET /html"):
        api.request("GET", "/html")
    with pytest.raises(CiError, match="does not answer"):
        GitHub("http://127.0.0.1:9", "a/b", "secret").request("GET", "/issues")
