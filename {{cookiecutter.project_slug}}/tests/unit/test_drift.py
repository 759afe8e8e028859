from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import fsum
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from {{cookiecutter.package_name}}.core.contract import PREDICTION_TIME
from {{cookiecutter.package_name}}.core.settings import MonitoringSettings, Settings
from {{cookiecutter.package_name}}.modeling.profile import Profile, load, profile, save
from {{cookiecutter.package_name}}.monitoring import drift
from {{cookiecutter.package_name}}.monitoring.drift import distance
from {{cookiecutter.package_name}}.monitoring.seen import Seen, look
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse

COLUMNS = ("amount", "shop", "rare")
counts = st.lists(st.integers(0, 1_000), min_size=2, max_size=30).filter(lambda rows: sum(rows) > 0)


def sample(days: int, seed: int, rows: int = 300) -> pl.DataFrame:
    """Rows of days that are alike; `rare` is null in a tenth of them."""
    rng = np.random.default_rng(seed)
    size = days * rows
    start = datetime(2020, 1, 1, tzinfo=UTC)
    return pl.DataFrame(
        {
            PREDICTION_TIME: [start + timedelta(days=number // rows) for number in range(size)],
            "amount": rng.normal(50, 10, size),
            "shop": rng.choice(["a", "b", "c"], size, p=[0.5, 0.3, 0.2]),
            "rare": rng.integers(0, 5, size),
            "known": rng.uniform(size=size) > 0.1,
        }
    ).with_columns(pl.when("known").then("rare").alias("rare"))


def shown(reference: Profile, rows: pl.DataFrame) -> Seen:
    """What rows in memory show."""
    return look(Lakehouse("nowhere"), reference, nw.from_native(rows.lazy()), rows.columns)


def measure(reference: Profile, rows: pl.DataFrame, monitoring: MonitoringSettings) -> pl.DataFrame:
    """Drift of rows in memory."""
    return drift.measure(reference, shown(reference, rows), monitoring)


@pytest.fixture
def monitoring(settings: Settings) -> MonitoringSettings:
    return settings.monitoring


def statuses(
    rows: pl.DataFrame, monitoring: MonitoringSettings, days: int = 70
) -> dict[tuple[str, str], str]:
    measured = measure(profile(sample(days, 0), COLUMNS), rows, monitoring)
    return {
        (part.removeprefix("feature="), name): status
        for part, name, status in measured.select("slice", "metric", "status").iter_rows()
    }


def test_each_column_has_its_statistics(monitoring: MonitoringSettings) -> None:
    found = statuses(sample(7, 1), monitoring)
    texts = {("shop", name) for name in ("drift", "missing", "unseen")}
    of_numbers = ("drift", "missing", "out_of_range", "constant")
    numbers = {(column, name) for column in ("amount", "rare") for name in of_numbers}
    others = {("rare", "new_values"), ("shop", "constant")}
    assert found == dict.fromkeys(texts | numbers | others, "ok")


@pytest.mark.parametrize(
    ("change", "violated"),
    [
        (pl.col("amount") + 5, {("amount", "drift")}),
        (pl.col("amount") * 1.5, {("amount", "drift")}),
        (
            pl.when(pl.col("shop") == "b").then(pl.lit("a")).otherwise("shop").alias("shop"),
            {("shop", "drift")},
        ),
        (
            pl.when(pl.col("shop") == "b").then(pl.lit("new")).otherwise("shop").alias("shop"),
            {("shop", "drift"), ("shop", "unseen")},
        ),
        (
            pl.when(pl.col("rare") > 2).then("rare").alias("rare"),
            {("rare", "drift"), ("rare", "missing")},
        ),
        (
            pl.lit(None, dtype=pl.Float64).alias("amount"),
            {("amount", "drift"), ("amount", "missing")},
        ),
    ],
)
def test_a_shift_is_found_where_it_is(
    change: pl.Expr, violated: set[tuple[str, str]], monitoring: MonitoringSettings
) -> None:
    found = statuses(sample(7, 1).with_columns(change), monitoring)
    assert {key for key, status in found.items() if status == "violated"} == violated
    assert "unknown" not in found.values()


def test_what_cannot_be_known_is_not_called_fine(monitoring: MonitoringSettings) -> None:
    week = sample(7, 1)
    assert set(statuses(week.head(1), monitoring).values()) == {"unknown"}
    assert set(statuses(week.head(0), monitoring).values()) == {"unknown"}
    few_windows = statuses(week, monitoring, days=20)
    of_weeks = {key for key in few_windows if key[1] in {"drift", "missing", "unseen"}}
    assert {few_windows[key] for key in of_weeks} == {"unknown"}
    assert {few_windows[key] for key in few_windows.keys() - of_weeks} == {"ok"}
    vanished = statuses(week.drop("amount"), monitoring)
    assert {status for (column, _), status in vanished.items() if column == "amount"} == {"unknown"}
    assert {status for (column, _), status in vanished.items() if column != "amount"} == {"ok"}


def test_days_that_differ_widen_the_limits(monitoring: MonitoringSettings) -> None:
    # given a training whose weeks are far apart
    restless = sample(70, 0).with_columns(
        pl.col("amount") + 5 * (pl.col(PREDICTION_TIME).dt.epoch("d") // 7 % 2)
    )
    week = sample(7, 1).with_columns(pl.col("amount") + 5)
    # then a week like any of them is nothing new
    found = measure(profile(restless, COLUMNS), week, monitoring).filter(
        slice="feature=amount", metric="drift"
    )
    assert found["status"].to_list() == ["ok"]
    assert statuses(week, monitoring)["amount", "drift"] == "violated"


def test_a_limit_that_nothing_can_exceed_is_not_called_fine(monitoring: MonitoringSettings) -> None:
    # given a training whose weeks have nothing in common, and a week unlike any of them
    number = pl.col(PREDICTION_TIME).dt.epoch("d") // 7 % 10
    restless = sample(70, 0).with_columns(pl.col("amount") + 200 * number)
    week = sample(7, 1).with_columns(pl.col("amount") - 5_000)
    # when
    measured = measure(profile(restless, COLUMNS), week, monitoring)
    # then
    [found] = measured.filter(slice="feature=amount", metric="drift").rows(named=True)
    assert found["threshold"] >= 1
    assert found["status"] == "unknown"


# What no week of the source can be


def related(days: int, seed: int) -> pl.DataFrame:
    """Days of weather: what is felt follows from heat and wind."""
    rng = np.random.default_rng(seed)
    rows = sample(days, seed)
    heat = rng.normal(70, 10, rows.height)
    wind = rng.choice([0.0, 3.5, 4.6, 5.8, 8.1, 11.5], rows.height)
    felt = heat - 0.7 * wind + rng.normal(0, 1, rows.height)
    return rows.with_columns(heat=heat.round(1), wind=wind, felt=felt)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("heat", (pl.col("heat") - 32) * 5 / 9, {"relation"}),
        ("wind", pl.col("wind") * 0.447, {"new_values"}),
        ("heat", pl.col("heat") * 30, {"out_of_range", "relation"}),
        ("heat", pl.lit(70.0), {"constant"}),
        ("heat", pl.lit(-500.0), {"out_of_range", "constant"}),
        ("heat", pl.col("heat").shuffle(seed=0), {"relation"}),
    ],
    ids=["Celsius", "metres a second", "another unit", "stuck", "impossible", "other rows"],
)
def test_what_no_week_explains_is_told_whatever_the_weeks_are_like(
    name: str, change: pl.Expr, said: set[str], monitoring: MonitoringSettings
) -> None:
    # given a training whose weeks have nothing in common but how the columns are related
    columns = ("heat", "wind", "felt")
    reference = profile(related(70, 0), columns)
    week = related(7, 1)
    assert "violated" not in measure(reference, week, monitoring)["status"].to_list()
    # when
    measured = measure(reference, week.with_columns(change.alias(name)), monitoring)
    # then
    violated = measured.filter(status="violated", slice=f"feature={name}")
    assert said <= set(violated["metric"])


def test_a_loose_relation_is_held_to_its_limit_though_that_is_more_than_1(
    monitoring: MonitoringSettings,
) -> None:
    # given a column that the others foretell to within 0.35 spreads
    def noisy(days: int, seed: int) -> pl.DataFrame:
        noise = np.random.default_rng(seed + 2).normal(0, 3, 300 * days)
        return related(days, seed).with_columns(pl.col("felt") + pl.Series(noise))

    columns = ("heat", "felt")
    reference = profile(noisy(70, 0), columns)
    mixed = noisy(7, 1).with_columns(pl.col("heat").shuffle(seed=0))
    # when
    found = measure(reference, mixed, monitoring).filter(metric="relation")
    # then
    assert (found["threshold"] > 1).any()
    assert set(found["status"]) == {"violated"}


def test_columns_that_tell_nothing_of_each_other_are_not_held_against_each_other(
    monitoring: MonitoringSettings,
) -> None:
    measured = measure(profile(sample(70, 0), COLUMNS), sample(7, 1), monitoring)
    assert measured.filter(metric="relation").is_empty()


def weather(days: int, seed: int) -> pl.DataFrame:
    """Days at two shops, in no order: pressure follows time, at each shop on a level of its own."""
    rng = np.random.default_rng(seed)
    size = 48 * days
    walk = np.cumsum(rng.normal(0, 1, size))
    rows = pl.DataFrame(
        {
            PREDICTION_TIME: [
                datetime(2020, 1, 1, tzinfo=UTC) + timedelta(minutes=30 * at) for at in range(size)
            ],
            "pressure": walk - np.linspace(0, walk[-1], size) + rng.normal(0, 1, size),
        }
    )
    shops = pl.DataFrame({"shop": ["a", "b"], "level": [0.0, 80.0]})
    placed = rows.join(shops, how="cross").with_columns(pl.col("pressure") + pl.col("level"))
    return placed.drop("level").sample(fraction=1, shuffle=True, seed=seed)


def scattered(reference: Profile, rows: pl.DataFrame, monitoring: MonitoringSettings) -> str:
    found = measure(reference, rows, monitoring).filter(metric="scatter")
    return str(found["status"].item())


def test_values_of_other_rows_are_told_by_rows_that_follow_each_other(
    monitoring: MonitoringSettings,
) -> None:
    # given a column that nothing foretells but time, and rows of a week in another order
    columns = ("pressure", "shop")
    reference = profile(weather(70, 0), columns)
    week = weather(7, 1)
    assert reference["pressure"].neighbours is not None
    assert reference["pressure"].neighbours.within == "shop"
    assert scattered(reference, week, monitoring) == "ok"
    # when values are dealt out to other rows, then it is told; not of few rows
    mixed = week.with_columns(pl.col("pressure").shuffle(seed=0))
    assert scattered(reference, mixed, monitoring) == "violated"
    assert scattered(reference, mixed.head(40), monitoring) == "unknown"
    # and where rows do not tell their shop, the column is not held against its neighbours
    unplaced = measure(reference, mixed.drop("shop"), monitoring)
    assert unplaced.filter(metric="scatter").is_empty()


def related_weather(days: int, seed: int) -> pl.DataFrame:
    """The same with heat, and what is felt, which follows from it."""
    rows = weather(days, seed).sort(PREDICTION_TIME, "shop")
    heat, noise = np.random.default_rng(seed).normal(size=(2, rows.height))
    return rows.with_columns(heat=pl.Series(heat), felt=pl.Series(heat + noise / 9))


def test_rows_show_the_same_to_the_bit_in_every_order() -> None:
    # given columns that are related, and one that follows time
    reference = profile(related_weather(70, 0), ("pressure", "shop", "heat", "felt"))
    week = related_weather(7, 1)
    expected = shown(reference, week)
    assert {name for name, _ in expected.steps()} == {"pressure"}
    assert np.count_nonzero(expected.products(7)) > 40
    # when the rows come shuffled, in parts of another size
    for seed, size in enumerate((1, 37, 100, 500)):
        shuffled = week.sample(fraction=1, shuffle=True, seed=seed)
        parts = pl.concat(shuffled.iter_slices(size), rechunk=False)
        # then they show the same
        assert shown(reference, parts) == expected


def test_sums_of_floats_are_right_to_the_last_digits() -> None:
    # given numbers of all sizes, of both signs, and some of which there are no squares
    reference = profile(weather(70, 0), ("pressure", "shop"))
    cuts = reference["pressure"].cuts
    center = cuts[len(cuts) // 2]
    rng = np.random.default_rng(1)
    week = weather(7, 1)
    sizes = 10.0 ** rng.integers(-20, 20, week.height)
    numbers = rng.normal(size=week.height) * sizes
    numbers[:3] = (1e300, -1e200, np.inf)
    # when
    [(_, sums)] = shown(reference, week.with_columns(pressure=pl.Series(numbers))).steps()
    # then
    levels = numbers[3:] - center
    expected = [len(levels), fsum(levels), fsum(levels**2)]
    assert sums[:3].tolist() == pytest.approx(expected, rel=1e-15)
    assert np.isfinite(sums).all()


def test_a_column_that_does_not_follow_time_is_not_held_against_its_neighbours(
    monitoring: MonitoringSettings,
) -> None:
    measured = measure(profile(sample(70, 0), COLUMNS), sample(7, 1), monitoring)
    assert measured.filter(metric="scatter").is_empty()


def test_rows_of_one_moment_follow_each_other_by_chance(monitoring: MonitoringSettings) -> None:
    # given a training whose rows of a day were sorted by what is measured
    rows = sample(70, 0).sort(PREDICTION_TIME, "amount")
    # then their order tells nothing
    measured = measure(profile(rows, COLUMNS), sample(7, 1), monitoring)
    assert set(measured["status"]) == {"ok"}


def test_a_column_that_is_alike_for_weeks_is_no_stuck_feed(monitoring: MonitoringSettings) -> None:
    # given a column that has one value in winter, and many in the half of the year that is summer
    is_winter = pl.col(PREDICTION_TIME).dt.epoch("d") // 35 % 2 == 0
    seasonal = pl.when(is_winter).then(0.0).otherwise("amount").alias("amount")
    reference = profile(sample(70, 0).with_columns(seasonal), COLUMNS)
    still = sample(7, 1).with_columns(amount=0.0)
    # then a week of winter is no alarm
    found = measure(reference, still, monitoring).filter(slice="feature=amount")
    assert "constant" not in found["metric"]


def test_values_that_come_and_go_with_the_weeks_are_nothing_new(
    monitoring: MonitoringSettings,
) -> None:
    # given a column that counts the weeks
    week_number = (pl.col(PREDICTION_TIME).dt.epoch("d") // 7).cast(pl.Float64).alias("rare")
    reference = profile(sample(70, 0).with_columns(week_number), COLUMNS)
    later = pl.col(PREDICTION_TIME) + timedelta(days=70)
    week = sample(7, 1).with_columns(later).with_columns(week_number)
    # then its limits are beyond what can be, and unknown
    found = measure(reference, week, monitoring).filter(slice="feature=rare")
    told = dict(found.select("metric", "status").iter_rows())
    assert told["new_values"] == "unknown"
    assert told["out_of_range"] == "ok"


def test_a_profile_of_an_earlier_version_tells_what_it_can(
    tmp_path: Path, monitoring: MonitoringSettings
) -> None:
    path = tmp_path / "profile.parquet"
    save(profile(sample(70, 0), COLUMNS), path)
    pl.read_parquet(path).select("column", "cuts", "categories", "days").write_parquet(path)
    measured = measure(load(path), sample(7, 1), monitoring)
    assert set(measured["metric"]) == {"drift", "missing", "unseen"}


def test_few_rows_are_not_taken_for_drift(monitoring: MonitoringSettings) -> None:
    reference = profile(sample(70, 0), COLUMNS)
    for seed in range(20):
        few = sample(7, seed, rows=40)
        assert "violated" not in measure(reference, few, monitoring)["status"].to_list()


def test_a_profile_is_what_was_saved(tmp_path: Path, monitoring: MonitoringSettings) -> None:
    given = profile(sample(30, 0), COLUMNS)
    save(given, tmp_path / "profile.parquet")
    again = load(tmp_path / "profile.parquet")
    assert list(again) == list(given)
    assert measure(again, sample(7, 1), monitoring).equals(measure(given, sample(7, 1), monitoring))


@given(counts, counts)
def test_distance_is_symmetric_and_between_0_and_1(first: list[int], second: list[int]) -> None:
    size = max(len(first), len(second))
    one, other = (
        np.array(rows + [0] * (size - len(rows)), dtype=np.float64) for rows in (first, second)
    )
    assert 0 <= distance(one, other) <= 1
    assert distance(one, other) == pytest.approx(distance(other, one))
    assert distance(one, one) == 0


def test_distance_equals_the_textbook_less_chance() -> None:
    first, second = np.array([30.0, 70.0, 0.0]) * 1e9, np.array([10.0, 60.0, 30.0]) * 1e9
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2
    entropies = [
        float(-(part[part > 0] * np.log2(part[part > 0])).sum()) for part in (middle, p, q)
    ]
    assert distance(first, second) ** 2 == pytest.approx(
        entropies[0] - (entropies[1] + entropies[2]) / 2
    )
    assert distance(np.array([1e9, 0]), np.array([0, 1e9])) == pytest.approx(1)
    # chance alone: the mean divergence of two samples of 500 in 10 bins is taken off
    draws = (
        np.random.default_rng(0).multinomial(500, [0.1] * 10, size=(4_000, 2)).astype(np.float64)
    )
    squares = distance(draws[:, 0], draws[:, 1]) ** 2
    assert squares.mean() < 0.4 * 9 * (2 / 500) / (8 * np.log(2))
