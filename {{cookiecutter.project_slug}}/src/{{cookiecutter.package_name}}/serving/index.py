"""The index: one page that joins all that was written on an environment."""

from __future__ import annotations

import html
import re
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..context import Context
from ..reporting import pages
from ..store import tables
from ..store.tables import CHAMPIONS_STAGE, TRANSITIONS

_HEAD = 4_000  # characters; a page's title and verdict stand before
_SHOWN = 12
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)
_VERDICT = re.compile(r'<meta name="description" content="(.*?)">', re.DOTALL)
# By the beginning of their names: what pages are called, and what they tell.
KINDS = {
    "training_": ("Trainings", "What a model was trained on, and how good it is on its holdout."),
    "comparison_": ("Comparisons", "Challenger against champion: the gains that decide."),
    "checks_": ("Quality checks", "Rows that failed, why, and the first of them."),
    "shift_": ("What shifted", "Distributions of a window against those of the training."),
}


@dataclass(frozen=True)
class Entry:
    """A page: where it lies, what it is called, what it says in a sentence, when it was written."""

    link: str
    title: str
    verdict: str
    written: datetime


def write_index(context: Context) -> Path:
    """Write the page that joins all others; returns its path."""
    reports = context.settings.reports
    path = reports / pages.INDEX
    pages.write(path, render(context))
    return path


def render(context: Context) -> str:
    """The page as it is now."""
    settings, reports = context.settings, context.settings.reports
    moves = context.lakehouse.read(TRANSITIONS, order=("sequence",))
    champions = moves.filter(to_stage=CHAMPIONS_STAGE)
    dashboards = sorted(reports.glob(f"dashboard/{pages.INDEX}"))
    return pages.render(
        "index.html.jinja",
        name=settings.mlflow.model,
        env=settings.env,
        champion=champions["version"].last() if champions.height else None,
        dashboard=_entry(dashboards[0], reports) if dashboards else None,
        groups=[(*told, _entries(reports, prefix)) for prefix, told in KINDS.items()],
        shown=_SHOWN,
        moves=moves.reverse().rows(named=True),
        quarantine=_quarantine(context),
        mlflow=shlex.join(["mlflow", "ui", "--backend-store-uri", settings.mlflow.tracking_uri]),
    )


def _entries(reports: Path, prefix: str) -> list[Entry]:
    """Pages of a kind, the newest first."""
    found = [_entry(path, reports) for path in sorted(reports.glob(f"{prefix}*.html"))]
    return sorted(found, key=lambda entry: entry.written, reverse=True)


def _entry(path: Path, reports: Path) -> Entry:
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.read(_HEAD)
    title, verdict = (
        html.unescape(" ".join(found[1].split())) if (found := pattern.search(head)) else ""
        for pattern in (_TITLE, _VERDICT)
    )
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return Entry(path.relative_to(reports).as_posix(), title or path.name, verdict, written)


def _quarantine(context: Context) -> list[tuple[str, int]]:
    """Rows in quarantine by source, of sources that have any."""
    lakehouse = context.lakehouse
    found = []
    for source in context.problem.sources:
        table = tables.quarantine(source)
        rows = 0 if lakehouse.version(table) is None else lakehouse.count(table)
        if rows:
            found.append((table.name, rows))
    return found
