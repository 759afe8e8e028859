"""Refuse to render over work that git does not keep; one line on stderr, exit code 1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MOST_NAMED = 5


def unsafe(project: Path) -> str | None:
    """Why rendering here could lose work, and what makes it safe; nothing for a new project."""
    if not any(project.iterdir()):
        return None
    command = ["git", "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "."]
    try:
        status = subprocess.run(command, cwd=project, capture_output=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "its files would be lost, and no git repository keeps them: commit them first."
    # Each entry is two letters of state, a space, and the path.
    changed = [entry[3:] for entry in status.stdout.decode(errors="replace").split("\0") if entry]
    if not changed:
        return None
    named = ", ".join(changed[:MOST_NAMED])
    more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
    return f"changes that are not committed could be lost ({named}{more}): commit them first."


def main(project: Path) -> int:
    """Report what rendering could overwrite; returns the exit code."""
    reason = unsafe(project)
    if reason:
        print(f"Cannot render over {project.name}: {reason}", file=sys.stderr)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(Path.cwd()))
