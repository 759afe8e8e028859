"""Measure what was promised: `python benchmarks/bench.py`, or `python3 bootstrap.py bench`.

Everything is measured in one run on one machine, in a temporary folder. It is a measurement and not
a test: a bound that does not hold is shown and changes no exit code. A new one is a function in
`BENCHES`.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from statistics import median

import narwhals as nw
import polars as pl
from scipy.stats import ks_2samp

from {{cookiecutter.package_name}} import flows
from {{cookiecutter.package_name}}.context import open_context
from {{cookiecutter.package_name}}.core.console import step, table
from {{cookiecutter.package_name}}.core.contract import (
    AVAILABLE_AT,
    KNOWN_AT,
    PREDICTION_TIME,
    Frame,
    Source,
)
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.data.events import send_events
from {{cookiecutter.package_name}}.modeling.lightgbm import encode
from {{cookiecutter.package_name}}.modeling.profile import profile
from {{cookiecutter.package_name}}.monitoring import drift
from {{cookiecutter.package_name}}.monitoring.seen import look
from {{cookiecutter.package_name}}.problem import PROBLEM
from {{cookiecutter.package_name}}.store import tables as declared
from {{cookiecutter.package_name}}.store.point_in_time import (
    point_in_time_join,
    prepared,
    training_set,
)
from {{cookiecutter.package_name}}.tracking.registry import CHAMPION

PROJECT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "{{cookiecutter.package_name}}")
REPEATS = 5
SCORED_ROWS = (1_000_000, 20_000_000)
STREAMED_ROWS = 50_000
_LOOK = 0.05  # seconds


@dataclass(frozen=True)
class Row:
    """One measurement: must stay below `bound` (both in `unit`)."""

    what: str
    measured: float
    bound: float
    unit: str

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """The row of the table."""
        holds = "[green]holds[/]" if self.measured < self.bound else "[red]does not hold[/]"
        return self.what, f"{self.measured:.2f} {self.unit}", f"< {self.bound:g} {self.unit}", holds


@dataclass(frozen=True)
class Call:
    """What a run of the command line took."""

    seconds: float
    processor: float  # seconds
    peak: float  # memory of its largest process, bytes


def bench_help() -> Iterator[Row]:
    """Time to the command line's help."""
    taken = min(call("--help").seconds for _ in range(REPEATS))
    yield Row(f"--help, best of {REPEATS}", taken, 0.5, "s")


def bench_size() -> Iterator[Row]:
    """Files of the packages in requirements/run.txt, without bytecode."""
    lock = (PROJECT / "requirements" / "run.txt").read_text(encoding="utf-8")
    total = 0
    for name in set(re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE)):
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:  # of another platform
            continue
        paths = (Path(str(file.locate())) for file in files if file.suffix != ".pyc")
        total += sum(path.stat().st_size for path in paths if path.is_file())
    yield Row("installed run environment", total / 1e9, 1.0, "GB")


def bench_loop() -> Iterator[Row]:
    """The loop on all data; warm: modules are in the file cache, MLflow's database is made."""
    call("status")
    run = call("run")
    yield Row(f"run on all data ({run.processor:.0f} s CPU)", run.seconds, 60, "s")
    yield Row("  its largest process", run.peak / 1e9, 3.0, "GB")


def bench_join() -> Iterator[Row]:
    """The point-in-time join of every row that asks against polars' own as-of join.

    Both start from the same frames in memory; that both find the same is checked.
    """
    lakehouse = open_context("dev").lakehouse
    tables = PROBLEM.feature_tables
    if not tables:
        return
    as_of = min(
        lakehouse.complete_until(declared.features(item)) or PROBLEM.begins for item in tables
    )
    spine = _frame(PROBLEM.model.spine(prepared(lakehouse, PROBLEM, as_of, {})))
    order = [*PROBLEM.model.keys, PREDICTION_TIME]
    for item in tables:
        features = lakehouse.read(declared.features(item))
        keys, values = list(item.keys), list(item.values)
        portable = partial(_portable_join, spine, features, keys, values)
        native = partial(_native_join, spine, features, keys, values)
        if not portable().sort(order).equals(native().sort(order)):
            raise SystemExit(f"The two joins of {item.name} differ.")
        ours, theirs = _best(portable, native)
        yield Row(f"join {item.name} / join_asof", ours / theirs, 4.0, "x")


def bench_scoring() -> Iterator[Row]:
    """The champion, encoding included, against the bare booster on a ready matrix."""
    context = open_context("dev")
    champion = str(context.registry.aliased(CHAMPION))
    ends = datetime.fromisoformat(context.registry.version(champion).tags["as_of"])
    rows = training_set(context.lakehouse, PROBLEM, PROBLEM.begins, ends, {})
    estimator = context.registry.load(champion)
    booster = getattr(estimator, "booster", None)
    if booster is None:  # an estimator of the problem's own
        return
    matrix = encode(rows, estimator.features, estimator.categories)
    bare, whole = _best(lambda: booster.predict(matrix), lambda: estimator.predict(rows))
    yield Row("champion / bare booster, time", whole / bare, 1 / 0.9, "x")


def bench_stream() -> Iterator[Row]:
    """Requests of the last day, for so many other entities, from their table to the predictions."""
    idle = call("stream", "--once")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        source = Path(folder) / "requests.parquet"
        to_stream(STREAMED_ROWS).write_parquet(source)
        call("send", "--input", str(source))
    taken = call("stream", "--once")
    processor = 1e6 * (taken.processor - idle.processor) / STREAMED_ROWS
    seconds = taken.seconds - idle.seconds
    rate = f"{STREAMED_ROWS / seconds:,.0f} a second"
    yield Row(f"stream of {STREAMED_ROWS:,} requests ({rate}), CPU each", processor, 100, "µs")


def to_stream(count: int) -> pl.DataFrame:
    """Rows of the last day of features, again and again for other entities."""
    from benchmarks.scale import copied

    context = open_context("dev")
    lakehouse, keys = context.lakehouse, list(PROBLEM.model.keys)
    built = (lakehouse.complete_until(declared.features(item)) for item in PROBLEM.feature_tables)
    as_of = min(until or PROBLEM.begins for until in built)
    spine = _frame(PROBLEM.model.spine(prepared(lakehouse, PROBLEM, as_of, {})))
    since = as_of - timedelta(hours=context.settings.online.history_hours)
    recent = spine.filter(pl.col(PREDICTION_TIME) > since, pl.col(PREDICTION_TIME) <= as_of)
    sent = lakehouse.read(declared.prepared(PROBLEM.scored)).select(*PROBLEM.scored.prepared)
    rows = sent.join(recent.select(keys), on=keys, how="semi")
    copies = [copied(rows, set(keys), copy) for copy in range(1 + count // rows.height)]
    return pl.concat(copies).head(count).collect()


def bench_events() -> Iterator[Row]:
    """A round of `follow`: an hour's events of the last day, from their tables to the online store.

    Everything before them is in the tables already.
    """
    last = PROBLEM.ends or datetime.now(UTC)
    begun = last - timedelta(days=1)
    with own_environment():
        whole = open_context("dev")
        flows.refresh(whole, begun)
        sources = [replace(source, load=_nothing(source)) for source in PROBLEM.sources]
        context = replace(whole, problem=replace(PROBLEM, sources=tuple(sources)))
        flows.settle_change(context, "keep", begun)
        rounds = []
        processor = 0.0
        sent = 0
        for hour in range(24):
            since, until = (begun + timedelta(hours=hour + more) for more in (0, 1))
            for source in PROBLEM.sources:
                rows = _frame(source.load(since, until))
                if KNOWN_AT in rows.columns and not rows.is_empty():
                    sent += send_events(context, source, [rows])
            started = time.perf_counter()
            processor -= time.process_time()
            flows.refresh(context, until)
            processor += time.process_time()
            rounds.append(time.perf_counter() - started)
    what = f"round of follow, {sent / len(rounds):.0f} events"
    spent = f"{processor / len(rounds):.1f} s CPU"
    yield Row(f"{what}, median of {len(rounds)} ({spent})", median(rounds), 5.0, "s")
    yield Row("  the longest", max(rounds), 10.0, "s")


def bench_memory() -> Iterator[Row]:
    """Peak memory of scoring a file of replicated requests into a file, as the file grows."""
    context = open_context("dev")
    prepared_rows = context.lakehouse.read(declared.prepared(PROBLEM.scored))
    requests = prepared_rows.select(*PROBLEM.scored.prepared)
    peaks = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        source, scored = Path(folder) / "requests.parquet", Path(folder) / "scored.parquet"
        for rows in SCORED_ROWS:
            copies = [requests.lazy()] * (rows // requests.height + 1)
            pl.concat(copies).head(rows).sink_parquet(source)
            peaks.append(call("predict", "--input", str(source), "--output", str(scored)).peak)
    few, many = (f"{rows / 1e6:g} M" for rows in SCORED_ROWS)
    yield Row(f"peak memory, {many} / {few} rows", peaks[1] / peaks[0], 1.2, "x")


def bench_drift() -> Iterator[Row]:
    """Drift of up to 20 numbers of every row, against SciPy's two-sample test of them."""
    context = open_context("dev")
    ends = PROBLEM.ends or datetime.now(UTC)
    rows = training_set(context.lakehouse, PROBLEM, PROBLEM.begins, ends, {})
    model = PROBLEM.model
    numbers = [name for name in model.features if name not in model.categorical][:20]
    reference, monitoring = profile(rows, numbers), context.settings.monitoring
    lakehouse, framed = context.lakehouse, context.lakehouse.frame(rows)
    keys = [*model.keys, PREDICTION_TIME]
    columns = [rows[name].drop_nulls().cast(pl.Float64).to_numpy() for name in numbers]
    ours, theirs = _best(
        lambda: drift.measure(reference, look(lakehouse, reference, framed, keys), monitoring),
        lambda: [ks_2samp(column, column) for column in columns],
    )
    yield Row(f"drift of {len(numbers)} features, {rows.height:,} rows", ours, 2.0, "s")
    yield Row("  / ks_2samp of the same columns", ours / theirs, 1.0, "x")


def bench_replay() -> Iterator[Row]:
    """The past, week by week, with monitoring and retraining, in an environment of its own."""
    if PROBLEM.holdout == "drawn":
        return
    with own_environment():
        run = call("replay")
    yield Row(f"weekly replay of the past ({run.processor:.0f} s CPU)", run.seconds, 360, "s")
    yield Row("  its largest process", run.peak / 1e9, 4.0, "GB")


BENCHES: tuple[Callable[[], Iterator[Row]], ...] = (
    bench_help,
    bench_size,
    bench_loop,
    bench_join,
    bench_scoring,
    bench_stream,
    bench_events,
    bench_memory,
    bench_drift,
    bench_replay,
)
"""In this order: what follows the loop works on the tables that it left."""


@contextmanager
def own_environment() -> Iterator[None]:
    """Tables, versions and reports in a temporary folder."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        root = Path(folder).as_posix()
        values = {
            "STATE": root,
            "LAKEHOUSE__ROOT": f"{root}/lakehouse",
            "MLFLOW__TRACKING_URI": f"sqlite:///{root}/mlflow.db",
            "MLFLOW__ARTIFACT_ROOT": f"{root}/artifacts",
        }
        os.environ.update({ENV_PREFIX + name: value for name, value in values.items()})
        yield
    os.environ.update(before)


def main() -> None:
    """Run all benches in a temporary environment and print the table."""
    os.chdir(PROJECT)
    rows: list[Row] = []
    with own_environment():
        for bench in BENCHES:
            with step(bench.__name__.removeprefix("bench_")):
                rows += bench()
    table(
        f"Measured on {os.cpu_count()} cores",
        ("what", "measured", "bound", ""),
        [row.cells for row in rows],
    )


def call(*arguments: str, memory: int | None = None) -> Call:
    """Run the command line; memory and processor time are 0 on Windows, which keeps neither.

    Args:
        arguments: Of the command line.
        memory: Bytes of its own that the process may have, on Linux; beyond, it is killed.
    """
    started, processor, peak = time.perf_counter(), 0.0, 0.0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([*COMMAND, *arguments], stdout=said, stderr=subprocess.STDOUT)
        if sys.platform == "win32":
            process.wait()
        else:
            if memory and sys.platform == "linux":
                _watch(process.pid, memory)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            processor = usage.ru_utime + usage.ru_stime
            peak = usage.ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)
        seconds = time.perf_counter() - started
        if process.returncode:
            said.seek(0)
            failed = "failed"
            if memory and process.returncode == -signal.SIGKILL:
                failed = f"took more than {memory / 1e9:g} GB"
            output = said.read().decode(errors="replace")
            raise SystemExit(f"{' '.join(arguments)} {failed}:\n{output}")
    return Call(seconds, processor, peak)


def _watch(pid: int, memory: int) -> None:
    """Wait until a process ends, of itself or killed because it has more memory than it may."""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        held = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
        if held and int(held[1]) * 1024 > memory:
            os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK)


def _nothing(source: Source) -> Callable[[datetime | None, datetime], Frame]:
    """A `load` that gives no rows."""
    empty = nw.from_native(declared.raw(source).empty().lazy())
    return lambda since, until: empty


def _frame(rows: Frame) -> pl.DataFrame:
    return pl.DataFrame(rows.collect("polars").to_native())


def _portable_join(
    spine: pl.DataFrame, features: pl.DataFrame, keys: list[str], values: list[str]
) -> pl.DataFrame:
    return _frame(
        point_in_time_join(
            nw.from_native(spine.lazy()), nw.from_native(features.lazy()), keys, values
        )
    )


def _native_join(
    spine: pl.DataFrame, features: pl.DataFrame, keys: list[str], values: list[str]
) -> pl.DataFrame:
    asked, known = spine.lazy().sort(PREDICTION_TIME), features.lazy().sort(AVAILABLE_AT)
    joined = asked.join_asof(
        known, left_on=PREDICTION_TIME, right_on=AVAILABLE_AT, by=keys, check_sortedness=False
    )
    return joined.select(*spine.columns, *values).collect()


def _best(*functions: Callable[[], object]) -> list[float]:
    """Shortest of several times of each, in seconds; they take turns on a machine with moods."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(REPEATS):
        for function, taken in zip(functions, times, strict=True):
            started = time.perf_counter()
            function()
            taken.append(time.perf_counter() - started)
    return [min(taken) for taken in times]


if __name__ == "__main__":
    main()
