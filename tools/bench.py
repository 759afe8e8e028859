"""Measure rendering, and the checks of a rendered project: `python tools/bench.py PROJECT`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from render import render
from rich.console import Console
from rich.table import Table

RENDER_BOUND, CHECKS_BOUND = 2.0, 120.0
REPEATS = 3
CHECKS = ("lint", "types", "unit", "integration")


def rendering() -> float:
    """Seconds for a new project, the best of three; needs no network."""
    taken = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            render(Path(folder), {})
            taken.append(time.perf_counter() - begun)
    return min(taken)


def checks(project: Path) -> dict[str, float]:
    """Seconds for each check of a project; a first round fills environments and caches."""
    taken = {}
    for _ in range(2):
        for name in CHECKS:
            begun = time.perf_counter()
            subprocess.run(
                [sys.executable, str(project / "bootstrap.py"), name],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            taken[name] = time.perf_counter() - begun
    return taken


def main(arguments: list[str]) -> int:
    """Print the table; returns the exit code."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    table = Table("measured", "", "bound", "", title="The template", title_justify="left")
    parts = checks(Path(arguments[0]))
    measured = {
        "render": (rendering(), RENDER_BOUND),
        "checks, warm": (sum(parts.values()), CHECKS_BOUND),
    }
    for what, (seconds, bound) in measured.items():
        holds = "[green]holds[/]" if seconds < bound else "[red]does not hold[/]"
        table.add_row(what, f"{seconds:.2f} s", f"< {bound:g} s", holds)
    for name, seconds in parts.items():
        table.add_row(f"  {name}", f"{seconds:.2f} s", "", "")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
