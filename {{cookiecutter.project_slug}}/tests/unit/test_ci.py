from __future__ import annotations

import json
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from {{cookiecutter.package_name}}.core.contract import Problem

from ci import errors, forge, model, notes, report
from ci import run as tasks
from ci.errors import CiError

GREEN = {"lint": "success", "unit": "success", "model": "success"}
LINK = "https://ci/run/1"
JUNIT = """
<testsuites><testsuite>
  <testcase classname="tests.unit.test_a" name="test_passes"/>
  <testcase classname="tests.unit.test_a" name="test_fails[*|x]"><failure>why</failure></testcase>
  <testcase classname="tests.unit.test_a" name="test_breaks"><error>why</error></testcase>
  <testcase classname="tests.unit.test_a" name="test_waits"><skipped/></testcase>
</testsuite></testsuites>
"""


def suite(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 written above


# Tasks


def python(code: str) -> str:
    return f"{sys.executable} -c '{code}'"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A contract of its own, and the files that a runner collects."""
    written = tmp_path / "outputs.txt"
    lines: dict[str, dict[str, Any]] = {
        "good": {"run": [python('print("done")')]},
        "bad": {
            "run": [python("raise SystemExit(3)"), python("print(1)")],
            "finally": [python("print(2)")],
        },
        "chain": {
            "run": [
                python('import sys; open(sys.argv[1], "a").write("version=7")') + " $OUTPUTS",
                python('import sys; open("said.txt", "w").write(repr(sys.argv[1:]))')
                + " --version $version --why $WHY",
            ],
            "reports": "$FOLDER/reports",
        },
    }
    text = "\n".join(
        f"[{task}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in content.items())
        for task, content in lines.items()
    )
    file = tmp_path / "commands.toml"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setattr(tasks, "COMMANDS", file)
    monkeypatch.setenv(forge.OUTPUT, str(written))
    summary = tmp_path / "summary.md"
    monkeypatch.setenv(forge.SUMMARY, str(summary))
    return {"outputs": written, "summary": summary}


def test_a_task_runs_its_commands(commands: dict[str, Path]) -> None:
    tasks.main(["good"])
    assert "✅ success" in commands["summary"].read_text(encoding="utf-8")


def test_a_command_that_fails_stops_those_after_it_but_not_the_last_ones(
    commands: dict[str, Path],
) -> None:
    with pytest.raises(CiError, match=r"raise SystemExit\(3\)' failed"):
        tasks.main(["bad"])
    said = commands["summary"].read_text(encoding="utf-8")
    assert [said.count(mark) for mark in ("failure", "skipped", "success")] == [1, 1, 1]


def test_what_a_command_writes_is_known_to_the_next_and_to_later_jobs(
    commands: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WHY", "It's $(odd); `x` $WHY")
    monkeypatch.setenv("FOLDER", str(tmp_path))
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "page.html").touch()
    monkeypatch.chdir(tmp_path / "scratch")
    tasks.main(["chain"])
    # a text that came from somebody is one word, and nothing in it is done
    expected = ["--version", "7", "--why", "It's $(odd); `x` $WHY"]
    assert Path("said.txt").read_text(encoding="utf-8") == repr(expected)
    assert commands["outputs"].read_text(encoding="utf-8") == "version=7\n"
    assert Path("reports/page.html").is_file()


def test_a_variable_that_is_missing_or_empty_fails_the_command(
    commands: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHY", "")
    monkeypatch.setenv("FOLDER", "nowhere")
    with pytest.raises(CiError, match="failed"):
        tasks.main(["chain"])
    assert "WHY is not set, or empty" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["none"], ["good", "bad"]])
def test_a_task_that_is_none_is_refused(commands: dict[str, Path], arguments: list[str]) -> None:
    with pytest.raises(CiError, match=r"Usage|no task 'none' in commands.toml: good, bad, chain"):
        tasks.main(arguments)


def test_commands_can_run_in_a_folder_and_a_task_can_be_empty(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks, "COMMANDS", tmp_path / "commands.toml")
    code = python('open("here", "w").write(__import__("sys").argv[1])')
    run = json.dumps([f"{code} $ROOT"])
    text = f"folder = 'a b'\n[where]\nrun = {run}\n[nothing]\nrun = []\n[advice]\n"
    tasks.COMMANDS.write_text(text, encoding="utf-8")
    with pytest.raises(CiError, match="names a folder that is not there: a b"):
        tasks.main(["where"])
    (tmp_path / "a b").mkdir()
    tasks.main(["where"])
    assert (tmp_path / "a b" / "here").read_text(encoding="utf-8") == str(tmp_path)
    tasks.main(["nothing"])
    assert "nothing: nothing to do here." in capsys.readouterr().out


def test_a_program_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tasks, "COMMANDS", tmp_path / "commands.toml")
    tasks.COMMANDS.write_text("[try]\nrun = ['no-such-program']\n[advice]\n", encoding="utf-8")
    with pytest.raises(CiError, match="no-such-program failed"):
        tasks.main(["try"])
    assert "no-such-program cannot be started: No such file" in capsys.readouterr().out


def test_the_contract_names_sessions_and_gives_advice() -> None:
    root = Path(tasks.__file__).parent.parent
    contract = tomllib.loads(tasks.COMMANDS.read_text(encoding="utf-8"))
    advice = contract.pop("advice")
    noxfile = (root / "noxfile.py").read_text(encoding="utf-8")
    for task, content in contract.items():
        for command in (*content["run"], *content.get("finally", ())):
{%- if cookiecutter.platform == "databricks" %}
            # The bundle's own tests know its jobs.
            if command.startswith(("databricks bundle ", "python3 -m ci.workspace ")):
                assert advice.keys() & {"bundle", "ci.workspace"} & {*command.split()}, command
                continue
{%- endif %}
            python3, script, session, *rest = command.split()
            assert (python3, script) == ("python3", "bootstrap.py"), task
            assert session == "list" or f"def {session}(session" in noxfile, command
            if session == "cli":
                assert rest[0] in advice, command


# Notes of a release


def test_the_notes_of_a_release_are_its_entry() -> None:
    entries = ("[Unreleased]\n\n- new\n", "[1.2.0] - 2026-01-02\n\n- this\n", "[1.1.0]\n")
    text = "# Changelog\n" + "".join(f"\n## {entry}" for entry in entries)
    assert notes.notes(text, "1.2.0") == "- this\n"
    for version in ("1.1.0", "1.3.0"):
        with pytest.raises(CiError, match=rf"no entry \[{version}\]"):
            notes.notes(text, version)


def test_the_notes_are_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("CHANGELOG.md").write_text("## [2.0.0]\n\nAll new.\n")
    notes.main(["v2.0.0", "notes.md"])
    assert Path("notes.md").read_text() == "All new.\n"


# The report


def test_a_green_report_says_so() -> None:
    text = report.compose(GREEN, {}, None, LINK)
    assert text.startswith(f"{forge.MARKER}\n## ✅ Ready to merge\n")
    assert LINK in text


def test_a_red_report_names_the_job_and_what_to_do() -> None:
    text = report.compose(GREEN | {"lint": "failure", "model": "skipped"}, {}, None, "")
    assert "## ❌ Not ready to merge: lint, model\n" in text
    assert "| lint | ❌ failure | `python3 bootstrap.py fix`" in text
    assert "| model | ⏭️ skipped |  |" in text
    assert "No model was compared" in text


def test_the_report_counts_tests_and_names_those_that_failed() -> None:
    text = report.compose(GREEN, {"unit-3.12": suite(JUNIT)}, None, "")
    assert "| unit-3.12 | 1 | 2 | 1 |" in text
    assert r"- unit-3.12: tests.unit.test\_a.test\_fails\[\*\|x\]" in text
    assert r"test\_breaks" in text


def test_a_long_list_of_failures_is_cut() -> None:
    cases = "".join(f"<testcase name='t{n}'><failure/></testcase>" for n in range(30))
    text = report.compose(GREEN, {"unit": suite(f"<testsuite>{cases}</testsuite>")}, None, "")
    assert "- and 10 more" in text


def test_names_cannot_mention_or_link_anybody() -> None:
    assert report.plain("@all <img>\n[x](y)") == r"\@all \<img\> \[x\](y)"


def test_a_broken_results_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "unit.xml").write_text("<")
    with pytest.raises(CiError, match=r"unit\.xml is no JUnit file"):
        report.read_suites(tmp_path)


def test_the_report_is_a_file_and_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(forge.SUMMARY, str(tmp_path / "summary.md"))
    monkeypatch.setenv("NEEDS", json.dumps({"lint": {"result": "success", "outputs": {}}}))
    (tmp_path / "unit.xml").write_text(JUNIT)
    report.main([str(tmp_path), str(tmp_path / "report.md")])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").strip() == text.strip()


@pytest.mark.parametrize("given", ["", "[]", "{", '{"lint": 1}', '{"lint": {}}'])
def test_needs_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("NEEDS", given)
    with pytest.raises(CiError, match="NEEDS is not"):
        report.needs()


def test_only_the_models_gate_can_be_overridden_and_only_with_a_reason() -> None:
    red = GREEN | {"model": "failure"}
    assert report.stopping(red, "") == ["model"]
    assert report.stopping(red, "a leak is gone") == []
    assert report.stopping(GREEN | {"lint": "failure"}, "a leak is gone") == ["lint"]
    text = report.compose(red, {}, None, "", "a leak is gone")
    assert "## ✅ Ready to merge" in text
    assert "The model's gate was overridden: a leak is gone" in text


@pytest.mark.parametrize("result", ["failure", "cancelled", "skipped"])
def test_what_did_not_pass_is_not_ready(result: str) -> None:
    assert report.stopping(GREEN | {"unit": result}, "") == ["unit"]
    if result != "failure":
        assert report.stopping(GREEN | {"model": result}, "why") == ["model"]


# The models


@pytest.fixture
def scored(toy: Problem, feed: pl.DataFrame) -> pl.DataFrame:
    """Rows of the toy with a prediction that is right on average."""
    rows = feed.rename({"known_at": "prediction_time"})
    return rows.select(
        "order", "prediction_time", "shop", "paid", prediction=0.2 + 0.6 * pl.col("paid")
    )


@pytest.mark.parametrize(
    ("prediction", "verdict"),
    [(pl.col("paid"), "better"), (pl.col("prediction"), "alike"), (pl.lit(0.5), "worse")],
)
def test_the_verdict_follows_the_gain(
    toy: Problem, scored: pl.DataFrame, prediction: pl.Expr, verdict: str
) -> None:
    head = scored.with_columns(prediction=prediction)
    # the base's rows in another order, and some that head does not have
    found = model.judge(head.head(500), scored.reverse(), toy.model, 0.01)
    assert (found["verdict"], found["rows"]) == (verdict, 500)
    first = found["metrics"][0]
    assert first["head"][0] - first["base"][0] == pytest.approx(-first["gain"][0])
    for value, lower, upper in (first["head"], first["base"], first["gain"]):
        assert lower - 1e-9 <= value <= upper + 1e-9
    text = report.compose(GREEN, {}, found, "")
    assert ("❌ The model" in text) == (verdict == "worse")
    assert "| loss |" in text


def test_a_loss_within_the_margin_stops_nothing(toy: Problem, scored: pl.DataFrame) -> None:
    slightly = scored.with_columns(pl.col("prediction") * 0.999 + 0.0005)
    assert model.judge(slightly, scored, toy.model, 0.01)["verdict"] == "alike"
    assert model.judge(slightly, scored, toy.model, 0.0)["verdict"] == "worse"


def test_rows_of_other_keys_cannot_be_compared(toy: Problem, scored: pl.DataFrame) -> None:
    with pytest.raises(CiError, match="no row in common"):
        model.judge(scored, scored.with_columns(pl.col("order") + 1000), toy.model, 0.01)


@pytest.mark.parametrize("arguments", [[], ["train"], ["score"], ["compare", "nowhere"]])
def test_what_cannot_be_done_is_said(project: Path, arguments: list[str]) -> None:
    with pytest.raises(CiError, match=r"Usage|No scores to compare"):
        model.main(arguments)


# How scripts end


@pytest.mark.parametrize("script", [notes, report, tasks])
def test_a_script_called_wrongly_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["script", *"too many arguments here".split()])
    with pytest.raises(SystemExit, match="1"):
        errors.run(script.main)
    assert capsys.readouterr().err.startswith(forge.marked("Usage"))


def test_without_a_runner_what_it_would_collect_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(forge.SUMMARY, raising=False)
    errors.append_to(forge.SUMMARY, "text")
    assert capsys.readouterr().out == "text\n"
