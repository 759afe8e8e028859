"""Every workflow of a rendered project, executed: green, and red for each reason that it exists for.

Merge requests are independent of each other; staging, release and production tell one story, in this order.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from pytest_cookies.plugin import Cookies
from stage import REPOSITORY, Run, Stage
from support import checked

pytestmark = pytest.mark.act

GREEN = dict.fromkeys(("lint", "types", "unit", "integration", "model", "report", "comment"), "success")
# The suites have tests of their own; here a few of them are enough.
KEPT = {"unit": {"test_settings.py"}, "integration": {"test_ci.py"}}
NUMBER = 7
ONE_PYTHON = ("--matrix", "python:3.12")


@pytest.fixture(scope="module")
def stage(cookies_session: Cookies, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A repository on a stage, whose loop is quick: six weeks of data, and the windows of `test`."""
    act = Path(os.environ.get("ACT", "act"))
    made = Stage(tmp_path_factory.mktemp("stage"), act)
    made.build(checked(cookies_session, template)().project_path)
    for suite, kept in KEPT.items():
        for path in (made.work / "tests" / suite).iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(made.work / "tests" / "spark")
    shutil.rmtree(made.work / "notebooks")
    windows = (made.work / "conf" / "test.yml").read_text(encoding="utf-8").partition("training:")[2]
    for env in ("staging", "prod"):
        path = made.work / "conf" / f"{env}.yml"
        before = path.read_text(encoding="utf-8")
        deployment = before.partition("deployment:\n")[2] or "  approval: policy\n"
        states = before.partition("training:")[0].partition("deployment:")[0]
        # One folder outlives the jobs, as a self-hosted runner's or a bucket does.
        states = states.replace("{project}/.data", (made.folder / "disk").as_posix())
        # Days are few and their differences large: only what a test plants may stop a promotion.
        margins = "  margin: 10\n  slice_margin: 10\n"
        path.write_text(f"{states}training:{windows}\ndeployment:\n{deployment}{margins}", encoding="utf-8")
    data_end(made, "2013, 2, 15")
    made.commit("main", "As rendered")
    return made


def data_end(stage: Stage, day: str) -> None:
    path = stage.work / "src" / "flight_delays" / "problem" / "sources.py"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    changed = [f"DATA_ENDS = datetime({day}, tzinfo=UTC)\n" if it.startswith("DATA_ENDS =") else it for it in lines]
    assert changed != lines
    path.write_text("".join(changed), encoding="utf-8")


# Merge requests


def merge_request(stage: Stage, *options: str, fork: bool = False) -> Run:
    """Run what a merge request of the branch that the stage stands on would run."""
    base = stage.git("rev-parse", "origin/main")
    repository = "stranger/flight-delays" if fork else REPOSITORY
    request: dict[str, Any] = {
        "number": NUMBER,
        "base": {"ref": "main", "sha": base},
        "head": {"ref": "change", "sha": stage.git("rev-parse", "HEAD"), "repo": {"full_name": repository}},
    }
    payload = {"pull_request": request, "number": NUMBER, "repository": {"full_name": REPOSITORY}}
    return stage.run("merge-request", "pull_request", payload, "ann", *options)


def report(stage: Stage) -> str:
    (comment,) = stage.github.comments[NUMBER]
    return str(comment["body"])


def test_a_good_merge_request_is_green_and_says_so(stage: Stage) -> None:
    stage.branch("change", "origin/main")
    stage.commit("change", "A word", **{"docs/word.md": "A word.\n"})
    done = merge_request(stage)
    assert done.jobs == GREEN, done.output
    text = report(stage)
    assert "## ✅ Ready to merge" in text
    assert all(f"| unit-{python} | " in text for python in ("3.11", "3.12", "3.13"))
    assert "| integration | 5 | 0 | 0 |" in text
    assert "✅ As far as this sample can tell, the model is as good as that of the target branch" in text
    assert "(gain 0.0000, 0.0000 to 0.0000)" in text.replace("\\", "")
    assert stage.github.changes == [("POST", f"/issues/{NUMBER}/comments")]


FAULTS = {
    "lint": ("src/flight_delays/extra.py", "import os\n"),
    "types": ("src/flight_delays/problem/extra.py", '"""Extra."""\n\nCOUNT: int = "one"\n'),
    "unit": ("tests/unit/test_extra.py", "def test_extra() -> None:\n    assert 1 + 1 == 3\n"),
    "integration": ("tests/integration/test_extra.py", "def test_extra() -> None:\n    assert 1 + 1 == 3\n"),
}


@pytest.mark.parametrize("job", FAULTS)
def test_a_fault_is_red_and_stops_what_comes_after(stage: Stage, job: str) -> None:
    name, text = FAULTS[job]
    stage.branch("change", "origin/main")
    stage.commit("change", "A fault", **{name: text})
    stage.github.changes.clear()
    posted = NUMBER in stage.github.comments
    done = merge_request(stage, *ONE_PYTHON)
    # then the job is red, those beside it are green, and none after it ran
    later = {"model"} if job == "integration" else {"integration", "model"}
    assert done.jobs == {name: result for name, result in GREEN.items() if name not in later} | {job: "failure"}
    said = report(stage)
    assert f"Not ready to merge: {job}\n" in said
    assert "No model was compared" in said
    if job in ("unit", "integration"):
        assert f"tests.{job}.test\\_extra.test\\_extra" in said
    # and the comment was brought up to date, not repeated
    method, path = ("PATCH", f"/issues/comments/{1000 * NUMBER}") if posted else ("POST", f"/issues/{NUMBER}/comments")
    assert stage.github.changes == [(method, path)]


def test_a_worse_model_is_red_with_the_verdict_in_the_comment(stage: Stage) -> None:
    stage.branch("change", "origin/main")
    stage.edit("conf/test.yml", "rounds: 40", "rounds: 1")
    stage.commit("change", "Train less")
    done = merge_request(stage, *ONE_PYTHON)
    assert done.jobs == GREEN | {"model": "failure"}, done.output
    said = report(stage)
    assert "Not ready to merge: model\n" in said
    assert "❌ The model is worse than that of the target branch" in said


def test_a_fork_gets_no_comment(stage: Stage) -> None:
    stage.branch("change", "origin/main")
    stage.commit("change", "A fault of a stranger", **{"src/flight_delays/extra.py": "import os\n"})
    stage.github.changes.clear()
    done = merge_request(stage, *ONE_PYTHON, fork=True)
    assert "comment" not in done.jobs
    assert done.jobs["report"] == "success"
    assert stage.github.changes == []


# Staging


def staging(stage: Stage, event: str, *options: str) -> Run:
    """What a push to main, or the night, runs."""
    done = stage.run("staging", event, {"ref": "refs/heads/main"}, "ann", *options)
    conclusion = "failure" if "failure" in done.jobs.values() else "success"
    commit = stage.git("rev-parse", "HEAD")
    stage.github.runs.append({"id": done.id, "head_sha": commit, "event": event, "conclusion": conclusion})
    return done


def test_a_red_night_opens_an_issue_that_a_green_one_closes(stage: Stage) -> None:
    # given a loop that cannot train
    stage.branch("main", "origin/main")
    good = stage.git("rev-parse", "HEAD")
    stage.edit("conf/staging.yml", "min_rows: 200", "min_rows: 99999999")
    stage.commit("main", "Ask for too much")
    # when two nights are red
    for _ in range(2):
        done = staging(stage, "schedule")
        assert done.jobs == {"build": "success", "loop": "failure", "alert": "success"}, done.output
    # then there is one issue with one comment
    (issue,) = stage.github.issues
    assert (issue["title"], issue["state"]) == ("Staging fails at night", "open")
    assert [it["body"][:9] for it in stage.github.comments[issue["number"]]] == ["Still red"]
    # when the cause is mended
    stage.branch("main", good)
    done = staging(stage, "schedule")
    # then it is closed, and the night's wheel is not attested
    assert done.jobs == {"build": "success", "loop": "success", "alert": "success"}, done.output
    assert issue["state"] == "closed"
    assert not (stage.folder / "attestations").exists()


def test_a_push_to_main_runs_the_loop_and_attests_the_wheel(stage: Stage) -> None:
    stage.branch("main", "origin/main")
    done = staging(stage, "push")
    assert done.jobs == {"build": "success", "loop": "success", "attest": "success"}, done.output
    assert len(list((stage.folder / "attestations").iterdir())) == 1


def test_a_red_push_attests_nothing(stage: Stage) -> None:
    before = list((stage.folder / "attestations").iterdir())
    stage.branch("broken", "origin/main")
    stage.edit("conf/staging.yml", "min_rows: 200", "min_rows: 99999999")
    stage.commit("broken", "Ask for too much")
    done = staging(stage, "push")
    assert done.jobs == {"build": "success", "loop": "failure"}, done.output
    assert list((stage.folder / "attestations").iterdir()) == before


# Release and production


def champion(stage: Stage) -> str | None:
    store = stage.folder / "disk" / "prod" / "mlflow.db"
    if not store.exists():
        return None
    with sqlite3.connect(store) as connection:
        found = connection.execute("SELECT version FROM registered_model_aliases WHERE alias = 'champion'").fetchone()
    return None if found is None else str(found[0])


def release(stage: Stage, approver: str | None = "bob") -> Run:
    """What a push to release runs: asked for by ann, approved by another."""
    environments = [{"name": "promotion"}]
    reviews = [{"state": "approved", "user": {"login": approver}, "environments": environments}] if approver else []
    stage.github.approvals = reviews
    return stage.run("release", "push", {"ref": "refs/heads/release"}, "ann")


def decide(stage: Stage, action: str) -> Run:
    """What is started by hand."""
    payload = {"inputs": {"action": action, "why": "It's $(odd); `x`"}}
    options = ("--input", f"action={action}", "--input", f"why={payload['inputs']['why']}")
    return stage.run("release", "workflow_dispatch", payload, "eve", *options)


def production(stage: Stage) -> Run:
    return stage.run("production", "schedule", {}, "ann")


def tested(stage: Stage) -> None:
    """Leave what a green push to main leaves: a wheel, its attestation, a run. The loop itself ran before."""
    done = staging(stage, "push", "--job", "build")
    assert done.jobs == {"build": "success"}, done.output
    (wheel,) = (stage.folder / "artifacts" / str(done.id) / "wheel").iterdir()
    record = stage.folder / "attestations" / hashlib.sha256(wheel.read_bytes()).hexdigest()
    record.write_text(stage.git("rev-parse", "HEAD") + "\n", encoding="utf-8")
    stage.branch("release", "origin/main")


def later(stage: Stage, day: str) -> None:
    """Data of a later day, on their way to release."""
    stage.branch("main", "origin/main")
    data_end(stage, day)
    stage.commit("main", f"Data until {day}")
    tested(stage)


def test_what_staging_has_not_tested_is_not_released(stage: Stage) -> None:
    stage.branch("release", "origin/main")
    stage.commit("release", "Past staging")
    done = release(stage)
    assert done.jobs == {"candidate": "failure"}
    assert "has not passed staging" in done.output
    assert champion(stage) is None


def test_production_without_a_champion_raises_an_alert(stage: Stage) -> None:
    stage.branch("release", "origin/main")
    done = production(stage)
    assert done.jobs == {"score": "failure", "alert": "success"}, done.output
    assert stage.github.issues[-1]["title"] == "Production fails"
    assert stage.github.issues[-1]["state"] == "open"


def test_a_release_trains_and_is_promoted_behind_an_approval(stage: Stage) -> None:
    stage.branch("release", "origin/main")
    done = release(stage)
    assert done.jobs == {"candidate": "success", "promote": "success"}, done.output
    assert champion(stage) == "1"


def test_production_scores_and_the_alert_ends(stage: Stage) -> None:
    done = production(stage)
    assert done.jobs == {"score": "success", "alert": "success"}, done.output
    assert "version 1 scored" in done.output
    assert stage.github.issues[-1]["state"] == "closed"


def test_a_version_that_does_not_comply_leaves_the_champion(stage: Stage) -> None:
    later(stage, "2013, 2, 22")
    good = stage.git("rev-parse", "HEAD")
    # given a demand on production's versions that none can meet
    stage.branch("main", good)
    with (stage.work / "conf" / "prod.yml").open("a", encoding="utf-8") as file:
        file.write("  min_gain: 5\n")
    stage.commit("main", "Demand the impossible")
    tested(stage)
    # when
    done = release(stage)
    # then
    assert done.jobs == {"candidate": "failure"}, done.output
    assert "better_than_baseline" in done.output
    assert "Run Main python3 bootstrap.py cli check" in done.output
    assert "Run Main python3 bootstrap.py cli compare" not in done.output
    assert champion(stage) == "1"
    stage.branch("main", good)


@pytest.mark.parametrize(("approver", "reason"), [("ann", "may not approve it"), (None, "Nobody approved this run")])
def test_a_promotion_that_is_not_approved_by_another_leaves_the_champion(
    stage: Stage, approver: str | None, reason: str
) -> None:
    if approver:
        later(stage, "2013, 3, 1")
    done = release(stage, approver)
    assert done.jobs == {"candidate": "success", "promote": "failure"}, done.output
    assert reason in done.output
    assert champion(stage) == "1"


def test_the_same_release_run_again_is_promoted_once_approved(stage: Stage) -> None:
    done = release(stage)
    assert done.jobs == {"candidate": "success", "promote": "success"}, done.output
    assert champion(stage) == "3"


def test_a_wheel_that_was_exchanged_is_refused(stage: Stage) -> None:
    (run,) = [it for it in stage.github.runs if it["head_sha"] == stage.git("rev-parse", "HEAD")][-1:]
    (wheel,) = (stage.folder / "artifacts" / str(run["id"]) / "wheel").iterdir()
    content = wheel.read_bytes()
    wheel.write_bytes(content + b"x")
    done = decide(stage, "rollback")
    wheel.write_bytes(content)
    assert done.jobs == {"decide": "failure"}
    assert "no attestation of" in done.output
    assert champion(stage) == "3"


def test_a_rollback_by_hand_brings_the_champion_back(stage: Stage) -> None:
    done = decide(stage, "rollback")
    assert done.jobs == {"decide": "success"}, done.output
    assert champion(stage) == "1"


def test_nothing_is_left_to_reject(stage: Stage) -> None:
    done = decide(stage, "reject")
    assert done.jobs == {"decide": "failure"}
    assert "No request waits for a decision" in done.output
    assert champion(stage) == "1"
