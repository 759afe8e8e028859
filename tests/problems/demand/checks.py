"""Tests of this problem."""

from __future__ import annotations

from PACKAGE.problem import BEGINS, everything


def test_the_calendar_is_complete() -> None:
    hours = everything()
    assert hours["starts_at"].min() == BEGINS
    assert hours["starts_at"].diff().drop_nulls().n_unique() == 1
