"""Tests of the sample problem; they change with `problem/`."""

from __future__ import annotations

import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import narwhals as nw
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from {{cookiecutter.package_name}}.core.contract import (
    AVAILABLE_AT,
    KNOWN_AT,
    Schema,
)
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.problem import PROBLEM, sources
from {{cookiecutter.package_name}}.problem.features import rolling_sums

BEGIN = datetime(2013, 3, 8, tzinfo=UTC)
MODEL = PROBLEM.model
AIRPORTS = pl.DataFrame(
    [
        ("LAX", "America/Los_Angeles"),
        ("BOS", "America/New_York"),
        ("HNL", "Pacific/Honolulu"),
        ("XXX", None),
    ],
    schema=["faa", "tzone"],
    orient="row",
)


# Time


def times(
    day: tuple[int, int], leaves: int, arrives: int, dest: str
) -> tuple[datetime | None, datetime | None]:
    data = {
        "year": 2013,
        "month": day[0],
        "day": day[1],
        "sched_dep_time": leaves,
        "sched_arr_time": arrives,
    }
    frame = sources.with_times(pl.DataFrame([{**data, "dest": dest}]), AIRPORTS)
    return frame["scheduled_departure"][0], frame["scheduled_arrival"][0]


def utc(month: int, day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2013, month, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "leaves", "arrives", "dest", "departure", "arrival"),
    [
        pytest.param((1, 15), 517, 830, "BOS", utc(1, 15, 10, 17), utc(1, 15, 13, 30), id="winter"),
        pytest.param((7, 15), 517, 830, "BOS", utc(7, 15, 9, 17), utc(7, 15, 12, 30), id="summer"),
        pytest.param(
            (3, 9), 2330, 40, "BOS", utc(3, 10, 4, 30), utc(3, 10, 5, 40), id="over midnight"
        ),
        pytest.param(
            (3, 10), 100, 330, "BOS", utc(3, 10, 6), utc(3, 10, 7, 30), id="across the skipped hour"
        ),
        pytest.param(
            (11, 3),
            30,
            330,
            "BOS",
            utc(11, 3, 4, 30),
            utc(11, 3, 8, 30),
            id="across the repeated hour",
        ),
        pytest.param(
            (11, 3),
            130,
            500,
            "BOS",
            utc(11, 3, 5, 30),
            utc(11, 3, 10),
            id="repeated hour: first pass",
        ),
        pytest.param((1, 15), 900, 1230, "LAX", utc(1, 15, 14), utc(1, 15, 20, 30), id="west"),
        pytest.param(
            (1, 15),
            2359,
            330,
            "LAX",
            utc(1, 16, 4, 59),
            utc(1, 16, 11, 30),
            id="west, over midnight",
        ),
        pytest.param(
            (7, 15), 1000, 1440, "HNL", utc(7, 15, 14), utc(7, 16, 0, 40), id="no summer time there"
        ),
        pytest.param(
            (1, 15),
            1500,
            2024,
            "SJU",
            utc(1, 15, 20),
            utc(1, 16, 0, 24),
            id="east, zone not in file",
        ),
        pytest.param(
            (1, 15),
            2359,
            424,
            "SJU",
            utc(1, 16, 4, 59),
            utc(1, 16, 8, 24),
            id="east, over midnight",
        ),
        pytest.param(
            (1, 15), 2100, 2400, "BOS", utc(1, 16, 2), utc(1, 16, 5), id="arrives at 2400"
        ),
        pytest.param(
            (1, 15), 2400, 130, "BOS", utc(1, 16, 5), utc(1, 16, 6, 30), id="leaves at 2400"
        ),
    ],
)
def test_wall_clock_times_become_utc(
    day: tuple[int, int],
    leaves: int,
    arrives: int,
    dest: str,
    departure: datetime,
    arrival: datetime,
) -> None:
    assert times(day, leaves, arrives, dest) == (departure, arrival)


def test_a_departure_in_the_hour_that_spring_skips_is_null() -> None:
    assert times((3, 10), 230, 500, "BOS") == (None, None)


@pytest.mark.parametrize("dest", ["XXX", "???"])
def test_without_a_zone_there_is_no_arrival(dest: str) -> None:
    assert times((1, 15), 900, 1000, dest) == (utc(1, 15, 14), None)


@given(st.integers(0, 365 * 24 * 60), st.sampled_from(["America/New_York", "Pacific/Honolulu"]))
def test_local_time_comes_back_as_utc(minute: int, zone: str) -> None:
    moment = utc(1, 1, 0) + timedelta(minutes=minute)
    frame = pl.DataFrame({"zone": [zone], "at": [moment]})
    local = frame.with_columns(local=sources.to_local(pl.col("at"), pl.col("zone"), [zone]))
    back = local.select(sources.to_utc(pl.col("local"), pl.col("zone"), [zone]))["local"].item()
    second_pass = zone == "America/New_York" and utc(11, 3, 6) <= moment < utc(11, 3, 7)
    assert back == moment - timedelta(hours=second_pass)


# Files

DECLARED: Schema = {"id": nw.Int64, "name": nw.String}


def test_a_file_is_read_as_declared_and_na_is_null(tmp_path: Path) -> None:
    path = tmp_path / "things.csv"
    path.write_text("name,other,id\nNA,x,1\n\\N,y,2\nü,z,3\n", encoding="utf-8")
    assert sources.read_csv(path, DECLARED).rows() == [(1, None), (2, None), (3, "ü")]


def test_a_zipped_file_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "things.csv.zip", "w") as archive:
        archive.writestr("things.csv", "id,name\n1,a\n")
    assert sources.read_csv(tmp_path / "things.csv.zip", DECLARED).rows() == [(1, "a")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id\n1\n", "has no column name; it has id"),
        (b"id,title\n1,a\n", "has no column name; it has id, title"),
        (b"id,name\none,a\n", "Cannot read .*'?one'?"),
        (b"id,name\n1.5,a\n", "Cannot read .*1.5"),
        (b"id,name\n", "has no rows"),
        (b"", "Cannot read .*empty"),
        (b"id,name\n1,\xe9\n", "Cannot read .*utf"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "things.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"(?i)things\.csv|{message}") as error:
        sources.read_csv(path, DECLARED)
    assert error.match(f"(?i){message}")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Cannot read .*absent\.csv"):
        sources.read_csv(tmp_path / "absent.csv", DECLARED)


@pytest.mark.parametrize("damage", ["not a zip", "cut short", "flipped bytes", "another name"])
def test_a_corrupt_archive_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "things.csv.zip"
    rows = "".join(f"{number},{number * 7919 % 1000}\n" for number in range(500))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "other.csv" if damage == "another name" else "things.csv", f"id,name\n{rows}"
        )
    whole = path.read_bytes()
    damaged = {
        "not a zip": b"PK",
        "cut short": whole[: len(whole) // 2],
        "flipped bytes": whole[:60] + bytes(byte ^ 0xFF for byte in whole[60:120]) + whole[120:],
    }
    path.write_bytes(damaged.get(damage, whole))
    with pytest.raises(UserError, match=r"Cannot read .*things\.csv\.zip"):
        sources.read_csv(path, DECLARED)


# Features


SUMS = ("delay_3h", "delay_24h")
EVENT = st.tuples(st.sampled_from("ab"), st.integers(0, 60 * 24 * 3), st.integers(-50, 200))


@given(st.lists(EVENT, min_size=1, max_size=40))
def test_rolling_sums_equal_brute_force(events: list[tuple[str, int, int]]) -> None:
    windows = {"3h": 3, "24h": 24}
    frame = pl.LazyFrame(
        events, schema={"key": pl.String, "minute": pl.Int64, "delay": pl.Int64}, orient="row"
    ).select(
        "key",
        "delay",
        (pl.lit(BEGIN).cast(pl.Datetime("us", "UTC")) + pl.duration(minutes="minute")).alias(
            KNOWN_AT
        ),
    )
    found = rolling_sums(nw.from_native(frame), ["key"], ["delay"], windows).collect().to_native()
    full = [(key, minute // 60 + 1, delay) for key, minute, delay in events]
    changes = {(key, hour + length) for key, hour, _ in full for length in (0, *windows.values())}
    expected = {
        (key, BEGIN + timedelta(hours=at)): [
            sum(delay for other, hour, delay in full if other == key and at - length < hour <= at)
            for length in windows.values()
        ]
        for key, at in changes
    }
    assert found.height == len(expected)
    assert {
        (key, at): sums for key, at, *sums in found.select("key", AVAILABLE_AT, *SUMS).iter_rows()
    } == expected


# Model


def test_no_delay_feature_is_left_unconstrained() -> None:
    assert MODEL.monotone
    for name in MODEL.features:
        assert MODEL.monotone.get(name, 0) == int("late_share" in name or "_delay_" in name)
