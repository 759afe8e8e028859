"""Processes that are killed (-9): forks of one process that has imported everything.

They run in a project's folder, where `PROGRESS` tells how far the newest one has come: a byte for
each call of what it tells of. So a process is killed in the middle of its work, however fast it is.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from {{cookiecutter.package_name}} import cli

PROGRESS = Path(".data/progress")
KILLS = int(os.environ.get("KILLS", "5"))
"""How often a test kills: a hundred takes ten minutes."""


def started(function: Callable[[], object], said: str = os.devnull) -> int:
    """Run a function in a process of its own; returns its number.

    Args:
        function: What to run; a verb may end it with its exit code.
        said: File that what it prints is added to.
    """
    PROGRESS.parent.mkdir(exist_ok=True)
    PROGRESS.write_bytes(b"")
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        function()
        code = 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    except Exception as error:  # noqa: BLE001 whatever it is, the test tells it
        print(error, file=sys.stderr)  # noqa: T201
    finally:
        os._exit(code)


def verb(*arguments: str) -> None:
    """Call a verb of the command line."""
    sys.argv = ["project", *arguments]
    cli.main()


def ended(child: int) -> int:
    """How a process ended: its exit code, or -9."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def tell_of(module: Any, name: str) -> None:
    """Let each call of a module's function, or of a class's, add to `PROGRESS` as it begins."""
    function = getattr(module, name)

    def begin(*given: Any, **named: Any) -> Any:
        with PROGRESS.open("ab") as progress:
            progress.write(b".")
        return function(*given, **named)

    setattr(module, name, begin)


def kill(child: int, calls: int, seconds: float) -> bool:
    """Kill a process so long after the so many-th call it tells of; whether it was still alive."""
    while PROGRESS.stat().st_size < calls:
        time.sleep(0.002)
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return ended(child) == -signal.SIGKILL


def kill_many(
    start: Callable[[int], int], kills: int, seed: int, calls: int, span: float = 0.1
) -> int:
    """Kill processes at random moments, one after the other; returns how many were still alive.

    Args:
        start: Starts one, as `started` does, given how many there were; returns its number.
        kills: How many.
        seed: Draws the moments.
        calls: A process is killed after one of so many first calls that it tells of.
        span: Seconds after the call until when it is killed.
    """
    draw = random.Random(seed)  # noqa: S311 no secret
    return sum(
        kill(start(number), draw.randint(1, calls), draw.uniform(0, span))
        for number in range(kills)
    )
