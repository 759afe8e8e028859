"""Who approved this run for an environment, as output `who`: `python3 -m ci.approver NAME`."""

from __future__ import annotations

from .errors import CiError, append_to, run, variable
from .github import GitHub, connect


def main(arguments: list[str]) -> None:
    """Find out.

    Raises:
        CiError: Arguments, nobody approved, or GitHub refuses.
    """
    if len(arguments) != 1:
        raise CiError("Usage: python3 -m ci.approver ENVIRONMENT")
    who = approver(connect(), variable("GITHUB_RUN_ID"), arguments[0])
    append_to("GITHUB_OUTPUT", f"who={who}")


def approver(github: GitHub, run_id: str, environment: str) -> str:
    """The person who approved; where a job was repeated, one of those who did.

    Raises:
        CiError: Nobody did: the environment asks for no review.
    """
    reviews = [
        review
        for review in github.request("GET", f"/actions/runs/{run_id}/approvals")
        if review["state"] == "approved"
        and environment in {entry["name"] for entry in review["environments"]}
    ]
    if not reviews:
        raise CiError(
            f"Nobody approved this run for the environment {environment}. "
            f"Give it required reviewers (Settings, Environments, {environment}), "
            "then run this job again."
        )
    return str(reviews[-1]["user"]["login"])


if __name__ == "__main__":
    run(main)
