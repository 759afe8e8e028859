"""Stages of versions as the log of transitions has them; the registry is held against it.

The log, not the registry, is the truth: an alias or a stage that somebody set by hand is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from ..core.errors import UserError
from ..store.lakehouse import Lakehouse
from ..store.tables import CHAMPIONS_STAGE, TRANSITIONS
from .registry import CHALLENGER, CHAMPION, Registry

NONE = "None"
STAGING = "Staging"
PRODUCTION = CHAMPIONS_STAGE
ARCHIVED = "Archived"


class EditedError(UserError):
    """The registry says of a version what the log of transitions does not."""

    def __init__(self, version: str, found: str, logged: str) -> None:
        """Say what was found and what is logged."""
        super().__init__(
            f"The registry was changed by hand: {found}; the log of transitions says {logged}.",
            "Put it back as the log has it (`history`), then use check, request, approve or "
            "rollback.",
        )
        self.version = version


@dataclass(frozen=True)
class Stages:
    """Who is champion and challenger, and the stage of every version that was ever moved."""

    champion: str | None = None
    challenger: str | None = None
    of_version: Mapping[str, str] = field(default_factory=dict)

    def after(self, version: str, stage: str) -> Stages:
        """The stages after a version has moved to a stage."""
        moved = {**self.of_version, version: stage}
        if stage == STAGING:
            if self.challenger not in (None, version):
                moved[str(self.challenger)] = ARCHIVED
            return replace(self, challenger=version, of_version=moved)
        challenger = None if self.challenger == version else self.challenger
        if stage == PRODUCTION:
            if self.champion not in (None, version):
                moved[str(self.champion)] = ARCHIVED
            return Stages(version, challenger, moved)
        return replace(self, challenger=challenger, of_version=moved)


def history(lakehouse: Lakehouse) -> pl.DataFrame:
    """All transitions, oldest first; `champion` is who it was before."""
    return lakehouse.read(TRANSITIONS, order=("sequence",))


def replay(transitions: Iterable[Mapping[str, Any]]) -> Stages:
    """The stages after transitions."""
    stages = Stages()
    for entry in transitions:
        stages = stages.after(entry["version"], entry["to_stage"])
    return stages


def require_untouched(lakehouse: Lakehouse, registry: Registry) -> Stages:
    """Refuse a registry that the log does not account for; returns the log's stages.

    The last transition may be recorded and not yet carried out: a process was killed in between.

    Raises:
        EditedError: An alias or a stage was set by hand.
    """
    entries = history(lakehouse).rows(named=True)
    now = replay(entries)
    before = replay(entries[:-1])
    for alias, allowed in {
        CHAMPION: {now.champion, before.champion},
        CHALLENGER: {now.challenger, before.challenger},
    }.items():
        found = registry.aliased(alias)
        if found not in allowed:
            logged = _one_of(now, alias)
            said = f"@{alias} points to {_named(found)}"
            raise EditedError(found or logged or "", said, _named(logged))
    for version in registry.versions():
        number = str(version.version)
        stages = {state.of_version.get(number, NONE) for state in (now, before)}
        found_stage = version.tags.get("stage", NONE)
        if found_stage not in stages:
            wanted = now.of_version.get(number, NONE)
            raise EditedError(number, f"Version {number} is said to be in {found_stage}", wanted)
    return now


def _one_of(stages: Stages, alias: str) -> str | None:
    return stages.champion if alias == CHAMPION else stages.challenger


def _named(number: str | None) -> str:
    return f"version {number}" if number else "no version"
