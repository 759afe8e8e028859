"""A leak is told from a good model by what other inputs know, not by how good the model is."""

from __future__ import annotations

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import datasets

from {{cookiecutter.package_name}}.core.contract import Target
from {{cookiecutter.package_name}}.modeling.leaks import Leak, leaks
from {{cookiecutter.package_name}}.modeling.metrics import LOG_LOSS, RMSE

CLASSES = {"breast_cancer": 2, "iris": 3, "wine": 3, "digits": 10, "diabetes": 0}
HARD = ("diabetes", "noise", "weak")


def target(classes: int) -> Target:
    return Target(
        label="label",
        from_outcome=nw.col("label"),
        metrics=(LOG_LOSS,) if classes else (RMSE,),
        unit="",
        classes=tuple(f"class_{number}" for number in range(classes)),
    )


def rows(name: str) -> tuple[pl.DataFrame, Target]:
    """Shuffled rows of a data set, easy or hard."""
    random = np.random.default_rng(0)
    if name in CLASSES:
        bunch = getattr(datasets, f"load_{name}")()
        inputs, label, classes = bunch.data, bunch.target, CLASSES[name]
    else:
        inputs, classes = random.normal(size=(2_000, 6)), 2
        signal = inputs[:, 0] if name == "weak" else 0 * inputs[:, 0]
        label = random.random(2_000) < 1 / (1 + np.exp(1.5 - signal))
    frame = pl.DataFrame({f"input_{at}": column for at, column in enumerate(inputs.T)})
    labelled = frame.with_columns(pl.Series("label", label.astype(np.float64)))
    return labelled.sample(fraction=1, shuffle=True, seed=0), target(classes)


def found(frame: pl.DataFrame, of: Target) -> list[Leak]:
    half = 2 * frame.height // 3
    inputs = [name for name in frame.columns if name != "label"]
    return leaks(frame.head(half), frame.slice(half), inputs, of)


@pytest.mark.parametrize("name", [*CLASSES, *HARD])
def test_no_leak_is_seen_where_there_is_none(name: str) -> None:
    assert found(*rows(name)) == []


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("disguise", ["as it is", "as text", "with noise", "twice"])
def test_a_leak_is_seen_on_hard_data(name: str, disguise: str) -> None:
    frame, of = rows(name)
    label, spread = pl.col("label"), frame["label"].std()
    noise = pl.Series(np.random.default_rng(1).normal(0, 0.1, frame.height))
    hints = {
        "as it is": [label.alias("hint")],
        "as text": [pl.format("<{}>", (6 * label / spread).round()).alias("hint")],
        "with noise": [(label + spread * noise).alias("hint")],
        "twice": [label.alias("hint"), (-label).alias("hint_again")],
    }
    seen = found(frame.with_columns(hints[disguise]), of)
    assert seen[0].name.startswith("hint")
    assert len(seen) == len(hints[disguise])
    assert "of the outcome" in str(seen[0])


@given(st.integers(0, 2**16), st.integers(2, 6), st.sampled_from([0, 2, 3]))
def test_noise_is_no_leak(seed: int, width: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    frame = pl.DataFrame({f"input_{at}": random.normal(size=200) for at in range(width)})
    label = random.integers(0, classes, 200) if classes else random.normal(size=200)
    labelled = frame.with_columns(pl.Series("label", label.astype(np.float64)))
    assert found(labelled, target(classes)) == []


def test_missing_values_and_values_that_are_new_are_taken_as_they_come() -> None:
    frame = pl.DataFrame(
        {
            "text": [None, "a", "b", *"abc" * 30, "new"],
            "number": [None, *map(float, range(92)), None],
            "nothing": pl.Series([None] * 94, dtype=pl.Float64),
            "yes": [True, None] * 47,
            "label": [0.0, 1.0] * 47,
        }
    )
    assert [leak.name for leak in found(frame, target(2))] == ["yes"]
