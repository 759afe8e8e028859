"""Stages of versions, as a log of transitions; the registry follows the log.

None → Staging (`@challenger`) → Production (`@champion`), or Archived. A transition is first appended to
the `transitions` table, on condition that nobody wrote since it was decided, and then carried out in
the registry, where moving `@champion` is one call. A process killed in between leaves a last entry that
is not carried out yet; whatever comes next begins by doing so (`reconcile`), and the same command run again
finds its work done. There is never more than one champion, and never none where there was one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import polars as pl

from ..context import Context
from ..core.contract import polars_schema
from ..core.errors import UserError
from ..store.tables import TRANSITIONS
from ..tracking.registry import CHALLENGER, CHAMPION, Registry

_STAGE_AFTER = {
    "archive": "Archived",
    "stage": "Staging",
    "request": "Staging",
    "approve": "Production",
    "reject": "Archived",
    "rollback": "Production",
}


def history(context: Context) -> pl.DataFrame:
    """All transitions, oldest first; `champion` is who it was before."""
    return context.lakehouse.read(TRANSITIONS).sort("sequence")


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
    registry, (seen, _) = context.registry, reconcile(context)
    if registry.aliased(CHALLENGER) != version:
        raise UserError(f"Version {version} is not the challenger.", "Examine it first: `check`.")
    if registry.aliased(CHAMPION) != champion:
        raise UserError(
            f"The champion changed since version {version} was compared.", "Run `request` again."
        )
    if (version, champion) not in _waiting(context):
        seen = _append(context, seen, "request", version, who, evidence)
    granted = context.settings.deployment.approval == "policy"
    if granted:
        _append(context, seen, "approve", version, "policy", evidence)
    return granted


def decide(context: Context, who: str, why: str, *, approve: bool) -> str:
    """Grant or refuse the waiting request; returns the version.

    Raises:
        UserError: Nothing waits, the champion or the challenger changed since the request, the one who
            asked may not decide, the files are gone or changed, or somebody else moved a version.
    """
    registry, (seen, left) = context.registry, reconcile(context)
    action = "approve" if approve else "reject"
    if left and left == (action, left[1], who, why):
        return left[1]
    for (version, champion), asked_by in _waiting(context).items():
        if (registry.aliased(CHAMPION), registry.aliased(CHALLENGER)) != (champion, version):
            message = f"The request for version {version} is stale: the champion or the challenger changed since."
            raise UserError(message, "Compare again and ask anew: `request`.")
        if approve and context.settings.deployment.four_eyes and who == asked_by:
            raise UserError(
                f"{who} asked for this promotion and may not approve it.",
                "Have somebody else approve.",
            )
        if approve:
            registry.download(version)
        _append(context, seen, action, version, who, why)
        return version
    raise UserError("No request waits for a decision.", "Ask for one with `request`.")


def _waiting(context: Context) -> dict[tuple[str, str | None], str]:
    """The request that nobody has decided on: version and the champion it was compared with, and who asked."""
    decisions = history(context).filter(pl.col("action").is_in(("request", "approve", "reject")))
    waiting = decisions.tail(1).filter(action="request").select("version", "champion", "who")
    return {(version, champion): who for version, champion, who in waiting.iter_rows()}


def rollback(context: Context, who: str, why: str) -> str:
    """Make the champion before this one the champion again; returns its number.

    Raises:
        UserError: There is none to go back to, its files are gone or changed, or somebody else moved a
            version.
    """
    seen, left = reconcile(context)
    if left and left == ("rollback", left[1], who, why):
        return left[1]
    line: list[str] = []
    for action, version in history(context).select("action", "version").iter_rows():
        if action == "approve":
            line.append(version)
        elif action == "rollback":
            line.pop()
    if len(line) < 2:
        raise UserError(
            "There is no earlier champion to go back to.", "Train and promote another version."
        )
    context.registry.download(line[-2])
    _append(context, seen, "rollback", line[-2], who, why)
    return line[-2]


def move(context: Context, action: str, version: str, who: str, why: str) -> None:
    """Write a transition to the log and carry it out.

    Raises:
        UserError: The version is the champion, or somebody else moved a version.
    """
    seen, left = reconcile(context)
    if left != (action, version, who, why):
        if context.registry.aliased(CHAMPION) == version:
            raise UserError(f"Version {version} is the champion.", "Choose another version.")
        _append(context, seen, action, version, who, why)


def reconcile(context: Context) -> tuple[int | None, tuple[str, ...]]:
    """Bring the registry in line with the last transition; doing so again changes nothing.

    Returns:
        Delta version of the log, and the transition (action, version, who, why) that had been left over.
    """
    left: tuple[str, ...] = ()
    while True:
        seen = context.lakehouse.version(TRANSITIONS)
        for entry in history(context).tail(1).iter_rows(named=True):
            if (
                context.registry.version(entry["version"]).tags.get("stage.when")
                != entry["at"].isoformat()
            ):
                left = (entry["action"], entry["version"], entry["who"], entry["why"])
            _carry_out(context.registry, entry)
        if (
            context.lakehouse.version(TRANSITIONS) == seen
        ):  # else somebody was first, and may be overwritten
            return seen, left


def _append(
    context: Context, seen: int | None, action: str, version: str, who: str, why: str
) -> int:
    """Write a transition that was decided on the log as `seen`, carry it out; returns the log's version."""
    registry, sequence = context.registry, 0 if seen is None else seen + 1
    entry = {
        "sequence": sequence,
        "at": datetime.now(UTC),
        "action": action,
        "version": version,
        "from_stage": registry.version(version).tags.get("stage", "None"),
        "to_stage": _STAGE_AFTER[action],
        "champion": registry.aliased(CHAMPION),
        "who": who,
        "why": why,
    }
    row = pl.DataFrame([entry], schema=polars_schema(TRANSITIONS.schema))
    if not context.lakehouse.append_if_unchanged(TRANSITIONS, row, seen):
        message = f"Somebody else moved a version while this {action} was under way."
        raise UserError(message, "Look at `history` and run again.")
    reconcile(context)
    return sequence


def _carry_out(registry: Registry, entry: Mapping[str, Any]) -> None:
    version, stage = entry["version"], entry["to_stage"]
    record = {
        "stage.who": entry["who"],
        "stage.why": entry["why"],
        "stage.when": entry["at"].isoformat(),
    }
    displaced = {**record, "stage": "Archived", "stage.why": f"version {version} took its place"}
    if stage == "Production":
        registry.point(CHAMPION, version)
        if entry["champion"] not in (None, version):
            registry.annotate(entry["champion"], displaced)
    challenger = registry.aliased(CHALLENGER)
    if stage == "Staging":
        if challenger not in (None, version):
            registry.annotate(str(challenger), displaced)
        registry.point(CHALLENGER, version)
    elif challenger == version:
        registry.point(CHALLENGER, None)
    registry.annotate(
        version, {"stage": stage, **record}
    )  # `stage.when` is the last: it tells that all is done
