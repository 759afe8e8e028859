"""One place that turns what storage, databases and engines raise into one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import UserError

# By module: a failure of one of these is told in its own words, whatever its type is called.
_LIBRARIES = {
    "polars": "Cannot read or write",
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
# What else is raised where a process gets no more memory.
_OF_NO_MEMORY = (
    "Cannot allocate memory",
    "can't start new thread",
    "could not spawn threads",
    "failed to map segment",
)
_INSTALL = (
    "Install requirements/run.txt. What is not in there goes into the extra `problem` of "
    "pyproject.toml; then run `lock`."
)
_REMEDY = "Correct the cause and rerun; it resumes. DEBUG=1 shows the traceback."


def explain(error: BaseException) -> str | None:
    """A message for the user; None where the failure is the program's own."""
    if isinstance(error, UserError):
        return str(error)
    cause = _first_line(error)
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _OF_NO_MEMORY):
        return f"There is not enough memory: {cause}.\n  → Give it more, or use fewer rows."
    if isinstance(error, ModuleNotFoundError) and _is_of_others(error):
        return f"{error.name} is needed, and not installed.\n  → {_INSTALL}"
    if isinstance(error, OSError):
        return f"Cannot read or write: {cause}\n  → {_REMEDY}"
    library = type(error).__module__.partition(".")[0]
    if library not in _LIBRARIES:
        return None
    return f"{_LIBRARIES[library]}: {cause}\n  → {_REMEDY}"


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
    return package not in ("", __name__.partition(".")[0])


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
