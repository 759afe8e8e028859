from __future__ import annotations

from datetime import UTC, datetime

import pytest

from {{cookiecutter.package_name}}.reporting.pages import as_found


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.00012, "0.00012"),
        (1234567.891, "1234567.891"),
        (20130101, "20130101"),
        ("007", "007"),
        (datetime(2013, 1, 1, 5, 0, 59, tzinfo=UTC), "2013-01-01 05:00:59"),
    ],
)
def test_rows_in_quarantine_are_shown_as_they_were_found(value: object, shown: str) -> None:
    assert as_found(value) == shown
