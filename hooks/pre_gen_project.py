"""Refuse to render over work that is not committed; one line on stderr, exit code 1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MOST_NAMED = 5


def uncommitted(project: Path) -> list[str]:
    """Paths of files that git keeps and whose changes it does not; none outside a repository."""
    command = ["git", "status", "--porcelain", "-z", "--untracked-files=no", "--", "."]
    try:
        status = subprocess.run(command, cwd=project, capture_output=True, check=False, text=True)
    except FileNotFoundError:
        return []
    return [entry[3:] for entry in status.stdout.split("\0") if entry[2:3] == " "]


def main(project: Path) -> int:
    """Report what rendering would overwrite; returns the exit code."""
    changed = uncommitted(project)
    if not changed:
        return 0
    named = ", ".join(changed[:MOST_NAMED])
    more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
    print(
        f"Cannot render over {project}: changes of {named}{more} would be lost. Commit them first.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(Path.cwd()))
