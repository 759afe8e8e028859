"""What the pipeline gives to the scripts of a job: where they write, and how it shows an error."""

from __future__ import annotations

SUMMARY = "SUMMARY_FILE"  # names a file: what a job says at its end; without one it is printed
OUTPUT = "OUTPUT_FILE"  # names a file: what later jobs know, as NAME=value
CHANGE = "merge request"
MARKER = "<!-- report of the merge request -->"  # begins the report


def marked(message: str) -> str:
    """An error as the log shows it best."""
    return f"ci: {message}"
