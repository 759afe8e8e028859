"""What pipelines work with: an environment's settings, tables and versions, and the problem."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from .contract import Problem
from .lakehouse import Lakehouse
from .settings import Settings, load_settings

if TYPE_CHECKING:
    from .registry import Registry


@dataclass(frozen=True)
class Workspace:
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
        from .registry import Registry

        return Registry(self.settings.mlflow)


def open_workspace(env: str) -> Workspace:
    """Read the configuration of an environment and join it with the problem.

    Raises:
        UserError: As `settings.load_settings`.
    """
    settings = load_settings(env)
    from .problem import PROBLEM

    return Workspace(settings, PROBLEM)
