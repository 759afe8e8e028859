"""Notes of a release, from CHANGELOG.md: `python3 -m ci.notes TAG FILE`."""

from __future__ import annotations

import re
from pathlib import Path

from .errors import CiError, run

CHANGELOG = Path("CHANGELOG.md")


def main(arguments: list[str]) -> None:
    """Write them.

    Raises:
        CiError: Arguments, or nothing is noted of this version.
    """
    if len(arguments) != 2:
        raise CiError("Usage: python3 -m ci.notes TAG FILE")
    tag, file = arguments
    text = CHANGELOG.read_text(encoding="utf-8")
    Path(file).write_text(notes(text, tag.removeprefix("v")), encoding="utf-8")


def notes(changelog: str, version: str) -> str:
    """The entry of a version: what stands under `## [1.2.0]` until the next entry.

    Raises:
        CiError: There is none, or it is empty.
    """
    entries = re.split(r"^## \[([^\]]+)\].*$", changelog, flags=re.MULTILINE)
    found = dict(zip(entries[1::2], entries[2::2], strict=True)).get(version, "").strip()
    if not found:
        raise CiError(f"CHANGELOG.md has no entry [{version}], or an empty one: write it first.")
    return f"{found}\n"


if __name__ == "__main__":
    run(main)
