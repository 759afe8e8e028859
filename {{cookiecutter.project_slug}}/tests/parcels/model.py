"""One prediction per parcel, when it is posted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import narwhals as nw

from {{cookiecutter.package_name}}.core.contract import (
    KNOWN_AT,
    PREDICTION_TIME,
    Frame,
    Frames,
    Model,
    Target,
)
from {{cookiecutter.package_name}}.modeling.lightgbm import LightGBM
from {{cookiecutter.package_name}}.modeling.metrics import (
    BRIER,
    LOG_LOSS,
    MACRO_ROC_AUC,
    MAE,
    RMSE,
    ROC_AUC,
)

if TYPE_CHECKING:
    import optuna

MINUTES = nw.col("minutes_late")
LATE = Target(
    label="late",
    from_outcome=(MINUTES > 0).cast(nw.Float64),
    classes=("punctual", "late"),
    metrics=(ROC_AUC, LOG_LOSS, BRIER),
    unit="probability of being late",
)
LATENESS = Target(
    label="delay",
    from_outcome=MINUTES.cast(nw.Float64),
    metrics=(RMSE, MAE),
    unit="minutes late",
)
CLASSES = Target(
    label="lateness",
    from_outcome=(MINUTES > -180).cast(nw.Float64) + (MINUTES > 180).cast(nw.Float64),
    classes=("early", "on_time", "late"),
    metrics=(MACRO_ROC_AUC, LOG_LOSS),
    unit="probabilities of being early, on time and late",
)


def spine(frames: Frames) -> Frame:
    """One row per parcel, at the moment it is posted."""
    return frames["parcels"].drop(KNOWN_AT).with_columns(nw.col("posted_at").alias(PREDICTION_TIME))


def labels(frames: Frames) -> Frame:
    """Known when delivered."""
    label = LATE.from_outcome.alias(LATE.label)
    return frames["deliveries"].select("parcel", label, KNOWN_AT).drop_nulls(LATE.label)


def on_demand(rows: Frame) -> Frame:
    """What follows from the row itself."""
    weekday = nw.col("posted_at").dt.weekday().cast(nw.Int64).alias("weekday")
    return rows.with_columns(weekday, nw.col("express").cast(nw.Int64).alias("is_express"))


def search_space(trial: optuna.Trial) -> dict[str, Any]:
    """Parameters to try."""
    return {
        "num_leaves": trial.suggest_int("num_leaves", 4, 31),
        "learning_rate": trial.suggest_float("learning_rate", 0.05, 0.3),
    }


MODEL = Model(
    keys=("parcel",),
    scored="parcels",
    spine=spine,
    labels=labels,
    target=LATE,
    estimator=LightGBM,
    features=(
        "depot",
        "region",
        "kilograms",
        "is_express",
        "weekday",
        "depot_minutes_late",
        "depot_deliveries",
        "region_kilograms",
    ),
    categorical=("depot", "region"),
    baseline=("depot",),
    forbidden=("late", "minutes_late"),
    on_demand=on_demand,
    monotone={"kilograms": 1, "depot_minutes_late": 1},
    slices=("depot",),
    search_space=search_space,
    params={"min_data_in_leaf": 10},
    card="Scores parcels when they are posted. **Not for** decisions about people.",
)


def predicting(target: Target) -> Model:
    """The same model of another target."""

    def labels_of(frames: Frames) -> Frame:
        label = target.from_outcome.alias(target.label)
        return frames["deliveries"].select("parcel", label, KNOWN_AT)

    return replace(MODEL, target=target, labels=labels_of)
