"""Where a version comes from: the commit, the lock, the source, and a digest of its files."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# MLflow adds this file beside a model that it fetches through the registry.
_ADDED_BY_MLFLOW = "registered_model_meta"
_PACKAGE = Path(__file__).parents[1]


def artifact_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files of a model, cached bytecode included."""
    lines = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != _ADDED_BY_MLFLOW:
            lines.append(f"{name}\0{_sha256(path.read_bytes())}\n")
    return _sha256("".join(lines).encode())


def provenance(project: Path) -> dict[str, str]:
    """What code this is.

    Args:
        project: Folder of the project, a git work tree or not.

    Returns:
        git_commit, git_dirty (whether files differ from it), and digests of the lock and of the
        source; `none` or `unknown` where there is nothing to tell.
    """
    changes = _git(project, "status", "--porcelain")
    lock = project / "requirements" / "run.txt"
    sources = sorted(_PACKAGE.rglob("*.py"))
    return {
        "git_commit": _git(project, "rev-parse", "HEAD") or "none",
        "git_dirty": "unknown" if changes is None else str(bool(changes)).lower(),
        "lock_sha256": _sha256(lock.read_bytes()) if lock.is_file() else "none",
        "source_sha256": _sha256(b"".join(path.read_bytes() for path in sources)),
    }


def fingerprint(parts: Mapping[str, Any]) -> str:
    """A short identity: equal parts, equal fingerprint."""
    return _sha256(json.dumps(parts, sort_keys=True, default=str).encode())[:12]


def _git(project: Path, *arguments: str) -> str | None:
    """What git says of the project; None where it cannot."""
    command = ["git", "-C", str(project), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
