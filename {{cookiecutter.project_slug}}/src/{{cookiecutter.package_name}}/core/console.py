"""What a person sees on the terminal: steps, bars, tables."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

T = TypeVar("T")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@contextmanager
def step(title: str) -> Iterator[list[str]]:
    """Show a step while it runs and one line with its duration when done.

    Yields:
        A list to which the step adds what it did; printed behind the title.
    """
    notes: list[str] = []
    started = time.perf_counter()
    with out.status(f"[bold]{title}[/] …"):
        yield notes
    seconds = time.perf_counter() - started
    done = f"[green]✓[/] [bold]{title:<12}[/] {', '.join(notes)} [dim]({seconds:.1f} s)[/]"
    out.print(done, soft_wrap=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Say nothing meanwhile; errors are still raised."""
    out.quiet = True
    try:
        yield
    finally:
        out.quiet = False


def bar(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Iterate with a progress bar that vanishes at the end."""
    with progress_bar() as progress:
        yield from progress.track(items, total=total, description=title)


def progress_bar() -> Progress:
    """A bar that vanishes at the end; lines that are printed meanwhile stand above it."""
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=out,
        transient=True,
    )


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; columns of numbers align right."""
    cells = [[str(cell) for cell in row] for row in rows]
    grid = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
    for index, column in enumerate(columns):
        numeric = all(row[index][:1].isdigit() or row[index][:1] == "-" for row in cells)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        grid.add_row(*row)
    out.print(grid)


def say(text: str) -> None:
    """Print a line."""
    out.print(text, soft_wrap=True)
