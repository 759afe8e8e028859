"""The command line: one verb per step of the loop, each thin.

Heavy imports wait until a verb runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import UserError

if TYPE_CHECKING:
    from .contract import Problem
    from .lakehouse import Lakehouse
    from .registry import Registry
    from .settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Env = Annotated[str, typer.Option("--env", help="Environment: a file in conf/.")]
AsOf = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        help="Moment in UTC (2013-11-01 or 2013-11-01T06:00); nothing known later is seen. "
        "Default: now.",
    ),
]


class Session:
    """What a verb works with, opened once.

    Args:
        env: Name of the environment.
        as_of: As given on the command line; None for now.
    """

    def __init__(self, env: str, as_of: str | None = None) -> None:
        """Read the configuration, then open the lakehouse and the registry it names."""
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        from .lakehouse import Lakehouse
        from .settings import load_settings

        self.settings: Settings = load_settings(env)
        place = self.settings.lakehouse
        self.lakehouse: Lakehouse = Lakehouse(place.root, place.mounts, place.storage_options)
        self._as_of = as_of

    @property
    def problem(self) -> Problem:
        """What `problem/` declares."""
        from .problem import PROBLEM

        return PROBLEM

    @cached_property
    def registry(self) -> Registry:
        """Where versions are."""
        from .registry import Registry

        return Registry(self.settings.mlflow)

    @cached_property
    def as_of(self) -> datetime:
        """The as-of, within the time that there is data for."""
        return clamp(parse_moment(self._as_of), self.problem.begins, self.problem.ends)


def parse_moment(text: str | None) -> datetime:
    """Read a moment; UTC unless it says otherwise; None is now.

    Raises:
        UserError: Not a moment.
    """
    if text is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            f"--as-of '{text}' is not a moment.", "Write it as 2013-11-01 or 2013-11-01T06:00."
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def clamp(as_of: datetime, begins: datetime, ends: datetime | None) -> datetime:
    """Move an as-of after the end of the data back to it, and say so.

    Raises:
        UserError: The as-of lies before the data begin.
    """
    from .console import say

    if as_of <= begins:
        raise UserError(
            f"--as-of {as_of:%Y-%m-%d %H:%M} lies before the data begin ({begins:%Y-%m-%d}).",
            f"Choose a moment after {begins:%Y-%m-%d}.",
        )
    if ends is not None and as_of > ends:
        say(f"[dim]The data end on {ends:%Y-%m-%d %H:%M} UTC; that is used as the as-of.[/]")
        return ends
    return as_of


@app.callback()
def main_options() -> None:
    """From raw tables to a watched model: each verb is one step, `run` is all of them."""


@app.command()
def ingest(env: Env = "dev", as_of: AsOf = None) -> None:
    """Append to the raw tables what became known until the as-of."""
    _ingest(Session(env, as_of))


@app.command()
def prepare(env: Env = "dev", as_of: AsOf = None) -> None:
    """Check and shape raw rows; those that fail go to quarantine."""
    _prepare(Session(env, as_of))


@app.command()
def features(
    env: Env = "dev",
    as_of: AsOf = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Rebuild from then on; default: continue.")
    ] = None,
) -> None:
    """Build the feature tables."""
    _features(Session(env, as_of), parse_moment(since) if since else None)


@app.command()
def train(env: Env = "dev", as_of: AsOf = None) -> None:
    """Tune, fit, evaluate and register a model."""
    _train(Session(env, as_of))


@app.command()
def run(env: Env = "dev", as_of: AsOf = None) -> None:
    """Run every step, from the sources to a registered model."""
    session = Session(env, as_of)
    _ingest(session)
    _prepare(session)
    _features(session)
    _train(session)


@app.command()
def status(env: Env = "dev") -> None:
    """Show tables and model versions of an environment."""
    from .console import table
    from .metrics import METRICS

    session = Session(env)
    tables = [
        *(source.raw_table for source in session.problem.sources),
        *(source.prepared_table for source in session.problem.sources),
        *(source.quarantine_table for source in session.problem.sources),
        *(feature.table for feature in session.problem.feature_tables),
        METRICS,
    ]
    rows = []
    for item in tables:
        version, done = session.lakehouse.version(item), session.lakehouse.complete_until(item)
        count = session.lakehouse.count(item)
        until = f"{done:%Y-%m-%d %H:%M}" if done else "–"
        rows.append((item.name, f"{count:,}", "–" if version is None else version, until))
    table("Tables", ("table", "rows", "version", "complete until (UTC)"), rows)
    versions = [
        (found.version, found.tags.get("as_of", "–")[:16], found.description or "–")
        for found in session.registry.versions()
    ]
    table(f"Versions of {session.settings.mlflow.model}", ("version", "as of", "description"), versions)


def _ingest(session: Session) -> None:
    from .console import step
    from .features.ingest import ingest

    as_of = session.as_of
    with step("ingest") as notes:
        done = ingest(session.lakehouse, session.problem.sources, as_of)
        notes.extend(_counts(done))


def _counts(done: dict[str, int]) -> list[str]:
    return [f"{count:,} {name}" for name, count in done.items() if count] or ["nothing new"]


def _prepare(session: Session) -> None:
    from .console import step
    from .features.prepare import prepare

    as_of = session.as_of
    with step("prepare") as notes:
        done = prepare(session.lakehouse, session.problem.sources, as_of, session.settings.reports)
        notes.extend(_counts({name: result.passed for name, result in done.items()}))
        if quarantined := sum(result.quarantined for result in done.values()):
            notes.append(f"{quarantined:,} rows in quarantine")


def _features(session: Session, since: datetime | None = None) -> None:
    from .console import step
    from .features.build import build_features

    as_of = session.as_of
    with step("features") as notes:
        done = build_features(session.lakehouse, session.problem, as_of, since)
        notes.extend(_counts(done))


def _train(session: Session) -> None:
    from .console import say, table
    from .report import number
    from .training.pipeline import train

    done = train(
        session.lakehouse, session.registry, session.settings, session.problem, session.as_of
    )
    if done.metrics is None:
        say(f"[green]✓[/] This training is registered already, as version {done.version}.")
    else:
        rows = [
            (
                row["metric"],
                number(row["model"]),
                f"{number(row['model_lower'])} – {number(row['model_upper'])}",
                number(row["baseline"]),
                number(row["gain"]),
            )
            for row in done.metrics.iter_rows(named=True)
        ]
        columns = ("metric", "model", "95 % interval", "baseline", "gain")
        table(f"Version {done.version} on its holdout", columns, rows)
    say(f"Report: {done.report}")


def main() -> None:
    """Run the command line; what a user can mend ends in one message and exit code 1."""
    _exit_cleanly(app)


def _exit_cleanly(command: Callable[[], None]) -> None:
    try:
        command()
    except UserError as error:
        from rich.markup import escape

        from .console import err

        err.print(f"[bold red]✗[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
