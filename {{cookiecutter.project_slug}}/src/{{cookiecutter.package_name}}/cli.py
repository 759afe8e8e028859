"""The command line: parses, calls a flow, prints.

Heavy imports wait until a verb runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Literal

import click
import typer

from .core.console import complain, line, say
from .core.errors import UserError
from .core.failures import explain, was_interrupted
from .core.project import COMMIT_VARIABLE, DATA_VARIABLE, PROJECT_VARIABLE, SECRET_VARIABLE

if TYPE_CHECKING:
    from .context import Context

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
opened = ExitStack()
"""What ends with the command: an environment keeps its state then."""
ME = os.environ.get("USER") or os.environ.get("USERNAME") or "unknown"
DEBUG_VARIABLE = "DEBUG"
_LOOP = "The loop"
_STEPS = "Steps"
_VERSIONS = "Versions"
_PRODUCTION = "Production"
_DAY = re.compile(r"[1-9]\d{0,3}d")

Env = Annotated[str, typer.Option("--env", help="Environment: a file in conf/.")]
AsOf = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        envvar="AS_OF",
        help="Moment in UTC (2024-11-01T06:00): nothing known later is seen. "
        "Default: the last full hour.",
    ),
]
OnChange = Annotated[
    str,
    typer.Option(
        "--on-change",
        help="Where another problem filled the tables: stop, keep them, or start anew.",
    ),
]
Since = Annotated[
    str | None, typer.Option("--since", help="Rebuild from then on. Default: continue.")
]
Version = Annotated[
    str | None, typer.Option("--version", help="Model version. Default: the newest.")
]
New = Annotated[
    bool, typer.Option("--new", help="All versions that have not been through the gates.")
]
Outputs = Annotated[
    Path | None,
    typer.Option(
        "--outputs",
        dir_okay=False,
        help="File to append `version=` and `waiting=` to, for what comes next.",
    ),
]
Decided = Annotated[
    str | None, typer.Option("--version", help="Decide on this version only. Default: any.")
]
Who = Annotated[
    str | None, typer.Option("--who", help="Who acts, for the record.", show_default="you")
]
Why = Annotated[str, typer.Option("--why", help="The reason, for the record.")]
Input = Annotated[
    str | None, typer.Option("--input", help="File (.parquet, .csv) or database URI.")
]
Query = Annotated[str, typer.Option("--query", help="What to read from the database.")]
SentInput = Annotated[str, typer.Option("--input", help="File (.parquet, .csv) or database URI.")]
Receiver = Annotated[
    str, typer.Option("--to", help="Source whose events they are. Default: requests.")
]
Once = Annotated[bool, typer.Option("--once", help="End when nothing is left that waits.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", help="File (.parquet, .csv) to write instead of the tables."),
]
Folder = Annotated[
    Path | None, typer.Option("--output", help="Folder. Default: dashboard/ of the reports.")
]
Port = Annotated[
    int | None,
    typer.Option("--port", min=1, max=65535, help="Serve it on this port of the machine instead."),
]
From = Annotated[
    str | None,
    typer.Option("--from", help="First period's as-of. Default: when the windows are filled."),
]
To = Annotated[str | None, typer.Option("--to", help="Last period's as-of. Default: now.")]
Every = Annotated[str, typer.Option("--every", help="Length of a period, as 7d.")]
Schedule = Annotated[str, typer.Option("--schedule", help="Trainings to compare with, as 28d.")]
TableSource = Annotated[
    str, typer.Argument(help="File (.csv, .parquet), Delta table or database URI.")
]
Label = Annotated[str, typer.Option("--label", help="Column that is to be predicted.")]
Time = Annotated[str, typer.Option("--time", help="Column that says when. Default: no times.")]
Keys = Annotated[
    list[str] | None,
    typer.Option("--key", help="Column that identifies a row; again for more. Default: found out."),
]
ProblemType = Annotated[
    str,
    typer.Option(
        "--problem-type",
        help="binary_classification, multiclass_classification or regression. "
        "Default: found out from the label.",
    ),
]
TableQuery = Annotated[str, typer.Option("--query", help="What to read from a database.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is not committed.")]
Sample = Annotated[bool, typer.Option("--sample", help="Put the sample back instead.")]
Listen = Annotated[str, typer.Option("--host", help="Address to listen on.")]
ListenPort = Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")]
Workers = Annotated[int, typer.Option("--workers", min=1, max=256, help="Processes that answer.")]
TokenName = Annotated[str, typer.Argument(help="Who holds it.")]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", help="What it is for: predict, read. May be given twice."),
]
Revoke = Annotated[
    Literal["all", "older"] | None,
    typer.Option("--revoke", help="Take back all of them, or all but the newest."),
]
Start = Annotated[
    str,
    typer.Option("--start", help="Command instead of `deploy`; {version} stands for the version."),
]


@app.callback()
def deployed(
    project: Annotated[
        Path | None,
        typer.Option("--project", help="Folder that holds conf/. Default: here or above."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the data. Default: .data/ there.")
    ] = None,
    commit: Annotated[
        str | None,
        typer.Option(
            "--commit", help="Commit that was deployed (-dirty: changed). Default: git's."
        ),
    ] = None,
) -> None:
    """Run the loop of this project, whole or step by step."""
    # As variables: the processes that a verb starts are told, too.
    given = {PROJECT_VARIABLE: project, DATA_VARIABLE: data, COMMIT_VARIABLE: commit}
    for name, value in given.items():
        if value is not None:
            os.environ[name] = str(value.absolute() if isinstance(value, Path) else value)


# The loop -------------------------------------------------------------------------------------


@app.command(rich_help_panel=_LOOP)
def run(env: Env = "dev", as_of: AsOf = None, on_change: OnChange = "stop") -> None:
    """Run the loop, from the sources to a champion, its predictions and the dashboard."""
    from . import flows
    from .show import show

    moment = moment_of(env, as_of)
    flows.settle_change(context_of(env), on_change, moment)
    flows.run(context_of(env), moment, acting(env, None), show)


@app.command(rich_help_panel=_LOOP)
def adopt(
    source: TableSource = "",
    label: Label = "",
    time: Time = "",
    key: Keys = None,
    problem_type: ProblemType = "",
    query: TableQuery = "",
    *,
    force: Force = False,
    sample: Sample = False,
) -> None:
    """Make a table of yours this project's problem: writes problem/, its tests, conf/, notebook."""
    from .adoption import flow
    from .adoption.assume import Asked, kind_of
    from .core.settings import find_project

    project = find_project(Path.cwd())
    if sample:
        flow.restore(project, force=force)
        return
    if not source:
        raise UserError("Which table?", "Name it: adopt SOURCE --label COLUMN.")
    asked = Asked(source, label, time, tuple(key or ()), kind_of(problem_type), query)
    flow.adopt(project, asked, ask, force=force)


@app.command(rich_help_panel=_LOOP)
def status(env: Env = "dev") -> None:
    """Show champion, waiting request, open alerts and the next command; then the tables."""
    from .show import show_status

    show_status(context_of(env))


@app.command(rich_help_panel=_LOOP)
def doctor(env: Env = "dev") -> None:
    """Look for what an environment lacks, and say what mends it; exit code 1 where it lacks any."""
    from rich.markup import escape

    from .doctor import examine

    ill = 0
    for finding in examine(env):
        ill += not finding.is_well
        mark = "[green]✓[/]" if finding.is_well else "[bold red]✗[/]"
        say(f"{mark} {finding.name:<14} {escape(finding.said)}")
        if not finding.is_well:
            say(f"  → {escape(finding.remedy)}")
    if ill:
        raise typer.Exit(1)


@app.command(name="open", rich_help_panel=_LOOP)
def open_pages(env: Env = "dev") -> None:
    """Open the page that joins all others in a browser: dashboard, trainings, checks, versions."""
    import webbrowser

    from . import flows

    page = flows.index(context_of(env))
    say(f"Pages: {page}")
    webbrowser.open(page.absolute().as_uri())


@app.command(rich_help_panel=_LOOP)
def dashboard(env: Env = "dev", output: Folder = None, port: Port = None) -> None:
    """Write the dashboard with its data as files, or serve it live."""
    from . import flows
    from .show import show

    context = context_of(env)
    if port is None:
        flows.dashboard(context, output, show)
        return
    require_free("127.0.0.1", port)
    from .serving.dashboard import application
    from .serving.server import server

    say(f"http://127.0.0.1:{port}/ (also /metrics.csv and /metrics); Ctrl-C ends it.")
    server(application(context), "127.0.0.1", port).run()


# Steps ----------------------------------------------------------------------------------------


@app.command(rich_help_panel=_STEPS)
def init(env: Env = "dev") -> None:
    """Name the storage of a new environment as conf/ does: from then on no other will do."""
    from . import flows

    say(f"[green]✓[/] Tables and registry are those of {flows.init(context_of(env))}.")


@app.command(rich_help_panel=_STEPS)
def ingest(env: Env = "dev", as_of: AsOf = None, on_change: OnChange = "stop") -> None:
    """Append to the raw tables what became known until the as-of."""
    from . import flows

    moment = moment_of(env, as_of)
    flows.settle_change(context_of(env), on_change, moment)
    flows.ingest(context_of(env), moment)


@app.command(rich_help_panel=_STEPS)
def prepare(env: Env = "dev", as_of: AsOf = None) -> None:
    """Check and shape raw rows; those that fail go to quarantine."""
    from . import flows

    flows.prepare(context_of(env), moment_of(env, as_of))


@app.command(rich_help_panel=_STEPS)
def features(env: Env = "dev", as_of: AsOf = None, since: Since = None) -> None:
    """Build the feature tables, and bring the online store in step with them."""
    from . import flows

    start = parse_moment(since) if since is not None else None
    flows.features(context_of(env), moment_of(env, as_of), start)


@app.command(rich_help_panel=_STEPS)
def sync(env: Env = "dev") -> None:
    """Bring the online store in step with the feature tables, whoever built them."""
    from . import flows

    flows.sync(context_of(env))


@app.command(rich_help_panel=_STEPS)
def train(env: Env = "dev", as_of: AsOf = None, outputs: Outputs = None) -> None:
    """Tune, fit, evaluate and register a model."""
    from . import flows
    from .show import show

    trained = flows.train(context_of(env), moment_of(env, as_of), show)
    note(outputs, version=trained.version)


# Versions -------------------------------------------------------------------------------------


@app.command(rich_help_panel=_VERSIONS)
def deploy(
    env: Env = "dev",
    version: Version = None,
    who: Who = None,
    *,
    new: New = False,
    outputs: Outputs = None,
) -> None:
    """Check, compare and request: all gates in one go, for a version that was not through them."""
    from . import flows
    from .show import show

    context = context_of(env)
    person = acting(env, who)
    if new:
        if version is not None:
            raise UserError("--new and --version exclude each other.", "Choose one of them.")
        requested = flows.deploy_new(context, person, show)
    else:
        requested = [flows.deploy(context, version_of(env, version), person, show)]
    for asked in requested:
        if not asked.is_champion and not asked.lacking:
            note(outputs, waiting=asked.version)


@app.command(rich_help_panel=_VERSIONS)
def check(env: Env = "dev", version: Version = None, who: Who = None) -> None:
    """Examine a version: it becomes the challenger, or is archived (exit code 1)."""
    from . import flows

    context = context_of(env)
    number = version_of(env, version)
    if flows.check(context, number, acting(env, who)).failed:
        raise flows.archived(context, number)


@app.command(rich_help_panel=_VERSIONS)
def compare(env: Env = "dev", version: Version = None) -> None:
    """Measure a version against the champion; exit code 1 where the margins do not allow it."""
    from . import flows
    from .show import show

    comparison = flows.compare(context_of(env), version_of(env, version), show)
    if comparison.objections:
        raise flows.worse(comparison)


@app.command(rich_help_panel=_VERSIONS)
def request(env: Env = "dev", version: Version = None, who: Who = None) -> None:
    """Compare a challenger and ask for its promotion; granted at once where policy decides."""
    from . import flows
    from .show import show

    flows.request(context_of(env), version_of(env, version), acting(env, who), show)


@app.command(rich_help_panel=_VERSIONS)
def approve(why: Why, env: Env = "dev", version: Decided = None, who: Who = None) -> None:
    """Grant the waiting request: the challenger becomes the champion."""
    from . import flows

    name = acting(env, who)
    decided = flows.decide(context_of(env), name, why, approve=True, version=version)
    say(f"[green]✓[/] Version {decided} is the champion.")


@app.command(rich_help_panel=_VERSIONS)
def reject(why: Why, env: Env = "dev", version: Decided = None, who: Who = None) -> None:
    """Refuse the waiting request: the challenger is archived."""
    from . import flows

    name = acting(env, who)
    decided = flows.decide(context_of(env), name, why, approve=False, version=version)
    say(f"[green]✓[/] Version {decided} is archived.")


@app.command(rich_help_panel=_VERSIONS)
def rollback(why: Why, env: Env = "dev", who: Who = None) -> None:
    """Make the champion before this one the champion again."""
    from . import flows

    earlier = flows.rollback(context_of(env), acting(env, who), why)
    say(f"[green]✓[/] Version {earlier} is the champion again.")


@app.command(rich_help_panel=_VERSIONS)
def history(env: Env = "dev") -> None:
    """Show who moved which version, when and why: a line per move, oldest first."""
    from rich.markup import escape

    from .tracking.stages import history

    for move in history(context_of(env).lakehouse).iter_rows(named=True):
        what = f"{move['action']:<9} version {move['version']:>3} → {move['to_stage']:<10}"
        line(f"{move['at']:%Y-%m-%d %H:%M}  {what}  {escape(move['who'])}: {escape(move['why'])}")


# Production -----------------------------------------------------------------------------------


@app.command(rich_help_panel=_PRODUCTION)
def predict(
    env: Env = "dev",
    as_of: AsOf = None,
    source: Input = None,
    query: Query = "",
    output: Output = None,
) -> None:
    """Score what is due, or the rows of a file or query, with the champion."""
    from . import flows

    if query and source is None:
        message = "--query says what to read, and no --input says from where."
        raise UserError(message, "Name the database: --input postgresql://...")

    flows.predict(context_of(env), moment_of(env, as_of), source, query, output)


@app.command(rich_help_panel=_PRODUCTION)
def serve(
    env: Env = "dev", host: Listen = "127.0.0.1", port: ListenPort = 8000, workers: Workers = 1
) -> None:
    """Answer requests for predictions over HTTP, with the champion and the online store."""
    from .serving.online import serve

    serve(context_of(env), host, port, workers)


@app.command(rich_help_panel=_PRODUCTION)
def send(source: SentInput, env: Env = "dev", query: Query = "", to: Receiver = "") -> None:
    """Append the rows of a file or query to the requests, or to the events of a source."""
    from . import flows

    flows.send(context_of(env), source, query, to)


@app.command(rich_help_panel=_PRODUCTION)
def follow(env: Env = "dev", *, once: Once = False) -> None:
    """Take events and new rows to the feature tables and the online store as they come."""
    from . import flows

    flows.follow(context_of(env), _told_to_stop(), once=once)


@app.command(rich_help_panel=_PRODUCTION)
def stream(env: Env = "dev", *, once: Once = False) -> None:
    """Score each request once, of a table or of Kafka, with the champion and the online store."""
    from . import flows

    flows.stream(context_of(env), _told_to_stop(), once=once)


@app.command(rich_help_panel=_PRODUCTION)
def token(name: TokenName, env: Env = "dev", scope: Scopes = None, revoke: Revoke = None) -> None:
    """Give out a token for `serve`, shown this once; or take back those of a name."""
    from .serving import access
    from .serving.online import tokens_of

    path = tokens_of(context_of(env))
    if revoke is None:
        print(access.grant(path, name, access.scopes_of(scope or ["predict"])))  # noqa: T201 for another program
        return
    gone = access.revoke(path, name, but_newest=revoke == "older")
    say(f"[green]✓[/] {gone} tokens of {name} are revoked.")


@app.command(rich_help_panel=_PRODUCTION)
def monitor(env: Env = "dev", as_of: AsOf = None) -> None:
    """Measure what production did, and send notices; exit code 1 where one does not arrive."""
    from . import flows
    from .show import show

    flows.monitor(context_of(env), moment_of(env, as_of), show)


@app.command(rich_help_panel=_PRODUCTION)
def retrain(env: Env = "dev", as_of: AsOf = None) -> None:
    """Train and deploy again if monitoring or the schedule asks for it."""
    from . import flows
    from .show import show

    flows.retrain(context_of(env), moment_of(env, as_of), show)


@app.command(rich_help_panel=_PRODUCTION)
def replay(
    env: Env = "replay",
    since: From = None,
    until: To = None,
    every: Every = "7d",
    schedule: Schedule = "28d",
) -> None:
    """Walk production through the past, period by period, and show what retraining was worth.

    Done again, it resumes where it stopped.
    """
    from . import flows
    from .show import Progress

    context = context_of(env)
    first = (
        moment_of(env, since) if since is not None else context.problem.begins + _warm_up(context)
    )
    last = moment_of(env, until)
    with Progress() as progress:
        flows.replay(context, first, last, days(every), days(schedule), progress.tell)


@app.command(rich_help_panel=_PRODUCTION)
def webhook(
    env: Env = "dev", host: Listen = "127.0.0.1", port: ListenPort = 8000, start: Start = ""
) -> None:
    """Listen for the registry's webhooks; a new version starts `deploy`, or another command."""
    from .serving.server import server
    from .serving.webhook import receiver, worker

    settings = context_of(env).settings
    secret = os.environ.get(SECRET_VARIABLE)
    if not secret:
        message = f"{SECRET_VARIABLE} is not set."
        raise UserError(message, "Set it to the secret that the registry signs with.")
    module = str(__package__)
    deployment = [sys.executable, "-m", module, "deploy", "--env", env, "--who", "webhook"]
    command = start.split() or [*deployment, "--version", "{version}"]
    if shutil.which(command[0]) is None:
        message = f"--start: there is no command '{command[0]}'."
        raise UserError(message, "Name one that is on the PATH.")
    require_free(host, port)

    identity = settings.deployment.identity
    environment = {**os.environ, **({identity: "webhook"} if identity else {})}

    def launch(version: str) -> None:
        filled = [part.replace("{version}", version) for part in command]
        subprocess.run(filled, env=environment, check=False)

    queue = settings.state / "deliveries"
    queue.mkdir(parents=True, exist_ok=True)
    application = receiver(secret, settings.mlflow.model, queue, worker(queue, launch))
    server(application, host, port).run()


# Arguments ------------------------------------------------------------------------------------


@cache
def context_of(env: str) -> Context:
    """The environment, opened once."""
    from .context import open_context

    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    # Threads that wait for each other spin briefly: more starves others on the machine, less halves
    # the speed.
    os.environ.setdefault("GOMP_SPINCOUNT", "500")
    context = open_context(env)
    opened.enter_context(context.kept())
    opened.callback(_join_pages, context)
    return context


def _join_pages(context: Context) -> None:
    """Write the index anew: whatever a verb did, done or not, the index shows it."""
    from . import flows

    if not context.settings.state.exists():  # the verb has refused to begin
        return
    with suppress(Exception):  # tables out of reach: the verb itself has said so
        flows.index(context)


@cache
def acting(env: str, who: str | None) -> str:
    """Who acts in an environment."""
    from .deployment.people import acting

    return acting(context_of(env).settings.deployment, who, ME)


def moment_of(env: str, as_of: str | None) -> datetime:
    """The as-of of a verb; one after the end of the data is moved back to it, and that is said.

    Raises:
        UserError: It lies before the data begin, in the future of a live feed, or is no moment.
    """
    from .flows import require_past

    problem = context_of(env).problem
    now = datetime.now(UTC)
    # Verbs of one hour agree on it.
    moment = (
        parse_moment(as_of) if as_of is not None else now.replace(minute=0, second=0, microsecond=0)
    )
    if moment <= problem.begins:
        begins = f"{problem.begins:%Y-%m-%d}"
        message = f"--as-of {moment:%Y-%m-%d %H:%M} is not after the data begin, {begins}."
        raise UserError(message, f"Choose a moment after {begins}.")
    if problem.ends is None or moment <= problem.ends or problem.ends > now:
        return require_past(moment)
    say(f"[dim]The data end on {problem.ends:%Y-%m-%d %H:%M} UTC, which is taken as now.[/]")
    return problem.ends


def ask(question: str, answers: Sequence[str]) -> str | None:
    """Ask whoever sits at the terminal; None where nobody does."""
    if not sys.stdin.isatty():
        return None
    for number, answer in enumerate(answers, start=1):
        say(f"{number:>4}  {answer}")
    return answers[int(typer.prompt(question, type=click.IntRange(1, len(answers)))) - 1]


def note(outputs: Path | None, **values: str) -> None:
    """Append values to a file of lines NAME=VALUE."""
    if outputs is not None:
        with outputs.open("a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in values.items())


def parse_moment(text: str) -> datetime:
    """Read a moment, UTC unless it says otherwise.

    Raises:
        UserError: Not a moment.
    """
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        message = f"'{text}' is not a moment."
        raise UserError(message, "Write it as 2024-11-01 or 2024-11-01T06:00.") from None


def days(text: str) -> timedelta:
    """Read a number of days, written as 7d.

    Raises:
        UserError: Not written so, or none.
    """
    if not _DAY.fullmatch(text):
        raise UserError(f"'{text}' is not a number of days.", "Write it as 7d.")
    return timedelta(days=int(text.removesuffix("d")))


def require_free(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on, before anything is loaded for it.

    Raises:
        UserError: It is taken, or is none of this machine.
    """
    import socket

    try:
        socket.create_server((host, port)).close()
    except (OSError, UnicodeError) as error:
        message = f"Cannot listen on {host}:{port}: {error}."
        raise UserError(message, "Choose another --host or --port.") from None


def version_of(env: str, version: str | None) -> str:
    """The version asked for, or the newest.

    Raises:
        UserError: There is none.
    """
    registry = context_of(env).registry
    if version is not None:
        return str(registry.version(version).version)
    versions = registry.versions()
    if not versions:
        model = registry.settings.model
        raise UserError(f"{model} has no versions yet.", "Train one: `train`.")
    return str(versions[0].version)


def _told_to_stop() -> Event:
    """Set by Ctrl-C or SIGTERM."""
    stop = Event()
    for told in (signal.SIGINT, signal.SIGTERM):
        signal.signal(told, lambda *_: stop.set())
    return stop


def _warm_up(context: Context) -> timedelta:
    """How long data gather before a first model can be trained and judged."""
    training = context.settings.training
    weeks = 5 * context.settings.monitoring.window_days
    return timedelta(days=training.validation_days + training.holdout_days + weeks)


# ----------------------------------------------------------------------------------------------


def main() -> None:
    """Run the command line; what a user can correct ends in one message and exit code 1.

    With the variable DEBUG set, the whole traceback is shown. Success returns: what runs a wheel's
    entry point inside a process of its own takes any `SystemExit` for a failure.
    """
    if not os.environ.get(DEBUG_VARIABLE):
        os.environ["RUST_BACKTRACE"] = "0"  # hundreds of lines of an engine that stops
    try:
        with opened:
            app()
    except SystemExit as ended:
        if ended.code:
            raise
    except BaseException as error:
        if was_interrupted(error):
            sys.exit(130)
        message = explain(error)
        if message is None or os.environ.get(DEBUG_VARIABLE):
            raise
        complain(message)
        sys.exit(1)
