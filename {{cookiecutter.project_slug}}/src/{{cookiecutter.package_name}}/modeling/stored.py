"""Estimators in a folder: with the code that scores, so that a version needs nothing else.

The folder holds a copy of the file that defines the estimator, the name of its class, and what the
estimator itself saved.
"""

from __future__ import annotations

import ast
import copyreg
import inspect
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TypeAlias, cast

from ..core.contract import Estimator
from ..core.errors import UserError
from ..core.project import PACKAGE

CODE = "estimator.py"
CARD = "estimator.json"
_Files: TypeAlias = tuple[tuple[str, bytes], ...]


def write(estimator: Estimator, scores: Sequence[str], folder: Path) -> None:
    """Write an estimator and its code to a new folder.

    Args:
        estimator: What was fit.
        scores: Names of what it predicts, in order.
        folder: Is made.

    Raises:
        UserError: Its file imports this project, which may be another by the time it scores.
    """
    kind = type(estimator)
    source = source_of(kind)
    if imported := sorted(set(_own_imports(source))):
        raise UserError(
            f"{source} imports {', '.join(imported)}: a version carries this file alone.",
            "Move what it needs into the file, or import it for type checking only.",
        )
    folder.mkdir()
    shutil.copyfile(source, folder / CODE)
    card = {"class": kind.__name__, "scores": list(scores)}
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")
    estimator.save(folder)


def source_of(kind: type[Estimator]) -> Path:
    """The file that defines an estimator."""
    return Path(inspect.getfile(kind))


def read(folder: Path, name: str) -> Estimator:
    """Load an estimator with the code beside it; nothing is imported from this project.

    Args:
        folder: What `write` filled. Check where it comes from first: its code runs here.
        name: Tells the code of one version from that of another, in this process.
    """
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    module = ModuleType(f"estimator_{name}")
    module.__file__ = str(folder / CODE)
    sys.modules[module.__name__] = module  # where dataclasses look for the module of a class
    # Compiled here from what was checked: Python's own import would believe a cached .pyc file.
    code = (folder / CODE).read_bytes()
    exec(compile(code, folder / CODE, "exec"), module.__dict__)  # noqa: S102
    kind = getattr(module, card["class"])
    # Sent to another process, it is its files: there is no such module over there.
    copyreg.pickle(kind, lambda _: (_unpacked, (name, _files(folder))))
    return cast("Estimator", kind.load(folder))


def _files(folder: Path) -> _Files:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((path.relative_to(folder).as_posix(), path.read_bytes()) for path in found)


@cache
def _unpacked(name: str, files: _Files) -> Estimator:
    """The estimator of a folder with these files."""
    with tempfile.TemporaryDirectory(prefix="estimator-") as folder:
        for relative, content in files:
            path = Path(folder, relative)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return read(Path(folder), name)


def _own_imports(source: Path) -> Iterator[str]:
    """What a file imports of this project when it runs."""
    waiting: list[ast.AST] = [ast.parse(source.read_bytes())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if node.level or module.partition(".")[0] == PACKAGE:
                yield module
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            yield from (name for name in names if name.partition(".")[0] == PACKAGE)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))
