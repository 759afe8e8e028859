"""How jobs or steps ended, and what to do about those that failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

from .errors import CiError, variable

ADVICE = {
    "lint": "`python3 bootstrap.py fix` mends most of it; `lint` and `actionlint` say what is left",
    "types": "`python3 bootstrap.py types`",
    "unit": "`python3 bootstrap.py unit`; `-k NAME` runs one test",
    "integration": "`python3 bootstrap.py integration`, then `gates`; `-k NAME` runs one test",
    "model": "the comparison below; without one, the job's log says which training failed",
    "build": "`python3 bootstrap.py build`",
    "loop": "the summary of the run names the step; try its command here, with `--env dev`",
    "score": "the summary of the run names the step; run again, it goes on where it stopped",
    "wheel": "only a commit that staging has passed is released: push it to `main` first",
    "ingest": "the log names the source; run again, it goes on where it stopped",
    "prepare": "the log names the check; the reports show the rows that failed it",
    "features": "the log names the table; run again, it goes on where it stopped",
    "train": "the log names what is missing, often days of data",
    "check": "the log names the checks that the version failed; mend the cause and train again",
    "compare": "the version is worse than the champion: the report shows on which slices",
    "request": "as for `compare`; or the champion changed meanwhile: run again",
    "deploy": "the log names the gate; the report shows the numbers",
    "approval": "give the environment `promotion` required reviewers, then run this job again",
    "decide": "the log names the reason; `cli history` shows who moved which version",
    "predict": "without a champion nothing is scored: promote a version; else run again",
    "monitor": "notices are kept and sent again by the next run: are the receivers within reach?",
    "dashboard": "it shows the tables as they are: the log names the one that cannot be read",
    "retrain": "the champion serves as before; run again, it goes on where it stopped",
}
_MARKS = {"success": "✅", "failure": "❌", "cancelled": "⏹️", "skipped": "⏭️"}


def results(name: Literal["NEEDS", "STEPS"]) -> dict[str, str]:
    """Result of each job or step, from a variable: success, failure, cancelled or skipped.

    Raises:
        CiError: The variable does not hold `toJSON(needs)` or `toJSON(steps)`.
    """
    key = {"NEEDS": "result", "STEPS": "outcome"}[name]
    try:
        return {str(part): str(ended[key]) for part, ended in json.loads(variable(name)).items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CiError(f"{name} is not what `toJSON({name.lower()})` gives.") from None


def _advice(name: str, result: str) -> str:
    return ADVICE.get(name, "") if result == "failure" else ""


def table(results: Mapping[str, str], head: str = "job") -> list[str]:
    """Lines of a Markdown table; what failed with what to do."""
    rows = [
        f"| {name} | {_MARKS.get(result, '')} {result} | {_advice(name, result)} |"
        for name, result in results.items()
    ]
    return [f"| {head} | result | what to do |", "|---|---|---|", *rows]
