"""How often the intervals hold, and what a comparison by them lets through.

`python3 bootstrap.py intervals`, or with a number of simulations. Holdouts are simulated whose days
differ from one another: in how much happens, in how many rows there are, in how hard they are to
tell. On each, a champion is compared with a challenger that is worse by exactly the margin, for
every metric that the project ships. What is true is known: it is measured on many more days.

Fails if an interval of 95 % surely holds in less than 93 % or in more than 97 %, or if such a
challenger is surely promoted in more than 4 %, where 2.5 % are meant.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, cast

import narwhals as nw
import numpy as np
import polars as pl
from scipy.stats import beta, t

from {{cookiecutter.package_name}}.core.console import bar, say, table
from {{cookiecutter.package_name}}.core.contract import (
    PREDICTION_TIME,
    Array,
    Kind,
    Metric,
    Model,
    Target,
    as_it_is,
)
from {{cookiecutter.package_name}}.core.settings import DeploymentSettings
from {{cookiecutter.package_name}}.deployment.comparison import judge, objections
from {{cookiecutter.package_name}}.modeling import metrics
from {{cookiecutter.package_name}}.modeling.evaluation import compare

SIMULATIONS, DAYS, SEED = 1_000, (7, 14, 30, 60), 0
POWER_SIMULATIONS, WANTED_POWER = 100, 0.8
BAND, PROMOTED_AT_MOST, SURELY = (0.93, 0.97), 0.04, 0.999
ROWS_A_DAY, MANY_ROWS_A_DAY, TRUTH_DAYS = 40, 400, 4_000
LABEL, START = "label", datetime(2020, 1, 1, tzinfo=UTC)
SETTINGS = DeploymentSettings()
CLASSES: dict[Kind, tuple[str, ...]] = {
    "binary_classification": ("no", "yes"),
    "multiclass_classification": ("low", "middle", "high"),
    "regression": (),
}
METRICS: dict[str, tuple[Kind, bool]] = {  # higher is better
    "roc_auc": ("binary_classification", True),
    "average_precision": ("binary_classification", True),
    "log_loss": ("binary_classification", False),
    "brier": ("binary_classification", False),
    "accuracy": ("binary_classification", True),
    "macro_roc_auc": ("multiclass_classification", True),
    "rmse": ("regression", False),
    "mae": ("regression", False),
    "r2": ("regression", True),
}


@dataclass(frozen=True)
class Holdout:
    """Rows of days, shape (rows,), and what predictions of them are made from."""

    kind: Kind
    day: Array
    label: Array
    seen: Array  # what both models know of a row
    mood: Array  # of its day
    noise: tuple[Array, Array, Array]  # of both models, of the champion, of the challenger
    hardness: Array  # of its day: noise is multiplied by it

    def champion(self) -> Array:
        """Its predictions, shape (rows,) or (rows, classes)."""
        return self._predicted(self.noise[1], 1)

    def challenger(self, worse: float) -> Array:
        """Its predictions; equal to the champion on the whole where `worse` is 1."""
        return self._predicted(self.noise[2], worse)

    def _predicted(self, own: Array, worse: float) -> Array:
        noise = worse * self.hardness * (0.8 * self.noise[0] + 0.3 * own)
        signal = self.seen + noise
        if self.kind == "regression":
            return np.asarray(10 + 4 * signal + self.mood)
        if self.kind == "binary_classification":
            return _chances(_scores(2, 0.8 * signal, 0.4 * self.mood))[:, 1]
        return _chances(_scores(3, 0.8 * signal, 0.4 * self.mood))

    def frame(self) -> pl.DataFrame:
        """Prediction time and label."""
        times = (pl.lit(START) + pl.duration(days="day")).alias(PREDICTION_TIME)
        return pl.DataFrame({"day": self.day, LABEL: self.label}).select(times, LABEL)


def main() -> None:
    """Simulate, print, and fail where an interval does not hold."""
    simulations = int(sys.argv[1]) if len(sys.argv) > 1 else SIMULATIONS
    failures = []
    rows = []
    for name in bar(METRICS, "intervals", total=len(METRICS)):
        worse = at_the_margin(name)
        for days in DAYS:
            counted = counts(name, days, worse, simulations)
            rows.append((name, days, *(f"{count / simulations:.1%}" for count in counted)))
            failures += [f"{name}, {days} days: {fault}" for fault in faults(counted, simulations)]
    titles = ("metric", "days", "value inside", "gain inside", "promoted")
    table(f"Of {simulations:,} holdouts, a challenger worse by exactly the margin", titles, rows)
    powers = []
    for name in bar(("roc_auc", "log_loss", "rmse"), "power", total=3):
        days = days_for_power(name)
        powers.append((name, f"{days} days", f"{power(name, days):.0%}"))
    title = f"An equal challenger, {MANY_ROWS_A_DAY} rows a day, is promoted"
    table(title, ("metric", f"in {WANTED_POWER:.0%} after", "simulated"), powers)
    if failures:
        raise SystemExit("\n".join(["Intervals do not hold:", *failures]))
    say("All intervals hold.")


def counts(name: str, days: int, worse: float, simulations: int) -> tuple[int, int, int]:
    """How often the value's interval and the gain's held, and how often it was promoted."""
    model = model_of(name)
    metric = model.target.metrics[0]
    value, reference = truth(name, worse)
    gain = value - reference if metric.higher_is_better else reference - value
    held, gain_held, promoted = 0, 0, 0
    for holdout in simulated(name, days, simulations):
        measured = compare(holdout.frame(), holdout.challenger(worse), holdout.champion(), model)
        found = measured.row(0, named=True)
        held += found["lower"] <= value <= found["upper"]
        gain_held += found["gain_lower"] <= gain <= found["gain_upper"]
        promoted += not objections(judge(measured, SETTINGS))
    return held, gain_held, promoted


def faults(counted: tuple[int, int, int], simulations: int) -> Iterator[str]:
    """What surely does not hold, by so many simulations."""
    *held, promoted = counted
    for what, count in zip(("value", "gain"), held, strict=True):
        low, high = possible_shares(count, simulations)
        if high < BAND[0] or low > BAND[1]:
            yield f"the interval of the {what} held in {count / simulations:.1%}"
    if possible_shares(promoted, simulations)[0] > PROMOTED_AT_MOST:
        yield f"{promoted / simulations:.1%} were promoted"


def possible_shares(count: int, total: int) -> tuple[float, float]:
    """Bounds of a share that was counted (Clopper & Pearson 1934)."""
    tail = (1 - SURELY) / 2
    low = beta.ppf(tail, count, total - count + 1) if count else 0.0
    high = beta.isf(tail, count + 1, total - count) if count < total else 1.0
    return float(low), float(high)


def days_for_power(name: str) -> int:
    """Days until an equal challenger is promoted as often as wanted.

    The gain's error on many days says what it is on fewer; the margin must be as large as Student's
    quantile of the interval and the one of the power together (Cohen 1988, chapter 2).
    """
    many = 240
    holdout = draw(np.random.default_rng(SEED), METRICS[name][0], many, MANY_ROWS_A_DAY)
    measured = compare(holdout.frame(), holdout.challenger(1), holdout.champion(), model_of(name))
    found = measured.row(0, named=True)
    error = (found["gain_upper"] - found["gain_lower"]) / 2 / t.isf(0.025, 60 - 1)
    margin = SETTINGS.margin * abs(found["reference"])
    for days in range(3, 10 * many):
        quantiles = t.isf(0.025, days - 1) + t.ppf(WANTED_POWER, days - 1)
        if quantiles * error * np.sqrt(many / days) <= margin:
            return days
    return 10 * many


def power(name: str, days: int) -> float:
    """Share of holdouts on which a challenger that is equal in truth is promoted."""
    model, promoted = model_of(name), 0
    for holdout in simulated(name, days, POWER_SIMULATIONS, MANY_ROWS_A_DAY):
        measured = compare(holdout.frame(), holdout.challenger(1), holdout.champion(), model)
        promoted += not objections(judge(measured, SETTINGS))
    return promoted / POWER_SIMULATIONS


def simulated(
    name: str, days: int, simulations: int, rows_a_day: int = ROWS_A_DAY
) -> Iterator[Holdout]:
    """Holdouts of so many days, the same each time."""
    random = np.random.default_rng([SEED, days, *name.encode()])
    for _ in range(simulations):
        yield draw(random, METRICS[name][0], days, rows_a_day)


def draw(random: np.random.Generator, kind: Kind, days: int, rows_a_day: int) -> Holdout:
    """A holdout of days that differ in mood, in size, and in how hard they are."""
    sizes = 1 + random.poisson(random.gamma(6, rows_a_day / 6, days))
    day = np.repeat(np.arange(days), sizes)
    rows = len(day)
    mood = random.normal(0, 0.7, days)[day]
    hardness = np.exp(random.normal(0, 0.25, days))[day]
    seen = random.normal(size=rows)
    if kind == "regression":
        skewed = random.gamma(4, 0.5, rows) - 2
        label = 10 + 5 * seen + 2 * mood + 3 * hardness * skewed
    else:
        chances = _chances(_scores(len(CLASSES[kind]), 1.2 * seen, mood))
        label = (random.random((rows, 1)) > np.cumsum(chances, axis=1)).sum(axis=1).astype(float)
        label = np.minimum(label, chances.shape[1] - 1)
    shared, first, second = random.normal(size=(3, rows))
    return Holdout(kind, day, label, seen, mood, (shared, first, second), hardness)


@cache
def population(kind: Kind) -> Holdout:
    """So many days that what is measured on them is true."""
    return draw(np.random.default_rng(SEED), kind, TRUTH_DAYS, ROWS_A_DAY)


def truth(name: str, worse: float) -> tuple[float, float]:
    """A metric of the challenger and of the champion."""
    everything = population(METRICS[name][0])
    score = cast(Callable[..., Any], getattr(metrics, name))
    weights = np.ones(len(everything.label))
    both = (everything.challenger(worse), everything.champion())
    value, reference = (float(score(everything.label, scores, weights)) for scores in both)
    return value, reference


def at_the_margin(name: str) -> float:
    """How noisy the challenger must be to be worse by exactly the margin; by bisection."""
    low, high = 1.0, 2.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        value, reference = truth(name, middle)
        is_worse = abs(value - reference) > SETTINGS.margin * abs(reference)
        low, high = (low, middle) if is_worse else (middle, high)
    return low


@cache
def model_of(name: str) -> Model:
    """A model that is judged by this metric alone."""
    kind, higher_is_better = METRICS[name]
    metric = Metric(name, getattr(metrics, name), higher_is_better, too_good=np.nan)
    nothing = partial(as_it_is)
    target = Target(LABEL, nw.col(LABEL), (metric,), unit=name, classes=CLASSES[kind])
    return Model(
        keys=(),
        scored="",
        spine=nothing,
        labels=nothing,
        target=target,
        estimator=cast(Any, None),
        features=(),
        categorical=(),
        baseline=(),
        forbidden=(),
    )


def _scores(classes: int, signal: Array, mood: Array) -> Array:
    """Logits of each class, shape (rows, classes)."""
    return np.stack([code * (signal + mood) - 0.7 * code for code in range(classes)], axis=1)


def _chances(scores: Array) -> Array:
    odds = np.exp(scores)
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


if __name__ == "__main__":
    main()
