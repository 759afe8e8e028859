"""What GitHub gives to the scripts of a job: where they write, and how it shows an error."""

from __future__ import annotations

import os

SUMMARY = "GITHUB_STEP_SUMMARY"  # names a file: the page of the run
OUTPUT = "GITHUB_OUTPUT"  # names a file: what later jobs know, as NAME=value
CHANGE = "pull request"
MARKER = "<!-- report of the pull request -->"  # begins the report


def marked(message: str) -> str:
    """An error as the log shows it best."""
    return f"::error::{message}" if os.environ.get("GITHUB_ACTIONS") else f"ci: {message}"
