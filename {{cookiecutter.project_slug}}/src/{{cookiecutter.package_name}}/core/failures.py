"""One place that turns what storage, databases and engines raise into one line."""

from __future__ import annotations

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
_REMEDY = "Correct the cause and rerun; it resumes. DEBUG=1 shows the traceback."


def explain(error: BaseException) -> str | None:
    """A message for the user; None where the failure is the program's own."""
    if isinstance(error, UserError):
        return str(error)
    cause = _first_line(error)
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _OF_NO_MEMORY):
        return f"There is not enough memory: {cause}.\n  → Give it more, or use fewer rows."
    if isinstance(error, OSError):
        return f"Cannot read or write: {cause}\n  → {_REMEDY}"
    library = type(error).__module__.partition(".")[0]
    if library not in _LIBRARIES:
        return None
    return f"{_LIBRARIES[library]}: {cause}\n  → {_REMEDY}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
