"""What answers behind the lakehouse: one module for each engine."""

from .base import Engine, OvertakenError, Snapshot, StorageError
from .polars import PolarsEngine

__all__ = ["Engine", "OvertakenError", "PolarsEngine", "Snapshot", "StorageError"]
