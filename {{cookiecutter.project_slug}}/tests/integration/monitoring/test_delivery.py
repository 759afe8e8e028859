from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import polars as pl
import pytest

from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.monitoring import alerts

from tests.integration.monitoring.conftest import ENDS, Production
from tests.integration.monitoring.test_alerts import WEEK, alert, configure, notices

SECRET = "hush-3f2a"  # noqa: S105 only for tests


@dataclass
class Receiver:
    """A web hook on loopback: how it answers, one after the other, and what it was told."""

    port: int
    answers: list[int] = field(default_factory=list)  # 0: it hangs; none left: it accepts
    told: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"json://user:{SECRET}@127.0.0.1:{self.port}/{SECRET}?rto=0.3&cto=0.3"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = listening.answers.pop(0) if listening.answers else 200
            if answer == 200:
                listening.told.append(body["message"])
            threading.Event().wait(0 if answer else 1)
            self.send_response(answer or 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        listening = Receiver(server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield listening
        server.shutdown()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that delivery would wait between attempts; it does not."""
    waited: list[float] = []
    monkeypatch.setattr(f"{alerts.__name__}.time.sleep", waited.append)
    return waited


@pytest.fixture
def watched(
    production: Production, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> Production:
    """Production whose alerts go to the receiver; the first has opened."""
    monkeypatch.setenv("ALERT_URL", receiver.address)
    configure(production.context, receivers=("ALERT_URL",))
    assert alert(production.context, ENDS, "drift", "violated")
    return production


def waiting(production: Production) -> int:
    return notices(production.context).filter(pl.col("sent_at").is_null()).height


def test_a_notice_arrives_once(watched: Production, receiver: Receiver) -> None:
    alerts.deliver(watched.context)
    alerts.deliver(watched.context)
    assert len(receiver.told) == 1
    assert "opened: drift is violated" in receiver.told[0]
    assert waiting(watched) == 0


def test_a_receiver_that_stumbles_is_tried_again_with_patience(
    watched: Production, receiver: Receiver, waits: list[float]
) -> None:
    receiver.answers = [500, 503]
    alerts.deliver(watched.context)
    assert (len(receiver.told), [it for it in waits if it]) == (1, [1, 2])


@pytest.mark.parametrize("answers", [[500] * 3, [0] * 3])
def test_nothing_is_lost_while_a_receiver_fails_or_hangs(
    watched: Production, receiver: Receiver, waits: list[float], answers: list[int]
) -> None:
    receiver.answers = answers
    with pytest.raises(UserError, match=r"1 for ALERT_URL \(no success in 3 attempts\)"):
        alerts.deliver(watched.context)
    assert waiting(watched) == 1
    # when it comes back, a week and another notice later
    assert alert(watched.context, ENDS + WEEK, "drift", "ok")
    alerts.deliver(watched.context)
    # then both arrive, in order
    [message] = receiver.told
    assert message.index("opened: drift") < message.index("recovered: drift")
    assert waiting(watched) == 0


def test_a_receiver_that_is_down_keeps_none_waiting_but_itself(
    watched: Production, receiver: Receiver, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOWN_URL", f"json://user:{SECRET}@127.0.0.1:1/")
    configure(watched.context, receivers=("DOWN_URL", "ALERT_URL"))
    alert(watched.context, ENDS, "scored", "violated")
    with pytest.raises(UserError, match="1 for DOWN_URL"):
        alerts.deliver(watched.context)
    assert len(receiver.told) == 1
    assert waiting(watched) == 1


def test_secrets_are_not_shown(
    watched: Production, receiver: Receiver, waits: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    receiver.answers = [500] * 3
    with pytest.raises(UserError) as stopped:
        alerts.deliver(watched.context)
    said = capfd.readouterr()
    rows = notices(watched.context).write_csv()
    assert SECRET not in said.out + said.err + str(stopped.value) + rows
