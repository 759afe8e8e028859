"""One place that turns what storage, databases and engines raise into one line."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from .errors import UserError
from .project import PACKAGE

# By module: a failure of one of these is told in its own words, whatever its type is called.
_LIBRARIES = {
    "polars": "Cannot read or compute",
    "deltalake": "Cannot read or write",
    "_internal": "Cannot read or write",
    "cimpl": "Kafka does not answer",
    "narwhals": "Cannot compute",
    "pyo3_runtime": "The engine stopped",
    "sqlite3": "The database does not answer",
    "adbc_driver_manager": "The database does not answer",
    "alembic": "The database does not answer",
    "sqlalchemy": "The database does not answer",
    "mlflow": "MLflow does not answer",
    "optuna": "The search cannot go on",
    "pointblank": "A check cannot run",
    "lightgbm": "LightGBM refuses",
    "jinja2": "A page cannot be drawn",
    "requests": "A server does not answer",
    "urllib3": "A server does not answer",
}
# What functions of a problem are made of: where one of them called it, its line is told.
_ON_FRAMES = {"polars", "narwhals"}
# What else is raised where a process gets no more memory.
_OF_NO_MEMORY = (
    "Cannot allocate memory",
    "can't start new thread",
    "could not spawn threads",
    "failed to map segment",
)
_FOLDERS_OF_LIBRARIES = ("stdlib", "platstdlib", "purelib", "platlib")
_INSTALL = (
    "Install requirements/run.txt. What is not in there goes into the extra `problem` of "
    "pyproject.toml; then run `lock`."
)
_REMEDY = "Correct the cause and rerun; it resumes. DEBUG=1 shows the traceback."


def explain(error: BaseException) -> str | None:
    """A message for the user; None where the failure is the program's own."""
    told = as_user_error(error)
    return None if told is None else str(told)


def as_user_error(error: BaseException) -> UserError | None:
    """What a failure is to the user; None where it is the program's own."""
    if isinstance(error, UserError):
        return error
    cause = _first_line(error)
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _OF_NO_MEMORY):
        message = f"There is not enough memory: {cause}."
        return UserError(message, "Give it more, or use fewer rows.")
    if isinstance(error, ModuleNotFoundError) and _is_of_others(error):
        return UserError(f"{error.name} is needed, and not installed.", _INSTALL)
    if isinstance(error, OSError):
        return UserError(f"Cannot read or write: {cause}", _REMEDY)
    library = type(error).__module__.partition(".")[0]
    failed = _LIBRARIES.get(library)
    if failed is None or library in _ON_FRAMES:
        line = _line_of_user(error)
        failed = f"{line}: {type(error).__name__}" if line else failed
    return None if failed is None else UserError(f"{failed}: {cause}", _REMEDY)


@contextmanager
def importing(what: str, remedy: str) -> Iterator[None]:
    """Imports of a package that only some projects install.

    Args:
        what: Which wish of the user needs it.
        remedy: How to install it.

    Raises:
        UserError: It is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if not _is_of_others(error):
            raise
        message = f"{what} needs {error.name}, which is not installed."
        raise UserError(message, remedy) from None


def was_interrupted(error: BaseException) -> bool:
    """Whether the user broke off, also where a library stumbled over that and raised its own."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, KeyboardInterrupt):
            return True
        at = at.__cause__ or at.__context__
    return False


def _is_of_others(missing: ModuleNotFoundError) -> bool:
    """Whether what cannot be imported is a package that somebody could install."""
    package = (missing.name or "").partition(".")[0]
    return package not in ("", PACKAGE)


def _line_of_user(error: BaseException) -> str | None:
    """Where the user's code raised it, or called a library that did; None: this program did."""
    passed = [
        (frame.f_code.co_filename, line, frame.f_globals.get("__name__", ""))
        for frame, line in walk_tb(error.__traceback__)
    ]
    if isinstance(error, SyntaxError):
        passed.append((error.filename or "<string>", error.lineno or 0, ""))
    for file, line, module in reversed(passed):
        parts = module.split(".")
        is_problem = parts[:2] == [PACKAGE, "problem"]
        if parts[0] == PACKAGE and not is_problem:
            return None
        if is_problem or not _is_library(file):
            return f"{_from_here(Path(file))}, line {line}"
    return None


def _is_library(file: str) -> bool:
    folders = map(sysconfig.get_path, _FOLDERS_OF_LIBRARIES)
    return file.startswith("<") or any(map(Path(file).is_relative_to, folders))


def _from_here(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _first_line(error: BaseException) -> str:
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return said.strip().partition("\n")[0].rstrip(".") or type(error).__name__
