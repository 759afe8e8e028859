"""The server: workers that answer, and three loops beside them that follow, publish and ship.

Workers are processes of granian that import neither MLflow nor LightGBM's package. What takes long
or may fail (registry, feature tables, Delta) is done here, so that no answer waits for it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path

import msgspec

from ..context import Context
from ..core.console import say
from ..core.errors import UserError
from ..core.failures import explain
from ..reporting import pages
from .access import SCOPES
from .api import DESCRIPTION, JOURNAL, PAGE, STATUS, WAKE, Config
from .follower import Follower
from .pointer import VERSIONS, read_pointer
from .records import Records
from .requests import PROBLEM_TYPES, openapi
from .shipping import ship

_STOP_SECONDS = 10
_LOOK_SECONDS = 0.05
_WAITING_REQUESTS = 512


def folder_of_server(context: Context) -> Path:
    """Where a server keeps its versions, its request log and its pages."""
    return context.settings.state / "serving"


def tokens_of(context: Context) -> Path:
    """The file of an environment's tokens."""
    settings = context.settings
    return Path(settings.serving.tokens or settings.state / "tokens.json")


def serve(context: Context, host: str, port: int, workers: int) -> None:
    """Answer requests until told to stop; what was answered is then shipped.

    Raises:
        UserError: An address that others reach without tokens for them, columns that JSON cannot
            name, no champion, or one that fails its test, an online store that cannot be filled; or
            the workers ended.
    """
    folder = folder_of_server(context)
    if not is_loopback(host) and not tokens_of(context).exists():
        message = f"Anybody who reaches {host} could ask for predictions."
        raise UserError(message, "Give out a token first: `token NAME`.")
    (folder / VERSIONS).mkdir(parents=True, exist_ok=True)
    write_pages(context, folder)
    Records(context.problem)  # a column that no line of the log can hold is refused here
    follower = Follower(context, folder)
    _begin(context, follower, folder)
    settings = context.settings.serving
    loops = Loops(folder)
    loops.start("follow", follower.follow, settings.poll_seconds, folder / WAKE)
    loops.start("sync", context.publish, settings.sync_seconds)
    loops.start("ship", lambda: ship(context, folder / JOURNAL), settings.ship_seconds)
    command = [sys.executable, "-m", "granian", "--interface", "asgi", "--factory", "--no-ws"]
    command += ["--host", host, "--port", str(port), "--workers", str(workers)]
    command += ["--backpressure", str(_WAITING_REQUESTS), "--log-level", "warning"]
    command += ["--respawn-failed-workers", "--respawn-interval", "1"]
    command += ["--workers-kill-timeout", str(_STOP_SECONDS)]
    command.append(f"{__package__!s}.api:application")
    with subprocess.Popen(command, env=_environment(context, folder)) as process:
        for stop in (signal.SIGTERM, signal.SIGINT):
            signal.signal(stop, lambda *_: process.terminate())
        say(f"http://{host}:{port}/docs answers for the champion; Ctrl-C ends it.")
        code = process.wait()
    loops.stop()
    ship(context, folder / JOURNAL)
    if code not in {0, -signal.SIGTERM}:
        message = f"The workers ended with exit code {code}."
        raise UserError(message, "See what they wrote above; is the port in use?")


class Loops:
    """What is done again and again beside the workers; what fails is said and tried again."""

    def __init__(self, folder: Path) -> None:
        """None is started yet."""
        self._status = folder / STATUS
        self._faults: dict[str, str] = {}
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._writing = threading.Lock()
        self._tell("", "")

    def start(
        self, name: str, work: Callable[[], object], seconds: float, wake: Path | None = None
    ) -> None:
        """Do some work now and then, in a thread of its own.

        Args:
            name: Of the work.
            work: What to do.
            seconds: Between two times.
            wake: File that is written when it should be done at once.
        """

        def run() -> None:
            while not self._wait(seconds, wake):
                try:
                    work()
                except BaseException as error:  # noqa: BLE001 the next time it may work
                    self._tell(name, (explain(error) or repr(error)).partition("\n")[0])
                else:
                    self._tell(name, "")

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def stop(self) -> None:
        """Let what is under way come to its end."""
        self._ended.set()
        for thread in self._threads:
            thread.join(_STOP_SECONDS)

    def _wait(self, seconds: float, wake: Path | None) -> bool:
        """Wait until it is time, or somebody wakes; returns whether all should end."""
        if wake is None:
            return self._ended.wait(seconds)
        ends, before = time.monotonic() + seconds, _written_at(wake)
        while time.monotonic() < ends and _written_at(wake) == before:
            if self._ended.wait(_LOOK_SECONDS):
                return True
        return self._ended.is_set()

    def _tell(self, name: str, fault: str) -> None:
        """Keep for the workers' health what fails."""
        with self._writing:
            before = self._faults.get(name, "")
            if fault:
                self._faults[name] = fault
            else:
                self._faults.pop(name, None)
            if fault != before and name:
                say(f"[yellow]{name}[/]: {fault or 'works again'}")
            if fault != before or not name:
                partial = self._status.with_name(f".{STATUS}.partial")
                partial.write_bytes(msgspec.json.encode(self._faults))
                partial.replace(self._status)


def _written_at(path: Path) -> int:
    """When a file was last written, in nanoseconds; 0 where it is not there."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def write_pages(context: Context, folder: Path) -> None:
    """Write the description of the interface, for programs and for people."""
    title = context.settings.mlflow.model
    described = openapi(context.problem, title, context.settings.serving.max_rows)
    (folder / DESCRIPTION).write_bytes(msgspec.json.format(msgspec.json.encode(described)))
    page = pages.render(
        "api.html.jinja",
        name=title,
        problem=context.problem,
        schemas=described["components"]["schemas"],
        failures=PROBLEM_TYPES,
        scopes=SCOPES,
    )
    pages.write(folder / PAGE, page)


def config_of(context: Context, folder: Path) -> Config:
    """What workers are told."""
    settings = context.settings.serving
    return Config(
        problem=context.settings.problem,
        folder=str(folder),
        online=str(context.settings.state / "online"),
        redis=context.settings.online.redis,
        model=context.settings.mlflow.model,
        tokens=str(tokens_of(context)),
        max_rows=settings.max_rows,
        max_bytes=settings.max_kb * 1024,
        body_seconds=settings.body_seconds,
        rate=settings.rate,
        log_bytes=settings.log_mb * 2**20,
        ship_seconds=settings.ship_seconds,
        share=settings.challenger_share,
        challenger_answers=settings.challenger_answers,
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _begin(context: Context, follower: Follower, folder: Path) -> None:
    """Fill the online store and fetch the champion; a server that has both starts without."""
    try:
        context.publish()
        follower.follow()
    except UserError as error:
        if read_pointer(folder) is None:
            raise
        say(f"[yellow]{error.what}[/] The last champion answers.")


def _environment(context: Context, folder: Path) -> Mapping[str, str]:
    """Environment variables of the workers: one thread each, and where they find things."""
    config = folder / "config.json"
    config.write_bytes(msgspec.json.encode(config_of(context, folder)))
    counters = folder / "counters"
    shutil.rmtree(counters, ignore_errors=True)
    counters.mkdir()
    return {
        **os.environ,
        "SERVING_CONFIG": str(config),
        "PROMETHEUS_MULTIPROC_DIR": str(counters),
        "POLARS_MAX_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
