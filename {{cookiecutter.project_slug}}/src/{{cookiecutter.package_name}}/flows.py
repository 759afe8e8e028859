"""Flows: the steps of the loop put together, for a command line, a job, a test or a server to call.

Each takes a context and an as-of, tells every finished result to whom it concerns (`tell`), and
returns what came of it. Libraries that take seconds to import are imported where they are used: a
command line must answer `--help` at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

from .context import Context
from .core.console import quiet, step
from .core.errors import UserError
from .core.failures import importing
from .core.words import counted
from .store import tables
from .store.measurements import mean_gains, recorded

if TYPE_CHECKING:
    from .deployment.comparison import Comparison
    from .deployment.live import Live
    from .inference.batch import Predicted
    from .inference.stream import Scorer, Sink, Source, Streamed
    from .monitoring.retraining import Decision
    from .monitoring.windows import Window
    from .training.pipeline import Trained

_MICROSECONDS = 1_000_000
Tell: TypeAlias = Callable[[object], None]
_CLOCKS_DIFFER = timedelta(minutes=5)


def nobody(result: object) -> None:
    """Tell no one."""


@dataclass(frozen=True)
class Checked:
    """A version that was examined, and what is wrong with it, by check."""

    version: str
    failed: Mapping[str, str]
    checks: int


@dataclass(frozen=True)
class Requested:
    """A version whose promotion was asked for: the champion now, or waiting for a person.

    `lacking`: what requests must show before it can be asked for.
    """

    version: str
    is_champion: bool
    lacking: str = ""


@dataclass(frozen=True)
class Refreshed:
    """Rows of a round, how many failed their checks, and when the first event was sent."""

    rows: int
    refused: int
    earliest: datetime | None


@dataclass
class Followed:
    """Rows that `follow` took over, and how many of them failed their checks."""

    rows: int = 0
    refused: int = 0


@dataclass(frozen=True)
class Monitored:
    """Windows that were measured, and texts of new notices."""

    windows: list[Window]
    notices: list[str]


@dataclass(frozen=True)
class Written:
    """The dashboard's page."""

    page: Path


@dataclass(frozen=True)
class Doing:
    """A step of a period of a replay that has begun."""

    as_of: datetime
    verb: str


@dataclass(frozen=True)
class Period:
    """A period of a replay that is done: its as-of, its number, how many there are.

    `decision` is what was decided on retraining; None: the period was done before.
    """

    as_of: datetime
    number: int
    of: int
    decision: Decision | None


@dataclass(frozen=True)
class Backtested:
    """What policies of retraining were worth: policy, mean value, mean gain, its interval."""

    metric: str
    gains: list[tuple[str, float, float, float, float]]


def settle_change(context: Context, how: str, as_of: datetime) -> None:
    """What to do about tables that another problem filled: `anew` removes them, `keep` goes on.

    Raises:
        UserError: Nothing can be removed here, or there is no such way.
    """
    from .data import changes

    if how == "anew":
        changes.start_anew(context)
    elif how == "keep":
        changes.remember(context, as_of)
    elif how != "stop":
        raise UserError(f"--on-change {how} is none.", "Use one of: stop, keep, anew.")


def require_past(as_of: datetime) -> datetime:
    """Refuse an as-of that has not come, or that tells no time zone.

    What a step has done until then it takes for complete: data that come in the meantime would
    never be read.

    Raises:
        UserError: It lies in the future, or has no time zone.
    """
    if as_of.tzinfo is None:
        message = f"The as-of {as_of:%Y-%m-%d %H:%M} has no time zone."
        raise UserError(message, "Give it in UTC.")
    if as_of > datetime.now(UTC) + _CLOCKS_DIFFER:
        message = f"The as-of {as_of:%Y-%m-%d %H:%M} (UTC) lies in the future."
        raise UserError(message, "Choose a moment that has passed: what comes is not known.")
    return as_of


# Steps ----------------------------------------------------------------------------------------


def init(context: Context) -> str:
    """Give tables and registry the name that conf/ has for the environment; returns it.

    Raises:
        UserError: conf/ has none, or they carry another.
    """
    from .store import identity

    name = context.settings.storage_name
    if name is None:
        message = f"The environment {context.settings.env} has no `storage_name` in conf/."
        raise UserError(message, "Any storage will do for it: there is nothing to name.")
    identity.give(context.any_lakehouse, name)
    replace(context.registry, storage_name=None).give(name)
    return name


def ingest(context: Context, as_of: datetime) -> dict[str, int]:
    """Append to the raw tables what became known until the as-of."""
    from .data.ingest import ingest

    with _step(context, "ingest", as_of) as notes:
        appended = ingest(context, as_of)
        notes.extend(_counts(appended))
    return appended


def prepare(context: Context, as_of: datetime) -> dict[str, tuple[int, int]]:
    """Check and shape raw rows; those that fail go to quarantine."""
    from .data.prepare import prepare

    with _step(context, "prepare", as_of) as notes:
        done = prepare(context, as_of)
        notes.extend(_counts({name: passed for name, (passed, _) in done.items()}))
        quarantined = sum(failed for _, failed in done.values())
        if quarantined:
            notes.append(f"{counted(quarantined, 'row')} to quarantine")
    return done


def features(context: Context, as_of: datetime, since: datetime | None = None) -> dict[str, int]:
    """Build the feature tables, and bring the online store in step with them."""
    from .features.build import build_features

    with _step(context, "features", as_of) as notes:
        written = build_features(context, as_of, since)
        notes.extend(_counts(written))
        context.publish()
    return written


def sync(context: Context) -> dict[str, int]:
    """Bring the online store in step with the feature tables, whoever built them."""
    with step("sync") as notes:
        published = context.publish()
        notes.extend(_counts(published))
    return published


def train(context: Context, as_of: datetime, tell: Tell = nobody) -> Trained:
    """Tune, fit, evaluate and register a model."""
    from .training.pipeline import train

    require_past(as_of)
    with recorded(context.lakehouse, "train", as_of):
        trained = train(context, as_of)
    index(context)
    tell(trained)
    return trained


def check(context: Context, version: str, who: str, tell: Tell = nobody) -> Checked:
    """Examine a version: it becomes the challenger, or is archived."""
    from .deployment.compliance import CHECKS, check

    with step("check") as notes:
        failed = check(context, version, who)
        passed = len(CHECKS) - len(failed)
        notes.append(f"version {version}, compliance: {passed}/{len(CHECKS)} checks passed")
    checked = Checked(version, failed, len(CHECKS))
    index(context)
    tell(checked)
    return checked


def compare(context: Context, version: str, tell: Tell = nobody) -> Comparison:
    """Measure a version against the champion."""
    from .deployment.comparison import compare_versions

    with step("compare") as notes:
        comparison = compare_versions(context, version)
        notes.append(comparison.evidence)
    index(context)
    tell(comparison)
    return comparison


def predict(
    context: Context,
    as_of: datetime,
    source: str | None = None,
    query: str = "",
    output: Path | None = None,
) -> Predicted:
    """Score what is due, or the rows of a file or query, with the champion.

    Args:
        context: The environment.
        as_of: Features that became available later are not seen.
        source: Path of a file or address of a database; None: what is due in the tables.
        query: SQL, for a database.
        output: File to write instead of the tables.
    """
    from .inference import batch, inputs

    with _step(context, "predict", as_of) as notes:
        if source is None:
            chunks = batch.due(context, as_of)
        else:
            # In the tables, rows without a key must not be taken for those that are there.
            first = 0 if output else int(as_of.timestamp()) * _MICROSECONDS
            chunks = batch.spines(context, inputs.read(context, source, query), as_of, first)
        predicted = batch.predict(context, as_of, chunks, output, complete=source is None)
        notes.append(f"version {predicted.version} scored {counted(predicted.rows, 'row')}")
    return predicted


def send(context: Context, source: str, query: str = "", to: str = "") -> int:
    """Add the rows of a file or query to the requests, or to the events of a source (`to`)."""
    from .data.events import send_events
    from .inference import inputs, stream_tables

    with step("send") as notes:
        if to:
            events = inputs.read_events(context, source, query, to)
            sent = send_events(context, context.problem.source(to), events)
            notes.append(f"{sent:,} events of {to}")
            return sent
        rows = inputs.read(context, source, query)
        if context.settings.stream.source == "table":
            sent = stream_tables.send(context, rows)
        else:
            sent = _kafka().send(context, rows)
        notes.append(f"{sent:,} requests")
    return sent


def stream(context: Context, stop: Event, *, once: bool) -> Streamed:
    """Score each request once as it comes, with the champion and the online store.

    Args:
        context: The environment.
        stop: Set, it ends after the batch that it is at.
        once: End when no request is left.
    """
    settings = context.settings.stream
    if context.settings.engine == "spark":
        return _stream_on_spark(context, stop, once=once)
    from .inference.stream import consume

    with ExitStack() as opened, step("stream") as notes:
        if settings.source == "predictions":
            what = "answers kept"
            parts = _kept(context, opened)
        else:
            what = "requests scored"
            parts = _scoring(context, opened)
        done = consume(context, *parts, stop, once=once)
        notes.append(f"{done.scored:,} {what}, {done.refused:,} refused")
    return done


def _stream_on_spark(context: Context, stop: Event, *, once: bool) -> Streamed:
    from .inference.stream_spark import consume_on_spark
    from .serving.messages import request_type

    settings = context.settings.stream
    if settings.source == "predictions" or settings.sink == "kafka":
        message = "On Spark, a stream takes requests to tables: it neither writes nor reads answers"
        remedy = "Set `engine: polars` where such a `stream` runs."
        raise UserError(f"{message} on Kafka.", remedy)
    with step("stream") as notes:
        done = consume_on_spark(context, request_type, stop, once=once)
        notes.append(f"{done.scored:,} requests scored, {done.refused:,} refused")
    return done


def _scoring(context: Context, opened: ExitStack) -> tuple[Source, Scorer, Sink]:
    """Requests, the champion, and where its answers go."""
    from .inference.stream_tables import Answered, Requests
    from .serving.messages import request_type
    from .serving.streamed import Scorer

    folder = Path(opened.enter_context(TemporaryDirectory(prefix="stream-")))
    settings = context.settings
    if settings.stream.source == "table":
        scorer = Scorer(context, folder)
        requests = Requests(context)
        return requests, scorer, Answered(context, requests, scorer)
    kafka = _kafka()
    kind, table = request_type(context.problem), tables.requests(context.problem)
    topic = kafka.Topic(context, settings.kafka.requests, kind, table)
    opened.callback(topic.close)
    scorer = Scorer(context, folder)
    if settings.stream.sink == "kafka":
        return topic, scorer, kafka.Published(context, topic)
    return topic, scorer, Answered(context, topic, scorer)


def _kept(context: Context, opened: ExitStack) -> tuple[Source, Scorer, Sink]:
    """Answers that another stream published, and the tables that keep them."""
    from .inference.stream_tables import Answered
    from .serving.messages import answer_type

    kafka = _kafka()
    kind, table = answer_type(context.problem), tables.inference_log(context.problem)
    topic = kafka.Topic(context, context.settings.kafka.predictions, kind, table)
    opened.callback(topic.close)
    scorer = kafka.Verbatim(context.problem)
    return topic, scorer, Answered(context, topic, scorer)


def _kafka() -> ModuleType:
    """The stream on Kafka, whose client not every project installs.

    Raises:
        UserError: It is not installed.
    """
    with importing("The stream on Kafka", "Install its client: requirements/kafka.txt."):
        from .inference import stream_kafka
    return stream_kafka


def refresh(context: Context, as_of: datetime) -> Refreshed:
    """A round of `follow`: what became known, through all tables to the online store.

    Raises:
        OvertakenWriteError: Somebody else is at it, too.
        UserError: A step cannot do its work.
    """
    from .data.ingest import take
    from .data.prepare import prepare
    from .features.build import build_features

    ingested = take(context, as_of)
    prepared = prepare(context, as_of, is_round=True)
    build_features(context, as_of)
    context.publish()
    refused = sum(failed for _, failed in prepared.values())
    return Refreshed(sum(ingested.rows.values()), refused, ingested.earliest)


def follow(context: Context, stop: Event, *, once: bool) -> Followed:
    """Take events through all tables to the online store as they come: the steps, again and again.

    Each round is as of its beginning. Killed at any moment, it goes on where it stopped.

    Args:
        context: The environment.
        stop: Set, it ends after the round that it is at.
        once: End when no event is left.

    Raises:
        UserError: The problem's data end, or a step cannot do its work.
    """
    from .data.events import newest
    from .inference.stream import Meter
    from .store.lakehouse import OvertakenWriteError

    if context.problem.ends is not None:
        message = f"The data of this problem end on {context.problem.ends:%Y-%m-%d}: no more come."
        raise UserError(message, "Where they are a live feed, take `ends` out of PROBLEM.")
    settings = context.settings.features
    meter = Meter(context, subject="events")
    total = Followed()
    taken: object = None
    begun = -math.inf
    with step("follow") as notes:
        while not stop.is_set():
            found = newest(context)
            is_new = found != taken
            if once and not is_new:
                break
            if is_new or time.monotonic() - begun > settings.quiet_seconds:
                begun = time.monotonic()
                with suppress(OvertakenWriteError):  # somebody else took them: look again
                    done = refresh(context, datetime.now(UTC))
                    meter.add(done.rows, done.refused, done.earliest)
                    total.rows += done.rows
                    total.refused += done.refused
                    taken = found
            else:
                stop.wait(settings.poll_seconds)
            if meter.is_due():
                meter.record()
                _tidy(context)
        meter.record()
        notes.append(f"{total.rows:,} rows, {total.refused:,} of them to quarantine")
    return total


def monitor(context: Context, as_of: datetime, tell: Tell = nobody) -> Monitored:
    """Measure what production did, and send notices.

    Raises:
        UserError: A notice did not arrive.
    """
    from .monitoring import alerts, pipeline

    with _step(context, "monitor", as_of) as notes:
        windows = pipeline.monitor(context, as_of)
        notices = alerts.raise_alerts(context, as_of)
        notes.append(f"windows measured: {len(windows)}, notices: {len(notices)}")
    monitored = Monitored(windows, notices)
    tell(monitored)
    alerts.deliver(context)
    return monitored


def dashboard(context: Context, folder: Path | None = None, tell: Tell = nobody) -> Written:
    """Write the dashboard with its data as files; by default to `dashboard/` of the reports."""
    from .reporting.pages import write
    from .serving.dashboard import files, folder_of

    folder = folder or folder_of(context)
    for name, content in files(context, folder).items():
        write(folder / name, content)
    index(context)
    written = Written(folder / "index.html")
    tell(written)
    return written


def index(context: Context) -> Path:
    """Write the page that joins all others; returns its path."""
    from .serving.index import write_index

    return write_index(context)


def decide(
    context: Context, who: str, why: str, *, approve: bool, version: str | None = None
) -> str:
    """Grant or refuse the waiting request; returns the version that it was for."""
    from .deployment.transitions import decide

    decided = decide(context, who, why, approve=approve, version=version)
    index(context)
    return decided


def rollback(context: Context, who: str, why: str) -> str:
    """Make the champion before this one the champion again; returns its number."""
    from .deployment.transitions import rollback

    version = rollback(context, who, why)
    index(context)
    return version


# Flows ----------------------------------------------------------------------------------------


def run(context: Context, as_of: datetime, who: str, tell: Tell = nobody) -> Requested:
    """The loop, from the sources to a champion, its predictions and the dashboard.

    Raises:
        UserError: A step cannot do its work, or a gate shuts.
    """
    ingest(context, as_of)
    prepare(context, as_of)
    features(context, as_of)
    trained = train(context, as_of, tell)
    requested = deploy(context, trained.version, who, tell)
    predict(context, as_of)
    monitor(context, as_of, tell)
    dashboard(context, tell=tell)
    return requested


def deploy(context: Context, version: str, who: str, tell: Tell = nobody) -> Requested:
    """All gates in one go, for a version that has not been through them.

    Raises:
        UserError: The version is archived, or worse than the margins allow.
    """
    from .deployment.transitions import reconcile
    from .tracking.stages import ARCHIVED, PRODUCTION, STAGING

    reconcile(context)
    stage = context.registry.version(version).tags.get("stage")
    if stage == PRODUCTION:
        requested = Requested(version, is_champion=True)
        tell(requested)
        return requested
    if stage == ARCHIVED:
        raise archived(context, version)
    if stage != STAGING:
        checked = check(context, version, who, tell)
        if checked.failed:
            raise archived(context, version)
    return request(context, version, who, tell)


def deploy_new(context: Context, who: str, tell: Tell = nobody) -> list[Requested]:
    """All gates for every version that has not been through them, oldest first.

    Whoever registers a version need not be heard at once: it is found here, also the day after. So
    is a challenger that requests had to tell more of.

    Raises:
        UserError: A gate refused some; the others were through theirs.
    """
    from .tracking.stages import NONE

    unseen = _compared_live(context)
    unseen += [
        str(version.version)
        for version in reversed(context.registry.versions())
        if version.tags.get("stage", NONE) == NONE
    ]
    requested = []
    refused = []
    for version in unseen:
        try:
            requested.append(deploy(context, version, who, tell))
        except UserError as error:
            refused.append(error.what)
    if refused:
        raise UserError(" ".join(refused), "The reports show why; correct the cause.")
    return requested


def _compared_live(context: Context) -> list[str]:
    """The challenger whose promotion waits for requests to come, if there is one."""
    from .deployment.transitions import waiting
    from .tracking.registry import CHALLENGER

    challenger = context.registry.aliased(CHALLENGER)
    if not context.settings.deployment.live_rows or challenger is None or waiting(context):
        return []
    return [challenger]


def request(context: Context, version: str, who: str, tell: Tell = nobody) -> Requested:
    """Compare a challenger and ask for its promotion; granted at once where policy decides.

    Where requests must show more of it (`deployment.live_rows`), it stays the challenger.

    Raises:
        UserError: It is worse than the margins allow, or no challenger.
    """
    from .deployment import transitions

    comparison = compare(context, version, tell)
    if comparison.objections:
        raise worse(comparison)
    evidence = comparison.evidence
    champion = comparison.champion
    if live := comparison.live:
        if live.status == "worse":
            raise worse_live(version, live)
        if live.status == "unknown":
            requested = Requested(version, is_champion=False, lacking=live.evidence)
            tell(requested)
            return requested
        evidence = f"{evidence}; {live.evidence}"
    is_champion = transitions.request(context, version, who, evidence, champion)
    index(context)
    requested = Requested(version, is_champion)
    tell(requested)
    return requested


def retrain(context: Context, as_of: datetime, tell: Tell = nobody) -> Decision:
    """Train and deploy again if monitoring or the schedule asks for it.

    A model that is no better is left; the decision records what came of it.
    """
    from .monitoring.retraining import conclude, decide

    require_past(as_of)
    decision = decide(context, as_of)
    tell(decision)
    if decision.outcome is not None:
        return decision
    version = train(context, decision.at, tell).version
    outcome = f"version {version} asked for promotion"
    try:
        deploy(context, version, "retraining", tell)
    except UserError as error:
        outcome = error.what
    return conclude(context, decision, outcome)


def replay(
    context: Context,
    first: datetime,
    last: datetime,
    every: timedelta,
    schedule: timedelta,
    tell: Tell = nobody,
) -> Backtested:
    """Walk production through the past, period by period, and measure what retraining was worth.

    Done again, it resumes where it stopped.

    Args:
        context: The environment that is walked.
        first: As-of of the first period.
        last: As-of after which no period ends.
        every: Length of a period.
        schedule: How often a model is trained on schedule, to compare with.
        tell: Is told each period that is done.

    Raises:
        UserError: There is no period, or it ends in the future; or rows have no times.
    """
    from .monitoring.backtest import measure_policies
    from .monitoring.retraining import decided_until
    from .monitoring.windows import due

    if context.problem.holdout == "drawn":
        message = "These rows have no times, so there is no past to walk through."
        raise UserError(message, "Compare trainings by `train` and `compare` instead.")
    require_past(last)
    if last < first:
        message = f"--to {last:%Y-%m-%d} is before --from {first:%Y-%m-%d}."
        raise UserError(message, "Choose a later --to.")
    moments = _moments(first, last, every)
    scheduled = _moments(first, last, schedule)
    done = decided_until(context)
    for number, moment in enumerate(moments, start=1):
        decision = None
        if done is None or moment > done:
            with quiet(partial(_overheard, tell, moment)):
                decision = _live_through(context, moment, is_scheduled=moment in scheduled)
        tell(Period(moment, number, len(moments), decision))
    windows = list(due(context, None, moments[-1]))
    measured = measure_policies(context, windows, scheduled)
    metric = context.problem.model.target.metrics[0].name
    backtested = Backtested(metric, mean_gains(measured))
    tell(backtested)
    dashboard(context, tell=tell)
    return backtested


def _overheard(tell: Tell, moment: datetime, verb: str) -> None:
    tell(Doing(moment, verb))


def _live_through(context: Context, moment: datetime, *, is_scheduled: bool) -> Decision:
    """What production does in a period, and the training that a schedule would ask for.

    A first version that the gates refuse leaves production without a champion, until a later
    period trains one that they let through.
    """
    from .monitoring.retraining import write_down
    from .tracking.registry import CHAMPION

    ingest(context, moment)
    prepare(context, moment)
    features(context, moment)
    if context.registry.aliased(CHAMPION) is None:
        version = train(context, moment).version
        try:
            deploy(context, version, "replay")
        except UserError as error:
            why = error.what.rstrip(".")
            return write_down(context, moment, f"there is no champion yet: {why}")
    predict(context, moment)
    monitor(context, moment)
    if is_scheduled:
        train(context, moment)
    return retrain(context, moment)


def _moments(first: datetime, last: datetime, every: timedelta) -> list[datetime]:
    return [first + every * number for number in range(1 + (last - first) // every)]


# Refusals -------------------------------------------------------------------------------------


def archived(context: Context, version: str) -> UserError:
    """Why a version cannot be deployed any more."""
    why = context.registry.version(version).tags.get("stage.why", "by hand")
    remedy = "Correct the causes in `problem/` or the data, and train again."
    return UserError(f"Version {version} is archived: {why}.", remedy)


def worse_live(version: str, live: Live) -> UserError:
    """What is said where requests have shown a challenger to be worse."""
    message = f"Version {version} is worse than the margin allows, {live.evidence}."
    return UserError(message, "The champion stays; train another version.")


def worse(comparison: Comparison) -> UserError:
    """Why a version may not be promoted."""
    objections = ", ".join(comparison.objections)
    message = f"Version {comparison.challenger} is worse than the margins allow: {objections}."
    return UserError(message, f"See {comparison.report}; the champion stays.")


# ----------------------------------------------------------------------------------------------


def _tidy(context: Context) -> None:
    """Join the files that many small commits have left."""
    for table in tables.fed(context.problem):
        if context.lakehouse.owns(table.name):
            context.lakehouse.compact(table)
    context.publish()  # while the joined files are all that is new


@contextmanager
def _step(context: Context, verb: str, as_of: datetime) -> Iterator[list[str]]:
    """A step on the terminal whose run is recorded; the index has its pages, failed or not."""
    require_past(as_of)
    try:
        with step(verb) as notes, recorded(context.lakehouse, verb, as_of):
            yield notes
    finally:
        with suppress(UserError, OSError):  # the step itself will have said so
            index(context)


def _counts(done: Mapping[str, int]) -> list[str]:
    return [f"{count:,} {name}" for name, count in done.items() if count] or ["nothing new"]
