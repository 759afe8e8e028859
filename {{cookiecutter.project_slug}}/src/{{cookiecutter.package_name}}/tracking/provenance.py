"""Where a version comes from: the commit, the lock, the source, and a digest of its files."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from ..core.contract import PREDICTION_TIME, Model, Source
from ..core.errors import UserError
from ..core.project import COMMIT_VARIABLE
from ..core.reading import in_project

# MLflow adds this file beside a model that it fetches through the registry.
_ADDED_BY_MLFLOW = "registered_model_meta"
_COMMIT = re.compile(r"([0-9a-f]{40})(-dirty)?")
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

    Raises:
        UserError: The machine names a commit that is none.
    """
    lock = project / "requirements" / "run.txt"
    sources = sorted(_PACKAGE.rglob("*.py"))
    return {
        **_commit(project),
        "lock_sha256": _sha256(lock.read_bytes()) if lock.is_file() else "none",
        "source_sha256": _sha256(b"".join(path.read_bytes() for path in sources)),
    }


def _commit(project: Path) -> dict[str, str]:
    """The commit as git tells it; where it cannot, as whoever deployed the code has said."""
    changes = _git(project, "status", "--porcelain")
    if changes is not None:
        commit = _git(project, "rev-parse", "HEAD") or "none"
        return {"git_commit": commit, "git_dirty": str(bool(changes)).lower()}
    given = os.environ.get(COMMIT_VARIABLE)
    if not given:
        return {"git_commit": "none", "git_dirty": "unknown"}
    found = _COMMIT.fullmatch(given)
    if found is None:
        message = f"'{given}', which --commit or {COMMIT_VARIABLE} gives, is not a commit."
        raise UserError(message, "Give all 40 digits, and -dirty behind them if files differ.")
    return {"git_commit": found[1], "git_dirty": str(found[2] is not None).lower()}


def data_fingerprint(rows: pl.DataFrame, model: Model) -> str:
    """What a model learns from or is judged by, as a number of rows and a digest.

    Args:
        rows: Rows in order, with keys, prediction time, inputs and label.
        model: Names these columns.
    """
    columns = (*model.keys, PREDICTION_TIME, *model.features, model.target.label)
    hashes = rows.select(list(dict.fromkeys(columns))).hash_rows().to_numpy()
    return f"{rows.height} rows {_sha256(hashes.tobytes())[:16]}"


def fingerprint(parts: Mapping[str, Any]) -> str:
    """A short identity: equal parts, equal fingerprint."""
    return _sha256(json.dumps(parts, sort_keys=True, default=str).encode())[:12]


def source_digest(source: Source) -> str:
    """A digest of what fills a source's raw table: its columns, its code and its file.

    The code is `load` with the arguments that are bound to it, and whatever of its module it makes
    use of; comments and layout do not count.
    """
    load: Any = source.load
    bound: list[str] = []
    while isinstance(load, partial):
        given = (*load.args, *load.keywords.values())
        bound.extend(repr(value) for value in given if isinstance(value, str | int | float))
        load = load.func
    parts = {"columns": {name: str(kind) for name, kind in source.raw.items()}, "bound": bound}
    parts["code"] = _code_reached(load)
    file = in_project(source.snapshot) if source.snapshot else None
    parts["file"] = _sha256(file.read_bytes()) if file and file.is_file() else ""
    return fingerprint(parts)


def _code_reached(function: Callable[..., object]) -> list[str]:
    """Statements of a function's module that it makes use of, itself first."""
    file = inspect.getsourcefile(function)
    tree = ast.parse(Path(file).read_text(encoding="utf-8")) if file else ast.Module([], [])
    statements = {name: node for node in tree.body for name in _defined(node)}
    waiting = [function.__qualname__.partition(".")[0]]
    found = {}
    while waiting:
        name = waiting.pop()
        if name in statements and name not in found:
            node = statements[name]
            found[name] = ast.unparse(node)
            waiting.extend(item.id for item in ast.walk(node) if isinstance(item, ast.Name))
    return [found[name] for name in sorted(found)]


def _defined(node: ast.stmt) -> list[str]:
    """Names that a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    found = [item for target in targets for item in ast.walk(target)]
    return [item.id for item in found if isinstance(item, ast.Name)]


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
