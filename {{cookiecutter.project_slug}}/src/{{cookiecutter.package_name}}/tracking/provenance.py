"""Where a version comes from: the commit, the lock, the source, and a digest of its files."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def artifact_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a model's files, without what MLflow and Python add later."""
    added = ("registered_model_meta", "__pycache__")
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and not set(path.parts) & set(added)
    )
    contents = (
        f"{path.relative_to(folder).as_posix()}\0{_sha256(path.read_bytes())}\n" for path in files
    )
    return _sha256("".join(contents).encode())


def provenance(project: Path) -> dict[str, str]:
    """What code this is: git commit, whether files differ from it, hash of the lock and of the source."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(project), *arguments]
        try:
            return subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    changes, lock = git("status", "--porcelain"), project / "requirements" / "run.txt"
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))
    return {
        "git_commit": git("rev-parse", "HEAD") or "none",
        "git_dirty": "unknown" if changes is None else str(bool(changes)).lower(),
        "lock_sha256": _sha256(lock.read_bytes()) if lock.is_file() else "none",
        "source_sha256": _sha256(b"".join(path.read_bytes() for path in sources)),
    }


def fingerprint(parts: Mapping[str, Any]) -> str:
    """A short identity: equal parts, equal fingerprint."""
    return _sha256(json.dumps(parts, sort_keys=True, default=str).encode())[:12]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
