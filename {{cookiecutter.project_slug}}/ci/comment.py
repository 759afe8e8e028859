"""One comment on a merge request, kept up to date: `python3 -m ci.comment NUMBER REPORT`."""

from __future__ import annotations

from pathlib import Path

from .errors import CiError, run
from .github import GitHub, connect
from .report import MARKER

_BOT = "Bot"


def main(arguments: list[str]) -> None:
    """Post the report, over the last one if there is one.

    Raises:
        CiError: Arguments, a file that is no report, or GitHub refuses.
    """
    if len(arguments) != 2 or not arguments[0].isdigit():
        raise CiError("Usage: python3 -m ci.comment NUMBER REPORT")
    text = Path(arguments[1]).read_text(encoding="utf-8")
    if not text.startswith(MARKER):
        raise CiError(f"{arguments[1]} does not begin as a report does.")
    post(connect(), int(arguments[0]), text)


def post(github: GitHub, number: int, text: str) -> None:
    """Update the comment that begins with the marker, or add it."""
    for comment in github.every(f"/issues/{number}/comments"):
        # Anybody may write a comment that begins with the marker; only a bot's is ours.
        if comment["body"].startswith(MARKER) and comment["user"]["type"] == _BOT:
            github.request("PATCH", f"/issues/comments/{comment['id']}", {"body": text})
            return
    github.request("POST", f"/issues/{number}/comments", {"body": text})


if __name__ == "__main__":
    run(main)
