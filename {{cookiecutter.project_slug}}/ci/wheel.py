"""The run of staging that tested the commit that is checked out: `python3 -m ci.wheel`.

Writes the outputs `run-id`, whose artifact is the wheel, and `commit`.
"""

from __future__ import annotations

import subprocess

from .errors import CiError, append_to, run
from .github import GitHub, connect


def main(arguments: list[str]) -> None:
    """Find it.

    Raises:
        CiError: Arguments, no such run, or GitHub refuses.
    """
    if arguments:
        raise CiError("Usage: python3 -m ci.wheel")
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    append_to("GITHUB_OUTPUT", f"run-id={tested_by(connect(), commit)}\ncommit={commit}")


def tested_by(github: GitHub, commit: str) -> int:
    """Id of the newest green run of staging for a push of the commit.

    Raises:
        CiError: There is none.
    """
    # The nightly runs do not count: their wheels are not attested.
    query = f"/actions/workflows/staging.yml/runs?head_sha={commit}&event=push&status=success"
    for found in github.request("GET", query)["workflow_runs"]:
        return int(found["id"])
    raise CiError(
        f"Commit {commit} has not passed staging: push it to main first, "
        "and move release to that very commit (git push origin COMMIT:release)."
    )


if __name__ == "__main__":
    run(main)
