"""What answers behind the lakehouse: one module for each engine."""

from ...core.failures import importing
from ...core.settings import Settings
from .base import COMMIT, COMMITTED_AT, Engine, OvertakenError, Snapshot, StorageError
from .polars import PolarsEngine

__all__ = [
    "COMMIT",
    "COMMITTED_AT",
    "Engine",
    "OvertakenError",
    "PolarsEngine",
    "Snapshot",
    "StorageError",
    "open_engine",
]


def open_engine(settings: Settings) -> Engine:
    """The engine of an environment.

    Raises:
        UserError: Spark is asked for and not installed, or gives no session.
    """
    storage_options = settings.lakehouse.storage_options
    if settings.engine == "polars":
        return PolarsEngine(storage_options)
    with importing("`engine: spark`", "Install the extra `spark`: requirements/spark.txt."):
        from .spark import SparkEngine, open_session
    return SparkEngine(open_session(settings.spark), storage_options)
