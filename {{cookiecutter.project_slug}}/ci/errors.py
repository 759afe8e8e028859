"""How a script of this folder ends: well, or with one message."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


class CiError(Exception):
    """Something that whoever reads the log can mend."""


def variable(name: str) -> str:
    """An environment variable that the workflow must set.

    Raises:
        CiError: It is not set.
    """
    if value := os.environ.get(name):
        return value
    raise CiError(f"{name} is not set: the workflow's step must pass it.")


def append_to(name: str, text: str) -> None:
    """Write to the file that the runner names, as GITHUB_OUTPUT; outside a runner, print."""
    if path := os.environ.get(name):
        with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123 append
            file.write(f"{text}\n")
    else:
        print(text)


def run(script: Callable[[list[str]], None]) -> None:
    """Run a script with its arguments; what can be corrected ends in one message, exit code 1."""
    try:
        script(sys.argv[1:])
    except CiError as error:
        print(
            f"::error::{error}" if os.environ.get("GITHUB_ACTIONS") else f"ci: {error}",
            file=sys.stderr,
        )
        sys.exit(1)
