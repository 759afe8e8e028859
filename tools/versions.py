"""Tag the versions of the template that the changelog names.

Usage: `python tools/versions.py`, on a clone with its history.

The changelog, not the tags, says which commit a version is: clones and mirrors may lack tags.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHANGELOG = ROOT / "CHANGELOG.md"
HEADING = re.compile(r"^## \[(?P<version>\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", re.MULTILINE)
COMMIT = re.compile(r"^Commit `(?P<commit>[0-9a-f]{40})`\.$", re.MULTILINE)


@dataclass(frozen=True)
class Version:
    """A version that the changelog describes."""

    number: str
    """By semantic versioning: major.minor.patch."""
    commit: str | None
    """What it consists of; nothing before the release is committed."""
    notes: str
    """What changed, and what somebody who updates must do."""


def versions() -> list[Version]:
    """All versions of the changelog, the newest first."""
    text = CHANGELOG.read_text(encoding="utf-8")
    headings = list(HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    return [
        described(heading["version"], text[heading.end() : end])
        for heading, end in zip(headings, ends, strict=True)
    ]


def described(number: str, notes: str) -> Version:
    """A version by what stands under its heading."""
    found = COMMIT.search(notes)
    return Version(number, found["commit"] if found else None, notes)


def tag(version: Version) -> str:
    """Tag a version unless it is; returns what was done, for the terminal.

    Raises:
        subprocess.CalledProcessError: The commit is not in this clone.
    """
    name = f"v{version.number}"
    if version.commit is None:
        return f"{name}: not committed yet"
    known = ("git", "rev-parse", "--quiet", "--verify", f"refs/tags/{name}")
    if subprocess.run(known, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode == 0:
        return f"{name}: tagged already"
    message = f"Version {version.number}"
    command = ("git", "tag", "--annotate", "--message", message, name, version.commit)
    subprocess.run(command, cwd=ROOT, check=True)
    return f"{name}: tagged {version.commit}"


def main() -> int:
    """Tag what is not tagged yet; returns the exit code."""
    for version in versions():
        try:
            print(tag(version))
        except subprocess.CalledProcessError:
            print(f"Version {version.number} was not tagged: see above.", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
