"""Sources that are not those that filled the tables: noticed, and what can be done about it.

Rows that were loaded stay. After another `load`, or another problem altogether, tables would hold
rows of both, and nobody would know.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import polars as pl

from ..context import Context
from ..core.contract import polars_schema
from ..core.errors import UserError
from ..store import tables
from ..tracking.provenance import source_digest

_SQLITE = "sqlite:///"


def require_unchanged(context: Context) -> None:
    """Refuse to add rows to tables that another source filled.

    Raises:
        UserError: Names the sources, and the folder to remove.
    """
    now = _digests(context)
    before = _recorded(context)
    changed = [name for name in now if before.get(name, now[name]) != now[name]]
    if before and not now.keys() & before.keys():
        changed = list(before)
    if not changed:
        return
    raise UserError(
        f"{', '.join(sorted(changed))}: the tables in {context.settings.lakehouse.root} were "
        "filled by another problem, another `load`, or from another file.",
        f"Start anew: remove {context.settings.state}, or `run --on-change anew`. "
        "Or go on with the rows that are there: `run --on-change keep`.",
    )


def remember(context: Context, as_of: datetime) -> None:
    """Record what the sources are like, where that is new."""
    recorded = _recorded(context)
    now = _digests(context)
    new = [(name, digest, as_of) for name, digest in now.items() if recorded.get(name) != digest]
    if new:
        schema = polars_schema(tables.DECLARATIONS.schema)
        rows = pl.DataFrame(new, schema=schema, orient="row")
        context.lakehouse.merge(tables.DECLARATIONS, rows)


def start_anew(context: Context) -> None:
    """Remove all that the environment holds: tables, versions, reports.

    Raises:
        UserError: Some of it is not below the environment's own folder, or a person decides there.
    """
    settings = context.settings
    if settings.deployment.approval == "person":
        message = f"In {settings.env} a person decides: nothing is removed there."
        raise UserError(message, f"Remove it yourself: {settings.lakehouse.root}.")
    state = settings.state.resolve()
    places = (settings.lakehouse.root, settings.mlflow.tracking_uri.removeprefix(_SQLITE))
    elsewhere = [place for place in places if not _is_below(place, state)]
    if elsewhere:
        message = f"Not below {state}: {', '.join(elsewhere)}."
        raise UserError(message, "Remove what belongs to this environment yourself.")
    shutil.rmtree(state, ignore_errors=True)


def _is_below(place: str, folder: Path) -> bool:
    return "://" not in place and Path(place).resolve().is_relative_to(folder)


def _recorded(context: Context) -> Mapping[str, str]:
    """Digests by source, as they were when rows were loaded last."""
    rows = context.lakehouse.read(tables.DECLARATIONS)
    return dict(rows.select("source", "digest").iter_rows())


def _digests(context: Context) -> Mapping[str, str]:
    """Digests of the sources that fill tables of this environment."""
    sources = context.problem.sources
    ours = [item for item in sources if context.lakehouse.owns(tables.raw(item).name)]
    return {source.name: source_digest(source) for source in ours}
