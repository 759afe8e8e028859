"""What the command line prints of finished results, by their type."""

from __future__ import annotations

from functools import singledispatch
from types import TracebackType
from typing import TYPE_CHECKING, Self

from .core.console import out, progress_bar, say, table
from .deployment.comparison import Comparison
from .deployment.transitions import waiting
from .flows import Backtested, Doing, Monitored, Period, Requested, Written
from .monitoring.retraining import Decision
from .reporting.pages import moment, number
from .store import tables
from .store.tables import ALERTS, LOG, OPENED
from .tracking.registry import CHAMPION
from .training.pipeline import Trained

if TYPE_CHECKING:
    from .context import Context

_RESULTS = ("value", "lower", "upper", "reference", "gain")


@singledispatch
def show(result: object) -> None:
    """Print a finished result; of most, its step has said all."""


@show.register
def _(result: Trained) -> None:
    if result.results is None:
        say(f"[green]✓[/] This training is registered already, as version {result.version}.")
    else:
        overall = result.results.filter(slice="").iter_rows(named=True)
        rows = [(row["metric"], *(number(row[name]) for name in _RESULTS)) for row in overall]
        columns = ("on the holdout", "model", "from", "to", "baseline", "gain")
        table(f"Version {result.version}", columns, rows)
    say(f"Report: {result.report}")


@show.register
def _(result: Comparison) -> None:
    say(f"Comparison: {result.report}")


@show.register
def _(result: Requested) -> None:
    if result.is_champion:
        say(f"[green]✓[/] Version {result.version} is the champion.")
    elif result.lacking:
        say(f"Version {result.version} stays the challenger, {result.lacking}.")
    else:
        say(f"Version {result.version} waits for `approve` or `reject`.")


@show.register
def _(result: Monitored) -> None:
    for notice in result.notices:
        say(f"  {notice}")


@show.register
def _(result: Decision) -> None:
    verdict = "retrain" if result.retrain else "no retraining"
    say(f"{result.at:%Y-%m-%d} [bold]{verdict}[/]: {result.why}.")


@show.register
def _(result: Backtested) -> None:
    if not result.gains:
        say("No window with labels is later than the first scheduled training: nothing to compare.")
        return
    columns = ("policy", result.metric, "gain over never", "from", "to")
    rows = [(policy, *(number(value) for value in values)) for policy, *values in result.gains]
    table("Mean over the windows", columns, rows)


@show.register
def _(result: Written) -> None:
    say(f"Dashboard: {result.page}")


class Progress:
    """A bar over the periods of a replay: what is done, how long it has taken, and will take.

    The periods' decisions stand above it.
    """

    def __init__(self) -> None:
        """Begin before the first period."""
        self._bar = progress_bar()
        self._task = self._bar.add_task("replay", total=None)

    def tell(self, result: object) -> None:
        """Show a result; a period moves the bar on."""
        if isinstance(result, Period):
            if result.decision is not None:
                show(result.decision)
            self._bar.update(self._task, completed=result.number, total=result.of)
        elif isinstance(result, Doing):
            title = f"{result.as_of:%Y-%m-%d} {result.verb:<12}"
            self._bar.update(self._task, description=title)
        else:
            self._bar.stop()
            show(result)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        self._bar.stop()


def show_status(context: Context) -> None:
    """Champion, waiting request, open alerts and the next command; then versions and tables."""
    versions = context.registry.versions()
    champion = context.registry.aliased(CHAMPION)
    asked = waiting(context)
    alerts = _open_alerts(context)
    say(f"Champion: {f'version {champion}' if champion else 'none yet'}")
    if asked:
        say(f"Waiting:  version {asked.version}, asked for by {asked.who}")
    say(f"Alerts:   {', '.join(alerts) or 'none open'}")
    following = _next_command(champion, has_versions=bool(versions), asked=bool(asked))
    say(f"Next:     [bold]{following}[/]")
    rows = [
        (item.version, item.tags["stage"], item.tags["as_of"][:16], item.description)
        for item in versions
    ]
    model = context.registry.settings.model
    table(f"Versions of {model}", ("version", "stage", "as of", "description"), rows)
    _show_tables(context)


def _open_alerts(context: Context) -> list[str]:
    log = context.lakehouse.read(ALERTS, order=("at",)).filter(receiver=LOG)
    last = log.group_by("metric", "slice", "status", maintain_order=True).last()
    rows = last.filter(kind=OPENED).iter_rows(named=True)
    return [f"{row['metric']} {row['slice']}".strip() for row in rows]


def _next_command(champion: str | None, *, has_versions: bool, asked: bool) -> str:
    if asked:
        return "approve --why ..., or reject --why ..."
    if not has_versions:
        return "run"
    return "predict, then monitor" if champion else "deploy"


def _show_tables(context: Context) -> None:
    lakehouse = context.lakehouse
    rows = []
    for item in tables.every(context.problem):
        version = lakehouse.version(item)
        if version is not None:
            done = lakehouse.complete_until(item)
            until = moment(done) if done else "–"
            rows.append((item.name, f"{lakehouse.count(item):,}", version, until))
    columns = ("table", "rows", "version", "complete until (UTC)")
    table(f"Tables in {lakehouse.root}", columns, rows)
    out.print()
