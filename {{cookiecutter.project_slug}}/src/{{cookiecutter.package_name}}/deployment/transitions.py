"""Stages of versions, as a log of transitions; the registry follows the log.

None → Staging (`@challenger`) → Production (`@champion`), or Archived. A transition is first
appended to the `transitions` table, on condition that nobody wrote since it was decided, and then
carried out in the registry, where moving `@champion` is one call. A process killed in between
leaves a last entry that is not carried out yet; whatever comes next begins by doing so
(`reconcile`), and the same command run again finds its work done. There is never more than one
champion, and never none where there was one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from ..context import Context
from ..core.contract import polars_schema
from ..core.errors import UserError
from ..store.tables import TRANSITIONS
from ..tracking.registry import CHALLENGER, CHAMPION, Registry
from ..tracking.stages import ARCHIVED, NONE, PRODUCTION, STAGING, history, require_untouched
from .people import require_name, same_person

_STAGE_AFTER = {
    "archive": ARCHIVED,
    "stage": STAGING,
    "request": STAGING,
    "approve": PRODUCTION,
    "reject": ARCHIVED,
    "rollback": PRODUCTION,
}
_DECISIONS = ("request", "approve", "reject")


@dataclass(frozen=True)
class Move:
    """A transition as somebody asks for it."""

    action: str
    version: str
    who: str
    why: str


@dataclass(frozen=True)
class Waiting:
    """A request that nobody has decided on."""

    version: str
    champion: str | None  # with whom it was compared; None: the baseline
    who: str


def request(
    context: Context, version: str, who: str, evidence: str, champion: str | None = None
) -> bool:
    """Ask for the challenger's promotion; where policy decides, it is granted at once.

    What waits already is not asked again: whoever asked first remains the one who may not approve.

    Args:
        context: Holds the versions and the log.
        version: The challenger.
        who: Who asks.
        evidence: What the comparison found.
        champion: Whom it was compared with (None: the baseline).

    Returns:
        Whether the version is the champion now; else the request waits for a person.

    Raises:
        UserError: The version is not the challenger, the champion changed since the comparison, or
            somebody else moved a version.
    """
    registry = context.registry
    require_name(who)
    seen, _ = reconcile(context)
    if registry.aliased(CHALLENGER) != version:
        message = f"Version {version} is not the challenger."
        raise UserError(message, "Examine it first: `check`.")
    if registry.aliased(CHAMPION) != champion:
        message = f"The champion changed since version {version} was compared."
        raise UserError(message, "Run `request` again.")
    asked = waiting(context)
    if asked is None or (asked.version, asked.champion) != (version, champion):
        seen = _append(context, seen, Move("request", version, who, evidence))
    if context.settings.deployment.approval != "policy":
        return False
    _append(context, seen, Move("approve", version, "policy", evidence))
    return True


def decide(context: Context, who: str, why: str, *, approve: bool, version: str | None) -> str:
    """Grant or refuse the waiting request.

    Args:
        context: Holds the versions and the log.
        who: Who decides.
        why: The reason, for the record.
        approve: Grant it, or refuse it.
        version: The version that the decision is about; None: whichever waits.

    Returns:
        The version that was decided on.

    Raises:
        UserError: Nothing waits, or another version does; the champion or the challenger changed
            since the request; the one who asked may not decide; the files are gone or changed; or
            somebody else moved a version.
    """
    require_name(who)
    seen, left = reconcile(context)
    action = "approve" if approve else "reject"
    if left and (left.action, left.who, left.why) == (action, who, why):
        return left.version
    asked = waiting(context)
    if asked is None:
        raise UserError("No request waits for a decision.", "Ask for one with `request`.")
    if version is not None and version != asked.version:
        message = f"Version {asked.version} waits for a decision, not version {version}."
        raise UserError(message, f"Look at version {asked.version}, then decide on it.")
    registry = context.registry
    if (registry.aliased(CHAMPION), registry.aliased(CHALLENGER)) != (
        asked.champion,
        asked.version,
    ):
        message = (
            f"The request for version {asked.version} is stale: champion or challenger changed."
        )
        raise UserError(message, "Compare again and ask anew: `request`.")
    if approve:
        _require_four_eyes(context, who, asked)
        registry.download(asked.version)
    _append(context, seen, Move(action, asked.version, who, why))
    return asked.version


def waiting(context: Context) -> Waiting | None:
    """The request that nobody has decided on."""
    decisions = history(context.lakehouse).filter(pl.col("action").is_in(_DECISIONS))
    for entry in decisions.tail(1).filter(action="request").iter_rows(named=True):
        return Waiting(entry["version"], entry["champion"], entry["who"])
    return None


def rollback(context: Context, who: str, why: str) -> str:
    """Make the champion before this one the champion again; returns its number.

    Raises:
        UserError: There is none to go back to, its files are gone or changed, or somebody else
            moved a version.
    """
    require_name(who)
    seen, left = reconcile(context)
    if left and (left.action, left.who, left.why) == ("rollback", who, why):
        return left.version
    champions = _line_of_champions(context)
    if len(champions) < 2:
        message = "There is no earlier champion to go back to."
        raise UserError(message, "Train and promote another version.")
    earlier = champions[-2]
    context.registry.download(earlier)
    _append(context, seen, Move("rollback", earlier, who, why))
    return earlier


def move(context: Context, action: str, version: str, who: str, why: str) -> None:
    """Write a transition to the log and carry it out.

    Raises:
        UserError: The version is the champion, nobody is named, or somebody else moved a version.
    """
    require_name(who)
    wanted = Move(action, version, who, why)
    seen, left = reconcile(context)
    if left == wanted:
        return
    if context.registry.aliased(CHAMPION) == version:
        raise UserError(f"Version {version} is the champion.", "Choose another version.")
    _append(context, seen, wanted)


def reconcile(context: Context) -> tuple[int | None, Move | None]:
    """Bring the registry in line with the last transition; doing so again changes nothing.

    Returns:
        Delta version of the log, and the transition that had been left over.

    Raises:
        UserError: The registry was changed by hand.
    """
    left: Move | None = None
    while True:
        seen = context.lakehouse.version(TRANSITIONS)
        require_untouched(context.lakehouse, context.registry)
        for entry in history(context.lakehouse).tail(1).iter_rows(named=True):
            tags = context.registry.version(entry["version"]).tags
            if tags.get("stage.when") != entry["at"].isoformat():
                left = Move(entry["action"], entry["version"], entry["who"], entry["why"])
            _carry_out(context.registry, entry)
        # Else somebody was first, and may have been overwritten.
        if context.lakehouse.version(TRANSITIONS) == seen:
            return seen, left


def _append(context: Context, seen: int | None, wanted: Move) -> int:
    """Write a transition that was decided on the log as `seen`, and carry it out.

    Returns:
        The log's version.
    """
    registry = context.registry
    sequence = 0 if seen is None else seen + 1
    entry = {
        "sequence": sequence,
        "at": datetime.now(UTC),
        "action": wanted.action,
        "version": wanted.version,
        "from_stage": registry.version(wanted.version).tags.get("stage", NONE),
        "to_stage": _STAGE_AFTER[wanted.action],
        "champion": registry.aliased(CHAMPION),
        "who": wanted.who,
        "why": wanted.why,
    }
    row = pl.DataFrame([entry], schema=polars_schema(TRANSITIONS.schema))
    if not context.lakehouse.append_if_unchanged(TRANSITIONS, row, seen):
        message = f"Somebody else moved a version while this {wanted.action} was under way."
        raise UserError(message, "Look at `history` and run again.")
    reconcile(context)
    return sequence


def _carry_out(registry: Registry, entry: Mapping[str, Any]) -> None:
    version = entry["version"]
    stage = entry["to_stage"]
    record = {
        "stage.who": entry["who"],
        "stage.why": entry["why"],
        "stage.when": entry["at"].isoformat(),
    }
    displaced = {**record, "stage": ARCHIVED, "stage.why": f"version {version} took its place"}
    if stage == PRODUCTION:
        registry.point(CHAMPION, version)
        if entry["champion"] not in (None, version):
            registry.annotate(entry["champion"], displaced)
    challenger = registry.aliased(CHALLENGER)
    if stage == STAGING:
        if challenger not in (None, version):
            registry.annotate(str(challenger), displaced)
        registry.point(CHALLENGER, version)
    elif challenger == version:
        registry.point(CHALLENGER, None)
    # `stage.when` is written last: it tells that all is done.
    registry.annotate(version, {"stage": stage, **record})


def _line_of_champions(context: Context) -> list[str]:
    """Champions that can be gone back to, oldest first, the present one last."""
    line: list[str] = []
    for entry in history(context.lakehouse).iter_rows(named=True):
        if entry["action"] == "approve":
            line.append(entry["version"])
        elif entry["action"] == "rollback":
            line.pop()
    return line


def _require_four_eyes(context: Context, who: str, asked: Waiting) -> None:
    if context.settings.deployment.four_eyes and same_person(who, asked.who):
        message = f"{who} asked for this promotion and may not approve it."
        raise UserError(message, "Have somebody else approve.")
