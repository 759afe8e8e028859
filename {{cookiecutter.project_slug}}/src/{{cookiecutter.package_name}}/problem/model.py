"""The model: what one prediction is about, what it is made from, and how it is searched for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import narwhals as nw

from ..core.contract import KNOWN_AT, PREDICTION_TIME, Frame, Frames, Model
from ..modeling.lightgbm import LightGBM
from .features import FEATURE_TABLES
from .sources import FLIGHT
from .target import TARGET

if TYPE_CHECKING:
    import optuna

LEAD = "-1h"
"""A prediction is made so long before the scheduled departure."""

_STORED = tuple(name for table in FEATURE_TABLES for name in table.values if name != "built")
_OF_THE_ROW = ("weekday", "minute_of_day", "distance", "scheduled_minutes", "aircraft_age")
_CATEGORICAL = ("carrier", "origin", "dest", "manufacturer")


def spine(frames: Frames) -> Frame:
    """One row per scheduled flight, an hour before its departure, with what the schedule says."""
    minute_of_day = nw.col("local_hour") * 60 + nw.col("local_minute")
    time = nw.col("scheduled_departure").dt.offset_by(LEAD)
    return (
        frames["schedule"]
        .drop(KNOWN_AT)
        .with_columns(time.alias(PREDICTION_TIME), minute_of_day.alias("minute_of_day"))
    )


def labels(frames: Frames) -> Frame:
    """Labels of flights that arrived, known when they had landed."""
    label = TARGET.from_outcome.alias(TARGET.label)
    return frames["flights"].select(*FLIGHT, label, KNOWN_AT).drop_nulls(TARGET.label)


def on_demand(rows: Frame) -> Frame:
    """Planned duration (minutes) and age of the aircraft (years)."""
    planned = nw.col("scheduled_arrival") - nw.col("scheduled_departure")
    return rows.with_columns(
        planned.dt.total_minutes().alias("scheduled_minutes"),
        (nw.col(PREDICTION_TIME).dt.year().cast(nw.Int64) - nw.col("built")).alias("aircraft_age"),
    )


def search_space(trial: optuna.Trial) -> dict[str, Any]:
    """LightGBM parameters to try."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.03, 0.2, log=True),
        "num_leaves": trial.suggest_int("num_leaves", 15, 127, log=True),
        "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 50, 1_000, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.4, 1.0),
        "lambda_l2": trial.suggest_float("lambda_l2", 1e-2, 30.0, log=True),
    }


CARD = """\
Scores flights out of New York City an hour before their scheduled departure, so that passengers and
ground staff can be warned.

**Not for** other airports, other years without retraining, or decisions about people.

**Known limits.** Cancelled and diverted flights have no label and are not learned from. When a row
became known is derived from a yearly file, not recorded. Lateness moves with the seasons: expect
drift.
"""

MODEL = Model(
    keys=FLIGHT,
    scored="schedule",
    spine=spine,
    labels=labels,
    on_demand=on_demand,
    target=TARGET,
    estimator=LightGBM,
    features=("carrier", "origin", "dest", *_OF_THE_ROW, *_STORED),
    categorical=_CATEGORICAL,
    monotone={name: 1 for name in _STORED if "late_share" in name or "_delay_" in name},
    baseline=("carrier", "origin"),
    slices=("carrier", "origin"),
    forbidden=(TARGET.label, "departure_delay", "arrival_delay", "cancelled"),
    search_space=search_space,
    params={"bagging_fraction": 0.8, "bagging_freq": 1, "cat_smooth": 20.0},
    card=CARD,
)
