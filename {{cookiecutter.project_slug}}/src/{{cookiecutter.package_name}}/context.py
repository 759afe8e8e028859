"""What pipelines work with: an environment's settings, tables and versions, and the problem."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from .core.contract import Problem
from .core.settings import Settings, load_settings
from .store.lakehouse import Lakehouse

if TYPE_CHECKING:
    from .tracking.registry import Registry


@dataclass(frozen=True)
class Context:
    """One environment, opened."""

    settings: Settings
    problem: Problem

    @cached_property
    def lakehouse(self) -> Lakehouse:
        """Its tables."""
        return Lakehouse(**self.settings.lakehouse.model_dump())

    @cached_property
    def registry(self) -> Registry:
        """Its model versions; MLflow takes seconds to import, so only when asked for."""
        from .tracking.registry import Registry

        return Registry(self.settings.mlflow)


def open_context(env: str) -> Context:
    """Read the configuration of an environment and join it with the problem.

    Raises:
        UserError: As `settings.load_settings`.
    """
    settings = load_settings(env)
    from .problem import PROBLEM

    return Context(settings, PROBLEM)
