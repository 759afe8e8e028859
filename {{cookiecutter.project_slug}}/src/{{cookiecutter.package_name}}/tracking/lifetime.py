"""What a version says of its origin, and the rows that it was made from, made again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ..core.contract import Problem
from ..core.errors import UserError
from ..modeling.split import Parts, Window, Windows, split
from ..store.lakehouse import Lakehouse
from ..store.point_in_time import Versions, training_set
from .registry import Registry

_PARTS = ("train", "validation", "holdout")


@dataclass(frozen=True)
class Lifetime:
    """Windows of a version, the tables that it was made from, and what it predicts."""

    number: str
    windows: Windows
    versions: Versions
    target: str


def lifetime(registry: Registry, number: str) -> Lifetime:
    """Read a version's tags.

    Raises:
        UserError: There is no such version, or a tag is missing.
    """
    tags = registry.version(number).tags
    train, validation, holdout = (
        Window(name, _moment(tags, number, f"{name}_start"), _moment(tags, number, f"{name}_end"))
        for name in _PARTS
    )
    versions = json.loads(_tag(tags, number, "data_versions"))
    target = _tag(tags, number, "target")
    return Lifetime(number, (train, validation, holdout), versions, target)


def parts_of(
    version: Lifetime, lakehouse: Lakehouse, problem: Problem, extra: Sequence[str] = ()
) -> Parts:
    """The training set of a version, from the tables as they were, split as it was then.

    Args:
        version: Windows and table versions.
        lakehouse: Tables of the environment.
        problem: Spine, labels, features.
        extra: Further columns, as `point_in_time.training_set`.

    Raises:
        UserError: As `point_in_time.training_set`.
    """
    first, *_, last = version.windows
    start = first.start
    end = last.end
    rows = training_set(lakehouse, problem, start, end, version.versions, extra)
    return split(rows, version.windows, problem)


def _moment(tags: Mapping[str, str], number: str, name: str) -> datetime:
    return datetime.fromisoformat(_tag(tags, number, name))


def _tag(tags: Mapping[str, str], number: str, name: str) -> str:
    if value := tags.get(name):
        return value
    message = f"Version {number} does not say what it has learned from (no tag {name})."
    raise UserError(message, "Retrain it: `train`.")
