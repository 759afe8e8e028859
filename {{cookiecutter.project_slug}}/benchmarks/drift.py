"""How often drift alarms without cause, and how large a shift must be to be seen.

`python3 bootstrap.py drift`. Stable data are made of real days, drawn with replacement: a training
of 13 weeks and a window after it. Each window is measured as it is, and again with one column
changed. It is a measurement and not a test; what it found stands in docs/monitoring.md.
"""

import os
import tempfile
from datetime import timedelta
from pathlib import Path

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
from {{cookiecutter.package_name}}.problem import PROBLEM
from {{cookiecutter.package_name}}.store.point_in_time import training_set

PROJECT, MODEL = Path(__file__).resolve().parents[1], PROBLEM.model
RESAMPLES, TRAINING_DAYS, WARM_UP, SEED = 100, 91, timedelta(days=28), 0
ENDS = PROBLEM.ends or PROBLEM.begins + timedelta(days=365)
NUMERIC = [name for name in MODEL.features if name not in MODEL.categorical]
MOVED, SHARES = (0.1, 0.2, 0.3, 0.5, 1.0), (0.01, 0.02, 0.05, 0.1, 0.2)


def main() -> None:
    """Draw, measure, print."""
    os.chdir(PROJECT)
    monitoring = load_settings("dev").monitoring
    with step("days"):
        days = days_of_the_sample()
    random, alarms = np.random.default_rng(SEED), 0
    found: dict[tuple[str, str], np.ndarray] = {}
    for _ in bar(range(RESAMPLES), "resamples", total=RESAMPLES):
        draw = random.integers(len(days), size=TRAINING_DAYS + monitoring.window_days).tolist()
        training, window = (
            dated(days, part) for part in (draw[:TRAINING_DAYS], draw[TRAINING_DAYS:])
        )
        reference = profile(training, MODEL.features)
        measured = drift.measure(reference, window, monitoring)
        alarms += "violated" in measured["status"].to_list()
        if not found:
            limits = (
                measured.filter(metric="drift")
                .sort("threshold")["slice"]
                .str.strip_prefix("feature=")
            )
            steady = [name for name in limits if name in NUMERIC]
            chosen = [steady[len(steady) * third // 3] for third in range(3)]
        for (name, kind), changes in changed(window, chosen).items():
            hits = [
                caught(reference, window.with_columns(change), name, monitoring)
                for change in changes
            ]
            found[name, kind] = found.get((name, kind), np.zeros(len(hits))) + hits
    say(f"{alarms} of {RESAMPLES} stable windows alarmed ({alarms / RESAMPLES:.1%}).")
    for title, kinds, sizes in (
        ("moved by so many standard deviations", ("moved",), [f"{size:g}" for size in MOVED]),
        (
            "in so large a share of the rows",
            ("missing", "unseen"),
            [f"{size:.0%}" for size in SHARES],
        ),
    ):
        rows = [
            (name, kind, *(f"{hits / RESAMPLES:.0%}" for hits in counts))
            for (name, kind), counts in found.items()
            if kind in kinds
        ]
        table(f"Windows caught, {title}", ("column", "change", *sizes), rows)


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


def dated(days: list[pl.DataFrame], numbers: list[int]) -> pl.DataFrame:
    """These days one after the other, as if in this order."""
    moments = (
        pl.lit(PROBLEM.begins + timedelta(days=at)).alias(PREDICTION_TIME)
        for at in range(len(numbers))
    )
    return pl.concat(
        days[number].with_columns(moment) for number, moment in zip(numbers, moments, strict=True)
    )


def changed(window: pl.DataFrame, columns: list[str]) -> dict[tuple[str, str], list[pl.Expr]]:
    """By column and kind of change: the changed column at each size."""
    row = pl.int_range(pl.len()) % 100
    changes = {}
    for name in columns:
        spread = window[name].cast(pl.Float64).std()
        changes[name, "moved"] = [
            pl.col(name).cast(pl.Float64) + size * pl.lit(spread) for size in MOVED
        ]
        changes[name, "missing"] = [
            pl.when(row >= 100 * size).then(name).alias(name) for size in SHARES
        ]
    for name in MODEL.categorical[:2]:
        new = (
            pl.when(row < 100 * size).then(pl.lit("?")).otherwise(name).alias(name)
            for size in SHARES
        )
        changes[name, "unseen"] = list(new)
    return changes


def caught(
    reference: Profile, window: pl.DataFrame, name: str, monitoring: MonitoringSettings
) -> bool:
    """Whether the changed column alarms."""
    measured = drift.measure(reference, window, monitoring).filter(slice=f"feature={name}")
    return "violated" in measured["status"].to_list()


if __name__ == "__main__":
    main()
