"""How a script of this folder ends: well, or with one message."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from .forge import marked


class CiError(Exception):
    """Something that whoever reads the log can correct."""


def append_to(name: str, text: str) -> None:
    """Write to the file that a variable of the runner names; without one: print."""
    if path := os.environ.get(name):
        with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123 append
            file.write(f"{text}\n")
    else:
        print(text)


def run(script: Callable[[list[str]], None]) -> None:
    """Run a script with the arguments of the command line; an error is one message, exit code 1."""
    try:
        script(sys.argv[1:])
    except CiError as error:
        print(marked(str(error)), file=sys.stderr)
        sys.exit(1)
