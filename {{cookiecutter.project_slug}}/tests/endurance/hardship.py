"""Run verbs of the command line in turn, some where something is wanting, until each succeeds.

Usage, in a project's folder: `python hardship.py HARDSHIP VERBS TRIED`: JSON lists of verbs, each
with its arguments in one text, and of those that must do without. What is wanting:

disk        after so many writes of a process no file can grow: none at first, one more each time
memory      a process gets less than it imports
permission  nothing in the folder of the data can be written
database    another process has locked MLflow's database
life        a process is killed (-9) at a random moment, so many times in all: `life:SEED:TIMES`

A verb that has failed for want of memory, permission or the database is run again with all it
needs. Each process is a fork of one that has imported everything. Prints how each of them ended, as
a JSON list of [verb, exit code, what it said].
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import shlex
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from {{cookiecutter.package_name}} import cli

from tests.endurance.mortal import IMPORTED, IMPORTED_TOO, WRITES

assert IMPORTED
assert IMPORTED_TOO
End = tuple[str, int, str]
DATA = Path(".data")
DATABASE = DATA / "test" / "mlflow.db"
MEGABYTES = (700, 1_000)
LONGEST_LIFE = {"run": 4.0, "replay": 6.0}  # seconds; of any other verb:
SHORT_LIFE = 0.8
CAPABILITIES_VERSION = 0x20080522  # of the kernel's `capset`


def without_disk(writes: int) -> None:
    """After so many writes, the disk is full for this process."""
    left = [writes]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any, **named: Any) -> Any:
            if not left[0]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            left[0] -= 1
            return function(*arguments, **named)

        return write

    for holder, method, _ in WRITES:
        setattr(holder, method, counted(getattr(holder, method)))


def without_memory(megabytes: int) -> None:
    """Begin anew in an address space that does not hold all that is imported."""
    most = megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    command = [sys.executable, "-m", str(cli.__package__), *sys.argv[1:]]
    os.execv(sys.executable, command)  # noqa: S606 no shell is wanted


def without_privileges() -> None:
    """Obey the permissions of files, also as root."""
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing in a folder can be written."""
    paths = [folder, *folder.rglob("*")]
    modes = [path.stat().st_mode for path in paths]
    for path, mode in zip(paths, modes, strict=True):
        path.chmod(mode & ~0o222)
    yield
    for path, mode in zip(paths, modes, strict=True):
        path.chmod(mode)


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Somebody else holds a database."""
    with closing(sqlite3.connect(database, isolation_level=None)) as held:
        held.execute("BEGIN EXCLUSIVE")
        yield


def ended(verb: str, prepare: Callable[[], None], life: float | None = None) -> End:
    """Run a verb in a process of its own, and kill it after so many seconds."""
    out, said = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.dup2(said, 1)
            os.dup2(said, 2)
            os.close(out)
            sys.argv = ["project", *shlex.split(verb), "--env", "test"]
            prepare()
            cli.main()
            code = 0
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        except BaseException:  # noqa: BLE001 shown as Python shows it
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(said)
    if life is not None:
        time.sleep(life)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(out, encoding="utf-8", errors="replace") as text:
        words = text.read()
    return verb, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), words


def as_it_is() -> None:
    """Nothing is wanting."""


def suffered(hardship: str, verb: str) -> Iterator[End]:
    """Run a verb where something is wanting, until it succeeds."""
    if hardship == "disk":
        for writes in range(1_000):
            end = ended(verb, partial(without_disk, writes))
            yield end
            if end[1] == 0:
                return
    elif hardship == "memory":
        for megabytes in MEGABYTES:
            yield ended(verb, partial(without_memory, megabytes))
    elif hardship == "permission":
        with read_only(DATA):
            yield ended(verb, without_privileges)
    elif DATABASE.exists():
        with locked(DATABASE):
            yield ended(verb, as_it_is)
    yield ended(verb, as_it_is)


def shot(verb: str, draw: random.Random, times: int) -> Iterator[End]:
    """Run a verb, killed so many times at random moments."""
    longest = LONGEST_LIFE.get(shlex.split(verb)[0], SHORT_LIFE)
    for _ in range(times):
        yield ended(verb, as_it_is, draw.uniform(0, longest))
    yield ended(verb, as_it_is)


def run(hardship: str, verbs: list[str], tried: list[str]) -> Iterator[End]:
    """Run verbs in turn; those that are tried must do without something."""
    name, *numbers = hardship.split(":")
    seed, times = map(int, numbers or (0, 0))
    draw = random.Random(seed)  # noqa: S311 nothing is secret
    for number, verb in enumerate(verbs):
        if verb not in tried:
            yield ended(verb, as_it_is)
        elif name == "life":
            share = times * (number + 1) // len(verbs) - times * number // len(verbs)
            yield from shot(verb, draw, share)
        else:
            yield from suffered(name, verb)


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    print(json.dumps(list(run(sys.argv[1], *map(json.loads, sys.argv[2:])))))  # noqa: T201
