"""How often drift alarms without cause, and which faults of the data it sees.

`python3 bootstrap.py drift [DRAWS]`. A training of 4 or of 13 weeks is drawn from the sample, and
the week after it: measured as it is, and again with one column changed. Days that hold many rows
are thinned. It is a measurement and not a test; what it found stands in problem/README.md.
"""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.console import bar, say, step, table
from {{cookiecutter.package_name}}.core.contract import PREDICTION_TIME
from {{cookiecutter.package_name}}.core.settings import MonitoringSettings, load_settings
from {{cookiecutter.package_name}}.data.ingest import ingest
from {{cookiecutter.package_name}}.data.prepare import prepare
from {{cookiecutter.package_name}}.features.build import build_features
from {{cookiecutter.package_name}}.modeling.profile import Profile, profile
from {{cookiecutter.package_name}}.monitoring import drift
from {{cookiecutter.package_name}}.monitoring.seen import look
from {{cookiecutter.package_name}}.problem import PROBLEM
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse
from {{cookiecutter.package_name}}.store.point_in_time import training_set

PROJECT, MODEL = Path(__file__).resolve().parents[1], PROBLEM.model
# Features of the first days look back on nothing.
WARM_UP = max((item.lookback for item in PROBLEM.feature_tables), default=timedelta(0))
SEED = 0
DRAWS = 400
TRAININGS = (28, 91)  # days
ROWS = 220  # of a day, about
MOVED = (0.5, 1.0)  # spreads
SHARES = (0.05, 0.2)
ENDS = PROBLEM.ends or PROBLEM.begins + timedelta(days=365)
NUMERIC = [name for name in MODEL.features if name not in MODEL.categorical]
UNITS: dict[str, tuple[str, pl.Expr]] = {
    "temperature": ("Celsius for Fahrenheit", (pl.col("temperature") - 32) * 5 / 9),
    "wind_speed": ("metres a second for miles an hour", pl.col("wind_speed") * 0.44704),
    "pressure": ("inches of mercury for hectopascal", pl.col("pressure") * 0.02953),
}
"""What sources of weather are known to do; columns that another problem has not are left out."""


def main() -> None:
    """Draw, measure, print."""
    if PROBLEM.holdout == "drawn":
        raise SystemExit("Rows without times have no next week: there is nothing to draw.")
    os.chdir(PROJECT)
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else DRAWS
    monitoring = load_settings("dev").monitoring
    with step("days"):
        whole = days_of_the_sample()
    every = max(1, round(sum(day.height for day in whole) / len(whole) / ROWS))
    days = [day.gather_every(every) for day in whole]
    monitoring = monitoring.model_copy(update={"min_rows": monitoring.min_rows // every})
    for length in TRAININGS:
        if len(days) < length + monitoring.window_days:
            say(f"No training of {length} days: there are {len(days)} of them.")
            continue
        measure(days, length, draws, monitoring)


def measure(
    days: list[pl.DataFrame], length: int, draws: int, monitoring: MonitoringSettings
) -> None:
    """Draw trainings of so many days, and print what alarmed in the weeks after them."""
    random = np.random.default_rng(SEED)
    alarms: Counter[str] = Counter()
    caught: Counter[tuple[str, str]] = Counter()
    for _ in bar(range(draws), f"trainings of {length} days", total=draws):
        begins = int(random.integers(len(days) - length - monitoring.window_days + 1))
        ends = begins + length
        reference = profile(dated(days[begins:ends]), MODEL.features)
        week = dated(days[ends : ends + monitoring.window_days])
        stable = violated(reference, week, monitoring)
        alarms.update({metric for _, metric in stable} | ({"any"} if stable else set()))
        for fault, change in faults(week, random):
            found = violated(reference, week.with_columns(change), monitoring)
            caught[fault] += bool(found - stable)
    told = ", ".join(f"{metric} {count / draws:.1%}" for metric, count in alarms.most_common())
    say(f"Alarms in the week after a training of {length} days, {draws} draws: {told or 'none'}.")
    rows = [(*fault, f"{count / draws:.0%}") for fault, count in sorted(caught.items())]
    table(f"Weeks caught after {length} days", ("column", "fault", "caught"), rows)


def violated(
    reference: Profile, rows: pl.DataFrame, monitoring: MonitoringSettings
) -> set[tuple[str, str]]:
    """Columns and statistics that alarm."""
    seen = look(Lakehouse("nowhere"), reference, nw.from_native(rows.lazy()), rows.columns)
    measured = drift.measure(reference, seen, monitoring).filter(status="violated")
    return set(measured.select("slice", "metric").iter_rows())


def faults(
    week: pl.DataFrame, random: np.random.Generator
) -> Iterator[tuple[tuple[str, str], pl.Expr | pl.Series]]:
    """Column and fault, and the changed column."""
    names = [name for name in UNITS if name in week.columns]
    for name in names or NUMERIC[:3]:
        column = week[name].cast(pl.Float64)
        if name in UNITS:
            yield (name, UNITS[name][0]), UNITS[name][1].alias(name)
        yield (name, "stuck"), pl.lit(column.median()).alias(name)
        order = random.permutation(week.height)
        yield (name, "values of other rows"), column.gather(order)
        for size in MOVED:
            yield (name, f"moved by {size:g} spreads"), column + whole_steps(column, size)
        for share in SHARES:
            kept = pl.int_range(pl.len()) % 100 >= 100 * share
            yield (name, f"missing in {share:.0%}"), pl.when(kept).then(name).alias(name)
    for name in MODEL.categorical[:1]:
        for share in SHARES:
            kept = pl.int_range(pl.len()) % 100 >= 100 * share
            new = pl.when(kept).then(name).otherwise(pl.lit("?"))
            yield (name, f"new in {share:.0%}"), new.alias(name)


def whole_steps(column: pl.Series, spreads: float) -> float:
    """So many spreads, in whole steps of the source's scale: no value is new for being moved."""
    values = column.drop_nulls().to_numpy()
    steps, times = np.unique(np.diff(np.unique(values)).round(6), return_counts=True)
    if not steps.size:
        return 0.0
    step = float(steps[np.argmax(times)])
    return round(spreads * float(values.std()) / step) * step


def days_of_the_sample() -> list[pl.DataFrame]:
    """Rows with all features, by day, without the first weeks: features look back on nothing."""
    with tempfile.TemporaryDirectory(prefix="drift-") as folder:
        settings = load_settings("test")
        tables = settings.lakehouse.model_copy(update={"root": folder})
        own = {"state": Path(folder), "lakehouse": tables}
        context = Context(settings.model_copy(update=own), PROBLEM)
        ingest(context, ENDS)
        prepare(context, ENDS)
        build_features(context, ENDS)
        rows = training_set(context.lakehouse, PROBLEM, PROBLEM.begins + WARM_UP, ENDS, {})
    kept = rows.select(PREDICTION_TIME, *MODEL.features).with_columns(
        _day=pl.col(PREDICTION_TIME).dt.date()
    )
    return kept.partition_by("_day", include_key=False, maintain_order=True)


def dated(days: list[pl.DataFrame]) -> pl.DataFrame:
    """Days one after the other, from the beginning; times of day stay."""
    moments = (PROBLEM.begins + timedelta(days=at) for at in range(len(days)))
    time_of_day = pl.col(PREDICTION_TIME) - pl.col(PREDICTION_TIME).dt.truncate("1d")
    dated_days = (
        day.with_columns((pl.lit(moment) + time_of_day).alias(PREDICTION_TIME))
        for day, moment in zip(days, moments, strict=True)
    )
    return pl.concat(dated_days)


if __name__ == "__main__":
    main()
