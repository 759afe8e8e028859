"""Starts the release of a version that is registered already: `python3 -m ci.dispatch VERSION`.

The receiver of the registry's webhooks runs it for each new version: `webhook --start "python3 -m
ci.dispatch"`. Needs GITHUB_API_URL, GITHUB_REPOSITORY, and a GITHUB_TOKEN that may write the
repository's contents.
"""

from __future__ import annotations

import sys
import time

from .errors import CiError, run
from .github import GitHub, connect

EVENT = "model-version"
# Nobody repeats a request that got lost: the registry's delivery has been acknowledged by then.
_PAUSES_S = (2, 10, 60)


def main(arguments: list[str]) -> None:
    """Ask GitHub for it.

    Raises:
        CiError: Arguments, variables, or GitHub refuses.
    """
    if len(arguments) != 1 or not arguments[0].isdigit():
        raise CiError("Usage: python3 -m ci.dispatch VERSION")
    dispatch(connect(), arguments[0])


def dispatch(github: GitHub, version: str) -> None:
    """Send the event that `release.yml` listens to; when that fails, a few times more.

    Raises:
        CiError: GitHub refuses or does not answer, the last time as well.
    """
    body = {"event_type": EVENT, "client_payload": {"version": version}}
    for pause in _PAUSES_S:
        try:
            github.request("POST", "/dispatches", body)
        except CiError as error:
            print(f"ci: {error} Trying again in {pause} seconds.", file=sys.stderr)
            time.sleep(pause)
        else:
            return
    github.request("POST", "/dispatches", body)


if __name__ == "__main__":
    run(main)
