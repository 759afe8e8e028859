"""The command line: one verb per step of the loop, each thin.

Heavy imports wait until a verb runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .core.console import bar, err, quiet, say, step, table
from .core.errors import UserError

if TYPE_CHECKING:
    from .context import Context

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
ME = os.environ.get("USER") or os.environ.get("USERNAME") or "unknown"
SECRET_VARIABLE = "WEBHOOK_SECRET"  # noqa: S105 its name, not the secret

Env = Annotated[str, typer.Option("--env", help="Environment: a file in conf/.")]
_AS_OF = (
    "Moment in UTC (2013-11-01T06:00); nothing known later is seen. Default: the last full hour."
)
AsOf = Annotated[str | None, typer.Option("--as-of", envvar="AS_OF", help=_AS_OF)]
From = Annotated[
    str | None, typer.Option("--from", help="First period's as-of. Default: 63 days into the data.")
]
To = Annotated[str | None, typer.Option("--to", help="Last period's as-of. Default: now.")]
Folder = Annotated[
    Path | None, typer.Option("--output", help="Folder. Default: dashboard/ of the state.")
]
Port = Annotated[
    int | None, typer.Option("--port", help="Serve it on this port of the machine instead.")
]
Days = Annotated[str, typer.Option(help="Days, as 7d.")]
Since = Annotated[
    str | None, typer.Option("--since", help="Rebuild from then on. Default: continue.")
]
Version = Annotated[
    str | None, typer.Option("--version", help="Model version. Default: the newest.")
]
Who = Annotated[str, typer.Option("--who", help="Who acts, for the record.", show_default="you")]
Why = Annotated[str, typer.Option("--why", help="The reason, for the record.")]
Input = Annotated[
    str | None, typer.Option("--input", help="File (.parquet, .csv) or database URI.")
]
Query = Annotated[str, typer.Option("--query", help="What to read from the database.")]
Start = Annotated[
    str,
    typer.Option("--start", help="Command instead of `deploy`; the version is its last argument."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", help="File (.parquet, .csv) to write instead of the tables."),
]


@cache
def context_of(env: str) -> Context:
    """The environment, opened once."""
    from .context import open_context

    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault(
        "GOMP_SPINCOUNT", "500"
    )  # more starves others on the machine, less halves the speed
    return open_context(env)


@cache
def moment_of(env: str, as_of: str | None) -> datetime:
    """The as-of of a verb; one after the end of the data is moved back to it, and that is said.

    Raises:
        UserError: It lies before the data begin, or is not a moment.
    """
    hour = datetime.now(UTC).replace(
        minute=0, second=0, microsecond=0
    )  # verbs of one hour agree on it
    problem, moment = context_of(env).problem, parse_moment(as_of) if as_of else hour
    if moment <= problem.begins:
        message = f"--as-of {moment:%Y-%m-%d %H:%M} is not after the data begin, {problem.begins:%Y-%m-%d}."
        raise UserError(message, f"Choose a moment after {problem.begins:%Y-%m-%d}.")
    if problem.ends is None or moment <= problem.ends:
        return moment
    say(f"[dim]The data end on {problem.ends:%Y-%m-%d %H:%M} UTC, which is taken as now.[/]")
    return problem.ends


def parse_moment(text: str) -> datetime:
    """Read a moment, UTC unless it says otherwise.

    Raises:
        UserError: Not a moment.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            f"'{text}' is not a moment.", "Write it as 2013-11-01 or 2013-11-01T06:00."
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def days(text: str) -> timedelta:
    """Read a number of days, written as 7d.

    Raises:
        UserError: Not written so, or none.
    """
    if not re.fullmatch(r"[1-9]\d{0,3}d", text):
        raise UserError(f"'{text}' is not a number of days.", "Write it as 7d.")
    return timedelta(days=int(text[:-1]))


@contextmanager
def recorded(verb: str, context: Context, as_of: datetime) -> Iterator[list[str]]:
    """A step whose run is recorded among the metrics."""
    from .store.measurements import recorded

    with step(verb) as notes, recorded(context.lakehouse, verb, as_of):
        yield notes


def version_of(env: str, version: str | None) -> str:
    """The version asked for, or the newest.

    Raises:
        UserError: There is none.
    """
    registry = context_of(env).registry
    for found in [registry.version(version)] if version else registry.versions():
        return str(found.version)
    raise UserError(f"{registry.settings.model} has no versions yet.", "Train one: `train`.")


@app.command()
def ingest(env: Env = "dev", as_of: AsOf = None) -> None:
    """Append to the raw tables what became known until the as-of."""
    from .data.ingest import ingest

    context, until = context_of(env), moment_of(env, as_of)
    with recorded("ingest", context, until) as notes:
        notes.extend(_counts(ingest(context, until)))


@app.command()
def prepare(env: Env = "dev", as_of: AsOf = None) -> None:
    """Check and shape raw rows; those that fail go to quarantine."""
    from .data.prepare import prepare

    context, until = context_of(env), moment_of(env, as_of)
    with recorded("prepare", context, until) as notes:
        done = prepare(context, until)
        notes.extend(_counts({name: passed for name, (passed, _) in done.items()}))
        if quarantined := sum(failed for _, failed in done.values()):
            notes.append(f"{quarantined:,} rows to quarantine")


@app.command()
def features(env: Env = "dev", as_of: AsOf = None, since: Since = None) -> None:
    """Build the feature tables."""
    from .features.build import build_features

    context, until = context_of(env), moment_of(env, as_of)
    with recorded("features", context, until) as notes:
        start = parse_moment(since) if since else None
        notes.extend(_counts(build_features(context, until, start)))


@app.command()
def train(env: Env = "dev", as_of: AsOf = None) -> str:
    """Tune, fit, evaluate and register a model."""
    from .reporting.pages import number
    from .store.measurements import recorded
    from .training.pipeline import train

    context, until = context_of(env), moment_of(env, as_of)
    with recorded(context.lakehouse, "train", until):
        done = train(context, until)
    if done.results is None:
        say(f"[green]✓[/] This training is registered already, as version {done.version}.")
    else:
        shown = ("value", "lower", "upper", "reference", "gain")
        overall = done.results.filter(slice="").iter_rows(named=True)
        rows = [(row["metric"], *(number(row[name]) for name in shown)) for row in overall]
        table(
            f"Version {done.version}",
            ("on the holdout", "model", "from", "to", "baseline", "gain"),
            rows,
        )
    say(f"Report: {done.report}")
    return done.version


@app.command()
def check(env: Env = "dev", version: Version = None, who: Who = ME) -> None:
    """Examine a version: it becomes the challenger, or is archived (exit code 1)."""
    from .deployment.compliance import CHECKS, check

    number = version_of(env, version)
    with step("check") as notes:
        failed = check(context_of(env), number, who)
        notes.append(f"version {number} passed {len(CHECKS) - len(failed)} of {len(CHECKS)}")
    if failed:
        raise _archived(env, number)


def _archived(env: str, number: str) -> UserError:
    why = context_of(env).registry.version(number).tags.get("stage.why", "by hand")
    return UserError(
        f"Version {number} is archived: {why}.", "Mend the causes, or train with a later --as-of."
    )


@app.command()
def compare(env: Env = "dev", version: Version = None) -> tuple[str, str | None]:
    """Measure a version against the champion; exit code 1 where it is worse than the margins allow."""
    from .deployment.comparison import compare_versions

    number = version_of(env, version)
    with step("compare") as notes:
        done = compare_versions(context_of(env), number)
        notes.append(done.evidence)
    say(f"Comparison: {done.report}")
    if done.objections:
        message = f"Version {number} is worse than the margins allow: {', '.join(done.objections)}."
        raise UserError(message, f"See {done.report}; the champion stays.")
    return done.evidence, done.champion


@app.command()
def request(env: Env = "dev", version: Version = None, who: Who = ME) -> None:
    """Compare a challenger and ask for its promotion; granted at once where policy decides."""
    from .deployment import transitions

    number = version_of(env, version)
    if transitions.request(context_of(env), number, who, *compare(env, number)):
        say(f"[green]✓[/] Version {number} is the champion.")
    else:
        say(f"Version {number} waits for `approve` or `reject`.")


@app.command()
def deploy(env: Env = "dev", version: Version = None, who: Who = ME) -> None:
    """Check, compare and request: all gates in one go, for a version that has not been through them."""
    from .deployment.transitions import reconcile

    number = version_of(env, version)
    reconcile(context_of(env))
    stage = context_of(env).registry.version(number).tags.get("stage")
    if stage == "Production":
        say(f"[green]✓[/] Version {number} is the champion already.")
    elif stage == "Archived":
        raise _archived(env, number)
    else:
        if stage != "Staging":
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


def _decide(env: str, who: str, why: str, *, approve: bool) -> None:
    from .deployment.transitions import decide

    version = decide(context_of(env), who, why, approve=approve)
    say(f"[green]✓[/] Version {version} is {'the champion' if approve else 'archived'}.")


@app.command()
def rollback(why: Why, env: Env = "dev", who: Who = ME) -> None:
    """Make the champion before this one the champion again."""
    from .deployment.transitions import rollback

    say(f"[green]✓[/] Version {rollback(context_of(env), who, why)} is the champion again.")


@app.command()
def history(env: Env = "dev") -> None:
    """Show who moved which version, when and why."""
    from .deployment.transitions import history

    columns = ("at", "action", "version", "to_stage", "who", "why")
    moves = history(context_of(env)).select(columns).iter_rows()
    table("Transitions", columns, [(f"{at:%Y-%m-%d %H:%M:%S}", *rest) for at, *rest in moves])


@app.command()
def predict(
    env: Env = "dev",
    as_of: AsOf = None,
    source: Input = None,
    query: Query = "",
    output: Output = None,
) -> None:
    """Score what is due, or the rows of a file or query, with the champion."""
    from .inference import batch
    from .inference.inputs import read

    context, until = context_of(env), moment_of(env, as_of)
    with recorded("predict", context, until) as notes:
        if source is None:
            chunks = batch.due(context, until)
        else:
            chunks = batch.spines(context, read(context, source, query), until)
        champion, count = batch.predict(context, until, chunks, output, complete=source is None)
        notes.append(f"version {champion} scored {count:,} rows")


@app.command()
def monitor(env: Env = "dev", as_of: AsOf = None) -> None:
    """Measure what production did, and tell who is to know; exit code 1 where a notice does not arrive."""
    from .monitoring import alerts, pipeline

    context, until = context_of(env), moment_of(env, as_of)
    with recorded("monitor", context, until) as notes:
        windows = pipeline.monitor(context, until)
        notices = alerts.raise_alerts(context, until)
        notes.append(f"windows measured: {len(windows)}, notices: {len(notices)}")
    for notice in notices:
        say(f"  {notice}")
    alerts.deliver(context)


@app.command()
def retrain(env: Env = "dev", as_of: AsOf = None) -> None:
    """Train and deploy again if monitoring or the schedule asks for it; a model that is no better is left."""
    from .monitoring.retraining import conclude, decide

    context, until = context_of(env), moment_of(env, as_of)
    decision = decide(context, until)
    say(
        f"{until:%Y-%m-%d} [bold]{'retrain' if decision.retrain else 'no retraining'}[/]: {decision.why}."
    )
    if decision.outcome is None:
        number = train(env, decision.at.isoformat())
        outcome = f"version {number} asked for promotion"
        try:
            deploy(env, number, "retraining")
        except UserError as error:
            outcome = str(error).partition("\n")[0]
            say(outcome)
        conclude(context, decision, outcome)


@app.command()
def dashboard(env: Env = "dev", output: Folder = None, port: Port = None) -> None:
    """Write the dashboard with its data as files, or serve it live."""
    from .reporting.pages import write
    from .serving.dashboard import application, files

    context = context_of(env)
    if port:
        import uvicorn

        say(f"http://127.0.0.1:{port}/ (also /metrics.csv and /metrics); Ctrl-C ends it.")
        uvicorn.run(application(context), host="127.0.0.1", port=port, log_level="warning")
        return
    folder = output or context.settings.state / "dashboard"
    for name, content in files(context).items():
        write(folder / name, content)
    say(f"Dashboard: {folder / 'index.html'}")


@app.command()
def replay(
    env: Env = "replay",
    since: From = None,
    until: To = None,
    every: Days = "7d",
    schedule: Days = "28d",
) -> None:
    """Walk production through the past, period by period, and show what retraining was worth.

    Done again, it continues where it was left.
    """
    from .monitoring.backtest import mean_gains, measure_policies
    from .monitoring.pipeline import due
    from .monitoring.retraining import decided_until
    from .reporting.pages import number
    from .tracking.registry import CHAMPION

    context = context_of(env)
    first = moment_of(env, since) if since else context.problem.begins + timedelta(days=63)
    last, step_, pause = moment_of(env, until), days(every), days(schedule)
    moments = [first + step_ * number for number in range(1 + (last - first) // step_)]
    if not moments:
        raise UserError(
            f"--to {last:%Y-%m-%d} is before --from {first:%Y-%m-%d}.", "Choose a later --to."
        )
    scheduled = [first + pause * number for number in range(1 + (last - first) // pause)]
    done = decided_until(context)
    for moment in bar(moments, "periods", total=len(moments)):
        if done and moment <= done:
            continue
        at = moment.isoformat()
        with quiet():
            for verb in (ingest, prepare, features):
                verb(env, at)
            if context.registry.aliased(CHAMPION) is None:
                deploy(env, train(env, at))
            predict(env, at)
            monitor(env, at)
            if moment in scheduled:
                train(env, at)
        retrain(env, at)
    measured = measure_policies(context, list(due(context, None, moments[-1])), scheduled)
    metric = context.problem.model.target.metrics[0].name
    columns = ("policy", metric, "gain over never", "from", "to")
    rows = [
        (name, *(number(value) for value in values)) for name, *values in mean_gains(measured, 0)
    ]
    if rows:
        table("Mean over the windows", columns, rows)
    else:
        say(
            "No window with labels is later than the first scheduled training: policies are not compared."
        )
    dashboard(env)


@app.command()
def webhook(env: Env = "dev", host: str = "127.0.0.1", port: int = 8000, start: Start = "") -> None:
    """Listen for the registry's webhooks; a new version starts `deploy`, or another command."""
    import uvicorn

    from .serving.webhook import receiver

    settings = context_of(env).settings
    if not (secret := os.environ.get(SECRET_VARIABLE)):
        raise UserError(
            f"{SECRET_VARIABLE} is not set.", "Set it to the secret that the registry signs with."
        )

    deployment = [
        sys.executable,
        "-m",
        str(__package__),
        "deploy",
        "--env",
        env,
        "--who",
        "webhook",
        "--version",
    ]
    command = start.split() or deployment
    if shutil.which(command[0]) is None:
        raise UserError(
            f"--start: there is no command '{command[0]}'.", "Name one that is on the PATH."
        )

    def launch(version: str) -> None:
        subprocess.Popen([*command, version])

    application = receiver(secret, settings.mlflow.model, settings.state / "deliveries", launch)
    uvicorn.run(application, host=host, port=port, log_level="warning")


@app.command()
def run(env: Env = "dev", as_of: AsOf = None) -> None:
    """Run the loop, from the sources to a champion and its predictions."""
    for verb in (ingest, prepare, features, train):
        verb(env, as_of)
    deploy(env)
    predict(env, as_of)
    monitor(env, as_of)
    dashboard(env)


@app.command()
def status(env: Env = "dev") -> None:
    """Show the tables and model versions of an environment."""
    from .store import tables

    problem, lakehouse, registry = (
        context_of(env).problem,
        context_of(env).lakehouse,
        context_of(env).registry,
    )
    rows = []
    for item in tables.every(problem):
        version, done = lakehouse.version(item), lakehouse.complete_until(item)
        if version is not None:
            rows.append(
                (
                    item.name,
                    f"{lakehouse.count(item):,}",
                    version,
                    f"{done:%Y-%m-%d %H:%M}" if done else "–",
                )
            )
    table(f"Tables in {lakehouse.root}", ("table", "rows", "version", "complete until (UTC)"), rows)
    versions = [
        (it.version, it.tags["stage"], it.tags["as_of"][:16], it.description)
        for it in registry.versions()
    ]
    table(
        f"Versions of {registry.settings.model}",
        ("version", "stage", "as of", "description"),
        versions,
    )


def _counts(done: Mapping[str, int]) -> list[str]:
    return [f"{count:,} {name}" for name, count in done.items() if count] or ["nothing new"]


def main() -> None:
    """Run the command line; what a user can mend ends in one message and exit code 1."""
    try:
        app()
    except Exception as error:
        from polars.exceptions import ComputeError
        from rich.markup import escape

        if not isinstance(error, UserError | OSError | ComputeError):
            raise
        cause = (
            str(error)
            if isinstance(error, UserError)
            else f"Cannot read or write: {error}".partition("\n")[0]
        )
        err.print(f"[bold red]✗[/] {escape(cause)}", soft_wrap=True)
        sys.exit(1)
