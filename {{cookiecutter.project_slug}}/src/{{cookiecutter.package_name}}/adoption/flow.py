"""Adopts a table: looks at it, writes the files, says what was assumed."""

from __future__ import annotations

from pathlib import Path

from ..core.console import say
from ..core.words import counted
from . import project as places
from .assume import Ask, Asked, Assumed, assume
from .write import files, settings


def adopt(project: Path, asked: Asked, ask: Ask, *, force: bool = False) -> Assumed:
    """Make a table the problem of the project.

    Args:
        project: Its folder.
        asked: What a person said of the table.
        ask: For what cannot be found out.
        force: Replace also what no commit keeps.

    Raises:
        UserError: A table from which nothing can be learned, or files that would be lost.
    """
    if not force:
        places.require_kept(project)
    place = places.bring(project, asked.source)
    assumed = assume(asked, place, ask)
    places.write(project, files(assumed), settings(assumed))
    dropped = places.drop_packages(project)
    _tell(project, assumed, dropped)
    return assumed


def restore(project: Path, *, force: bool = False) -> None:
    """Put the sample back.

    Raises:
        UserError: No commit has it, or files would be lost.
    """
    if not force:
        places.require_kept(project)
    commit = places.restore_sample(project)
    say(f"[green]✓[/] The sample is back, as of commit {commit[:7]}.")
    say("  Next: `python3 bootstrap.py demo`")


def _tell(project: Path, assumed: Assumed, dropped: list[str]) -> None:
    size = f"{counted(assumed.rows, 'row')}, {counted(len(assumed.columns), 'input')}"
    say(f"[green]✓[/] {assumed.place}: {size}.")
    say("  Assumed:")
    for note in assumed.notes:
        say(f"  · {note}")
    if assumed.windows:
        days = assumed.windows
        say(
            f"  · judged on the last {days.holdout} days, "
            f"{days.validation} days before them stop a fit; by {assumed.time}, in UTC"
        )
    else:
        say("  · rows without times: a fifth of them, drawn by their keys, judges (or: --time)")
    for column in assumed.told:
        say(f"  [yellow]! {column.name} is left out: {column.why}[/]")
    for column in assumed.left_out:
        say(f"  · {column.name} is left out: {column.why}")
    if dropped:
        say(f"  No longer needed, and taken out of the locks: {', '.join(dropped)}.")
    has_tables = any((project / ".data").glob("*/lakehouse"))
    anew = " --on-change anew" if has_tables else ""
    say(f"  Written: problem/, tests/problem/, conf/, notebooks/. Next: `run{anew}`")
