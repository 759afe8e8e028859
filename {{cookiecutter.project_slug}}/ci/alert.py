"""An issue that is open while something fails: `python3 -m ci.alert TITLE`.

Opened when it turns red, commented while it stays red, closed when it is green. How the jobs ended
comes from the variable NEEDS, the address of the run from RUN.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import jobs
from .errors import CiError, run, variable
from .github import GitHub, connect


def main(arguments: list[str]) -> None:
    """Bring the issue in line with how the jobs ended.

    Raises:
        CiError: Arguments, variables, or GitHub refuses.
    """
    if len(arguments) != 1:
        raise CiError("Usage: python3 -m ci.alert TITLE")
    keep(connect(), arguments[0], jobs.results("NEEDS"), variable("RUN"))


def keep(github: GitHub, title: str, results: Mapping[str, str], link: str) -> None:
    """Open, comment or close the issue of this title; leave others alone."""
    red = any(result not in ("success", "skipped") for result in results.values())
    open_ones = [
        issue["number"]
        for issue in github.every("/issues?state=open")
        if issue["title"] == title and "pull_request" not in issue
    ]
    text = "\n".join([f"[This run]({link})", "", *jobs.table(results)])
    if red and open_ones:
        github.request("POST", f"/issues/{open_ones[0]}/comments", {"body": f"Still red. {text}"})
    elif red:
        github.request(
            "POST",
            "/issues",
            {"title": title, "body": f"{text}\n\nClosed by the next run that is green."},
        )
    for number in [] if red else open_ones:
        github.request("POST", f"/issues/{number}/comments", {"body": f"Green again. {text}"})
        github.request("PATCH", f"/issues/{number}", {"state": "closed"})


if __name__ == "__main__":
    run(main)
