"""Scores a version's example, apart from everything.

`python -I -B clean_process.py FOLDER HIDDEN...` is started with an empty environment. The process
gives up the network and the sight of other processes where the system lets it, refuses to write
outside its working folder, to read what is hidden and to start programs, scores the example twice
and then row by row, and prints what it found as JSON: `scores`, `again`, `alone` (each row by
itself), and `cpu_ms`, the median CPU time of a row alone.

That keeps accidents and careless code out. Code that sets out to do harm is stopped by a container.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_REPEATS = 20
_LOOK_S = 120
_IDLE_S = 0.02
# Flags of Linux's unshare(2).
_NEW_NETWORK = 0x40000000
_NEW_USER = 0x10000000
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto")
_PROGRAMS = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.fork")
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod")
_OTHER_PROCESS = re.compile(r"/proc/\d+/")


def main(folder: str, hidden: Sequence[str]) -> None:
    """Score and print."""
    _leave_network()
    import mlflow
    import numpy as np

    threading.Thread(target=end_idle, args=(_give_up,), daemon=True).start()
    sys.addaudithook(_guard(Path(folder), [Path(path) for path in hidden]))
    model = mlflow.pyfunc.load_model(folder)
    example = model.input_example

    def scores(rows: Any) -> list[float]:
        return [float(score) for score in np.asarray(model.predict(rows)).ravel()]

    taken = []
    for _ in range(_REPEATS):
        begun = time.process_time()
        model.predict(example.head(1))
        taken.append(1000 * (time.process_time() - begun))
    rows = (example.iloc[number : number + 1] for number in range(len(example)))
    found = {
        "scores": scores(example),
        "again": scores(example),
        "alone": [score for row in rows for score in scores(row)],
        "cpu_ms": statistics.median(taken),
    }
    print(json.dumps(found))  # noqa: T201 its answer


def _leave_network() -> None:
    """Move to a network of no one else, on Linux; the parent's environment is out of sight, too."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).unshare(_NEW_USER | _NEW_NETWORK)


def end_idle(
    end: Callable[[], None],
    used: Callable[[], float] = time.process_time,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """End a process that sleeps: one that is starved still gets some processor time.

    Args:
        end: Called once no time was used between two looks.
        used: Processor time of the process, in seconds.
        wait: Waits seconds.
    """
    before = used()
    while True:
        wait(_LOOK_S)
        now = used()
        if now - before < _IDLE_S:
            end()
            return
        before = now


def _give_up() -> None:
    os.write(2, f"it sleeps: no processor time used in {_LOOK_S} s\n".encode())
    os._exit(1)


def _guard(folder: Path, hidden: Sequence[Path]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook (PEP 578) that refuses what scoring does not need."""
    home = Path.cwd()
    needed = (home, folder.resolve(), Path(sys.prefix), Path(sys.base_prefix))

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _NETWORK:
            raise PermissionError(f"a version must not use the network: {event} {arguments[1:]}")
        if event in _PROGRAMS:
            raise PermissionError(f"a version must not start programs: {event}")
        if event in _CHANGES and not _is_below(arguments[0], (home,)):
            raise PermissionError(f"a version must not write outside: {event} {arguments[0]}")
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.fsdecode(arguments[0])
            if arguments[2] & _WRITES and path != os.devnull and not _is_below(path, (home,)):
                raise PermissionError(f"a version must not write outside: {path}")
            is_secret = _is_below(path, hidden) and not _is_below(path, needed)
            if is_secret or (_OTHER_PROCESS.match(path) and str(os.getpid()) not in path):
                raise PermissionError(f"a version must not read {path}")

    return refuse


def _is_below(path: Any, folders: Sequence[Path]) -> bool:
    place = Path(os.path.realpath(os.fsdecode(path)))
    return any(place.is_relative_to(folder) for folder in folders)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
