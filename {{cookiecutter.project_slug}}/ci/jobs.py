"""How the jobs before this one ended, and what to do about those that failed."""

from __future__ import annotations

import json

from .errors import CiError, variable

ADVICE = {
    "lint": "`python3 bootstrap.py fix` mends most of it; `lint` and `actionlint` say what is left",
    "types": "`python3 bootstrap.py types`",
    "unit": "`python3 bootstrap.py unit`; `-k NAME` runs one test",
    "integration": "`python3 bootstrap.py integration`; `-k NAME` runs one test",
    "model": "the comparison below; without one, the job's log says which training failed",
    "build": "`python3 bootstrap.py build`",
    "loop": "the failed step's command runs here as well, with `--env dev`",
    "score": "the failed step names the cause; run again, it goes on where it stopped",
}
_MARKS = {"success": "✅", "failure": "❌", "cancelled": "⏹️", "skipped": "⏭️"}


def results() -> dict[str, str]:
    """Result of each job: success, failure, cancelled or skipped; from the variable NEEDS, `toJSON(needs)`.

    Raises:
        CiError: The variable holds something else.
    """
    try:
        return {str(name): str(job["result"]) for name, job in json.loads(variable("NEEDS")).items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CiError("NEEDS is not what `toJSON(needs)` gives.") from None


def table(jobs: dict[str, str]) -> list[str]:
    """Lines of a Markdown table; a failed job with what to do."""
    rows = [
        f"| {name} | {_MARKS.get(result, '')} {result} | {ADVICE.get(name, '') if result == 'failure' else ''} |"
        for name, result in jobs.items()
    ]
    return ["| job | result | what to do |", "|---|---|---|", *rows]
