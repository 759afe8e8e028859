from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from {{cookiecutter.package_name}}.core.contract import Problem

from ci import (
    alert,
    approver,
    comment,
    dispatch,
    errors,
    jobs,
    model,
    moment,
    report,
    summary,
    wheel,
)
from ci.errors import CiError
from ci.github import GitHub, connect

Answer = Callable[[str, str, Any], Any]
Sent = list[tuple[str, str, Any]]
GREEN = {"lint": "success", "unit": "success", "model": "success"}
TITLE, LINK = "Staging fails at night", "https://ci/run/1"
JUNIT = """
<testsuites><testsuite>
  <testcase classname="tests.unit.test_a" name="test_passes"/>
  <testcase classname="tests.unit.test_a" name="test_fails[*|x]"><failure>why</failure></testcase>
  <testcase classname="tests.unit.test_a" name="test_breaks"><error>why</error></testcase>
  <testcase classname="tests.unit.test_a" name="test_waits"><skipped/></testcase>
</testsuite></testsuites>
"""


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], tuple[GitHub, Sent]]:
    """A repository that answers as told and remembers what it was sent."""

    def make(answer: Answer) -> tuple[GitHub, Sent]:
        sent: Sent = []

        def request(_: GitHub, method: str, path: str, body: object = None) -> Any:
            sent.append((method, path, body))
            return answer(method, path, body)

        monkeypatch.setattr(GitHub, "request", request)
        return GitHub("http://localhost", "a/b", "token"), sent

    return make


def changes(sent: Sent) -> Sent:
    return [request for request in sent if request[0] != "GET"]


def suite(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 written above


# The comment


def test_the_first_report_is_a_new_comment(github: Callable[[Answer], tuple[GitHub, Sent]]) -> None:
    api, sent = github(lambda *_: [])
    comment.post(api, 7, report.MARKER)
    assert changes(sent) == [("POST", "/issues/7/comments", {"body": report.MARKER})]


def test_later_reports_replace_it_and_nobody_elses(
    github: Callable[[Answer], tuple[GitHub, Sent]],
) -> None:
    # given a person who quotes the report, and the report on the second page
    quoted = {"id": 1, "body": f"{report.MARKER} mine", "user": {"type": "User"}}
    first_page = [
        quoted,
        *({"id": 2, "body": "Looks good", "user": {"type": "Bot"}} for _ in range(99)),
    ]
    second_page = [{"id": 3, "body": f"{report.MARKER}\nold", "user": {"type": "Bot"}}]
    api, sent = github(lambda _, path, __: second_page if path.endswith("page=2") else first_page)
    # when
    comment.post(api, 7, report.MARKER)
    # then
    assert changes(sent) == [("PATCH", "/issues/comments/3", {"body": report.MARKER})]


def test_what_is_no_report_is_not_posted(tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("anything")
    with pytest.raises(CiError, match="does not begin as a report does"):
        comment.main(["7", str(tmp_path / "report.md")])
    for wrong in ([], ["7"], ["seven", "report.md"]):
        with pytest.raises(CiError, match="Usage"):
            comment.main(wrong)


# The report


def test_a_green_report_says_so() -> None:
    text = report.compose(GREEN, {}, None, LINK)
    assert text.startswith(f"{report.MARKER}\n## ✅ Ready to merge\n")
    assert LINK in text


def test_a_red_report_names_the_job_and_what_to_do() -> None:
    text = report.compose(GREEN | {"lint": "failure", "model": "skipped"}, {}, None, "")
    assert "## ❌ Not ready to merge: lint\n" in text
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
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("NEEDS", json.dumps({"lint": {"result": "success", "outputs": {}}}))
    (tmp_path / "unit.xml").write_text(JUNIT)
    report.main([str(tmp_path), str(tmp_path / "report.md")])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").strip() == text.strip()


@pytest.mark.parametrize("given", ["", "[]", "{", '{"lint": 1}', '{"lint": {}}'])
def test_needs_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("NEEDS", given)
    with pytest.raises(CiError, match="NEEDS is not"):
        jobs.results("NEEDS")


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


# The issue


@pytest.mark.parametrize("result", ["failure", "cancelled"])
def test_an_issue_is_opened_when_it_turns_red(
    github: Callable[[Answer], tuple[GitHub, Sent]], result: str
) -> None:
    others = [{"number": 1, "title": "Other"}, {"number": 2, "title": TITLE, "pull_request": {}}]
    api, sent = github(lambda *_: others)
    alert.keep(api, TITLE, {"build": "success", "loop": result}, LINK)
    ((method, path, body),) = changes(sent)
    assert (method, path, body["title"]) == ("POST", "/issues", TITLE)
    assert LINK in body["body"]


def test_it_is_commented_while_red_and_closed_when_green(
    github: Callable[[Answer], tuple[GitHub, Sent]],
) -> None:
    api, sent = github(lambda *_: [{"number": 4, "title": TITLE}])
    alert.keep(api, TITLE, {"loop": "failure"}, LINK)
    ((method, path, body),) = changes(sent)
    assert (method, path, body["body"][:9]) == ("POST", "/issues/4/comments", "Still red")
    sent.clear()
    alert.keep(api, TITLE, {"loop": "success", "build": "success"}, LINK)
    assert [(method, path) for method, path, _ in changes(sent)] == [
        ("POST", "/issues/4/comments"),
        ("PATCH", "/issues/4"),
    ]
    assert sent[-1][2] == {"state": "closed"}


def test_green_without_an_issue_changes_nothing(
    github: Callable[[Answer], tuple[GitHub, Sent]],
) -> None:
    api, sent = github(lambda *_: [])
    alert.keep(api, TITLE, {"loop": "success"}, LINK)
    assert changes(sent) == []


# The wheel and the approval


def test_the_wheel_is_that_of_a_green_push(github: Callable[[Answer], tuple[GitHub, Sent]]) -> None:
    api, sent = github(lambda *_: {"workflow_runs": [{"id": 9}, {"id": 8}]})
    assert wheel.tested_by(api, "abc") == 9
    assert "head_sha=abc&event=push&status=success" in sent[0][1]


def test_a_commit_that_staging_has_not_passed_is_refused(
    github: Callable[[Answer], tuple[GitHub, Sent]],
) -> None:
    api, _ = github(lambda *_: {"workflow_runs": []})
    with pytest.raises(CiError, match="abc has not passed staging: push it to main first"):
        wheel.tested_by(api, "abc")


def review(login: str, environment: str, state: str) -> dict[str, Any]:
    return {"state": state, "user": {"login": login}, "environments": [{"name": environment}]}


def test_who_approved_is_found(github: Callable[[Answer], tuple[GitHub, Sent]]) -> None:
    reviews = [review("ann", "promotion", "approved"), review("bob", "production", "approved")]
    api, sent = github(lambda *_: [*reviews, review("eve", "promotion", "rejected")])
    assert approver.approver(api, "5", "promotion") == "ann"
    assert sent == [("GET", "/actions/runs/5/approvals", None)]


def test_an_environment_without_reviewers_promotes_nothing(
    github: Callable[[Answer], tuple[GitHub, Sent]],
) -> None:
    api, _ = github(lambda *_: [])
    with pytest.raises(CiError, match="Give it required reviewers"):
        approver.approver(api, "5", "promotion")


# A version that the registry announces


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long would have been waited."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


def test_an_announced_version_is_an_event(
    github: Callable[[Answer], tuple[GitHub, Sent]], pauses: list[float]
) -> None:
    api, sent = github(lambda *_: None)
    dispatch.dispatch(api, "7")
    event = {"event_type": "model-version", "client_payload": {"version": "7"}}
    assert (sent, pauses) == ([("POST", "/dispatches", event)], [])


def test_an_event_that_does_not_arrive_is_sent_again(
    github: Callable[[Answer], tuple[GitHub, Sent]],
    pauses: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def answer(*_: Any) -> Any:
        if len(sent) < 3:
            raise CiError("GitHub does not answer.")

    api, sent = github(answer)
    dispatch.dispatch(api, "7")
    assert (len(sent), len(pauses)) == (3, 2)
    assert "GitHub does not answer. Trying again in 2 seconds." in capsys.readouterr().err


def test_an_event_that_never_arrives_is_an_error(
    github: Callable[[Answer], tuple[GitHub, Sent]], pauses: list[float]
) -> None:
    def answer(*_: Any) -> Any:
        raise CiError("GitHub refused.")

    api, sent = github(answer)
    with pytest.raises(CiError, match="GitHub refused"):
        dispatch.dispatch(api, "7")
    assert len(sent) == len(pauses) + 1 == 4


@pytest.mark.parametrize("arguments", [[], ["seven"], ["7", "8"], ["-7"], [""]])
def test_only_a_version_is_announced(arguments: list[str]) -> None:
    with pytest.raises(CiError, match="Usage"):
        dispatch.main(arguments)


# The summary of a job


def test_the_summary_says_what_to_do_about_the_step_that_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = {"ingest": "success", "check": "failure", "compare": "skipped"}
    steps = {
        name: {"outcome": outcome, "conclusion": "success", "outputs": {}}
        for name, outcome in outcomes.items()
    }
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.setenv("STEPS", json.dumps(steps))
    monkeypatch.setenv("REPORTS", "https://ci/artifacts/1")
    summary.main([])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "| step | result | what to do |",
        "|---|---|---|",
        "| ingest | ✅ success |  |",
    ]
    assert lines[3].startswith(
        "| check | ❌ failure | the log names the checks that the version failed"
    )
    assert lines[4:] == [
        "| compare | ⏭️ skipped |  |",
        "",
        "[Reports of this run](https://ci/artifacts/1)",
    ]


def test_a_job_without_reports_links_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.setenv("STEPS", "{}")
    monkeypatch.setenv("REPORTS", "")
    summary.main([])
    assert "Reports" not in capsys.readouterr().out


def test_steps_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPS", '{"ingest": "success"}')
    with pytest.raises(CiError, match=r"STEPS is not what `toJSON\(steps\)` gives"):
        summary.main([])


# How scripts end


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (["2013-11-01T06:00"], "AS_OF=2013-11-01T06:00\n"),
        (["2013-11-01T06:00-05:00"], "AS_OF=2013-11-01T06:00-0500\n"),
    ],
)
def test_one_moment_holds_for_all_steps(
    given: list[str], written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ENV", str(tmp_path / "env"))
    moment.main(given)
    assert (tmp_path / "env").read_text(encoding="utf-8") == written


def test_the_moment_is_now_unless_one_is_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_ENV", raising=False)
    moment.main([""])
    said = datetime.fromisoformat(capsys.readouterr().out.strip().removeprefix("AS_OF="))
    assert abs(datetime.now(UTC) - said) < timedelta(minutes=2)


@pytest.mark.parametrize("given", ["yesterday", "2013-11-01\nPATH=/tmp"])
def test_what_is_not_a_moment_sets_nothing(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ENV", str(tmp_path / "env"))
    with pytest.raises(CiError, match="is not a moment"):
        moment.main([given])
    assert not (tmp_path / "env").exists()


def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_API_URL", raising=False)
    with pytest.raises(CiError, match="GITHUB_API_URL is not set"):
        connect()
    for name, value in {
        "GITHUB_API_URL": "ftp://x",
        "GITHUB_REPOSITORY": "a/b",
        "GITHUB_TOKEN": "t",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CiError, match="no web address"):
        connect()


@pytest.mark.parametrize("script", [alert, approver, comment, dispatch, report, summary, wheel])
def test_a_script_called_wrongly_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["script", *"too many arguments here".split()])
    for actions, mark in (("true", "::error::Usage"), ("", "ci: Usage")):
        monkeypatch.setenv("GITHUB_ACTIONS", actions)
        with pytest.raises(SystemExit, match="1"):
            errors.run(script.main)
        assert capsys.readouterr().err.startswith(mark)


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(GitHub("http://localhost", "a/b", "secret"))
