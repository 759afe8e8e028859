"""Any table is looked at, and files are written that declare it."""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import narwhals as nw
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import datasets

from {{cookiecutter.package_name}}.adoption import project as places
from {{cookiecutter.package_name}}.adoption import write
from {{cookiecutter.package_name}}.adoption.assume import Asked, Assumed, assume, kind_of
from {{cookiecutter.package_name}}.adoption.columns import names_for, role_of
from {{cookiecutter.package_name}}.core.contract import ROW, UTC_TIME, Form, Schema
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.core.reading import read

LABELS: dict[str, st.SearchStrategy[Any]] = {
    "binary_classification": st.booleans(),
    "multiclass_classification": st.sampled_from(["low risk", "Müller", "c" * 130]),
    "regression": st.floats(-1e6, 1e6),
}
VALUES = (
    st.floats(-1e6, 1e6),
    st.integers(-1_000, 1_000),
    st.booleans(),
    st.sampled_from(["red", 'ro"t', "it's", "a, b; c"]),
    st.dates(date(1950, 1, 1), date(2030, 1, 1)),
    st.none(),
    st.just("same"),
)
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=120
).map(str.strip)


def nobody(question: str, answers: Sequence[str]) -> None:
    """Nobody sits at the terminal."""


def looked_at(project: Path, table: pl.DataFrame, **said: Any) -> Assumed:
    table.write_parquet(project / "table.parquet")
    return assume(Asked("table.parquet", **said), "table.parquet", nobody)


def text_file(project: Path, text: str, encoding: str = "utf-8", **said: Any) -> Assumed:
    (project / "table.csv").write_text(text, encoding=encoding)
    return assume(Asked("table.csv", **said), "table.csv", nobody)


@st.composite
def tables(draw: st.DrawFn) -> tuple[pl.DataFrame, str]:
    """A table of a hundred rows, and the name of its label, which comes last."""
    names = draw(st.lists(NAMES.filter(bool), min_size=2, max_size=8, unique=True))
    label = LABELS[draw(st.sampled_from(list(LABELS)))]
    kinds = [*(draw(st.sampled_from(VALUES)) for _ in names[1:]), label]
    few = [draw(st.lists(kind, min_size=10, max_size=10)) for kind in kinds]
    columns = [pl.Series(name, [*part] * 10) for name, part in zip(names, few, strict=True)]
    return pl.DataFrame(columns), names[-1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables())
def test_every_column_of_any_table_is_accounted_for_and_written(
    project: Path, given_table: tuple[pl.DataFrame, str]
) -> None:
    table, label = given_table
    try:
        assumed = looked_at(project, table, label=label)
    except UserError:  # nothing to learn from, or nothing to learn
        return
    # then each column is an input, a key or the label, or is left out for a reason
    names = names_for(table.columns)
    said = [column.name for column in assumed.columns]
    said += [column.name for column in (*assumed.left_out, *assumed.told)]
    keys = [key for key in assumed.key_types if key != ROW]
    assert sorted([*said, *keys, assumed.label]) == sorted(names.values())
    assert all(column.why for column in (*assumed.left_out, *assumed.told))
    # and what is written is Python of lines that fit, which no verb waits for
    for path, content in write.files(assumed).items():
        if path.suffix == ".py":
            imported = {ast.unparse(node) for node in ast.parse(content).body}
            assert not {"import optuna", "import pointblank as pb"} & imported
            for line in content.splitlines():
                assert len(line) <= 100 or " " not in line.strip() or line.endswith("# noqa: E501")
        if path.suffix == ".ipynb":
            assert json.loads(content)["cells"]


@given(st.lists(NAMES, unique=True, max_size=20))
def test_names_are_told_apart_by_python_and_by_delta(given_names: list[str]) -> None:
    names = names_for(given_names)
    assert list(names) == given_names
    assert len({name.casefold() for name in names.values()}) == len(given_names)
    assert all(name.isidentifier() and name.isascii() for name in names.values())
    assert names_for(["kept_as_is", "Größe (cm)", "known_at", "1st"]) == {
        "kept_as_is": "kept_as_is",
        "Größe (cm)": "groesse_cm",
        "known_at": "known_at_2",
        "1st": "column_1st",
    }


@pytest.mark.parametrize(
    ("name", "kind", "classes"),
    [
        ("breast_cancer", "binary_classification", ("no", "yes")),
        ("iris", "multiclass_classification", ("label_2_0", "label_2_1", "label_2_2")),
        ("digits", "multiclass_classification", None),
        ("diabetes", "regression", ()),
    ],
)
def test_the_kind_of_problem_follows_from_the_label(
    project: Path, name: str, kind: str, classes: tuple[str, ...] | None
) -> None:
    bunch = getattr(datasets, f"load_{name}")()
    table = pl.DataFrame(bunch.data).with_columns(pl.Series("label", bunch.target))
    assumed = looked_at(project, table, label="label")
    assert assumed.kind == kind
    assert classes is None or assumed.classes == classes
    assert assumed.told == ()
    assert assumed.windows is None
    with pytest.raises(UserError, match="is none"):
        kind_of("clustering")


def test_the_rarer_class_or_the_yes_is_what_is_predicted(project: Path) -> None:
    for rare, frequent, expected in (("bad", "good", "bad"), ("No", "Yes", "Yes")):
        labels = [rare] * 20 + [frequent] * 80
        table = pl.DataFrame({"x": range(100, 300, 2), "label": labels})
        assert looked_at(project, table, label="label").values[1] == expected


# How text files are written


def test_semicolons_decimal_commas_umlauts_and_other_letters_are_read(project: Path) -> None:
    lines = ["Größe;Straße;seit;gekündigt"]
    for number in range(60):
        street = "Hauptstraße" if number % 3 else "Am Öhr"
        day = f"{1 + number % 28:02}.03.2021"
        lines.append(f"1.{3 * number:03},5;{street};{day};{'ja' if number % 4 else 'nein'}")
    assumed = text_file(project, "\n".join(lines), "cp1252", label="gekündigt")
    form = assumed.form
    assert (form.separator, form.decimal, form.encoding) == (";", ",", "cp1252")
    assert form.times == {"seit": "%d.%m.%Y"}
    assert [column.role for column in assumed.columns] == ["number", "text", "date"]
    schema: Schema = {"groesse": nw.Float64, "seit": UTC_TIME}
    rows = read("table.csv", schema, form)
    assert rows["groesse"][:2].to_list() == [1000.5, 1003.5]
    assert rows["seit"][0] == datetime(2021, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("texts", "role"),
    [
        (["00501", "10001", "94103"], "text"),
        (["0", "10", "0.5", "inf"], "number"),
        (["02/11/2024 9:05 PM", "12/31/2023 12:00 AM", "01/15/2024 12:30 PM"], "date"),
        (["True", "FALSE", "true"], "flag"),
    ],
)
def test_texts_are_what_all_of_them_can_be(texts: list[str], role: str) -> None:
    assert role_of(pl.Series("x", texts), Form())[0] == role


def test_numbers_that_are_none_are_missing(project: Path) -> None:
    numbers = [1.0, float("inf"), float("nan"), None, -float("inf")]
    pl.DataFrame({"x": numbers}).write_parquet(project / "table.parquet")
    (project / "table.csv").write_text("x\n1\ninf\nNaN\n\n-inf\n")
    for name in ("table.parquet", "table.csv"):
        assert read(name, {"x": nw.Float64})["x"].drop_nulls().to_list() == [1.0]


def test_rows_that_are_cut_unlike_say_so(project: Path) -> None:
    with pytest.raises(UserError, match=r"Cannot read table\.csv"):
        text_file(project, "a,b,y\n1,2,0\n1,2,3,4\n" * 9, label="y")


def test_all_that_a_table_does_not_hold_is_said_at_once(project: Path) -> None:
    (project / "table.csv").write_text("number,flag\n1,true\ntwo,true\n3,perhaps\n")
    schema: Schema = {"number": nw.Float64, "flag": nw.Boolean, "absent": nw.String}
    with pytest.raises(UserError) as refusal:
        read("table.csv", schema, Form(names={"Absent!": "absent"}))
    for part in ("no column Absent!", "'two' in 1 row;", "'perhaps' in 1 row"):
        assert part in str(refusal.value)


# Times, keys, leaks


def timed(rows: int, step: timedelta) -> pl.DataFrame:
    start = datetime(2021, 1, 1, tzinfo=UTC)
    moments = [start + number * step for number in range(rows)]
    values = [float(number * 7919 % 101) for number in range(rows)]
    return pl.DataFrame({"at": moments, "x": values, "y": [value > 70 for value in values]})


@pytest.mark.parametrize(
    ("rows", "step"),
    [
        (718, timedelta(hours=1)),
        (165, timedelta(days=31)),
        (329, timedelta(days=1)),
        (5_000, timedelta(minutes=7)),
    ],
)
def test_windows_fit_the_rows(project: Path, rows: int, step: timedelta) -> None:
    table = timed(rows, step)
    assumed = looked_at(project, table, label="y", time="at")
    windows = assumed.windows
    assert windows is not None
    start = assumed.ends - timedelta(days=windows.holdout)  # type: ignore[operator]
    holdout = table.filter(pl.col("at") >= start).height
    assert 0.15 * rows <= holdout <= 0.4 * rows
    assert assumed.min_rows <= holdout


def test_of_many_rows_few_judge(project: Path) -> None:
    # given more than a year of hours
    assumed = looked_at(project, timed(9_000, timedelta(hours=1)), label="y", time="at")
    # then some weeks judge, so that a model learns also from what was lately
    assert assumed.windows is not None
    assert 14 <= assumed.windows.holdout <= 40
    assert 14 <= assumed.windows.validation <= 40


@pytest.mark.parametrize("step", [timedelta(hours=1), timedelta(days=1), timedelta(minutes=7)])
def test_windows_of_production_have_rows_enough_to_be_judged(
    project: Path, step: timedelta
) -> None:
    assumed = looked_at(project, timed(5_000, step), label="y", time="at")
    assert assumed.windows is not None
    assert assumed.judged_rows <= timedelta(days=assumed.windows.production) / step


def test_half_of_the_past_fills_the_windows_of_a_replay(project: Path) -> None:
    assumed = looked_at(project, timed(718, timedelta(hours=1)), label="y", time="at")
    assert assumed.windows is not None
    halved = assumed.windows.halved()
    days = halved.train + halved.validation + halved.holdout
    assert days <= 718 / 24 / 2 + 1
    assert min(halved.train, halved.validation, halved.holdout) >= 1


@pytest.mark.parametrize(
    ("unit", "written"), [("s", "epoch"), ("ms", "epoch_ms"), ("us", "epoch_us")]
)
def test_numbers_are_times_since_1970_by_their_size(
    project: Path, unit: Literal["s", "ms", "us"], written: str
) -> None:
    moments = timed(700, timedelta(hours=1))
    table = moments.with_columns(pl.col("at").dt.epoch(unit))
    assumed = looked_at(project, table, label="y", time="at")
    assert assumed.form.times == {"at": written}
    assert assumed.begins == datetime(2020, 12, 31, tzinfo=UTC)


def test_the_calendar_is_there_whatever_the_time_is_called(project: Path) -> None:
    table = timed(900, timedelta(hours=1)).rename({"at": "hour"})
    assumed = looked_at(project, table, label="y", time="hour")
    assert assumed.calendar == ("hour_of_day", "weekday")


def test_what_has_not_come_yet_is_said(project: Path) -> None:
    table = timed(900, timedelta(hours=1))
    later = table.with_columns(pl.col("at").dt.offset_by("100y"))
    with pytest.raises(UserError, match="lies in the future in all rows"):
        looked_at(project, later, label="y", time="at")
    assumed = looked_at(project, pl.concat([table, later.head(3)]), label="y", time="at")
    assert any(note.startswith("in 3 rows at lies in the future") for note in assumed.notes)


def test_copies_of_rows_are_told(project: Path) -> None:
    random = pl.Series(range(500)).sample(fraction=1, shuffle=True, seed=1).cast(pl.Float64)
    table = pl.DataFrame({"x": random, "z": random.sqrt(), "y": random > 300})
    assert not any("copies" in note for note in looked_at(project, table, label="y").notes)
    assumed = looked_at(project, pl.concat([table] * 2), label="y")
    assert any(note.startswith("500 rows are copies of others") for note in assumed.notes)


def test_rows_of_a_day_are_drawn_as_if_they_had_no_times(project: Path) -> None:
    assumed = looked_at(project, timed(500, timedelta(minutes=2)), label="y", time="at")
    assert assumed.windows is None
    assert any("as if they had no times" in note for note in assumed.notes)


def test_a_key_is_found_taken_with_the_time_or_replaced_by_a_number(project: Path) -> None:
    table = timed(600, timedelta(hours=1)).with_columns(
        shop=pl.Series(["a", "b"] * 300), shop_id=pl.Series([f"s{number}" for number in range(600)])
    )
    unique = looked_at(project, table, label="y", time="at")
    assert unique.key_types == {"shop_id": "nw.String"}
    with_time = looked_at(project, table, label="y", time="at", keys=("shop",))
    assert with_time.key_types == {"shop": "nw.String", "at": "UTC_TIME"}
    numbered = looked_at(project, table.drop("shop_id"), label="y", keys=("shop",))
    assert numbered.key_types == {ROW: "nw.Int64"}
    assert any("rows are numbered" in note for note in numbered.notes)


def test_a_column_that_tells_the_outcome_is_no_input(project: Path) -> None:
    table = timed(600, timedelta(hours=1))
    hard = table.with_columns(y=pl.Series([number * 104_729 % 7 < 3 for number in range(600)]))
    leaky = hard.with_columns(refunded=pl.col("y").cast(pl.String))
    assumed = looked_at(project, leaky, label="y", time="at")
    assert [column.name for column in assumed.told] == ["refunded"]
    assert "alone explains 100%" in assumed.told[0].why
    sources = write.files(assumed)[PurePosixPath(places.PROBLEM, "sources.py")]
    model = write.files(assumed)[PurePosixPath(places.PROBLEM, "model.py")]
    assert "refunded" not in sources
    assert 'forbidden=(TARGET.label, "refunded")' in model


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"label": "z"}, "there is no column z"),
        ({}, "Which column is to be predicted"),
        ({"label": "one"}, "nothing to learn"),
        ({"label": "y", "time": "word"}, "no times"),
        ({"label": "word", "kind": "regression"}, "no quantity"),
        ({"label": "x", "kind": "binary_classification"}, "not two"),
        ({"label": "y", "keys": ("gap",)}, "missing values"),
    ],
)
def test_what_cannot_be_is_said(project: Path, said: dict[str, Any], message: str) -> None:
    table = timed(90, timedelta(hours=1)).with_columns(
        one=pl.lit(1), word=pl.Series(["a", "b", "c"] * 30), gap=pl.Series([None, 1, 2] * 30)
    )
    with pytest.raises(UserError, match=message):
        looked_at(project, table, **said)


def test_a_password_is_not_written_to_a_file() -> None:
    place = "postgresql://asker:hush%203@localhost:5432/orders"
    asked = Asked(place, "y", query="SELECT 1")
    with pytest.raises(UserError, match="holds a password") as refused:
        assume(asked, place, lambda *_: None)
    assert "hush" not in str(refused.value)
    assert "postgresql://asker@localhost:5432/orders" in refused.value.remedy


# The project


def git(project: Path, *arguments: str) -> None:
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    subprocess.run(["git", "-C", str(project), *who, *arguments], check=True)


PINS = """\
# made by a machine
alpha==1.0 \\
    --hash=sha256:aa \\
    --hash=sha256:ab
sample-data==0.3 \\
    --hash=sha256:cc
zeta==2.0 ; python_version >= "3.11" \\
    --hash=sha256:ee
"""


@pytest.fixture
def rendered(project: Path) -> Path:
    """A project with a sample, committed."""
    for folder in (*places.OWNED, PurePosixPath("requirements")):
        (project / folder).mkdir(parents=True, exist_ok=True)
    (project / places.PROBLEM / "sources.py").write_text("SAMPLE = 1\n")
    (project / places.TESTS / "test_sample.py").write_text("")
    (project / places.TESTS / "test_problem.py").write_text("")
    (project / places.NOTEBOOKS / "exploration.ipynb").write_text("{}")
    (project / "requirements" / "run.txt").write_text(PINS)
    (project / "pyproject.toml").write_text('problem = ["sample-data>=0.3"]\nspark = ["x"]\n')
    git(project, "init", "--quiet")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "Start")
    return project


def adopted(project: Path) -> Assumed:
    assumed = looked_at(project, timed(300, timedelta(hours=9)), label="y", time="at")
    places.write(project, write.files(assumed), write.settings(assumed))
    places.drop_packages(project)
    return assumed


def test_a_problem_takes_the_place_of_the_sample_which_can_come_back(rendered: Path) -> None:
    before = {path: path.read_text() for path in rendered.rglob("*") if _is_ours(path)}
    # when
    adopted(rendered)
    # then
    assert "SAMPLE" not in (rendered / places.PROBLEM / "sources.py").read_text()
    assert sorted(path.name for path in (rendered / places.TESTS).iterdir()) == [
        "test_problem.py",
        "test_table.py",
    ]
    assert "sample-data" not in (rendered / "requirements" / "run.txt").read_text()
    assert "problem = []" in (rendered / "pyproject.toml").read_text()
    # when
    git(rendered, "add", "--all")
    git(rendered, "commit", "--quiet", "--message", "Adopt")
    places.restore_sample(rendered)
    # then
    assert {path: path.read_text() for path in before} == before


def _is_ours(path: Path) -> bool:
    return path.is_file() and ".git" not in path.parts and path.suffix != ".parquet"


def test_what_is_not_committed_is_not_replaced(rendered: Path) -> None:
    places.require_kept(rendered)
    (rendered / places.PROBLEM / "mine.py").write_text("")
    with pytest.raises(UserError, match=r"not committed: .*mine\.py"):
        places.require_kept(rendered)


def test_settings_of_the_same_name_are_replaced_and_others_stay() -> None:
    text = "# ours\nseed: 1\n\ntraining:\n  min_rows: 5\n\nmlflow:\n  model: m\n"
    joined = places.with_sections(text, "training:\n  min_rows: 9\n")
    assert joined == "# ours\nseed: 1\n\nmlflow:\n  model: m\n\ntraining:\n  min_rows: 9\n"


def test_a_table_from_elsewhere_is_brought_into_the_project(project: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.write_text("a\n1\n")
    assert places.bring(project, str(elsewhere)) == "data/elsewhere.csv"
    assert places.bring(project, str(project / "data" / "elsewhere.csv")) == "data/elsewhere.csv"
    assert places.bring(project, "sqlite:///rows.db") == "sqlite:///rows.db"
    with pytest.raises(UserError, match="There is no"):
        places.bring(project, "absent.csv")
