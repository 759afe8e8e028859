"""Processes that are killed (-9): forks of one process that has imported everything.

They run in a project's folder, where `BEGUN` tells that the newest one is at work.
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

BEGUN = Path(".data/begun")
KILLS = int(os.environ.get("KILLS", "5"))
"""How often a test kills: a hundred takes ten minutes."""


def started(function: Callable[[], object], said: str = os.devnull) -> int:
    """Run a function in a process of its own; returns its number.

    Args:
        function: What to run; a verb may end it with its exit code.
        said: File that what it prints is added to.
    """
    BEGUN.parent.mkdir(exist_ok=True)
    BEGUN.unlink(missing_ok=True)
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
    """Let each call of a module's function say so with `BEGUN`."""
    function = getattr(module, name)

    def begin(*given: Any, **named: Any) -> Any:
        BEGUN.touch()
        return function(*given, **named)

    setattr(module, name, begin)


def kill(child: int, seconds: float) -> bool:
    """Kill a process so long after it has begun; whether it was still alive."""
    while not BEGUN.exists():
        time.sleep(0.002)
        if os.waitpid(child, os.WNOHANG)[0]:
            sys.exit("A process ended before it began.")
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return ended(child) == -signal.SIGKILL


def kill_many(start: Callable[[], int], kills: int, seed: int, span: float) -> int:
    """Kill processes at random moments, one after the other; returns how many were still alive.

    Args:
        start: Starts one, as `started` does; returns its number.
        kills: How many.
        seed: Draws the moments.
        span: Seconds after it has begun until when a process is killed.
    """
    draw = random.Random(seed)  # noqa: S311 no secret
    return sum(kill(start(), draw.uniform(0, span)) for _ in range(kills))
