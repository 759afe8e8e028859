"""Stages of versions, as a log of transitions; the registry follows the log.

None → Staging (`@challenger`) → Production (`@champion`), or Archived. A transition is first appended to
the `transitions` table, on condition that nobody wrote since it was decided, and then carried out in
the registry, where moving `@champion` is one call. A process killed in between leaves a last entry that
is not carried out yet; every later transition begins by doing so. There is never more than one champion,
and never none where there was one.
"""

from __future__ import annotations

from datetime import UTC, datetime

import narwhals as nw
import polars as pl

from ..contract import UTC_TIME, Table, polars_schema
from ..errors import UserError
from ..registry import CHALLENGER, CHAMPION
from ..workspace import Workspace

_TEXTS = ("action", "version", "from_stage", "to_stage", "champion", "who", "why")
TRANSITIONS = Table(
    name="transitions",
    schema={"sequence": nw.Int64, "at": UTC_TIME, **dict.fromkeys(_TEXTS, nw.String)},
    keys=("sequence",),
    time="at",
)
_STAGE_AFTER = {
    "archive": "Archived",
    "stage": "Staging",
    "request": "Staging",
    "approve": "Production",
    "reject": "Archived",
    "rollback": "Production",
}


def history(workspace: Workspace) -> pl.DataFrame:
    """All transitions, oldest first; `champion` is who it was before."""
    return pl.DataFrame(workspace.lakehouse.scan(TRANSITIONS).sort("sequence").collect("polars").to_native())


def request(workspace: Workspace, version: str, who: str, evidence: str) -> bool:
    """Ask for a promotion on the strength of a comparison; where policy decides, it is granted at once.

    Returns:
        Whether the version is the champion now; else the request waits for a person.
    """
    move(workspace, "request", version, who, evidence)
    if workspace.settings.deployment.approval == "policy":
        move(workspace, "approve", version, "policy", evidence)
    return workspace.registry.aliased(CHAMPION) == version


def decide(workspace: Workspace, who: str, why: str, *, approve: bool) -> str:
    """Grant or refuse the waiting request; returns the version.

    Raises:
        UserError: Nothing waits, the champion or the challenger changed since the request, or the one who
            asked may not decide.
    """
    _carry_out_last(workspace)
    waiting = history(workspace).tail(1).filter(action="request").rows(named=True)
    if not waiting:
        raise UserError("No request waits for a decision.", "Ask for one with `request`.")
    version, asked_by, champion = (waiting[0][key] for key in ("version", "who", "champion"))
    now = (workspace.registry.aliased(CHAMPION), workspace.registry.aliased(CHALLENGER))
    if now != (champion, version):
        message = f"The request for version {version} is stale: the champion or the challenger changed since."
        raise UserError(message, "Compare again and ask anew: `request`.")
    if approve and workspace.settings.deployment.four_eyes and who == asked_by:
        raise UserError(f"{who} asked for this promotion and may not approve it.", "Have somebody else approve.")
    move(workspace, "approve" if approve else "reject", version, who, why)
    return str(version)


def rollback(workspace: Workspace, who: str, why: str) -> str:
    """Make the champion before this one the champion again; returns its number.

    Raises:
        UserError: There is none to go back to, or its files are gone or changed.
    """
    _carry_out_last(workspace)
    line: list[str] = []
    for action, version in history(workspace).select("action", "version").iter_rows():
        if action == "approve":
            line.append(version)
        elif action == "rollback":
            line.pop()
    if len(line) < 2:
        raise UserError("There is no earlier champion to go back to.", "Train and promote another version.")
    workspace.registry.download(line[-2])
    move(workspace, "rollback", line[-2], who, why)
    return line[-2]


def move(workspace: Workspace, action: str, version: str, who: str, why: str) -> None:
    """Write a transition to the log and carry it out.

    Raises:
        UserError: Somebody else wrote since this one was decided.
    """
    _carry_out_last(workspace)
    registry, seen = workspace.registry, workspace.lakehouse.version(TRANSITIONS)
    entry = {
        "sequence": 0 if seen is None else seen + 1,
        "at": datetime.now(UTC),
        "action": action,
        "version": version,
        "from_stage": registry.version(version).tags["stage"],
        "to_stage": _STAGE_AFTER[action],
        "champion": registry.aliased(CHAMPION),
        "who": who,
        "why": why,
    }
    row = pl.LazyFrame([entry], schema=polars_schema(TRANSITIONS.schema))
    if not workspace.lakehouse.append_if_unchanged(TRANSITIONS, nw.from_native(row), seen):
        message = f"Somebody else moved a version while this {action} was under way."
        raise UserError(message, "Look at `history` and run again.")
    _carry_out_last(workspace)


def _carry_out_last(workspace: Workspace) -> None:
    """Bring the registry in line with the last transition; doing so again changes nothing."""
    registry = workspace.registry
    for entry in history(workspace).tail(1).iter_rows(named=True):
        version, stage, before = entry["version"], entry["to_stage"], entry["champion"]
        if stage == "Production":
            registry.point(CHAMPION, version)
            if before not in (None, version):
                registry.annotate(before, {"stage": "Archived"})
        if stage == "Staging":
            if (passed_over := registry.aliased(CHALLENGER)) not in (None, version):
                registry.annotate(str(passed_over), {"stage": "Archived"})
            registry.point(CHALLENGER, version)
        elif registry.aliased(CHALLENGER) == version:
            registry.point(CHALLENGER, None)
        record = {
            "stage.who": entry["who"],
            "stage.when": f"{entry['at']:%Y-%m-%dT%H:%M:%SZ}",
            "stage.why": entry["why"],
        }
        registry.annotate(version, {"stage": stage, **record})
