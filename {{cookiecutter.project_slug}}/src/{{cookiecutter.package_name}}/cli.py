"""The command line: one verb per step of the loop, each thin.

Heavy imports wait until a verb runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
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
    typer.Option("--as-of", help="Moment in UTC (2013-11-01T06:00); nothing known later is seen. Default: now."),
]
Since = Annotated[str | None, typer.Option("--since", help="Rebuild from then on. Default: continue.")]


class Session:
    """What a verb works with; each part is opened when it is first asked for."""

    def __init__(self, env: str, as_of: str | None = None) -> None:
        """Read the configuration of `env`; `as_of` as given on the command line."""
        from .settings import load_settings

        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        self.settings: Settings = load_settings(env)
        self._as_of = parse_moment(as_of) if as_of else datetime.now(UTC)

    @cached_property
    def lakehouse(self) -> Lakehouse:
        """The environment's tables."""
        from .lakehouse import Lakehouse

        return Lakehouse(**self.settings.lakehouse.model_dump())

    @cached_property
    def problem(self) -> Problem:
        """What `problem/` declares."""
        from .problem import PROBLEM

        return PROBLEM

    @cached_property
    def registry(self) -> Registry:
        """The environment's model versions."""
        from .registry import Registry

        return Registry(self.settings.mlflow)

    @cached_property
    def as_of(self) -> datetime:
        """The as-of; one after the end of the data is moved back to it, and that is said.

        Raises:
            UserError: It lies before the data begin.
        """
        from .console import say

        begins, ends = self.problem.begins, self.problem.ends
        if self._as_of <= begins:
            message = f"--as-of {self._as_of:%Y-%m-%d %H:%M} is not after the data begin, {begins:%Y-%m-%d}."
            raise UserError(message, f"Choose a moment after {begins:%Y-%m-%d}.")
        if ends is None or self._as_of <= ends:
            return self._as_of
        say(f"[dim]The data end on {ends:%Y-%m-%d %H:%M} UTC, which is taken as now.[/]")
        return ends


def parse_moment(text: str) -> datetime:
    """Read a moment, UTC unless it says otherwise.

    Raises:
        UserError: Not a moment.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"'{text}' is not a moment.", "Write it as 2013-11-01 or 2013-11-01T06:00.") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


@app.command()
def ingest(env: Env = "dev", as_of: AsOf = None) -> None:
    """Append to the raw tables what became known until the as-of."""
    _ingest(Session(env, as_of))


@app.command()
def prepare(env: Env = "dev", as_of: AsOf = None) -> None:
    """Check and shape raw rows; those that fail go to quarantine."""
    _prepare(Session(env, as_of))


@app.command()
def features(env: Env = "dev", as_of: AsOf = None, since: Since = None) -> None:
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
    """Show the tables and model versions of an environment."""
    from .console import say, table
    from .metrics import METRICS

    session = Session(env)
    sources, lakehouse = session.problem.sources, session.lakehouse
    tables = [item for source in sources for item in (source.raw_table, source.prepared_table, source.quarantine_table)]
    rows = []
    for item in (*tables, *(feature.table for feature in session.problem.feature_tables), METRICS):
        version, done = lakehouse.version(item), lakehouse.complete_until(item)
        if version is not None:
            rows.append((item.name, f"{lakehouse.count(item):,}", version, f"{done:%Y-%m-%d %H:%M}" if done else "–"))
    if not rows:
        say(f"Nothing in {session.settings.lakehouse.root} yet: `run` fills it.")
        return
    table(f"Tables in {session.settings.lakehouse.root}", ("table", "rows", "version", "complete until (UTC)"), rows)
    versions = [(item.version, item.tags["as_of"][:16], item.description) for item in session.registry.versions()]
    table(f"Versions of {session.settings.mlflow.model}", ("version", "as of", "description"), versions)


def _ingest(session: Session) -> None:
    from .console import step
    from .features.ingest import ingest

    as_of = session.as_of
    with step("ingest") as notes:
        notes += _counts(ingest(session.lakehouse, session.problem.sources, as_of))


def _prepare(session: Session) -> None:
    from .console import step
    from .features.prepare import prepare

    as_of, reports = session.as_of, session.settings.state / "reports"
    with step("prepare") as notes:
        done = prepare(session.lakehouse, session.problem.sources, as_of, reports)
        notes += _counts({name: passed for name, (passed, _) in done.items()})
        if quarantined := sum(failed for _, failed in done.values()):
            notes.append(f"{quarantined:,} rows to quarantine")


def _features(session: Session, since: datetime | None = None) -> None:
    from .console import step
    from .features.build import build_features

    as_of = session.as_of
    with step("features") as notes:
        notes += _counts(build_features(session.lakehouse, session.problem, as_of, since))


def _train(session: Session) -> None:
    from .console import say, table
    from .report import number
    from .training.pipeline import train

    done = train(session.lakehouse, session.registry, session.settings, session.problem, session.as_of)
    if done.results is None:
        say(f"[green]✓[/] This training is registered already, as version {done.version}.")
    else:
        rows = [
            (row["metric"], *map(number, (row["value"], row["lower"], row["upper"], row["reference"], row["gain"])))
            for row in done.results.filter(slice="").iter_rows(named=True)
        ]
        columns = ("on the holdout", "model", "from", "to", "baseline", "gain")
        table(f"Version {done.version}", columns, rows)
    say(f"Report: {done.report}")


def _counts(done: Mapping[str, int]) -> list[str]:
    return [f"{count:,} {name}" for name, count in done.items() if count] or ["nothing new"]


def main() -> None:
    """Run the command line; what a user can mend ends in one message and exit code 1."""
    try:
        app()
    except UserError as error:
        from rich.markup import escape

        from .console import err

        err.print(f"[bold red]✗[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
