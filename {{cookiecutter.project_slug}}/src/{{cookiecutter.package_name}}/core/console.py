"""What a person sees on the terminal: steps, bars, tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
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
_overheard: ContextVar[Callable[[str], None] | None] = ContextVar("overheard", default=None)

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@contextmanager
def step(title: str) -> Iterator[list[str]]:
    """Show a step while it runs and one line with its duration when done.

    Yields:
        A list to which the step adds what it did; printed behind the title.
    """
    notes: list[str] = []
    overheard = _overheard.get()
    if overheard is not None:
        overheard(title)
        yield notes
        return
    started = time.perf_counter()
    with out.status(f"[bold]{title}[/] …"):
        yield notes
    seconds = time.perf_counter() - started
    done = f"[green]✓[/] [bold]{title:<12}[/] {', '.join(notes)} [dim]({seconds:.1f} s)[/]"
    out.print(done, soft_wrap=True)


@contextmanager
def quiet(overheard: Callable[[str], None]) -> Iterator[None]:
    """Print nothing of what steps do meanwhile; each title goes to `overheard` when it begins.

    The console itself stays open: a bar that is on it moves on.
    """
    token = _overheard.set(overheard)
    try:
        yield
    finally:
        _overheard.reset(token)


def bar(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Iterate with a progress bar that vanishes at the end."""
    if _overheard.get() is not None:
        yield from items
        return
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
    """Print a line; a terminal breaks it where it ends, never within a path."""
    out.print(text, soft_wrap=True)


def complain(message: str) -> None:
    """Print what went wrong: plainly, where memory does not suffice for more."""
    try:
        err.print(f"[bold red]✗[/] {escape(message)}", soft_wrap=True)
    except (MemoryError, ImportError):
        sys.stderr.write(f"✗ {message}\n")


def line(text: str) -> None:
    """Print one line, cut where the terminal ends; whole where the output is no terminal."""
    if out.is_terminal:
        out.print(text, no_wrap=True, overflow="ellipsis")
    else:
        say(text)
