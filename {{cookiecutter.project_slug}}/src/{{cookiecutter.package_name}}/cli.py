"""The command line: one verb per step of the loop, each thin.

Heavy imports wait until a verb runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import UserError

if TYPE_CHECKING:
    from .contract import Problem
    from .lakehouse import Lakehouse
    from .registry import Registry
    from .settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
ME = os.environ.get("USER") or os.environ.get("USERNAME") or "unknown"
WEBHOOK_SECRET = "WEBHOOK_SECRET"  # noqa: S105 the name of the variable that holds it

Env = Annotated[str, typer.Option("--env", help="Environment: a file in conf/.")]
AsOf = Annotated[
    str | None,
    typer.Option("--as-of", help="Moment in UTC (2013-11-01T06:00); nothing known later is seen. Default: now."),
]
Since = Annotated[str | None, typer.Option("--since", help="Rebuild from then on. Default: continue.")]
Version = Annotated[str | None, typer.Option("--version", help="Model version. Default: the newest.")]
Who = Annotated[str, typer.Option("--who", help="Who acts, for the record.", show_default="you")]
Why = Annotated[str, typer.Option("--why", help="The reason, for the record.")]


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

    def newest(self, version: str | None) -> str:
        """The version asked for, or the newest.

        Raises:
            UserError: There is none.
        """
        if version:
            return str(self.registry.version(version).version)
        for found in self.registry.versions():
            return str(found.version)
        raise UserError(f"{self.settings.mlflow.model} has no versions yet.", "Train one: `train`.")


@cache
def _session(env: str, as_of: str | None = None) -> Session:
    return Session(env, as_of)


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
    from .console import step
    from .features.ingest import ingest

    session = _session(env, as_of)
    until = session.as_of
    with step("ingest") as notes:
        notes += _counts(ingest(session.lakehouse, session.problem.sources, until))


@app.command()
def prepare(env: Env = "dev", as_of: AsOf = None) -> None:
    """Check and shape raw rows; those that fail go to quarantine."""
    from .console import step
    from .features.prepare import prepare

    session = _session(env, as_of)
    until = session.as_of
    with step("prepare") as notes:
        done = prepare(session.lakehouse, session.problem.sources, until, session.settings.state / "reports")
        notes += _counts({name: passed for name, (passed, _) in done.items()})
        if quarantined := sum(failed for _, failed in done.values()):
            notes.append(f"{quarantined:,} rows to quarantine")


@app.command()
def features(env: Env = "dev", as_of: AsOf = None, since: Since = None) -> None:
    """Build the feature tables."""
    from .console import step
    from .features.build import build_features

    session = _session(env, as_of)
    until = session.as_of
    with step("features") as notes:
        start = parse_moment(since) if since else None
        notes += _counts(build_features(session.lakehouse, session.problem, until, start))


@app.command()
def train(env: Env = "dev", as_of: AsOf = None) -> None:
    """Tune, fit, evaluate and register a model."""
    from .console import say, table
    from .report import number
    from .training.pipeline import train

    session = _session(env, as_of)
    done = train(session.lakehouse, session.registry, session.settings, session.problem, session.as_of)
    if done.results is None:
        say(f"[green]✓[/] This training is registered already, as version {done.version}.")
    else:
        rows = [
            (row["metric"], *map(number, (row["value"], row["lower"], row["upper"], row["reference"], row["gain"])))
            for row in done.results.filter(slice="").iter_rows(named=True)
        ]
        table(f"Version {done.version}", ("on the holdout", "model", "from", "to", "baseline", "gain"), rows)
    say(f"Report: {done.report}")


@app.command()
def check(env: Env = "dev", version: Version = None, who: Who = ME) -> None:
    """Examine a version: it becomes the challenger, or is archived (exit code 1)."""
    from .console import step
    from .deployment.compliance import CHECKS, check

    session = _session(env)
    number = session.newest(version)
    with step("check") as notes:
        failed = check(session.lakehouse, session.registry, session.settings, session.problem, number, who)
        notes.append(f"version {number} passed {len(CHECKS) - len(failed)} of {len(CHECKS)}")
    if failed:
        reasons = "".join(f"\n  {name}: {why}" for name, why in failed.items())
        raise UserError(f"Version {number} is archived; it failed:{reasons}", "Mend the causes and train again.")


@app.command()
def compare(env: Env = "dev", version: Version = None) -> str:
    """Measure a version against the champion; exit code 1 where it is worse than the margins allow."""
    from .console import say, step
    from .deployment.comparison import compare_versions

    session = _session(env)
    number = session.newest(version)
    with step("compare") as notes:
        done = compare_versions(session.lakehouse, session.registry, session.settings, session.problem, number)
        notes.append(done.evidence)
    say(f"Comparison: {done.report}")
    if done.objections:
        message = f"Version {number} is worse than the margins allow: {', '.join(done.objections)}."
        raise UserError(message, f"See {done.report}; the champion stays.")
    return done.evidence


@app.command()
def request(env: Env = "dev", version: Version = None, who: Who = ME) -> None:
    """Compare the challenger and ask for its promotion; granted at once where policy decides."""
    from .console import say
    from .deployment import transitions
    from .registry import CHALLENGER

    session = _session(env)
    number = session.newest(version or session.registry.aliased(CHALLENGER))
    evidence = compare(env, number)
    settings = session.settings.deployment
    if transitions.request(session.lakehouse, session.registry, settings, number, who, evidence):
        say(f"[green]✓[/] Version {number} is the champion.")
    else:
        say(f"Version {number} waits for `approve` or `reject`.")


@app.command()
def deploy(env: Env = "dev", version: Version = None, who: Who = ME) -> None:
    """Check, compare and request, for a version that has not been through it."""
    from .console import say

    session = _session(env)
    number = session.newest(version)
    stage = session.registry.version(number).tags["stage"]
    if stage in ("Production", "Archived"):
        say(f"[green]✓[/] Version {number} has been through it: {stage}.")
        return
    check(env, number, who)
    request(env, number, who)


@app.command()
def approve(why: Why, env: Env = "dev", who: Who = ME) -> None:
    """Grant the waiting request: the challenger becomes the champion."""
    _decide(env, who, why, approve=True)


@app.command()
def reject(why: Why, env: Env = "dev", who: Who = ME) -> None:
    """Refuse the waiting request: the challenger is archived."""
    _decide(env, who, why, approve=False)


@app.command()
def rollback(why: Why, env: Env = "dev", who: Who = ME) -> None:
    """Make the champion before this one the champion again."""
    from .console import say
    from .deployment import transitions

    session = _session(env)
    version = transitions.rollback(session.lakehouse, session.registry, who, why)
    say(f"[green]✓[/] Version {version} is the champion again.")


@app.command()
def history(env: Env = "dev") -> None:
    """Show who moved which version, when and why."""
    from .console import table
    from .deployment.transitions import history

    session = _session(env)
    columns = ("at", "action", "version", "from_stage", "to_stage", "who", "why")
    rows = [
        (f"{at:%Y-%m-%d %H:%M:%S}", *rest) for at, *rest in history(session.lakehouse).select(columns).iter_rows()
    ]
    table(f"Transitions of {session.settings.mlflow.model}", columns, rows)


@app.command()
def predict(
    env: Env = "dev",
    as_of: AsOf = None,
    source: Annotated[str | None, typer.Option("--input", help="File (.parquet, .csv) or database URI.")] = None,
    query: Annotated[str, typer.Option("--query", help="What to read from the database.")] = "",
    output: Annotated[Path | None, typer.Option("--output", help="File to write instead of the tables.")] = None,
) -> None:
    """Score what is due, or the rows of a file or query, with the champion."""
    from .console import step
    from .inference import batch
    from .inference.requests import read_database, read_file

    session = _session(env, as_of)
    until, lakehouse, problem = session.as_of, session.lakehouse, session.problem
    requests = next(item for item in problem.sources if item.name == problem.model.requests).prepared
    with step("predict") as notes:
        if source is None:
            done = batch.predict_due(lakehouse, session.registry, session.settings.inference, problem, until, output)
        else:
            rows = session.settings.inference.chunk_rows
            remote = "://" in source
            found = read_database(source, query, requests, rows) if remote else read_file(Path(source), requests, rows)
            chunks = batch.spines(problem, found, until)
            done = batch.predict(lakehouse, session.registry, problem, until, chunks, output=output)
        notes.append(f"version {done[0]} scored {done[1]:,} rows")


@app.command()
def webhook(env: Env = "dev", host: str = "127.0.0.1", port: int = 8000) -> None:
    """Listen for the registry's webhooks; a new version starts `deploy`."""
    import uvicorn

    from .deployment.webhook import receiver

    session = _session(env)
    if not (secret := os.environ.get(WEBHOOK_SECRET)):
        raise UserError(f"{WEBHOOK_SECRET} is not set.", "Set it to the secret that the registry signs with.")

    def start(version: str) -> None:
        arguments = ["deploy", "--env", env, "--version", version, "--who", "webhook"]
        subprocess.Popen([sys.executable, "-m", str(__package__), *arguments])

    seen = session.settings.state / "deliveries"
    uvicorn.run(receiver(secret, session.settings.mlflow.model, seen, start), host=host, port=port, log_level="warning")


@app.command()
def run(env: Env = "dev", as_of: AsOf = None) -> None:
    """Run the loop, from the sources to a champion and its predictions."""
    ingest(env, as_of)
    prepare(env, as_of)
    features(env, as_of)
    train(env, as_of)
    deploy(env)
    predict(env, as_of)


@app.command()
def status(env: Env = "dev") -> None:
    """Show the tables and model versions of an environment."""
    from .console import say, table
    from .deployment.transitions import TRANSITIONS
    from .metrics import METRICS

    session = _session(env)
    problem, lakehouse = session.problem, session.lakehouse
    sources = [t for item in problem.sources for t in (item.raw_table, item.prepared_table, item.quarantine_table)]
    written = [problem.predictions, problem.inference_log, METRICS, TRANSITIONS]
    rows = []
    for item in (*sources, *(feature.table for feature in problem.feature_tables), *written):
        version, done = lakehouse.version(item), lakehouse.complete_until(item)
        if version is not None:
            rows.append((item.name, f"{lakehouse.count(item):,}", version, f"{done:%Y-%m-%d %H:%M}" if done else "–"))
    if not rows:
        say(f"Nothing in {session.settings.lakehouse.root} yet: `run` fills it.")
        return
    table(f"Tables in {session.settings.lakehouse.root}", ("table", "rows", "version", "complete until (UTC)"), rows)
    versions = [
        (item.version, item.tags["stage"], item.tags["as_of"][:16], item.description)
        for item in session.registry.versions()
    ]
    table(f"Versions of {session.settings.mlflow.model}", ("version", "stage", "as of", "description"), versions)


def _decide(env: str, who: str, why: str, *, approve: bool) -> None:
    from .console import say
    from .deployment import transitions

    session = _session(env)
    settings = session.settings.deployment
    version = transitions.decide(session.lakehouse, session.registry, settings, who, why, approve=approve)
    say(f"[green]✓[/] Version {version} is {'the champion' if approve else 'archived'}.")


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
