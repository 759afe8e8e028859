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

from ..contract import UTC_TIME, Table
from ..errors import UserError
from ..lakehouse import Lakehouse
from ..registry import CHALLENGER, CHAMPION, Registry
from ..settings import DeploymentSettings

TRANSITIONS = Table(
    name="transitions",
    schema={
        "sequence": nw.Int64,
        "at": UTC_TIME,
        **dict.fromkeys(("action", "version", "from_stage", "to_stage", "champion", "who", "why"), nw.String),
    },
    keys=("sequence",),
    time="at",
)
POLICY = "policy"
_AGAIN = "Look at `history` and run again."


def history(lakehouse: Lakehouse) -> pl.DataFrame:
    """All transitions, oldest first; `champion` is who it was before."""
    return pl.DataFrame(lakehouse.scan(TRANSITIONS).sort("sequence").collect("polars").to_native())


def archive(lakehouse: Lakehouse, registry: Registry, version: str, who: str, why: str) -> None:
    """Take a version out of the race."""
    _move(lakehouse, registry, "archive", version, "Archived", who, why)


def stage(lakehouse: Lakehouse, registry: Registry, version: str, who: str, why: str) -> None:
    """Make a version the challenger."""
    _move(lakehouse, registry, "stage", version, "Staging", who, why)


def request(
    lakehouse: Lakehouse, registry: Registry, settings: DeploymentSettings, version: str, who: str, evidence: str
) -> bool:
    """Ask for a promotion on the strength of a comparison; where policy decides, it is granted at once.

    Returns:
        Whether the version is the champion now; else the request waits for a person.
    """
    _move(lakehouse, registry, "request", version, "Staging", who, evidence)
    if settings.approval == "policy":
        _move(lakehouse, registry, "approve", version, "Production", POLICY, evidence)
    return settings.approval == "policy"


def decide(
    lakehouse: Lakehouse, registry: Registry, settings: DeploymentSettings, who: str, why: str, *, approve: bool
) -> str:
    """Grant or refuse the waiting request; returns the version.

    Raises:
        UserError: Nothing waits, the champion or the challenger changed since the request, or the one who
            asked may not decide.
    """
    _carry_out_last(lakehouse, registry)
    waiting = history(lakehouse).tail(1).filter(action="request").rows(named=True)
    if not waiting:
        raise UserError("No request waits for a decision.", "Ask for one with `request`.")
    version, asked_by, champion = (waiting[0][key] for key in ("version", "who", "champion"))
    if registry.aliased(CHAMPION) != champion or registry.aliased(CHALLENGER) != version:
        raise UserError(
            f"The request for version {version} is stale: the champion or the challenger changed since.",
            "Compare again and ask anew: `request`.",
        )
    if approve and settings.four_eyes and who == asked_by:
        raise UserError(f"{who} asked for this promotion and may not approve it.", "Have somebody else approve.")
    if approve:
        _move(lakehouse, registry, "approve", version, "Production", who, why)
    else:
        _move(lakehouse, registry, "reject", version, "Archived", who, why)
    return str(version)


def rollback(lakehouse: Lakehouse, registry: Registry, who: str, why: str) -> str:
    """Make the champion before this one the champion again; returns its number.

    Raises:
        UserError: There is none to go back to, or its files are gone or changed.
    """
    _carry_out_last(lakehouse, registry)
    line: list[str] = []
    for action, version in history(lakehouse).select("action", "version").iter_rows():
        if action == "approve":
            line.append(version)
        elif action == "rollback":
            line.pop()
    if len(line) < 2:
        raise UserError("There is no earlier champion to go back to.", "Train and promote another version.")
    registry.download(line[-2])
    _move(lakehouse, registry, "rollback", line[-2], "Production", who, why)
    return line[-2]


def _move(
    lakehouse: Lakehouse, registry: Registry, action: str, version: str, to_stage: str, who: str, why: str
) -> None:
    _carry_out_last(lakehouse, registry)
    seen = lakehouse.version(TRANSITIONS)
    entry = {
        "sequence": 0 if seen is None else seen + 1,
        "at": datetime.now(UTC),
        "action": action,
        "version": version,
        "from_stage": registry.version(version).tags.get("stage", "None"),
        "to_stage": to_stage,
        "champion": registry.aliased(CHAMPION),
        "who": who,
        "why": why,
    }
    row = pl.DataFrame([entry], schema=nw.Schema(dict(TRANSITIONS.schema)).to_polars())
    if not lakehouse.append_if_unchanged(TRANSITIONS, nw.from_native(row.lazy()), seen):
        raise UserError(f"Somebody else moved a version while this {action} was under way.", _AGAIN)
    _carry_out_last(lakehouse, registry)


def _carry_out_last(lakehouse: Lakehouse, registry: Registry) -> None:
    """Bring the registry in line with the last transition; doing so again changes nothing."""
    for entry in history(lakehouse).tail(1).iter_rows(named=True):
        version, stage, before = entry["version"], entry["to_stage"], entry["champion"]
        if stage == "Production":
            registry.point(CHAMPION, version)
            if before not in (None, version):
                registry.tag(before, {"stage": "Archived"})
        if stage == "Staging":
            if (passed_over := registry.aliased(CHALLENGER)) not in (None, version):
                registry.tag(str(passed_over), {"stage": "Archived"})
            registry.point(CHALLENGER, version)
        else:
            registry.unpoint(CHALLENGER, version)
        when = f"{entry['at']:%Y-%m-%dT%H:%M:%SZ}"
        registry.tag(version, {"stage": stage, "stage.who": entry["who"], "stage.when": when, "stage.why": entry["why"]})
