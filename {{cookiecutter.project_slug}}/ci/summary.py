"""How the steps of a job ended and what to do, in the summary of the run: `python3 -m ci.summary`.

Reads STEPS, `toJSON(steps)`, whose steps with an id it shows, and the address of the reports from
REPORTS.
"""

from __future__ import annotations

import os

from . import jobs
from .errors import CiError, append_to, run


def main(arguments: list[str]) -> None:
    """Write the summary.

    Raises:
        CiError: Arguments or variables.
    """
    if arguments:
        raise CiError("Usage: python3 -m ci.summary")
    lines = jobs.table(jobs.results("STEPS"), "step")
    if link := os.environ.get("REPORTS"):
        lines += ["", f"[Reports of this run]({link})"]
    append_to("GITHUB_STEP_SUMMARY", "\n".join(lines))


if __name__ == "__main__":
    run(main)
