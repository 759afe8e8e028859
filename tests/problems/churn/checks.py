"""Tests of this problem."""

from __future__ import annotations

import polars as pl

from PACKAGE.problem import everything


def test_who_complains_leaves() -> None:
    reviews = everything()
    means = reviews.group_by("cancelled").agg(pl.col("complaints").mean())
    stayed, left = means.sort("cancelled")["complaints"]
    assert left > stayed + 1
