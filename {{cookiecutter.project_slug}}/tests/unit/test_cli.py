from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from {{cookiecutter.package_name}} import cli, flows
from {{cookiecutter.package_name}}.cli import parse_moment
from {{cookiecutter.package_name}}.core import failures
from {{cookiecutter.package_name}}.core.contract import Problem
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.core.project import SECRET_VARIABLE
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse

from tests import parcels
from tests.conftest import imported_by, within
from tests.parcels import PROBLEM

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2021-11-01", datetime(2021, 11, 1, tzinfo=UTC)),
        ("2021-11-01T06:00", datetime(2021, 11, 1, 6, tzinfo=UTC)),
        ("2021-11-01 06:00:30", datetime(2021, 11, 1, 6, 0, 30, tzinfo=UTC)),
        ("2021-11-01T06:00Z", datetime(2021, 11, 1, 6, tzinfo=UTC)),
        ("2021-11-01T01:00-05:00", datetime(2021, 11, 1, 6, tzinfo=UTC)),
    ],
)
def test_a_moment_is_utc_unless_it_says_otherwise(text: str, moment: datetime) -> None:
    parsed = parse_moment(text)
    assert (parsed, parsed.utcoffset()) == (moment, timedelta(0))


@pytest.mark.parametrize("text", ["yesterday", "2021-13-01", "01.11.2021", ""])
def test_what_is_not_a_moment_is_named(text: str) -> None:
    with pytest.raises(UserError, match=f"'{text}' is not a moment"):
        parse_moment(text)


def test_an_as_of_within_the_data_stays(project: Path, run: Run) -> None:
    as_of = PROBLEM.begins + timedelta(days=40, hours=3)
    code, out, err = run("prepare", "--env", "test", "--as-of", as_of.isoformat())
    assert (code, out) == (1, "")
    assert f"needed until {as_of:%Y-%m-%d %H:%M} (UTC)" in err


def test_an_as_of_may_stand_in_the_environment(
    project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_of = PROBLEM.begins + timedelta(days=40)
    monkeypatch.setenv("AS_OF", as_of.isoformat())
    assert f"needed until {as_of:%Y-%m-%d %H:%M} (UTC)" in run("prepare", "--env", "test")[2]


def test_without_an_as_of_verbs_of_one_hour_agree(
    project: Path, toy: Problem, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parcels, "PROBLEM", toy)
    before = datetime.now(UTC)
    wanted = {
        f"needed until {hour:%Y-%m-%d %H}:00 (UTC)"
        for hour in (before, before + timedelta(hours=1))
    }
    assert any(text in run("prepare", "--env", "test")[2] for text in wanted)


@pytest.mark.skipif(PROBLEM.ends is None, reason="the data have no end")
def test_an_as_of_after_the_data_is_moved_to_their_end_and_that_is_said(
    project: Path, run: Run
) -> None:
    for later in ([], ["--as-of", "2999-01-01"]):
        code, out, err = run("prepare", "--env", "test", *later)
        assert (code, f"The data end on {PROBLEM.ends:%Y-%m-%d %H:%M} UTC" in out) == (1, True)
        assert f"needed until {PROBLEM.ends:%Y-%m-%d %H:%M} (UTC)" in err


@pytest.mark.parametrize("offset", [timedelta(0), timedelta(days=400)])
def test_an_as_of_before_the_data_is_refused(project: Path, run: Run, offset: timedelta) -> None:
    for verb in ("ingest", "prepare", "features", "train", "run"):
        code, out, err = run(
            verb, "--env", "test", "--as-of", (PROBLEM.begins - offset).isoformat()
        )
        assert (code, out) == (1, "")
        assert "is not after the data begin" in err
    assert not (project / ".data").exists()


@pytest.mark.parametrize("verb", ["ingest", "prepare", "features", "train", "run", "status"])
def test_an_unknown_environment_is_one_message(project: Path, run: Run, verb: str) -> None:
    code, out, err = run(verb, "--env", "nope")
    assert (code, out) == (1, "")
    assert err.startswith(
        "✗ Unknown environment 'nope'.\n  → Use one of: dev, prod, replay, staging, test."
    )
    assert "Traceback" not in err


TOY = "from dataclasses import replace\nfrom tests.parcels import PROBLEM\n"
SLIPS = {
    "not installed": ("import not_of_this_world\n", "not_of_this_world is needed, and not"),
    "syntax": ("\ndef load(:\n", "unfinished.py, line 2: SyntaxError: "),
    "name": ("import narwhals as nw\nX = nw.Float46\n", "unfinished.py, line 2: AttributeError: "),
    "column": (
        "import polars as pl\npl.DataFrame().select('x')\n",
        "unfinished.py, line 2: ColumnNotFoundError: ",
    ),
    "no problem": ("X = 1\n", "`problem` in conf/ names unfinished, which declares no PROBLEM."),
    "one class": (f"{TOY}replace(PROBLEM.model.target, classes=('late',))\n", "one class, late."),
    "key": (f"{TOY}replace(PROBLEM.sources[0], keys=('a`b',))\n", "Key a`b of source depots"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_the_problem_is_one_message(
    project: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slip: str
) -> None:
    source, said = SLIPS[slip]
    (tmp_path / "unfinished.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(f"{ENV_PREFIX}PROBLEM", "unfinished")
    monkeypatch.delitem(sys.modules, "unfinished", raising=False)
    code, out, err = run("status", "--env", "test")
    assert (code, out) == (1, "")
    assert said in err
    assert err.count("✗") == err.count("→") == 1


def test_a_source_that_there_is_not_is_named() -> None:
    lost = replace(PROBLEM, model=replace(PROBLEM.model, scored="nowhere"))
    with pytest.raises(UserError, match="There is no source nowhere"):
        _ = lost.scored


def test_what_is_no_slip_of_the_user_keeps_its_traceback() -> None:
    with pytest.raises(AttributeError) as own:
        tables.prepared(cast("Any", None))
    assert failures.explain(own.value) is None


@pytest.mark.parametrize(
    ("module", "raised"),
    [("not_of_this_world", UserError), (f"{failures.__name__}.gone", ModuleNotFoundError)],
)
def test_only_packages_of_others_are_to_be_installed(module: str, raised: type[Exception]) -> None:
    with pytest.raises(raised, match=re.escape(module)), failures.importing("A wish", "Do."):
        importlib.import_module(module)


def test_an_interruption_over_which_a_library_stumbles_is_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            [].pop()

    monkeypatch.setattr(cli, "app", stumble)
    assert run("status") == (130, "", "")


def test_a_message_is_printed_as_it_is(project: Path, run: Run) -> None:
    code, _, err = run("ingest", "--as-of", "[bold]x[/]")
    assert (code, "'[bold]x[/]' is not a moment" in err) == (1, True)


def test_outside_a_project_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run("status")
    assert (code, "No conf/base.yml" in err) == (1, True)


def test_an_unknown_verb_or_option_is_a_usage_error(run: Run) -> None:
    for arguments in (["nope"], ["ingest", "--nope"]):
        code, _, err = run(*arguments)
        assert code == 2
        assert "Traceback" not in err


def test_a_project_elsewhere_is_named_for_an_installed_package(
    project: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # given a folder without a project above it, as where a wheel runs
    for variable in ("PROJECT_FOLDER", "DATA_FOLDER", "DEPLOYED_COMMIT"):
        monkeypatch.setenv(variable, "")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    code, _, err = run("prepare", "--env", "test")
    assert (code, "No conf/base.yml" in err) == (1, True)
    # when the project, the folder of the data and the commit are given
    given = ("--project", "../my project", "--data", "../data", "--commit", "1b" * 20)
    code, _, err = run(*given, "prepare", "--env", "test")
    # then the verb gets as far as it does inside the project, and leaves this folder empty
    assert (code, "needed until" in err, list(empty.iterdir())) == (1, True, [])
    assert Path(os.environ["DATA_FOLDER"]).resolve() == tmp_path / "data"
    assert os.environ["DEPLOYED_COMMIT"] == "1b" * 20


def test_a_project_that_is_none_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROJECT_FOLDER", "")
    code, _, err = run("--project", str(tmp_path / "nowhere"), "prepare")
    assert (code, "nowhere, which --project or PROJECT_FOLDER names" in err) == (1, True)


def test_help_names_every_step_in_order(run: Run) -> None:
    code, out, _ = run("--help")
    steps = [out.find(f" {verb} ") for verb in ("ingest", "prepare", "features", "train")]
    assert code == 0
    assert -1 not in [*steps, out.find(" run "), out.find(" status ")]
    assert steps == sorted(steps)


def test_every_step_takes_an_environment_and_an_as_of(run: Run) -> None:
    for verb in ("ingest", "prepare", "features", "train", "run"):
        code, out, _ = run(verb, "--help")
        assert (code, "--env" in out, "--as-of" in out) == (0, True, True)


def test_the_command_line_is_there_before_heavy_imports() -> None:
    heavy = {"mlflow", "narwhals", "numpy", "optuna", "polars", "pydantic"}
    assert imported_by(cli.__name__, heavy) == []


def test_a_problem_is_there_before_what_only_its_checks_and_its_search_need() -> None:
    assert imported_by("tests.parcels", {"optuna", "pointblank"}) == []


@pytest.mark.parametrize(
    ("secret", "said"),
    [("", "WEBHOOK_SECRET is not set"), ("any", "--start: there is no command 'no-such-command'")],
)
def test_a_receiver_that_could_do_nothing_does_not_start(
    project: Path, run: Run, monkeypatch: pytest.MonkeyPatch, secret: str, said: str
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, secret)
    code, out, err = run("webhook", "--env", "test", "--start", "no-such-command now")
    assert (code, out) == (1, "")
    assert said in err


LIVE = ("run", "ingest", "prepare", "features", "train", "predict", "monitor", "retrain")


@pytest.mark.parametrize("ends", [None, datetime(2098, 1, 1, tzinfo=UTC)])
def test_an_as_of_in_the_future_of_a_live_feed_is_refused_by_every_verb(
    project: Path,
    toy: Problem,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    ends: datetime | None,
) -> None:
    monkeypatch.setattr(parcels, "PROBLEM", replace(toy, ends=ends))
    asked = [
        *((verb, "--as-of", "2097-01-01") for verb in LIVE),
        ("replay", "--from", "2020-03-01", "--to", "2097-01-01"),
        ("replay", "--from", "2097-01-01", "--to", "2097-02-01"),
    ]
    for arguments in asked:
        code, out, err = run(*arguments, "--env", "test")
        assert (code, out) == (1, ""), arguments
        assert "lies in the future" in err
    monkeypatch.setenv("AS_OF", "2097-01-01")
    for verb in LIVE:
        code, _, err = run(verb, "--env", "test")
        assert (code, "lies in the future" in err) == (1, True), verb
    assert not (project / ".data").exists()


@pytest.mark.parametrize(
    ("as_of", "said"),
    [
        (datetime(2097, 1, 1, tzinfo=UTC), "lies in the future"),
        (datetime(2020, 3, 1), "has no time zone"),  # noqa: DTZ001
    ],
)
def test_flows_refuse_a_wrong_as_of_too(
    lakehouse: Lakehouse, toy: Problem, as_of: datetime, said: str
) -> None:
    context = within(lakehouse, toy)
    day = timedelta(days=1)
    for call in (
        lambda: flows.run(context, as_of, "me"),
        lambda: flows.ingest(context, as_of),
        lambda: flows.prepare(context, as_of),
        lambda: flows.features(context, as_of),
        lambda: flows.train(context, as_of),
        lambda: flows.predict(context, as_of),
        lambda: flows.monitor(context, as_of),
        lambda: flows.retrain(context, as_of),
        lambda: flows.replay(context, toy.begins + day, as_of, day, day),
    ):
        with pytest.raises(UserError, match=said):
            call()
    assert not Path(lakehouse.root).exists()


def test_rows_without_times_have_no_past_to_walk_through(
    lakehouse: Lakehouse, toy: Problem
) -> None:
    context = within(lakehouse, replace(toy, holdout="drawn"))
    day = timedelta(days=1)
    with pytest.raises(UserError, match="no past to walk through"):
        flows.replay(context, toy.begins + day, toy.begins + 2 * day, day, day)
    assert not Path(lakehouse.root).exists()
