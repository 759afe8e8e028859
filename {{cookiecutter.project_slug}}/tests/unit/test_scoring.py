from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import lightgbm as lgb
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from {{cookiecutter.package_name}}.modeling.lightgbm import (
    BOOSTER,
    ENCODING,
    LightGBM,
    encode,
)

FEATURES = ("shop", "amount", "count", "new")
CATEGORIES = {"shop": ["a", "b"]}
ROWS = pl.DataFrame(
    {
        "amount": [1.5, None, float("nan"), -2.0],
        "unused": ["x"] * 4,
        "shop": ["b", "a", "unseen", None],
        "new": [True, False, None, True],
        "count": [1, 2, None, 4],
    }
)
EXPECTED = [[1, 1.5, 1, 1], [0, np.nan, 2, 0], [np.nan, np.nan, np.nan, np.nan], [np.nan, -2, 4, 1]]


@pytest.fixture
def predictor() -> LightGBM:
    rng = np.random.default_rng(0)
    rows = pl.DataFrame({"shop": rng.choice(["a", "b"], 200), "amount": rng.normal(size=200)})
    matrix = encode(rows, ("shop", "amount"), CATEGORIES)
    label = matrix[:, 0] + matrix[:, 1]
    data = lgb.Dataset(matrix, label, categorical_feature=[0])
    booster = lgb.train({"verbosity": -1, "num_threads": 1}, data, 20)
    return LightGBM(booster.model_to_string(), ("shop", "amount"), CATEGORIES)


def test_unseen_categories_and_nulls_become_missing() -> None:
    np.testing.assert_array_equal(
        encode(ROWS, FEATURES, CATEGORIES), np.array(EXPECTED, dtype=np.float32)
    )


def test_polars_and_pandas_give_the_same_matrix() -> None:
    pandas = ROWS.with_columns(pl.col("new").cast(pl.Float64)).to_pandas()
    np.testing.assert_array_equal(
        encode(pandas, FEATURES, CATEGORIES), encode(ROWS, FEATURES, CATEGORIES)
    )


@pytest.mark.parametrize("name", FEATURES)
def test_a_column_of_nulls_only_is_missing(name: str) -> None:
    column = FEATURES.index(name)
    nulls = ROWS.with_columns(pl.lit(None).alias(name))
    assert np.isnan(encode(nulls, FEATURES, CATEGORIES)[:, column]).all()
    assert np.isnan(encode(nulls.to_pandas(), FEATURES, CATEGORIES)[:, column]).all()


def test_no_rows_give_an_empty_matrix() -> None:
    assert encode(ROWS.clear(), FEATURES, CATEGORIES).shape == (0, 4)


def test_a_saved_predictor_predicts_the_same_and_is_text(
    predictor: LightGBM, tmp_path: Path
) -> None:
    rows = pl.DataFrame({"shop": ["a", "b", "z", None], "amount": [0.1, 0.2, None, 0.4]})
    predictor.save(tmp_path)
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    starts = {path.name: path.read_text(encoding="utf-8")[:1] for path in files}
    assert {BOOSTER: "t", ENCODING: "{"}.items() <= starts.items()
    np.testing.assert_array_equal(LightGBM.load(tmp_path).predict(rows), predictor.predict(rows))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.none() | st.sampled_from(["a", "b", "", "z"]),
            st.none() | st.floats(width=64) | st.integers(-(2**53), 2**53) | st.booleans(),
        ),
        min_size=1,
    )
)
def test_a_row_alone_is_predicted_as_in_a_batch_to_the_bit(
    predictor: LightGBM, rows: list[tuple[str | None, float | None]]
) -> None:
    # Given
    frames = [
        pl.DataFrame({"shop": [shop], "amount": [amount]}, schema_overrides={"shop": pl.String})
        for shop, amount in rows
    ]
    # When
    one = predictor.predictor()
    alone = [list(one(row)) for row in rows]
    # Then
    assert alone == [predictor.predict(frame).tolist() for frame in frames]


def test_what_predicts_single_rows_does_not_import_lightgbm(
    predictor: LightGBM, tmp_path: Path
) -> None:
    predictor.save(tmp_path)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        f"from {LightGBM.__module__} import LightGBM\n"
        "LightGBM.load(Path(sys.argv[1])).predictor()(['a', 1.0])\n"
        "sys.exit('lightgbm' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], env=os.environ, check=False)
    assert done.returncode == 0
