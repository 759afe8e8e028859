"""A table without times as somebody has it: classes as texts, names with spaces, gaps, a constant.

Usage: `python table.py FILE`, with scikit-learn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl
from sklearn.datasets import load_wine

LABEL = "Cultivar of the wine"


def table() -> pl.DataFrame:
    """178 wines, what was measured of each, and which cultivar it is of."""
    bunch = load_wine()
    names = [str(name).replace("_", " ") for name in bunch.feature_names]
    measured = pl.DataFrame(bunch.data, schema=names)
    gap = pl.int_range(pl.len()) % 11 == 0
    return measured.with_columns(
        pl.when(~gap).then(pl.col("alcohol")).alias("alcohol"),
        pl.format("Größe {}", (pl.col("hue") * 3).round()).alias("Farbe (grob)"),
        pl.lit("Italy").alias("country"),
        pl.Series(LABEL, [f"cultivar {code + 1}" for code in bunch.target]),
    )


if __name__ == "__main__":
    table().write_csv(Path(sys.argv[1]), separator=";")
